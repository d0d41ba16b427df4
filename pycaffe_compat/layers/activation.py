"""Activations: one bottom, one top of the same shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError
from .base import Layer, register


@register("ReLU", param="relu_param", inplace=True)
class ReLU(Layer):
    """max(0, x), or x * negative_slope where x is negative."""

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


@register("Power", param="power_param", inplace=True)
class Power(Layer):
    """(shift + scale x) ^ power."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.power, self.scale, self.shift = self.settings.power, self.settings.scale, self.settings.shift

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.power * self.scale == 0:
            # Caffe's own case: a constant, with no gradient, even where x is not a number.
            return torch.full_like(x, 1.0 if self.power == 0 else self.shift**self.power)
        if self.scale != 1:
            x = x * self.scale
        if self.shift != 0:
            x = x + self.shift
        return x if self.power == 1 else torch.pow(x, self.power)
