"""Loss layers: computed in float32 at least, whatever the precision of the net, and weighing 1 unless the net says
otherwise.

No gradient reaches labels and targets (a net whose training needs one is refused), except in EuclideanLoss and between
ContrastiveLoss's two features, whose bottoms are equals.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError
from ..naming import shape_text
from .base import Layer, register
from .labels import counted


def precise(x: Tensor) -> Tensor:
    """In float32 at least: sums over a batch lose too much in half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def items(x: Tensor) -> Tensor:
    """A blob as one row of values for each item of the batch."""
    return x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)


class LossLayer(Layer):
    """Base of losses: a scalar top that weighs 1, and a label bottom that ``force_backward`` does not reach."""

    default_loss_weight = 1.0
    auto_tops = True
    forced_bottoms = staticmethod(lambda index: index != 1)

    def check_batch(self, x: Tensor, labels: Tensor) -> None:
        """Scores and labels must agree in their first axis, the batch."""
        if x.shape[:1] != labels.shape[:1] or not x.ndim:
            raise NetError(
                f"bottoms of shapes {shape_text(x.shape)} and {shape_text(labels.shape)} differ in their first axis, "
                f"the batch"
            )


@register("EuclideanLoss", bottoms=2)
class EuclideanLoss(LossLayer):
    """Sum of squared differences over 2 N, where N is the batch size alone (not the number of pixels)."""

    forced_bottoms = staticmethod(lambda index: True)

    def check(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        self.check_batch(x, y)
        if x.numel() != y.numel():
            raise NetError(
                f"bottoms of shapes {shape_text(x.shape)} and {shape_text(y.shape)} must hold as many values"
            )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        y = y if y.shape == x.shape else y.reshape(x.shape)
        return F.mse_loss(precise(x), precise(y), reduction="sum") / (2 * x.shape[0])


# --------------------------------------------------------------------------------------------------- normalisation


def normalization_mode(param: Any, default: str) -> str:
    """What a ``loss_param`` says the sum is divided by: FULL, VALID, BATCH_SIZE or NONE.

    ``normalize`` is the flag of before these names: true is VALID, false BATCH_SIZE.
    """
    if param.HasField("normalization"):
        mode: str = param.NormalizationMode.Name(param.normalization)
        if mode not in ("FULL", "VALID", "BATCH_SIZE", "NONE"):
            raise NetError(f"loss_param: normalization {mode} is a fork's, and not implemented")
        return mode
    if param.HasField("normalize"):
        return "VALID" if param.normalize else "BATCH_SIZE"
    return default


def normalizer(mode: str, count: int, batch: int, valid: Tensor | None) -> Tensor | float:
    """The divisor, 1 at least.

    Args:
        count: positions in all.
        batch: items of the batch.
        valid: which positions are not ignored; None when all count.
    """
    if mode == "VALID" and valid is not None:
        return valid.sum().clamp(min=1)
    return float(max(1, {"FULL": count, "VALID": count, "BATCH_SIZE": batch, "NONE": 1}[mode]))


@register("SigmoidCrossEntropyLoss", bottoms=2)
class SigmoidCrossEntropyLoss(LossLayer):
    """Binary cross-entropy of the sigmoid of each value with a target in 0..1; divided by the batch size by default.

    ``ignore_label`` is compared with the target cut to an integer: with 0 it ignores 0.7 as well, as Caffe does.
    """

    refuses_gradient = True

    def setup(self, x: Tensor, target: Tensor) -> None:  # type: ignore[override]
        loss = self.param.loss_param
        self.ignore = loss.ignore_label if loss.HasField("ignore_label") else None
        self.mode = normalization_mode(loss, "BATCH_SIZE")

    def check(self, x: Tensor, target: Tensor) -> None:  # type: ignore[override]
        self.check_batch(x, target)
        if x.numel() != target.numel():
            raise NetError(
                f"bottoms of shapes {shape_text(x.shape)} and {shape_text(target.shape)} must hold as many values"
            )

    def forward(self, x: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        x = precise(x)
        target = target.detach().to(x.dtype).reshape(x.shape)
        losses = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        valid = None if self.ignore is None else target.trunc() != self.ignore
        return counted(losses, valid).sum() / normalizer(self.mode, x.numel(), x.shape[0], valid)


class _Distance(torch.autograd.Function):
    """Square root of a squared distance. Its slope is 1 / 2 (d + 1e-4), Caffe's, which is finite at distance 0."""

    @staticmethod
    def forward(ctx: Any, square: Tensor) -> Tensor:
        distance = square.sqrt()
        ctx.save_for_backward(distance)
        return distance

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return grad / (2 * (distance + 1e-4))


@register("ContrastiveLoss", param="contrastive_loss_param", bottoms=3)
class ContrastiveLoss(LossLayer):
    """For a pair of features at distance d: d^2 if they are alike (third bottom not 0), else max(margin - d, 0)^2;
    summed and divided by 2 N. ``legacy_version``: max(margin - d^2, 0) for the others."""

    forced_bottoms = staticmethod(lambda index: index != 2)

    def check(self, a: Tensor, b: Tensor, alike: Tensor) -> None:  # type: ignore[override]
        for name, x in zip(self.param.bottom, (a, b), strict=False):
            if not x.ndim or x.numel() != x.shape[:2].numel():
                raise NetError(f'bottom "{name}" of shape {shape_text(x.shape)} must be N, N x C, or N x C x 1 x 1')
        if a.shape[0] != b.shape[0] or a.numel() != b.numel():
            raise NetError(f"bottoms of shapes {shape_text(a.shape)} and {shape_text(b.shape)} are no pairs")
        if alike.numel() != a.shape[0]:
            raise NetError(f"{alike.numel()} labels for {a.shape[0]} pairs: there must be one a pair")

    def forward(self, a: Tensor, b: Tensor, alike: Tensor) -> Tensor:  # type: ignore[override]
        s = self.settings
        square = (items(precise(a)) - items(precise(b))).square().sum(1)
        # A label counts as the integer it is cut to: 0.5 is 0, not alike.
        same = alike.detach().reshape(-1).trunc() != 0
        apart = F.relu(s.margin - square) if s.legacy_version else F.relu(s.margin - _Distance.apply(square)).square()
        return torch.where(same, square, apart).sum() / (2 * a.shape[0])
