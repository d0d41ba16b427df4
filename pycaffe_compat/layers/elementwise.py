"""Arithmetic between blobs, element by element: Eltwise on blobs of one shape, Scale and Bias with one repeated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ..errors import NetError
from ..naming import shape_text
from .base import Layer, canonical_axis, register


@register("Eltwise", param="eltwise_param", bottoms=(2, None))
class Eltwise(Layer):
    """Product, sum with coefficients, or maximum. Never broadcasts."""

    def setup(self, *bottoms: Tensor) -> None:
        s = self.settings
        if s.coeff and len(s.coeff) != len(bottoms):
            raise NetError(f"{len(s.coeff)} coeff for {len(bottoms)} bottoms: give one each, or none")
        if s.coeff and s.operation == s.PROD:
            raise NetError("coeff is for SUM only")  # MAX takes no notice of it
        self.operation = s.EltwiseOp.Name(s.operation)
        self.fresh_output = self.operation == "SUM"
        self.coeff = list(s.coeff) or [1.0] * len(bottoms)

    def check(self, *bottoms: Tensor) -> None:
        if any(b.shape != bottoms[0].shape for b in bottoms):
            raise NetError(
                "all bottoms must have one shape, Eltwise does not broadcast: "
                + ", ".join(f"{name} {shape_text(b.shape)}" for name, b in zip(self.param.bottom, bottoms, strict=True))
            )

    def forward(self, *bottoms: Tensor) -> Tensor:
        if self.operation == "PROD":
            return reduce(torch.mul, bottoms)
        if self.operation == "MAX":
            # On a tie the later bottom wins between the first two, the earlier one afterwards: Caffe's scan, which
            # decides where the gradient goes.
            first = torch.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
            return reduce(lambda top, x: torch.where(x > top, x, top), bottoms[2:], first)
        top = bottoms[0] if self.coeff[0] == 1 else bottoms[0] * self.coeff[0]
        for x, c in zip(bottoms[1:], self.coeff[1:], strict=True):
            top = torch.add(top, x, alpha=c)
        return top


class _Repeated(Layer):
    """What Scale and Bias share: values that are repeated over the first bottom, learned or the second bottom.

    They cover ``num_axes`` axes from ``axis`` on (-1: all), or as many as the second bottom has.
    """

    fresh_output = True

    def span(self, bottoms: Sequence[Tensor]) -> tuple[int, ...]:
        """The shape of the values."""
        s, shape = self.settings, tuple(bottoms[0].shape)
        if len(bottoms) > 1:
            own = tuple(bottoms[1].shape)
            # A scalar is repeated over everything, whatever the axis.
            axis = canonical_axis(s.axis, len(shape)) if own else 0
            if own != shape[axis : axis + len(own)]:
                raise NetError(
                    f"the second bottom of shape {shape_text(own)} does not fit {shape_text(shape)} from axis {axis} on"
                )
        else:
            if s.num_axes < -1:
                raise NetError(f"num_axes {s.num_axes} must be -1 (all from axis on) or a number of axes")
            axis = canonical_axis(s.axis, len(shape)) if s.num_axes else 0
            end = len(shape) if s.num_axes == -1 else axis + s.num_axes
            if end > len(shape):
                raise NetError(f"axis {s.axis} and num_axes {s.num_axes} reach beyond {shape_text(shape)}")
            own = shape[axis:end]
        return own

    def setup(self, *bottoms: Tensor) -> None:
        self.own, self.axis = self.span(bottoms), self.settings.axis

    def check(self, *bottoms: Tensor) -> None:
        if self.span(bottoms) != self.own and self.blob_names:
            raise NetError(
                f"its parameters of shape {shape_text(self.own)} do not fit a bottom of shape "
                f"{shape_text(bottoms[0].shape)}"
            )

    def spread(self, values: Tensor, x: Tensor) -> Tensor:
        """The values with axes of 1 behind them, for PyTorch to repeat them over ``x``."""
        axis = self.axis if self.axis >= 0 else self.axis + x.ndim
        return values.reshape(values.shape + (1,) * (x.ndim - axis - values.ndim))


@register("Scale", param="scale_param", bottoms=(1, 2), inplace=True)
class Scale(_Repeated):
    """The first bottom times a scale, plus a bias with ``bias_term``.

    The scale is learned (it starts at 1) or the second bottom; it has the shape of ``num_axes`` axes of the first from
    ``axis`` on and is repeated over the others. Blobs: the scale, unless it is a bottom; the bias, of the same shape.
    Backward adds to the parameters' gradients in every case; the original overwrites them where axis is 0.
    """

    scale: Tensor
    bias: Tensor

    def setup(self, *bottoms: Tensor) -> None:
        super().setup(*bottoms)
        s = self.settings
        self.bias_term = s.bias_term
        if len(bottoms) == 1:
            if not s.HasField("filler"):
                s.filler.type, s.filler.value = "constant", 1
            self.add_blob("scale", self.own, s.filler)
        if s.bias_term:
            self.add_blob("bias", self.own, s.bias_filler)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:  # type: ignore[override]
        factor = self.spread(self.scale if scale is None else scale, x)
        return torch.addcmul(self.spread(self.bias, x), x, factor) if self.bias_term else x * factor


@register("Bias", param="bias_param", bottoms=(1, 2), inplace=True)
class Bias(_Repeated):
    """The first bottom plus a bias: learned (it starts at 0) or the second bottom, repeated as Scale's scale is."""

    bias: Tensor

    def setup(self, *bottoms: Tensor) -> None:
        super().setup(*bottoms)
        if len(bottoms) == 1:
            self.add_blob("bias", self.own, self.settings.filler)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return x + self.spread(self.bias if bias is None else bias, x)
