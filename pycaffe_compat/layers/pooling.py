"""Pooling over windows of the two spatial axes: Pooling, SPP."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError
from ..naming import shape_text
from ..proto import caffe_pb2
from ..proto.fields import given
from .base import Layer, fixed, register

Pair = tuple[int, int]
LOWEST = torch.finfo(torch.float32).min
"""What a window without any value has as its maximum."""


def output_size(size: int, kernel: int, stride: int, pad: int, ceil: bool, clip: bool) -> int:
    """How many windows stand along an axis: as many as start inside the padding, the last one may reach out of it.

    ``clip``: one that starts behind the image itself is dropped. Caffe does so only if there is padding on any axis.
    """
    steps = (size + 2 * pad - kernel) / stride
    count = (math.ceil(steps) if ceil else math.floor(steps)) + 1
    return count - 1 if clip and (count - 1) * stride >= size + pad else count


def _native(kernel: Pair, stride: Pair, pad: Pair, ceil: bool) -> bool:
    """Whether PyTorch's kernels follow the same rule.

    They want at most half a window of padding, and always drop a window that starts behind the image.
    """
    (kh, kw), (sh, sw), (ph, pw) = kernel, stride, pad
    leaves_empty = ceil and not (ph or pw) and (sh > kh or sw > kw)
    return 2 * ph <= kh and 2 * pw <= kw and not leaves_empty


def _padded(x: Tensor, kernel: Pair, stride: Pair, pad: Pair, ceil: bool, value: float) -> Tensor:
    """The maps with their padding made real: on the right exactly as much as Caffe's last window takes."""
    margins: list[int] = []
    for size, k, s, p in zip(fixed(x.shape[:1:-1]), reversed(kernel), reversed(stride), reversed(pad), strict=True):
        count = output_size(size, k, s, p, ceil, any(pad))
        margins += [p, max(0, (count - 1) * s + k - p - size)]
    return F.pad(x, margins, value=value) if any(margins) else x


def max_pool(x: Tensor, kernel: Pair, stride: Pair, pad: Pair, ceil: bool) -> tuple[Tensor, Tensor]:
    """The largest value of each window and where it is: the first one in scan order, which the gradient goes to.

    Returns:
        The maxima and their int64 positions in the unpadded map, -1 in a window that holds nothing of it.
    """
    if _native(kernel, stride, pad, ceil):
        return F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil, return_indices=True)
    maps = _padded(x, kernel, stride, pad, ceil, LOWEST)
    top, index = F.max_pool2d(maps, kernel, stride, return_indices=True)
    row, column = index // maps.shape[3] - pad[0], index % maps.shape[3] - pad[1]
    inside = (row >= 0) & (row < x.shape[2]) & (column >= 0) & (column < x.shape[3])
    return top, torch.where(inside, row * x.shape[3] + column, -1)


def average_pool(x: Tensor, kernel: Pair, stride: Pair, pad: Pair, ceil: bool, padding_counts: bool = True) -> Tensor:
    """The sum of each window over its size, padding counted (unless told not to), what lies behind the padding not.

    A window that lies behind the image altogether has no size: 0 over 0 (not a number) or over a negative one.
    """
    if _native(kernel, stride, pad, ceil):
        return F.avg_pool2d(x, kernel, stride, pad, ceil_mode=ceil, count_include_pad=padding_counts)
    total = F.avg_pool2d(_padded(x, kernel, stride, pad, ceil, 0), kernel, stride) * math.prod(kernel)
    sizes = []
    for size, k, s, p in zip(fixed(x.shape[2:]), kernel, stride, pad, strict=True):
        starts = [i * s - p for i in range(output_size(size, k, s, p, ceil, any(pad)))]
        margin = p if padding_counts else 0
        counts = [min(start + k, size + margin) - max(start, -margin) for start in starts]
        sizes.append(torch.tensor(counts, dtype=x.dtype))
    return total / torch.outer(*sizes).to(x.device)


def stochastic_pool(x: Tensor, kernel: Pair, stride: Pair, ceil: bool, train: bool) -> Tensor:
    """A value of each window drawn with probability in proportion to it; in TEST their mean under that probability.

    For bottoms that are not negative. As the original computes it on GPUs; its CPU code has no such method.
    """
    maps = _padded(x, kernel, stride, (0, 0), ceil, 0)
    windows = maps.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1]).flatten(-2)
    if train:
        until = windows.detach().cumsum(-1)
        drawn = until[..., -1:] * torch.rand_like(until[..., -1:])
        place = (until < drawn).sum(-1, keepdim=True).clamp_max(until.shape[-1] - 1)
        return windows.gather(-1, place).squeeze(-1)
    total = windows.sum(-1)
    return torch.where(total > 0, windows.square().sum(-1) / total.clamp_min(torch.finfo(x.dtype).tiny), 0)


def _pair(settings: Any, name: str, default: int | None) -> Pair:
    """kernel, stride or pad of the two axes: one value for both, or the _h and _w forms.

    kernel_size goes before one of its two forms that stands alone.
    """
    short = name.removesuffix("_size")
    h, w = short + "_h", short + "_w"
    forms = [f for f in (h, w) if settings.HasField(f)]
    if name == "kernel_size" and len(forms) == 1 and settings.HasField(name):
        forms = []
    if forms and (settings.HasField(name) or len(forms) == 1):
        raise NetError(f"pooling_param: give {name}, or both of {h} and {w}")
    if forms:
        return getattr(settings, h), getattr(settings, w)
    if default is None and not settings.HasField(name):
        raise NetError(f"{name} is missing: say {name}, or {h} and {w}")
    return (getattr(settings, name),) * 2


@register("Pooling", param="pooling_param", tops=(1, 2))
class Pooling(Layer):
    """The largest value, the mean or a value by chance of each window of each map.

    The number of windows rounds up unless ``round_mode: FLOOR`` (forks: ``ceil_mode: false``, ``torch_pooling: true``);
    see :func:`output_size`. A second top of MAX holds the maxima's positions in the map, as floats. AVE divides by the
    padding in a window too, with Intel's ``avg_include_pad: false`` by the number of the map's own values.
    """

    fresh_output = True
    maxima_alone = False
    """Whether nothing but PyTorch's own maxima is wanted."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if x.ndim != 4:
            raise NetError(f"Pooling takes 4 axes (num, channels, height, width), not {shape_text(x.shape)}")
        self.method = s.PoolMethod.Name(s.pool)
        self.is_global = s.global_pooling
        floor = given(s, "ceil_mode") is False or bool(given(s, "torch_pooling"))
        self.ceil = s.round_mode == s.CEIL and not floor
        self.padding_counts = given(s, "avg_include_pad") is not False
        self.mask = len(self.param.top) == 2
        if self.mask and self.method != "MAX":
            raise NetError(f"a second top is the mask of MAX, {self.method} has none")
        self.stride, self.pad = _pair(s, "stride", 1), _pair(s, "pad", 0)
        self.fresh_output = self.method == "AVE"
        if self.is_global:
            if any(s.HasField(f) for f in ("kernel_size", "kernel_h", "kernel_w")):
                raise NetError("global_pooling takes the whole map as its window: remove kernel_size")
            if any(self.pad) or self.stride != (1, 1):
                raise NetError("global_pooling has one window: pad must be 0 and stride 1")
            return
        self.kernel = _pair(s, "kernel_size", None)
        for name, values in (("kernel_size", self.kernel), ("stride", self.stride)):
            if min(values) < 1:
                raise NetError(f"{name} {min(values)} is not positive")
        if any(p >= k for p, k in zip(self.pad, self.kernel, strict=True)):
            raise NetError(f"pad {shape_text(self.pad)} must be less than the kernel {shape_text(self.kernel)}")
        if any(self.pad) and self.method == "STOCHASTIC":
            raise NetError("pad is for MAX and AVE only")
        native = _native(self.kernel, self.stride, self.pad, self.ceil)
        self.maxima_alone = native and self.method == "MAX" and not self.mask

    def check(self, x: Tensor) -> None:  # type: ignore[override]
        if self.is_global:
            return
        sizes = zip(x.shape[2:], self.kernel, self.stride, self.pad, strict=True)
        if min(output_size(*axis, self.ceil, any(self.pad)) for axis in sizes) < 1:
            raise NetError(
                f"kernel {shape_text(self.kernel)} does not fit into a bottom of shape {shape_text(x.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]
        if self.maxima_alone:
            return torch.max_pool2d(x, self.kernel, self.stride, self.pad, 1, self.ceil)
        if self.is_global and self.method == "AVE":
            return x.mean((2, 3), keepdim=True)
        if self.is_global and self.method == "MAX":
            top, index = (t[..., None, None] for t in x.flatten(2).max(-1))
        else:
            kernel = (x.shape[2], x.shape[3]) if self.is_global else self.kernel
            if self.method == "AVE":
                return average_pool(x, kernel, self.stride, self.pad, self.ceil, self.padding_counts)
            if self.method == "STOCHASTIC":
                return stochastic_pool(x, kernel, self.stride, self.ceil, self.phase == caffe_pb2.TRAIN)
            top, index = max_pool(x, kernel, self.stride, self.pad, self.ceil)
        return (top, index.to(x.dtype)) if self.mask else top


@register("SPP", param="spp_param")
class SPP(Layer):
    """Spatial pyramid pooling: level i cuts each map into 2^i x 2^i windows; the levels' values as one vector.

    Whatever the size of the maps, the top is (N, channels * (1 + 4 + 16 + ...)); padding makes the windows come out
    even. A pyramid of one level stays a map, (N, channels, 1, 1), as in the original.
    """

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if x.ndim != 4:
            raise NetError(f"SPP takes 4 axes (num, channels, height, width), not {shape_text(x.shape)}")
        if s.pyramid_height < 1:
            raise NetError("spp_param: pyramid_height must be 1 or more")
        if s.pool == s.STOCHASTIC:
            raise NetError("spp_param: pool is MAX or AVE")
        self.average, self.levels = s.pool == s.AVE, s.pyramid_height

    def check(self, x: Tensor) -> None:  # type: ignore[override]
        for level in range(self.levels):
            kernel, pad = self.windows(x, level)
            if any(p >= k for p, k in zip(pad, kernel, strict=True)):
                raise NetError(
                    f"maps of {shape_text(x.shape[2:])} do not divide into {2**level}x{2**level} windows: "
                    f"pyramid_height {level} is the most"
                )

    @staticmethod
    def windows(x: Tensor, level: int) -> tuple[Pair, Pair]:
        """Kernel (which is the stride) and padding of a level."""
        bins, (height, width) = 2**level, fixed(x.shape[2:])
        kernel = (-(-height // bins), -(-width // bins))
        pad = ((kernel[0] * bins - height + 1) // 2, (kernel[1] * bins - width + 1) // 2)
        return kernel, pad

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        tops = []
        for level in range(self.levels):
            kernel, pad = self.windows(x, level)
            if self.average:
                tops.append(average_pool(x, kernel, kernel, pad, True))
            else:
                tops.append(max_pool(x, kernel, kernel, pad, True)[0])
        return tops[0] if self.levels == 1 else torch.cat([top.flatten(1) for top in tops], 1)
