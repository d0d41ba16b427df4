"""Batches of single images with a label, from databases whose records stand in an order: LMDB and image lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from pycaffe_compat.data.prefetch import Batch, Reader
from pycaffe_compat.data.transform import Transformer
from pycaffe_compat.errors import DataError
from pycaffe_compat.naming import shape_text

Raw = TypeVar("Raw")
Item = tuple[NDArray[Any], int]
"""Pixels, channels x height x width, and the label."""


class RecordReader(Reader[int], Generic[Raw]):
    """Reads one record after another, over the database's end and on. The position counts them, over all epochs.

    With ``ranks`` processes that read the same database, record number i (of all epochs) belongs to rank i mod ranks;
    the others pass it by without decoding it.

    A subclass sets ``rows``, calls ``super().__init__`` and then, when it can read, ``begin``.
    """

    def __init__(
        self,
        source: str,
        transformer: Transformer,
        batch_size: int,
        tops: int,
        seed: int,
        where: str,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.where, self.source = where, source
        self.label = f"{where}: {source}" if where else source
        if batch_size < 1:
            self.fail(f"batch_size is {batch_size}; it must be at least 1")
        self.transformer, self.batch_size, self.tops = transformer, batch_size, tops
        self.seed = seed % 2**64
        self.rank, self.ranks = rank, ranks
        self.reads = [source, *transformer.reads]

    def begin(self) -> None:
        """Reads the first record: its shape is what the net is built for."""
        image, label = self._item(next(self.records(self.start())), self.start())
        labels = self.label_blob([label] * self.batch_size)
        self.shapes = [(self.batch_size, *image.shape), labels.shape][: self.tops]

    def start(self) -> int:
        return 0

    def records(self, at: int) -> Iterator[Raw]:
        """Endless: the records from number ``at`` of all epochs on, not decoded yet."""
        raise NotImplementedError

    def place(self, record: Raw) -> str:
        """Where a record stands, for messages: the database and the key or line."""
        raise NotImplementedError

    def fail_at(self, record: Raw, message: str, cause: BaseException | None = None) -> NoReturn:
        where = f"{self.where}: " if self.where else ""
        raise DataError(f"{where}{self.place(record)}: {message}") from cause

    def decode(self, record: Raw) -> Item:
        """DataError where it is damaged: says how, not which."""
        raise NotImplementedError

    def example(self, record: Raw, at: int) -> tuple[NDArray[np.float32], Any]:
        """Record number ``at``: the image as the net gets it, and what :meth:`label_blob` takes of it."""
        image, label = self.decode(record)
        return self.transformer(image, self.seed, 1, at), label

    def label_blob(self, labels: list[Any]) -> NDArray[np.float32]:
        """A batch of the second top."""
        return np.array(labels, np.float32)

    def _item(self, record: Raw, at: int) -> tuple[NDArray[np.float32], Any]:
        try:
            return self.example(record, at)
        except DataError as error:
            self.fail_at(record, str(error), error)

    def batches(self, at: int) -> Iterator[tuple[Batch, int]]:
        records = self.records(at)
        while True:
            data: NDArray[np.float32] | None = None
            labels: list[Any] = []
            for _ in range(self.batch_size * self.ranks):
                record = next(records)
                if not self.first_of_ours(at):
                    image, label = self._item(record, at)
                    if data is None:  # a batch has the shape of its first image: with a batch of 1, all sizes are fine
                        data = np.empty((self.batch_size, *image.shape), np.float32)
                    elif image.shape != data.shape[1:]:
                        first = shape_text(data.shape[1:])
                        self.fail_at(
                            record,
                            f"is of shape {shape_text(image.shape)}, the batch's first of {first}: resize them, set "
                            "crop_size, or use batch_size 1",
                        )
                    data[len(labels)] = image
                    labels.append(label)
                at += 1
            assert data is not None
            yield [data, self.label_blob(labels)][: self.tops], at

    def position_dict(self, at: int) -> dict[str, int]:
        return {"offset": at, "rows": self.rows}

    def parse_position(self, values: dict[str, int], seed: int) -> int:
        if values["rows"] != self.rows:
            self.fail(f"the saved data position is of a database with {values['rows']} rows; this one has {self.rows}")
        if values["offset"] < 0:
            self.fail(f"the saved data position lies outside the database (offset {values['offset']})")
        return values["offset"]
