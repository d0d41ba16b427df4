"""Single layer types that papers and converters added to Caffe."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError, NetError
from ..naming import shape_text
from ..proto import caffe_pb2
from .base import Layer, canonical_axis, register
from .convolution import Convolution
from .loss import LossLayer, precise


@register("ReLU6", param="relu6_param", inplace=True, fork="MobileNet")
class ReLU6(Layer):
    """x limited to 0..6, plus x * negative_slope where x is negative; the limits themselves pass no gradient."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.negative_slope = self.settings.negative_slope

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = F.relu6(x)
        return y + x.clamp(max=0) * self.negative_slope if self.negative_slope else y


@register("Mish", param="mish_param", inplace=True, fork="YOLO")
class Mish(Layer):
    """x tanh(log(1 + exp(x)))."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.mish(x)


@register("Axpy", bottoms=3, fork="SENet")
class Axpy(Layer):
    """a x + y with a number a for each map: bottoms (N, C) or (N, C, 1, 1), then two of one shape (N, C, ...)."""

    def check(self, a: Tensor, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        if x.shape != y.shape:
            raise NetError(f"the last two bottoms must have one shape: {shape_text(x.shape)}, {shape_text(y.shape)}")
        if x.ndim < 2 or a.shape[:2] != x.shape[:2] or a.shape[2:].numel() != 1:
            raise NetError(
                f"the first bottom holds a number for each map of {shape_text(x.shape)}, not {shape_text(a.shape)}"
            )

    def forward(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return torch.addcmul(y, a.reshape(*a.shape[:2], *(1,) * (x.ndim - 2)), x)


@register("ShuffleChannel", param="shuffle_channel_param", fork="ShuffleNet")
class ShuffleChannel(Layer):
    """Channels in ``group`` groups, dealt out: the first of each group, then the second of each, ..."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.group = self.settings.group
        if x.ndim < 2:
            raise NetError(f"ShuffleChannel needs a channel axis: its bottom has {x.ndim} dimensions")
        if self.group < 1 or x.shape[1] % self.group:
            raise NetError(f"group {self.group} does not divide {x.shape[1]} channels")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.unflatten(1, (self.group, -1)).transpose(1, 2).flatten(1, 2)


@register("Transpose", param="transpose_param", fork="CTPN")
class Transpose(Layer):
    """The axes in the order ``dim``, which names all of them."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.dims = list(self.settings.dim)
        if sorted(self.dims) != list(range(x.ndim)):
            raise NetError(f"dim {self.dims} is no order of the {x.ndim} axes of {shape_text(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.permute(self.dims)


@register("Reverse", param="reverse_param", fork="CTPN")
class Reverse(Layer):
    """``axis`` from its end to its beginning."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.axis = canonical_axis(self.settings.axis, x.ndim)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.flip(self.axis)


@register("Reorg", param="reorg_param", fork="YOLO")
class Reorg(Layer):
    """Darknet's: channels s s times as many, height and width ``stride`` s times as small.

    The bottom's values are read as if they were C / (s s) channels of s H x s W. Each s-th in both directions makes a
    channel, number (i s + j) C / (s s) + c being those of channel c that begin at row i and column j; and these C
    channels of H x W are named C s s of H / s x W / s. ``reverse`` goes the way back without the renamings: C channels
    of H x W become C / (s s) of s H x s W.
    """

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.stride, self.reverse = self.settings.stride, self.settings.reverse
        if x.ndim != 4:
            raise NetError(f"Reorg takes 4 axes (num, channels, height, width), not {shape_text(x.shape)}")
        if self.stride < 1:
            raise NetError("reorg_param: stride must be given and positive")
        squares = not self.reverse and (x.shape[2] % self.stride or x.shape[3] % self.stride)
        if squares or x.shape[1] % self.stride**2:
            raise NetError(f"stride {self.stride} does not divide a bottom of {shape_text(x.shape)} evenly")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        s, (batch, channels, height, width) = self.stride, x.shape
        few = channels // s**2
        if self.reverse:
            squares = x.reshape(batch, s, s, few, height, width).permute(0, 3, 4, 1, 5, 2)
            return squares.reshape(batch, few, height * s, width * s)
        split = x.reshape(batch, few, height, s, width, s).permute(0, 3, 5, 1, 2, 4)
        return split.reshape(batch, channels * s**2, height // s, width // s)


@register("CropCenter", param="crop_center_param", fork="waifu2x-caffe")
class CropCenter(Layer):
    """``crop_size`` values less at both ends of each axis; it is given once for every axis."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.margins = list(self.settings.crop_size)

    def check(self, x: Tensor) -> None:  # type: ignore[override]
        if len(self.margins) != x.ndim:
            raise NetError(f"{len(self.margins)} crop_size for {x.ndim} axes: give one each, 0 to leave it as it is")
        for axis, (margin, size) in enumerate(zip(self.margins, x.shape, strict=True)):
            if 2 * margin >= size:
                raise NetError(f"axis {axis}: crop_size {margin} at both ends leaves nothing of {size}")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x[tuple(slice(m, -m) if m else slice(None) for m in self.margins)]


# -------------------------------------------------------------------------------------------------- larger and smaller


@register("Interp", param="interp_param", bottoms=(1, 2), fork="DeepLab")
class Interp(Layer):
    """Bilinear interpolation that keeps the corners: value i of n stands at i (m - 1) / (n - 1) of m.

    The size is ``height`` and ``width``; or with ``shrink_factor`` s first (n - 1) // s + 1, with ``zoom_factor`` z
    then (n - 1) z + 1. One factor alone goes before height and width, these before both factors. Or it is that of a
    second bottom, whose values are not looked at. Negative ``pad_beg`` and ``pad_end`` cut that much off the map
    beforehand, at the left and top and at the right and bottom.
    """

    forced_bottoms = staticmethod(lambda index: index == 0)

    def setup(self, x: Tensor, like: Tensor | None = None) -> None:  # type: ignore[override]
        s = self.settings
        if x.ndim != 4:
            raise NetError(f"Interp takes 4 axes (num, channels, height, width), not {shape_text(x.shape)}")
        self.cut = (-s.pad_beg, -s.pad_end)
        if min(self.cut) < 0:
            raise NetError(f"pad_beg {s.pad_beg} and pad_end {s.pad_end} must not be positive: they can only cut off")
        zooms, shrinks = s.HasField("zoom_factor"), s.HasField("shrink_factor")
        explicit = s.HasField("height") and s.HasField("width")
        self.size = (s.height, s.width) if explicit and zooms == shrinks else None
        if like is not None and (zooms or shrinks or s.HasField("height") or s.HasField("width")):
            raise NetError("the second bottom gives the size: remove height, width and factors, or the bottom")
        if not (explicit or zooms or shrinks or like is not None):
            raise NetError("the size is missing: say height and width, or zoom_factor, or shrink_factor")
        if self.size and min(self.size) < 1:
            raise NetError(f"height {s.height} and width {s.width} must be positive")
        self.shrink, self.zoom = s.shrink_factor, s.zoom_factor
        if min(self.shrink, self.zoom) < 1:
            raise NetError(f"shrink_factor {self.shrink} and zoom_factor {self.zoom} must be positive")

    def check(self, x: Tensor, like: Tensor | None = None) -> None:  # type: ignore[override]
        if like is not None and (like.ndim != 4 or min(like.shape[2:]) < 1):
            raise NetError(f"the second bottom must have a height and a width, 4 axes, not {shape_text(like.shape)}")
        if min(x.shape[2:]) <= sum(self.cut):
            begin, end = self.cut
            raise NetError(f"pad_beg {-begin} and pad_end {-end} leave nothing of {shape_text(x.shape[2:])}")

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:  # type: ignore[override]
        begin, end = self.cut
        if begin or end:
            x = x[:, :, begin : x.shape[2] - end, begin : x.shape[3] - end]
        size = self.size or tuple(((n - 1) // self.shrink) * self.zoom + 1 for n in x.shape[2:])
        if like is not None:
            size = tuple(like.shape[2:])
        return F.interpolate(x, size, mode="bilinear", align_corners=True)


@register("Upsample", param="upsample_param", bottoms=(1, 2), fork="SegNet, YOLO")
class Upsample(Layer):
    """One bottom: each value ``scale`` times in both directions (YOLO). Two: max pooling undone (SegNet).

    Undoing a pooling, the second bottom is its mask, and each value goes back to where its window's maximum was; the
    rest is 0. The top is ``upsample_h`` x ``upsample_w``, or ``scale`` (2 unless given) times the bottom's size, a row
    less with ``pad_out_h`` and a column less with ``pad_out_w``. Of values that go to one place the last one counts,
    and it alone gets the gradient (in the original all of them do).
    """

    forced_bottoms = staticmethod(lambda index: index == 0)

    def setup(self, x: Tensor, mask: Tensor | None = None) -> None:  # type: ignore[override]
        s = self.settings
        if x.ndim != 4:
            raise NetError(f"Upsample takes 4 axes (num, channels, height, width), not {shape_text(x.shape)}")
        if mask is not None and mask.shape != x.shape:
            raise NetError(
                f"the mask of shape {shape_text(mask.shape)} does not fit the first bottom, {shape_text(x.shape)}"
            )
        explicit = s.HasField("upsample_h"), s.HasField("upsample_w")
        separate = s.HasField("scale_h"), s.HasField("scale_w")
        for name, given in (("upsample", explicit), ("scale", separate)):
            if any(given) and not all(given):
                raise NetError(f"upsample_param: give both of {name}_h and {name}_w")
        if mask is None and (any(explicit) or s.pad_out_h or s.pad_out_w):
            raise NetError("upsample_h, upsample_w and pad_out are for a second bottom, the pooling's mask: give scale")
        if any(separate) and s.HasField("scale"):
            raise NetError("upsample_param: give scale, or both of scale_h and scale_w")
        scale = 2 if mask is not None and not s.HasField("scale") else s.scale
        self.scale = (s.scale_h, s.scale_w) if any(separate) else (scale, scale)
        self.size = (s.upsample_h, s.upsample_w) if any(explicit) else None
        self.less = (int(s.pad_out_h), int(s.pad_out_w))
        if min(self.size or self.scale) < 1:
            raise NetError(f"{'upsample_h and upsample_w' if self.size else 'scale'} must be positive")
        if any(less and scale != 2 for less, scale in zip(self.less, self.scale, strict=True)):
            raise NetError("pad_out_h and pad_out_w are for a scale of 2")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if mask is None:
            return x.repeat_interleave(self.scale[0], 2).repeat_interleave(self.scale[1], 3)
        height, width = self.size or (
            n * scale - less for n, scale, less in zip(x.shape[2:], self.scale, self.less, strict=True)
        )
        place = mask.detach().flatten(2).trunc().long()
        if not mask.is_meta and not torch.compiler.is_compiling():
            wrong = (place < 0) | (place >= height * width)
            if bool(wrong.any()):
                raise DataError(
                    f"{self.label}: the mask holds {int(place[wrong][0])}, which is no position of {height}x{width}: "
                    f"give the size of the pooling's bottom as upsample_h and upsample_w"
                )
        values = x.flatten(2)
        order = torch.arange(values.shape[2], device=x.device).expand_as(place)
        last = torch.full((*x.shape[:2], height * width), -1, dtype=torch.int64, device=x.device)
        last = last.scatter_reduce(2, place, order, "amax")
        top = torch.where(last < 0, 0, values.gather(2, last.clamp(min=0)))
        return top.unflatten(2, (height, width))


# --------------------------------------------------------------------------------------------- depthwise convolutions


@register(
    "ConvolutionDepthwise",
    param="convolution_param",
    bottoms=(1, None),
    tops=(1, None),
    same_count=True,
    fork="MobileNet",
)
@register(
    "DepthwiseConvolution",
    param="convolution_param",
    bottoms=(1, None),
    tops=(1, None),
    same_count=True,
    fork="MobileNet",
)
class DepthwiseConvolution(Convolution):
    """Convolution with a group for each channel: weight (num_output, 1, kernel...). ``group`` need not be given."""

    def setup(self, *bottoms: Tensor) -> None:
        s, x = self.settings, bottoms[0]
        channels = x.shape[s.axis] if -x.ndim <= s.axis < x.ndim else 1  # what is wrong is said by Convolution
        if s.HasField("group") and s.group != channels:
            raise NetError(f"group {s.group} for {channels} channels: depthwise is one each, leave it out")
        if s.num_output % channels:
            raise NetError(f"num_output {s.num_output} is not the number of channels, {channels}, nor a multiple of it")
        s.group = channels
        super().setup(*bottoms)


# ------------------------------------------------------------------------------------------------------------- losses


@register("L1Loss", bottoms=2, fork="many")
class L1Loss(LossLayer):
    """Sum of absolute differences over the batch size; its gradient is 0 where there is no difference."""

    forced_bottoms = staticmethod(lambda index: True)

    def check(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        if not x.ndim or not y.ndim or x.shape[0] != y.shape[0] or x.numel() != y.numel():
            raise NetError(f"bottoms of {shape_text(x.shape)} and {shape_text(y.shape)} must hold as many values")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return (precise(x) - precise(y).reshape(x.shape)).abs().sum() / x.shape[0]


def smooth_l1(difference: Tensor, square: float = 1) -> Tensor:
    """square d^2 / 2 where the absolute value of d is below 1 / square, and it less 1 / (2 square) beyond."""
    size = difference.abs()
    return torch.where(size < 1 / square, 0.5 * square * difference.square(), size - 0.5 / square)


@register("SmoothL1Loss", param="smooth_l1_loss_param", bottoms=(2, 4), fork="Fast R-CNN, SSD")
class SmoothL1Loss(LossLayer):
    """The sum of w_out f(w_in (x - y)) over the batch size, with f(d) = sigma^2 d^2 / 2 for |d| below 1 / sigma^2 and
    |d| - 1 / (2 sigma^2) beyond.

    The weights w_in and w_out are the third and fourth bottom (SSD has the third alone), 1 where they are missing.
    ``loss_param { normalization: NONE }`` leaves the sum undivided (Intel's).
    """

    forced_bottoms = staticmethod(lambda index: index < 2)

    def setup(self, *bottoms: Tensor) -> None:
        x = bottoms[0]
        for name, other in zip(self.param.bottom, bottoms, strict=True):
            if not x.ndim or other.shape[:1] != x.shape[:1] or other.numel() != x.numel():
                shapes = f"{shape_text(other.shape)} does not fit the first, {shape_text(x.shape)}"
                raise NetError(f'bottom "{name}" of shape {shapes}')
        if self.settings.sigma <= 0:
            raise NetError(f"sigma {self.settings.sigma:g} is not positive")
        self.square = self.settings.sigma**2
        loss = self.param.loss_param
        self.undivided = loss.HasField("normalization") and loss.normalization == caffe_pb2.LossParameter.NONE

    def forward(self, x: Tensor, y: Tensor, inside: Tensor | None = None, outside: Tensor | None = None) -> Tensor:  # type: ignore[override]
        difference = precise(x) - precise(y).reshape(x.shape)
        if inside is not None:
            difference = difference * inside.detach().reshape(x.shape)
        losses = smooth_l1(difference, self.square)
        if outside is not None:
            losses = losses * outside.detach().reshape(x.shape)
        return losses.sum() / (1 if self.undivided else x.shape[0])
