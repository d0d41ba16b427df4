"""Batches from arrays that the caller hands over: MemoryData."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycaffe_compat.data.prefetch import Batch
from pycaffe_compat.errors import DataError

Array = NDArray[np.float32]


class MemorySource:
    """Endless batches from the arrays of the last :meth:`reset`, in order, round and round.

    Args:
        shape: of a batch: items, channels, height, width.
        where: what errors begin with.
    """

    reads: list[str] = []

    def __init__(self, shape: tuple[int, int, int, int], where: str = ""):
        self.label = where or "MemoryData"
        if min(shape) < 1:
            raise DataError(f"{self.label}: batch_size, channels, height and width must be positive, not {shape}")
        self.shape = shape
        self.arrays: tuple[Array, Array] | None = None
        self.row = 0

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [self.shape, self.shape[:1]]

    def reset(self, data: Any, labels: Any) -> None:
        """Read from these arrays from now on, from their first row.

        They are not copied: what is written into them later is seen. So both are float32 and C-contiguous, as Caffe
        wants them.

        Args:
            data: items x channels x height x width; the number of items is a multiple of the batch size.
            labels: one an item: (items,) or (items, 1, 1, 1).

        Raises:
            DataError: they do not fit the layer; it keeps what it has.
        """
        batch, *item = self.shape
        for what, array in (("data", data), ("labels", labels)):
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.flags.c_contiguous:
                kind = getattr(array, "dtype", type(array).__name__)
                raise DataError(
                    f"{self.label}: {what} must be a C-contiguous float32 array, this is {kind}: "
                    f"give np.ascontiguousarray({what}, np.float32)"
                )
        if data.ndim != 4 or data.shape[1:] != tuple(item):
            raise DataError(f"{self.label}: data of shape {data.shape}; items must be {'x'.join(map(str, item))}")
        if labels.shape not in ((len(data),), (len(data), 1, 1, 1)):
            raise DataError(f"{self.label}: labels of shape {labels.shape} for {len(data)} items of data")
        if not len(data) or len(data) % batch:
            raise DataError(f"{self.label}: {len(data)} items; give a multiple of batch_size {batch}")
        self.arrays, self.row = (data, labels.reshape(-1)), 0

    def next(self) -> Batch:
        """The next batch. The labels then have Caffe's old shape, items x 1 x 1 x 1."""
        if self.arrays is None:
            raise DataError(f"{self.label}: has no data yet: call net.set_input_arrays(data, labels) first")
        data, labels = self.arrays
        rows = slice(self.row, self.row + self.shape[0])
        self.row = rows.stop % len(data)
        return [data[rows].copy(), labels[rows].reshape(-1, 1, 1, 1).copy()]

    def state_dict(self) -> dict[str, int]:
        """Where the next batch begins; the arrays themselves are the caller's to keep."""
        return {"row": self.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, in arrays handed over before.

        :class:`DataError` if there are none, or fewer rows.
        """
        row = state.get("row")
        rows = 0 if self.arrays is None else len(self.arrays[0])
        if not isinstance(row, int) or not (row == 0 or 0 <= row < rows):
            raise DataError(
                f"{self.label}: the saved data position is row {row} of {rows}: hand the arrays over before resuming"
            )
        self.row = row
