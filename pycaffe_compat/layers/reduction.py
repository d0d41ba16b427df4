"""Layers that make few values of many: Reduction, ArgMax."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NetError
from .base import Layer, canonical_axis, register


@register("Reduction", param="reduction_param")
class Reduction(Layer):
    """Sum, sum of absolute values, sum of squares or mean over all axes from ``axis`` on, times ``coeff``."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        self.axis = canonical_axis(s.axis, x.ndim) if x.ndim else 0
        self.operation, self.coeff = s.ReductionOp.Name(s.operation), s.coeff

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        values = x.flatten(self.axis)
        if self.operation == "ASUM":
            values = values.abs()
        elif self.operation == "SUMSQ":
            values = values.square()
        top = values.mean(-1) if self.operation == "MEAN" else values.sum(-1)
        return top if self.coeff == 1 else top * self.coeff


@register("ArgMax", param="argmax_param")
class ArgMax(Layer):
    """Where the ``top_k`` largest values are, as floats; of equal values the one with the larger index comes first.

    With ``axis`` the top has the bottom's shape with top_k in that axis, and holds the values instead of the indices
    with ``out_max_val``. Without it each item of the batch is one vector: the top is (N, 1, top_k), or (N, 2, top_k)
    with ``out_max_val``: indices, then values; axes of size 1 follow up to the bottom's number of axes. No gradient
    goes through.
    """

    gradient = "no"
    refuses_gradient = True

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if not x.ndim:
            raise NetError("ArgMax needs a blob with axes: its bottom is a scalar")
        self.axes = x.ndim
        self.whole = not s.HasField("axis")
        self.axis = 1 if self.whole else canonical_axis(s.axis, x.ndim)
        self.top_k, self.out_max_val = s.top_k, s.out_max_val
        size = x.shape[1:].numel() if self.whole else x.shape[self.axis]
        if not 1 <= self.top_k <= size:
            raise NetError(f"top_k {self.top_k} is not in 1..{size}, the number of values to choose from")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = x.detach()
        if self.whole:
            x = x.reshape(x.shape[0], -1)
        # Turned round, the first of equal values is the one that was last.
        turned = x.flip(self.axis)
        if self.top_k == 1:
            position = turned.argmax(self.axis, keepdim=True)
        elif torch.compiler.is_exporting():
            # ONNX has no stable sort, but its TopK promises the first of equal values, which PyTorch's does not.
            position = turned.topk(self.top_k, self.axis).indices
        else:
            position = turned.argsort(dim=self.axis, descending=True, stable=True).narrow(self.axis, 0, self.top_k)
        index = x.shape[self.axis] - 1 - position
        top = index.to(x.dtype)
        values = x.gather(self.axis, index) if self.out_max_val else None
        if not self.whole:
            return top if values is None else values
        top = torch.stack([top] if values is None else [top, values], 1)
        return top.reshape(*top.shape, *[1] * (self.axes - 3))
