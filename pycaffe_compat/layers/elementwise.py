"""Several blobs of one shape combined element by element."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from ..errors import NetError
from .base import Layer, register, shape_text


@register("Eltwise", param="eltwise_param", bottoms=(2, None))
class Eltwise(Layer):
    """Product, sum with coefficients, or maximum. Never broadcasts."""

    def setup(self, *bottoms: Tensor) -> None:
        s = self.settings
        if any(b.shape != bottoms[0].shape for b in bottoms):
            raise NetError(
                "all bottoms must have one shape, Eltwise does not broadcast: "
                + ", ".join(f"{name} {shape_text(b.shape)}" for name, b in zip(self.param.bottom, bottoms, strict=True))
            )
        if s.coeff and s.operation != s.SUM:
            raise NetError("coeff is for SUM only")
        if s.coeff and len(s.coeff) != len(bottoms):
            raise NetError(f"{len(s.coeff)} coeff for {len(bottoms)} bottoms: give one each, or none")
        self.operation = s.EltwiseOp.Name(s.operation)
        self.coeff = list(s.coeff) or [1.0] * len(bottoms)

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
