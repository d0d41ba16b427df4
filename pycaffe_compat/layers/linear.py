"""Matrix products: InnerProduct and its table form, Embed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError
from .base import Layer, canonical_axis, register


@register("InnerProduct", param="inner_product_param")
class InnerProduct(Layer):
    """A matrix product: all axes from ``axis`` on are one vector of K values, which becomes ``num_output`` values.

    Blobs: weight (num_output, K), or (K, num_output) with ``transpose``; bias (num_output).
    """

    fresh_output = True
    weight: Tensor
    bias: Tensor

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if s.num_output < 1:
            raise NetError(f"num_output {s.num_output} is not positive")
        self.axis = canonical_axis(s.axis, x.ndim)
        self.transpose, self.bias_term = s.transpose, s.bias_term
        k = x.shape[self.axis :].numel()
        self.add_blob("weight", (k, s.num_output) if s.transpose else (s.num_output, k), s.weight_filler)
        if s.bias_term:
            self.add_blob("bias", (s.num_output,), s.bias_filler)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        weight = self.weight.t() if self.transpose else self.weight
        if x.ndim > self.axis + 1:
            x = x.flatten(self.axis)
        return F.linear(x, weight, self.bias if self.bias_term else None)


@register("Embed", param="embed_param")
class Embed(Layer):
    """Row number x of a learned table (input_dim, num_output), plus a bias: the top has one axis more.

    The bottom holds whole numbers 0..input_dim-1; no gradient goes there.
    """

    fresh_output = True
    forced_bottoms = staticmethod(lambda index: False)
    refuses_gradient = True
    weight: Tensor
    bias: Tensor

    def setup(self, ids: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        for name in ("num_output", "input_dim"):
            if getattr(s, name) < 1:
                raise NetError(f"embed_param: {name} {getattr(s, name)} is not positive")
        self.bias_term = s.bias_term
        self.add_blob("weight", (s.input_dim, s.num_output), s.weight_filler)
        if s.bias_term:
            self.add_blob("bias", (s.num_output,), s.bias_filler)

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        rows = F.embedding(ids.long(), self.weight)
        return rows + self.bias if self.bias_term else rows
