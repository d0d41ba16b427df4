"""Loss layers: computed in float32 whatever the precision of the net, and weighing 1 unless the net says otherwise."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError
from .base import Layer, register, shape_text


class LossLayer(Layer):
    """Base of losses: a scalar top that weighs 1, and a label bottom that ``force_backward`` does not reach."""

    default_loss_weight = 1.0
    forced_bottoms = staticmethod(lambda index: index != 1)


@register("EuclideanLoss", bottoms=2)
class EuclideanLoss(LossLayer):
    """Sum of squared differences over 2 N, where N is the batch size alone (not the number of pixels)."""

    forced_bottoms = staticmethod(lambda index: True)

    def setup(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        if not x.ndim or not y.ndim or x.shape[0] != y.shape[0] or x.numel() != y.numel():
            raise NetError(
                f"bottoms of shapes {shape_text(x.shape)} and {shape_text(y.shape)} must hold as many values"
            )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        y = y if y.shape == x.shape else y.reshape(x.shape)
        return F.mse_loss(x.float(), y.float(), reduction="sum") / (2 * x.shape[0])
