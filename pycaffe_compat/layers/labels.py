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
        labels: one a position, in any shape.
        where, classes: see :func:`whole_numbers`.
    """
    valid = None if ignore is None else labels.detach().reshape(-1).trunc() != ignore
    hint = "" if ignore is None else f", nor ignore_label {ignore}"
    hint += ": does the layer below have as many outputs as there are classes?"
    return whole_numbers(f"{where}: label", labels, classes, valid, hint), valid


def whole_numbers(what: str, values: Tensor, count: int, valid: Tensor | None = None, hint: str = "") -> Tensor:
    """Flat int64 numbers in 0..count-1, cut from a blob's as C does; 0 where they are not ``valid`` (None: all are).

    Args:
        what: the layer and what the numbers are, for messages.

    Raises:
        DataError: a valid number lies outside (or is none). The original reads other memory there, or stops. Not
            checked under ``torch.compile``, whose own indexing check remains.
    """
    values = values.detach().reshape(-1)
    index = values.trunc()
    if not values.is_meta and not torch.compiler.is_compiling():
        wrong = ~((index >= 0) & (index < count))  # this way round NaN is wrong too
        if valid is not None:
            wrong &= valid
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise DataError(f"{what} {float(values[at]):g} at position {at} is not in 0..{count - 1}{hint}")
    if valid is not None:
        index = torch.where(valid, index, 0)
    return index.to(torch.int64)


def counted(values: Tensor, valid: Tensor | None) -> Tensor:
    """The values with zeros at the positions that are ignored."""
    return values if valid is None else torch.where(valid.reshape(values.shape), values, 0)


def positions(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """A blob's shape without its class axis: that of its labels."""
    return tuple(shape[:axis]) + tuple(shape[axis + 1 :])
