"""Layers that bring values to a common scale: BatchNorm, MVN, LRN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from ..naming import shape_text
from ..proto import caffe_pb2
from .base import Layer, register
from .elementwise import Scale


@register("BatchNorm", param="batch_norm_param", inplace=True)
class BatchNorm(Layer):
    """(x - mean) / sqrt(variance + eps) for each channel (axis 1); learned scale and shift are a Scale layer's.

    Blobs: the *sums* of the means and of the variances over all training batches, older ones weighing less by
    ``moving_average_fraction`` a batch, and the sum of these weights, which the sums are divided by (0: they are 0).
    The variance that is summed up is the unbiased one, m / (m - 1) times the one that the batch is divided by.

    ``use_global_stats`` (default: in TEST only) takes the blobs' mean and variance and leaves the blobs alone;
    otherwise the batch's own are taken and added to the blobs, in TEST too. The net's phase decides, not PyTorch's
    ``train()`` and ``eval()``. No solver touches the blobs: their ``lr_mult`` is 0.
    """

    fresh_output = True
    keeps_shape = True
    mean: Tensor
    variance: Tensor
    factor: Tensor

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if not x.ndim:
            raise NetError("BatchNorm needs a batch axis: its bottom is a scalar")
        self.global_stats = s.use_global_stats if s.HasField("use_global_stats") else self.phase == caffe_pb2.TEST
        self.fraction, self.eps = s.moving_average_fraction, s.eps
        channels = x.shape[1] if x.ndim > 1 else 1
        for name, shape in (("mean", (channels,)), ("variance", (channels,)), ("factor", (1,))):
            self.add_blob(name, shape)
        specs = self.param.param
        if any(spec.HasField("lr_mult") and spec.lr_mult for spec in specs):
            raise NetError("the blobs of BatchNorm are statistics, not learned: lr_mult must be 0, or not given")
        while len(specs) < 3:
            specs.add()
        for spec in specs:
            spec.lr_mult = 0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.normalize(x)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance that the blobs hold: the sums over the factor, 0 where that is 0."""
        mean, variance, factor = self.mean.detach(), self.variance.detach(), self.factor
        # A number takes a tenth of the time of a tensor that holds one. (What takes the parameter's place in torch.func
        # may have no value to look at.)
        if type(factor) is nn.Parameter and factor.device.type == "cpu" and not torch.compiler.is_compiling():
            total = factor.item()
            if total == 1 and not torch.is_grad_enabled():  # (backward may come when the blobs hold something else)
                return mean, variance
            over = 1 / total if total else 0.0
            return mean * over, variance * over
        scale = torch.where(factor.bool(), factor.reciprocal(), factor).detach()
        return mean * scale, variance * scale

    def normalize(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """The layer's top, times ``weight`` plus ``bias`` for each channel where they are given."""
        maps = x if x.ndim > 1 else x.unsqueeze(1)
        if self.global_stats:
            mean, variance = self.statistics()
            y = F.batch_norm(maps, mean, variance, weight, bias, False, 0.0, self.eps)
            return y if x.ndim > 1 else y.squeeze(1)
        if torch.compiler.is_exporting():
            # The blobs stay as they are; the form in ONNX of a batch_norm that adds to them takes them, not the batch.
            y = torch.batch_norm(maps, weight, bias, None, None, True, 0.0, self.eps, False)
            return y if x.ndim > 1 else y.squeeze(1)
        sums = (self.mean.detach(), self.variance.detach(), self.factor.detach())
        mean, variance = torch.zeros_like(sums[0]), torch.zeros_like(sums[1])
        if maps.numel() == maps.shape[1]:
            # One value a channel: it is its own mean; there is no unbiased variance, 0 takes its place.
            mean = maps.detach().flatten()
            y = F.batch_norm(maps - maps, mean - mean, variance, weight, bias, False, 0.0, self.eps)
        else:
            # With momentum 1 PyTorch leaves the batch's own mean and unbiased variance in the two.
            y = torch.batch_norm(maps, weight, bias, mean, variance, True, 1.0, self.eps, False)
        with torch.no_grad():
            for total, value in zip(sums, (mean, variance, torch.ones_like(sums[2])), strict=True):
                total.mul_(self.fraction).add_(value)
        return y if x.ndim > 1 else y.squeeze(1)


class ScaledBatchNorm(nn.Module):
    """A BatchNorm that takes its blobs' statistics, and the Scale of its channels, computed in one step.

    The same but for rounding, in half the time. It is no layer: the two hold the blobs and do the work, and where
    somebody has put a hook on one of them, each computes by itself.
    """

    def __init__(self, norm: BatchNorm, scale: Scale) -> None:
        super().__init__()
        self.norm, self.scale = norm, scale

    @staticmethod
    def fits(norm: BatchNorm, scale: Scale, ndim: int) -> bool:
        """Whether the statistics are fixed, and the scale is one learned number for each of their channels."""
        channels = norm.mean.shape[0]
        each_channel = scale.own == (channels,) and scale.axis in (1, 1 - ndim)
        return norm.global_stats and each_channel and "scale" in scale.blob_names

    def forward(self, x: Tensor) -> Tensor:
        norm, scale = self.norm, self.scale
        if _hooked(norm) or _hooked(scale):
            y: Tensor = scale(norm(x))
            return y
        return norm.normalize(x, scale.scale, scale.bias if scale.bias_term else None)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


@register("BN", param="bn_param", tops=(1, 3), inplace=True, fork="PSPNet, SegNet")
class BN(Layer):
    """(x - mean) / sqrt(variance + eps) for each channel (axis 1), times a learned scale, plus a learned shift.

    Three types have this name; the fields of ``bn_param`` tell which one it is.

    PSPNet's (``slope_filler``, ``bias_filler``, ``momentum``, ``eps``, ``frozen``) has four blobs (1, C, 1, 1): scale,
    shift, mean, variance. In TRAIN the batch's own mean and variance are taken, and the last two blobs become
    ``momentum`` times themselves plus 1 - ``momentum`` times these (the variance being the one that the batch is
    divided by, not the unbiased one); in TEST, or if ``frozen``, the blobs are taken. No solver touches these two, nor
    any of the four if ``frozen``.

    An older one (``moving_average``, ``decay``, ``var_eps``; the first nets of PSPNet) has the same blobs: ``decay`` is
    1 - momentum, and without ``moving_average`` the batch's own mean and variance are taken in TEST too.

    SegNet's (``scale_filler``, ``shift_filler``, ``bn_mode``) has two: scale and shift. Mode LEARN takes the batch's
    own mean and variance in TEST too, eps is 1e-9; INFERENCE is scale x + shift alone, its blobs made for that by a
    script that knows the statistics. A second and a third top of LEARN are the batch's mean and variance, (1, C, 1, 1).

    Weights of shape (1, C), which some trees store, are taken too.
    """

    fresh_output = True
    axes_of_one_behind = True
    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if not 2 <= x.ndim <= 4:
            raise NetError(f"BN takes 2 to 4 axes, channels being the second, not {shape_text(x.shape)}")
        given = {descriptor.name for descriptor, _ in s.ListFields()} - {"engine"}
        new = given & {"slope_filler", "bias_filler", "momentum", "eps", "frozen"}
        old = given & {"moving_average", "decay", "var_eps"}
        if (new and given - new) or (old and "bn_mode" in given):
            one, other = (new, given - new) if new else (old, {"bn_mode"})
            mixed = f"{', '.join(sorted(one))} and {', '.join(sorted(other))}"
            raise NetError(f"bn_param has fields of two forks, {mixed}: keep those of one")
        self.tops = len(self.param.top)
        segnet = not new and not old and (bool(given) or self.tops > 1)
        self.statistics = not segnet
        self.affine = segnet and s.bn_mode == s.INFERENCE
        self.keeps_shape = self.tops == 1
        if self.tops > 1 and (self.statistics or self.affine):
            raise NetError(f"has {self.tops} tops: a mean and a variance are tops of SegNet's BN in mode LEARN alone")
        shape = (1, x.shape[1], 1, 1)
        self.add_blob("scale", shape, s.scale_filler if segnet or old else s.slope_filler)
        self.add_blob("shift", shape, s.shift_filler if segnet or old else s.bias_filler)
        self.eps: float = 1e-9 if segnet else s.var_eps if old else s.eps
        self.momentum: float = 1 - s.decay if old else s.momentum
        testing = self.phase == caffe_pb2.TEST
        self.global_stats = self.statistics and (testing and s.moving_average if old else testing or s.frozen)
        self.keeping = self.statistics and not testing
        if self.statistics:
            self.add_blob("mean", shape)
            self.add_blob("variance", shape, caffe_pb2.FillerParameter(value=1) if s.frozen else None)
            while len(self.param.param) < 4:
                self.param.param.add()
            for spec in self.param.param[0 if s.frozen else 2 :]:
                spec.lr_mult = spec.decay_mult = 0

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]
        scale, shift = self.scale.flatten(), self.shift.flatten()
        each = (-1, *[1] * (x.ndim - 2))
        if self.affine:
            return x * scale.reshape(each) + shift.reshape(each)
        kept = [blob.detach().flatten() for blob in (self.mean, self.variance)] if self.statistics else []
        if self.global_stats:
            return F.batch_norm(x, kept[0], kept[1], scale, shift, False, 0.0, self.eps)
        with torch.no_grad():
            variance, mean = torch.var_mean(x, (0, *range(2, x.ndim)), correction=0)
            for statistic, value in zip(kept if self.keeping else [], (mean, variance), strict=False):
                statistic.mul_(self.momentum).add_(value, alpha=1 - self.momentum)
        # Values around 0 first: PyTorch multiplies before it subtracts, by up to 100000 with these eps.
        y = torch.batch_norm(x - mean.reshape(each), scale, shift, None, None, True, 0.0, self.eps, False)
        return y if self.tops == 1 else (y, *(value.reshape(1, -1, 1, 1) for value in (mean, variance)))[: self.tops]


@register("MVN", param="mvn_param", inplace=True)
class MVN(Layer):
    """x minus its mean, over its standard deviation + eps, for each channel of each image (or each image as a whole).

    The top has 4 axes: a bottom of fewer ones gets axes of 1 behind them.

    The gradient is the original's, (g - mean(g) - y mean(g y)) / (deviation + eps), which is the true one up to eps.
    The true one divides y mean(g y) by the deviation alone, and has no value where that is 0.
    """

    gradient = "the original's"

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        self.axes = (1, 2, 3) if s.across_channels else (2, 3)
        self.normalize_variance, self.eps = s.normalize_variance, s.eps

    def check(self, x: Tensor) -> None:  # type: ignore[override]
        if x.ndim > 4:
            raise NetError(f"MVN takes 4 axes (num, channels, height, width) at most, not {shape_text(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = x.reshape(x.shape + (1,) * (4 - x.ndim))
        y = x - x.mean(self.axes, keepdim=True)
        if not self.normalize_variance:
            return y
        variance = y.square().mean(self.axes, keepdim=True)
        divisor = variance.detach().sqrt() + self.eps
        if variance.requires_grad:
            # The same number; its derivative by the variance is 1 / (2 divisor).
            divisor = (divisor.square() + (variance - variance.detach())).sqrt()
        return y / divisor


@register("LRN", param="lrn_param")
class LRN(Layer):
    """x over (k + alpha mean x^2)^beta, the mean being over a window of ``local_size`` around the value.

    ACROSS_CHANNELS: a window of channels, cut off at the ends, but divided by local_size all the same.
    WITHIN_CHANNEL: a square window of the map, zeros around it; k is 1 whatever the file says.
    """

    across: Tensor

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if x.ndim != 4:
            raise NetError(f"LRN takes 4 axes (num, channels, height, width), not {shape_text(x.shape)}")
        if s.local_size % 2 == 0:
            raise NetError(f"local_size {s.local_size} must be odd: the window has a middle")
        self.size, self.alpha, self.beta = s.local_size, s.alpha, s.beta
        self.within = s.norm_region == s.WITHIN_CHANNEL
        self.k = 1.0 if self.within else s.k
        if not self.within:
            # Sums over neighbouring channels as a 1x1 convolution: twice as fast as PyTorch's own local_response_norm.
            channel = torch.arange(x.shape[1])
            near = (channel[:, None] - channel).abs() <= self.size // 2
            self.register_buffer("across", near.float()[:, :, None, None], persistent=False)

    def base(self, x: Tensor) -> Tensor:
        """What is taken to the power of beta: k + alpha mean x^2."""
        square = x * x
        if self.within:
            total = F.avg_pool2d(square, self.size, 1, self.size // 2) * self.alpha
        else:
            total = F.conv2d(square, self.across) * (self.alpha / self.size)
        return total + self.k

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x * self.base(x).pow(-self.beta)
