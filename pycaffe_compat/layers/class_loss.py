"""Losses over class scores or probabilities and integer labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError, WeightsError
from ..naming import shape_text
from ..proto import caffe_pb2
from ..proto.binary import blob_to_array, read_message
from .base import canonical_axis, register
from .labels import class_labels, counted, positions
from .loss import LossLayer, items, normalization_mode, normalizer, precise

FLT_MIN = float(np.finfo(np.float32).tiny)
"""The smallest probability that SoftmaxWithLoss takes the logarithm of."""
LOG_THRESHOLD = 1e-20
"""The same in InfogainLoss and MultinomialLogisticLoss."""


class _Floor(torch.autograd.Function):
    """``max(x, floor)`` whose gradient passes as if there were no floor.

    Caffe clamps a probability before its logarithm in forward alone: a class that has underflowed to probability 0
    still gets its gradient p - 1.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: float) -> Tensor:
        return x.clamp(min=floor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def cross_entropy(log_p: Tensor, index: Tensor, axis: int) -> Tensor:
    """Minus the logarithm of the probability (FLT_MIN at least) of class ``index``, one a position."""
    picked = log_p.gather(axis, index.unsqueeze(axis)).squeeze(axis)
    return -_Floor.apply(picked, math.log(FLT_MIN))


class _SoftmaxLoss(LossLayer):
    """What the two losses with a softmax of their own share: axis, labels, what is ignored, what is divided by.

    Bottoms are scores and one label for each position of the other axes; tops the loss and, where named, the
    probabilities in the scores' shape.
    """

    refuses_gradient = True

    def read(self, scores: Tensor, labels: Tensor, axis: int) -> None:
        self.check_batch(scores, labels)
        self.axis = canonical_axis(axis, scores.ndim)
        self.classes = scores.shape[self.axis]
        loss = self.param.loss_param
        self.ignore = loss.ignore_label if loss.HasField("ignore_label") else None
        self.mode = normalization_mode(loss, "VALID")
        self.tops = max(1, len(self.param.top))  # the file may leave out the loss itself
        if self.tops > 1 and not self.param.loss_weight:
            raise NetError("2 tops and no loss_weight: give one each, 1 and 0")  # Caffe's default is one number
        if labels.numel() != scores.numel() // self.classes:
            raise NetError(
                f"{labels.numel()} labels for scores of shape {shape_text(scores.shape)}: with the classes on axis "
                f"{self.axis} there must be {scores.numel() // self.classes}, one a position of the other axes"
            )

    def tops_of(self, log_p: Tensor, losses: Tensor, valid: Tensor | None) -> tuple[Tensor, ...]:
        """``losses``: one a position, zeros where ignored. No gradient comes back through the probabilities."""
        batch = math.prod(losses.shape[: self.axis])
        loss = losses.sum() / normalizer(self.mode, losses.numel(), batch, valid)
        return (loss, log_p.detach().exp())[: self.tops]


@register("SoftmaxWithLoss", param="softmax_param", bottoms=2, tops=(1, 2))
class SoftmaxWithLoss(_SoftmaxLoss):
    """Minus the logarithm of the label's softmax probability (FLT_MIN at least), mean over the positions that count."""

    def setup(self, scores: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        self.read(scores, labels, self.settings.axis)

    def forward(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        log_p = F.log_softmax(precise(scores), self.axis)
        index, valid = class_labels(self.label, labels, self.classes, self.ignore)
        index = index.reshape(positions(scores.shape, self.axis))
        return self.tops_of(log_p, counted(cross_entropy(log_p, index, self.axis), valid), valid)


@register("InfogainLoss", param="infogain_loss_param", bottoms=(2, 3), tops=(1, 2))
class InfogainLoss(_SoftmaxLoss):
    """Cross-entropy of a softmax with row H[label] of a matrix as the target; the identity gives SoftmaxWithLoss.

    H, classes x classes, is the third bottom or the binaryproto file ``source``. The first bottom holds scores: the
    softmax is inside (Caffe before 2017 wanted probabilities there).
    """

    forced_bottoms = staticmethod(lambda index: index == 0)
    matrix: Tensor

    def setup(self, scores: Tensor, labels: Tensor, h: Tensor | None = None) -> None:  # type: ignore[override]
        s = self.settings
        self.read(scores, labels, s.axis)
        if h is None and not s.source:
            raise NetError("has no matrix H: give infogain_loss_param a source, or a third bottom")
        if h is None:
            try:
                matrix = blob_to_array(read_message(s.source, caffe_pb2.BlobProto))
            except WeightsError as error:
                raise NetError(f"the matrix H: {error}") from error
            if matrix.size != self.classes**2:
                raise NetError(f"{s.source}: {self._misfit(matrix.shape)}")
            self.reads.append(s.source)
            # Not a parameter of Caffe's: it moves with the module but is saved with no weights.
            self.register_buffer("matrix", torch.from_numpy(matrix), persistent=False)
        elif h.numel() != self.classes**2:
            raise NetError(f'bottom "{self.param.bottom[2]}": {self._misfit(tuple(h.shape))}')

    def _misfit(self, shape: tuple[int, ...]) -> str:
        return f"a matrix of shape {shape_text(shape)} for {self.classes} classes: it must be classes x classes"

    def forward(  # type: ignore[override]
        self, scores: Tensor, labels: Tensor, h: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        log_p = F.log_softmax(precise(scores), self.axis)
        index, valid = class_labels(self.label, labels, self.classes, self.ignore)
        matrix = (self.matrix if h is None else h.detach()).to(log_p).reshape(self.classes, self.classes)
        rows = matrix[index].reshape(*positions(scores.shape, self.axis), self.classes)
        losses = -(rows * _Floor.apply(log_p, math.log(LOG_THRESHOLD)).movedim(self.axis, -1)).sum(-1)
        return self.tops_of(log_p, counted(losses, valid), valid)


class _LogAbove(torch.autograd.Function):
    """``log(max(x, floor))`` with the slope ``1 / max(x, floor)`` everywhere: Caffe's, below the floor too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: float) -> Tensor:
        x = x.clamp(min=floor)
        ctx.save_for_backward(x)
        return x.log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad / x, None


class _OneLabelAnItem(LossLayer):
    """Base of the losses over all values of an item: N x ... and N labels, divided by N."""

    refuses_gradient = True

    def check(self, x: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        self.check_batch(x, labels)


@register("MultinomialLogisticLoss", bottoms=2)
class MultinomialLogisticLoss(_OneLabelAnItem):
    """Minus the logarithm of the label's probability, mean over the batch. The bottom holds probabilities."""

    def check(self, x: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        super().check(x, labels)
        if labels.numel() != x.shape[0]:
            raise NetError(f"{labels.numel()} labels for a batch of {x.shape[0]}: there must be one an item")

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        x = items(precise(x))
        index, _ = class_labels(self.label, labels, x.shape[1])
        return -_LogAbove.apply(x.gather(1, index.unsqueeze(1)), LOG_THRESHOLD).sum() / x.shape[0]


@register("HingeLoss", param="hinge_loss_param", bottoms=2)
class HingeLoss(_OneLabelAnItem):
    """One against all: max(0, 1 - score) for the label's score, max(0, 1 + score) for the others, or their squares
    (norm: L2), summed and divided by the batch size. Of more than N labels the first N numbers count."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        x = items(precise(x))
        index, _ = class_labels(self.label, labels.reshape(-1)[: x.shape[0]], x.shape[1])
        sign = torch.ones_like(x).scatter(1, index.unsqueeze(1), -1.0)
        margins = F.relu(1 + sign * x)
        if self.settings.norm == self.settings.L2:
            margins = margins.square()
        return margins.sum() / x.shape[0]
