"""Scores that are reported and not trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NetError
from ..naming import shape_text
from .base import Layer, canonical_axis, register
from .labels import class_labels, positions


@register("Accuracy", param="accuracy_param", bottoms=2, tops=(1, 2))
class Accuracy(Layer):
    """The share of positions whose label is among the ``top_k`` highest scores; second top: the same for each class.

    A score equal to the label's counts as better, so that ties are wrong. 0 where there is nothing to count.
    """

    gradient = "no"
    refuses_gradient = True

    def setup(self, scores: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        self.axis = canonical_axis(s.axis, scores.ndim)
        self.classes = scores.shape[self.axis]
        self.top_k = s.top_k
        self.ignore = s.ignore_label if s.HasField("ignore_label") else None
        self.tops = len(self.param.top)
        if self.top_k > self.classes:
            raise NetError(f"accuracy_param: top_k {self.top_k} must be within 0..{self.classes}, the classes")
        if labels.numel() != scores.numel() // self.classes:
            raise NetError(
                f"{labels.numel()} labels for scores of shape {shape_text(scores.shape)}: with the classes on axis "
                f"{self.axis} there must be {scores.numel() // self.classes}, one a position of the other axes"
            )

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        index, valid = class_labels(self.label, labels, self.classes, self.ignore)
        at = index.reshape(positions(scores.shape, self.axis)).unsqueeze(self.axis)
        # The label's own score is one of them.
        not_worse = (scores >= scores.gather(self.axis, at)).sum(self.axis).reshape(-1)
        counts = torch.ones_like(index, dtype=torch.bool) if valid is None else valid
        right = (not_worse <= self.top_k) & counts
        tops = [right.sum() / counts.sum().clamp(min=1)]
        if self.tops == 2:
            zeros = torch.zeros(self.classes, device=scores.device)
            rights, totals = (zeros.index_add(0, index, flags.float()) for flags in (right, counts))
            tops.append(rights / totals.clamp(min=1))
        return tuple(tops)
