"""Activations: one bottom, one top of the same shape, each value by itself (Softmax: each vector along an axis)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError
from ..proto import caffe_pb2
from .base import Layer, canonical_axis, register


@register("ReLU", param="relu_param", inplace=True)
class ReLU(Layer):
    """max(0, x), or x * negative_slope where x is negative."""

    keeps_shape = True

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.negative_slope = self.settings.negative_slope

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.negative_slope:
            return F.leaky_relu(x, self.negative_slope)
        return F.relu(x, inplace=self.inplace)


@register("PReLU", param="prelu_param", inplace=True)
class PReLU(Layer):
    """max(0, x) + a min(0, x) with a learned slope a for each channel (axis 1), or one for all; it starts at 0.25."""

    slope: Tensor

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        if x.ndim < 2:
            raise NetError(f"PReLU needs a channel axis: its bottom has {x.ndim} dimensions")
        filler = self.settings.filler
        if not self.settings.HasField("filler"):
            filler.type, filler.value = "constant", 0.25
        self.add_blob("slope", () if self.settings.channel_shared else (x.shape[1],), filler)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.prelu(x, self.slope.reshape(-1))


@register("ELU", param="elu_param", inplace=True)
class ELU(Layer):
    """x where it is positive, alpha (e^x - 1) elsewhere."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.alpha = self.settings.alpha

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.elu(x, self.alpha)


@register("Swish", param="swish_param", inplace=True)
class Swish(Layer):
    """x times the sigmoid of beta x."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.beta = self.settings.beta

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.silu(x) if self.beta == 1 else x * torch.sigmoid(self.beta * x)


@register("BNLL", inplace=True)
class BNLL(Layer):
    """log(1 + e^x), the logarithm of the binomial normal likelihood."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.softplus(x, threshold=50)  # beyond 50 the two sides are one in float64 too


@register("Sigmoid", param="sigmoid_param", inplace=True)
class Sigmoid(Layer):
    """1 / (1 + e^-x)."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.sigmoid(x)


@register("TanH", param="tanh_param", inplace=True)
class TanH(Layer):
    """Hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.tanh(x)


@register("AbsVal")
class AbsVal(Layer):
    """|x|; its gradient at 0 is 0."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.abs()


@register("Clip", param="clip_param", inplace=True)
class Clip(Layer):
    """x limited to min..max; the limits themselves pass the gradient. A min above max is the top everywhere."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if not s.HasField("min") or not s.HasField("max"):
            raise NetError("clip_param needs both min and max")
        self.min, self.max = s.min, s.max

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.min > self.max:
            return x.clamp(max=self.max).clamp(min=self.min)  # together, PyTorch's limits would give max
        return x.clamp(self.min, self.max)


@register("Threshold", param="threshold_param", inplace=True)
class Threshold(Layer):
    """1 where x is larger than the threshold, 0 elsewhere; no gradient goes through."""

    gradient = "no"
    refuses_gradient = True

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.threshold = self.settings.threshold

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return (x > self.threshold).to(x.dtype)


def _log_of_base(settings: Any, name: str) -> float:
    """The natural logarithm of ``base``; -1, the default, stands for e."""
    if settings.base == -1:
        return 1.0
    if settings.base <= 0:
        raise NetError(f"{name}: base {settings.base:g} must be positive, or -1 for e")
    return math.log(settings.base)


def _number(function: np.ufunc, *values: float) -> float:
    """A function of a file's numbers in float32, as in C: infinite or no number where Python has an error."""
    with np.errstate(all="ignore"):
        return float(function(*map(np.float32, values)))


@register("Exp", param="exp_param", inplace=True)
class Exp(Layer):
    """base ^ (shift + scale x); the base is e unless given."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        log_base = _log_of_base(s, "exp_param")
        self.inner, self.outer = log_base * s.scale, _number(np.exp, log_base * s.shift)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = torch.exp(x if self.inner == 1 else x * self.inner)
        return y if self.outer == 1 else y * self.outer


@register("Log", param="log_param", inplace=True)
class Log(Layer):
    """The logarithm of shift + scale x to ``base`` (e unless given)."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        self.log_base, self.scale, self.shift = _log_of_base(s, "log_param"), s.scale, s.shift
        if self.log_base == 0:
            raise NetError("log_param: there is no logarithm to base 1")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = torch.log(x * self.scale + self.shift)
        return y if self.log_base == 1 else y / self.log_base


@register("Power", param="power_param", inplace=True)
class Power(Layer):
    """(shift + scale x) ^ power."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.power, self.scale, self.shift = self.settings.power, self.settings.scale, self.settings.shift

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.power * self.scale == 0:
            # Caffe's own case: a constant, with no gradient, even where x is not a number.
            return torch.full_like(x, 1.0 if self.power == 0 else _number(np.power, self.shift, self.power))
        if self.scale != 1:
            x = x * self.scale
        if self.shift != 0:
            x = x + self.shift
        return x if self.power == 1 else torch.pow(x, self.power)


@register("Dropout", param="dropout_param", inplace=True)
class Dropout(Layer):
    """In TRAIN each value is 0 with probability ``dropout_ratio`` and 1 / (1 - dropout_ratio) times itself otherwise.

    In TEST nothing happens. The net's phase decides, not PyTorch's ``train()`` and ``eval()``.
    """

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.ratio = self.settings.dropout_ratio
        if not 0 <= self.ratio < 1:
            raise NetError(f"dropout_ratio {self.ratio:g} is not in 0..1 (1 excluded)")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.dropout(x, self.ratio) if self.phase == caffe_pb2.TRAIN else x


@register("Softmax", param="softmax_param", inplace=True)
class Softmax(Layer):
    """e^x over its sum along ``axis`` (1: channels)."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.axis = canonical_axis(self.settings.axis, x.ndim)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.softmax(x, self.axis)
