"""Convolution, its transpose and its windows, over up to three spatial axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import lt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError
from ..naming import shape_text
from ..proto.fields import given
from .base import Layer, canonical_axis, fixed, register


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """Convolution without spatial axes: a matrix product over the channels, group by group."""
    groups = geometry[-1]
    parts = zip(x.chunk(groups, 1), weight.chunk(groups, 0), strict=True)
    y = torch.cat([part @ w.t() for part, w in parts], 1)
    return y if bias is None else y + bias


def _pointwise_transposed(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """The transpose of :func:`_pointwise`: weight (channels, num_output / groups)."""
    groups = geometry[-2]
    parts = zip(x.chunk(groups, 1), weight.chunk(groups, 0), strict=True)
    y = torch.cat([part @ w for part, w in parts], 1)
    return y if bias is None else y + bias


_CONV: dict[int, Callable[..., Tensor]] = {0: _pointwise, 1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DECONV: dict[int, Callable[..., Tensor]] = {
    0: _pointwise_transposed,
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def spatial(settings: Any, name: str, axes: int, default: int | None) -> tuple[int, ...]:
    """kernel, stride, pad or dilation for each spatial axis: one value for all, one each, or the _h and _w forms."""
    short = name.removesuffix("_size")
    h, w = short + "_h", short + "_w"
    values: Sequence[int] = getattr(settings, name)
    if name != "dilation" and (settings.HasField(h) or settings.HasField(w)):
        if axes != 2 or values:
            raise NetError(f"{h} and {w} are for two spatial axes, and exclude {name}")
        missing = 0 if default is None else default
        return tuple(getattr(settings, f) if settings.HasField(f) else missing for f in (h, w))
    if len(values) == 1:
        return tuple(values) * axes
    if len(values) == axes:
        return tuple(values)
    if not values and default is not None:
        return (default,) * axes
    if not values:
        raise NetError(f"{name} is missing: say kernel_size, or kernel_h and kernel_w")
    raise NetError(f"{name} is given {len(values)} times for {axes} spatial axes: give it once, or once an axis")


class _SumOfShifts(torch.autograd.Function):
    """maps (kh, kw, N, H, W) -> (N, H-kh+1, W-kw+1): map (i, j) is read kh-1-i rows and kw-1-j columns further on."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        kh, kw, n, height, width = maps.shape
        ctx.size = (kh, kw, height, width)
        # One view whose axes i and j also step back in rows and columns, so that one reduction adds all of them.
        maps = maps.contiguous()
        stride_i, stride_j, *inner = maps.stride()
        shape = (kh, kw, n, height - kh + 1, width - kw + 1)
        start = maps.storage_offset() + (kh - 1) * width + kw - 1
        return maps.as_strided(shape, (stride_i - width, stride_j - 1, *inner), start).sum((0, 1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        kh, kw, height, width = ctx.size
        padded = F.pad(grad, (kw - 1, kw - 1, kh - 1, kh - 1))
        return padded.unfold(1, height, 1).unfold(2, width, 1).permute(1, 2, 0, 3, 4)


def conv2d_of_one_filter(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Unit-stride, unpadded 2-d convolution with a single output channel, as one matrix product and kh*kw shifted sums.

    The same sums in another order. CPU kernels compute 16 output channels at a time and throw 15 away: this is two to
    three times faster, forward and backward, on the last layer of an image restoration net.
    """
    _, channels, kh, kw = weight.shape
    n, _, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)  # a view of channels-last memory
    taps = weight[0].flip(1, 2).reshape(channels, kh * kw)
    maps = torch.mm(taps.t(), rows.t()).reshape(kh, kw, n, height, width)
    top = _SumOfShifts.apply(maps).unsqueeze(1)
    return top if bias is None else top + bias


class _Windows(Layer):
    """What Convolution, Deconvolution and Im2col share: windows of one geometry over the axes behind ``axis``.

    All axes before ``axis`` are batch, ``axis`` is channels, those behind it are spatial. Several bottoms of one shape
    go through the same windows, each to its own top.
    """

    most_axes: int | None = None

    def setup(self, *bottoms: Tensor) -> None:
        s, x = self.settings, bottoms[0]
        self.axis = canonical_axis(s.axis, x.ndim)
        axes = x.ndim - self.axis - 1
        if self.most_axes is not None and axes > self.most_axes:
            raise NetError(
                f"a bottom of shape {shape_text(x.shape)} has {axes} spatial axes behind axis {s.axis}: "
                f"{self.most_axes} at most work"
            )
        self.kernel = spatial(s, "kernel_size", axes, None)
        self.stride = spatial(s, "stride", axes, 1)
        self.pad = spatial(s, "pad", axes, 0)
        self.dilation = spatial(s, "dilation", axes, 1)
        for name, values in (
            ("kernel_size", self.kernel),
            ("stride", self.stride),
            ("dilation", self.dilation),
        ):
            if min(values, default=1) < 1:
                raise NetError(f"{name} {min(values)} is not positive")
        windows = zip(self.kernel, self.pad, self.dilation, strict=True)
        self.least = tuple(max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in windows)
        """The sizes that hold a whole window."""
        self.may_lack = max(self.least, default=1) > 1

    def with_room(self, x: Tensor) -> Tensor:
        """The bottom, with zeros at the end of an axis that lacks less than a stride of a window.

        Caffe counts windows with C's division, which rounds towards 0: there is one then, and it sees zeros there.

        Raises:
            NetError: it lacks a stride or more.
        """
        if not any(map(lt, x.shape[2:], self.least)):
            return x
        lack = [max(0, least - size) for size, least in zip(fixed(x.shape[2:]), self.least, strict=True)]
        if not all(map(lt, lack, self.stride)):
            raise NetError(
                f"kernel {shape_text(self.kernel)} does not fit into a bottom of shape {shape_text(x.shape)}"
            )
        return F.pad(x, [margin for n in reversed(lack) for margin in (0, n)])

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.axis == 1 and len(bottoms) == 1:
            return self.apply_to(bottoms[0])
        if any(b.shape != bottoms[0].shape for b in bottoms[1:]):
            raise NetError("all bottoms must have one shape: " + ", ".join(shape_text(b.shape) for b in bottoms))
        if self.axis == 1:
            return tuple(self.apply_to(x) for x in bottoms)
        lead = bottoms[0].shape[: self.axis]
        tops = tuple(self.apply_to(x.reshape(-1, *x.shape[self.axis :])) for x in bottoms)
        tops = tuple(y.reshape(*lead, *y.shape[1:]) for y in tops)
        return tops[0] if len(tops) == 1 else tops

    def apply_to(self, x: Tensor) -> Tensor:
        """The top of one bottom of shape (batch, channels, spatial...)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it computes")


class _Filters(_Windows):
    """Convolution and Deconvolution: learned filters for the windows, in groups of channels."""

    fresh_output = True
    most_axes = max(_CONV)
    weight: Tensor
    bias: Tensor

    def setup(self, *bottoms: Tensor) -> None:
        super().setup(*bottoms)
        s, x = self.settings, bottoms[0]
        channels = x.shape[self.axis]
        if s.num_output < 1:
            raise NetError(f"num_output {s.num_output} is not positive")
        if s.group < 1 or channels % s.group or s.num_output % s.group:
            raise NetError(f"group {s.group} does not divide {channels} input channels and num_output {s.num_output}")
        self.group, self.bias_term = s.group, s.bias_term
        outer, inner = self.filter_axes(channels, s.num_output)
        self.add_blob("weight", (outer, inner // s.group, *self.kernel), s.weight_filler)
        if s.bias_term:
            self.add_blob("bias", (s.num_output,), s.bias_filler)

    def filter_axes(self, channels: int, num_output: int) -> tuple[int, int]:
        """The weight's first two axes, the second before it is divided by the groups."""
        return num_output, channels


@register("Convolution", param="convolution_param", bottoms=(1, None), tops=(1, None), same_count=True)
class Convolution(_Filters):
    """Correlation with learned filters: weight (num_output, channels/group, kernel...), bias (num_output).

    All axes before ``axis`` are batch, ``axis`` is channels, those behind it are spatial (1 to 3). Several bottoms go
    through the same filters. With Intel's ``relu: true`` a ReLU follows within the layer, its slope for what is
    negative ``negative_slope`` (or that of a ``relu_param``).
    """

    def setup(self, *bottoms: Tensor) -> None:
        super().setup(*bottoms)
        s, channels = self.settings, bottoms[0].shape[self.axis]
        slope = given(s, "negative_slope")
        self.relu = bool(given(s, "relu"))
        self.slope = self.param.relu_param.negative_slope if slope is None else slope
        self.one_filter = (
            (len(self.kernel), self.axis, s.num_output) == (2, 1, 1)
            and {*self.stride, *self.dilation} == {1}
            and not any(self.pad)
            and max(self.kernel) > 1
            and channels >= 16
        )

    def apply_to(self, x: Tensor) -> Tensor:
        if self.may_lack:
            x = self.with_room(x)
        bias = self.bias if self.bias_term else None
        if self.one_filter and x.device.type == "cpu" and not torch.compiler.is_compiling():
            y = conv2d_of_one_filter(x, self.weight, bias)
        else:
            conv = _CONV[len(self.kernel)]
            y = conv(x, self.weight, bias, self.stride, self.pad, self.dilation, self.group)
        return F.leaky_relu(y, self.slope) if self.relu else y


@register("Deconvolution", param="convolution_param", bottoms=(1, None), tops=(1, None), same_count=True)
class Deconvolution(_Filters):
    """The transpose of Convolution: each value adds a filter's worth of values to the top, ``stride`` apart.

    Weight (channels, num_output/group, kernel...), bias (num_output). The top has stride (size - 1) + dilation
    (kernel - 1) + 1 - 2 pad values along an axis.
    """

    def filter_axes(self, channels: int, num_output: int) -> tuple[int, int]:
        return channels, num_output

    def apply_to(self, x: Tensor) -> Tensor:
        geometry = zip(x.shape[2:], self.kernel, self.stride, self.pad, self.dilation, strict=True)
        if any(self.pad) and any(s * (size - 1) + d * (k - 1) + 1 - 2 * p < 1 for size, k, s, p, d in geometry):
            raise NetError(
                f"pad {shape_text(self.pad)} leaves nothing of what kernel {shape_text(self.kernel)} makes of a bottom "
                f"of shape {shape_text(x.shape)}"
            )
        deconv = _DECONV[len(self.kernel)]
        bias = self.bias if self.bias_term else None
        return deconv(x, self.weight, bias, self.stride, self.pad, 0, self.group, self.dilation)


@register("Im2col", param="convolution_param", bottoms=(1, None), tops=(1, None), same_count=True)
class Im2col(_Windows):
    """The windows that Convolution multiplies by its filters, as (batch, channels * kernel..., output...)."""

    def setup(self, *bottoms: Tensor) -> None:
        super().setup(*bottoms)
        if not self.kernel:
            raise NetError(f"a bottom of shape {shape_text(bottoms[0].shape)} has no spatial axis")

    def apply_to(self, x: Tensor) -> Tensor:
        windows = F.pad(self.with_room(x), [p for pad in reversed(self.pad) for p in (pad, pad)])
        for i, (k, s, d) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True), 2):
            windows = windows.unfold(i, d * (k - 1) + 1, s)[..., ::d]  # the window's values become a last axis
        axes = len(self.kernel)
        windows = windows.permute(0, 1, *range(axes + 2, 2 * axes + 2), *range(2, axes + 2))
        return windows.flatten(1, axes + 1)
