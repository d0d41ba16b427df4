"""Class labels as losses and scores read them: a blob of numbers, one a position, cut to integers as C does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DataError


def class_labels(
    where: str, labels: Tensor, classes: int, ignore: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Flat int64 labels, 0 where ignored, and which are not ignored (None: all count).

    Args:
        where: the layer, for messages.
        labels: one a position, in any shape.

    Raises:
        DataError: a label that is not ignored lies outside 0..classes-1 (or is no number). The original reads other
            memory there. Not checked under ``torch.compile``, whose own indexing check remains.
    """
    labels = labels.detach().reshape(-1)
    index = labels.trunc()
    valid = None if ignore is None else index != ignore
    if not labels.is_meta and not torch.compiler.is_compiling():
        wrong = ~((index >= 0) & (index < classes))  # this way round NaN is wrong too
        if valid is not None:
            wrong &= valid
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            hint = "" if ignore is None else f", nor ignore_label {ignore}"
            raise DataError(
                f"{where}: label {float(labels[at]):g} at position {at} is not in 0..{classes - 1}{hint}: does the "
                f"layer below have as many outputs as there are classes?"
            )
    if valid is not None:
        index = torch.where(valid, index, 0)
    return index.to(torch.int64), valid


def counted(values: Tensor, valid: Tensor | None) -> Tensor:
    """The values with zeros at the positions that are ignored."""
    return values if valid is None else torch.where(valid.reshape(values.shape), values, 0)


def positions(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """A blob's shape without its class axis: that of its labels."""
    return tuple(shape[:axis]) + tuple(shape[axis + 1 :])
