"""Batches from LMDB databases of AnnotatedDatum records, as SSD's AnnotatedData layer gives them: images and boxes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from pycaffe_compat.data.augment import AnnotatedTransformer
from pycaffe_compat.data.datum import datum_to_array
from pycaffe_compat.data.lmdb import LMDBReader, Record
from pycaffe_compat.data.prefetch import Source, one_line
from pycaffe_compat.errors import DataError
from pycaffe_compat.proto.dialects import find_dialect


def parse_annotated(content: bytes) -> Any:
    """A record's bytes as an AnnotatedDatum.

    Raises:
        DataError: they are none. Says why; the caller knows which record it was.
    """
    try:
        record = find_dialect("ssd")["AnnotatedDatum"].FromString(content)
    except DecodeError as error:
        raise DataError(f"is no AnnotatedDatum, or is damaged ({one_line(error)})") from None
    if not record.datum.data and not record.datum.float_data:
        raise DataError("is no AnnotatedDatum: it has no image (records of plain Datum are for a Data layer)")
    return record


def objects_of(record: Any) -> NDArray[np.float32]:
    """The objects of an AnnotatedDatum, (n, 7): label, instance, xmin, ymin, xmax, ymax, difficult."""
    rows = [
        [group.group_label, one.instance_id, box.xmin, box.ymin, box.xmax, box.ymax, box.difficult]
        for group in record.annotation_group
        for one in group.annotation
        for box in [one.bbox]
    ]
    return np.array(rows, np.float32).reshape(-1, 7)


class _Reader(LMDBReader):
    """``boxes``: whether the second top holds them; else each record's own label, as the Data layer gives it."""

    transformer: AnnotatedTransformer

    def __init__(self, source: str, boxes: bool, **shared: Any):
        self.boxes, self.typed = boxes, not boxes
        super().__init__(source, **shared)

    def begin(self) -> None:
        first = next(self.records(self.start()))
        try:
            record = parse_annotated(first.value)
        except DataError as error:
            self.fail_at(first, str(error), error)
        self.boxes = self.boxes or record.HasField("type")
        super().begin()
        if self.boxes and self.tops > 1:
            self.shapes[1] = (1, 1, max(1, len(objects_of(record))), 8)

    def example(self, record: Record, at: int) -> tuple[NDArray[np.float32], Any]:
        content = parse_annotated(record.value)
        if self.boxes and self.typed and not content.HasField("type"):
            raise DataError("has no type of annotations, unlike the first record: give an anno_type to all")
        image = datum_to_array(content.datum, self.transformer.color)
        data, objects = self.transformer.annotated(image, objects_of(content), self.seed, at)
        return data, objects if self.boxes else content.datum.label

    def label_blob(self, labels: list[Any]) -> NDArray[np.float32]:
        if not self.boxes:
            return super().label_blob(labels)
        rows = [np.insert(objects, 0, item, 1) for item, objects in enumerate(labels)]
        table = np.concatenate(rows) if any(map(len, rows)) else np.full((1, 8), -1)
        return table.astype(np.float32)[None, None]


class AnnotatedSource(Source[int]):
    """Endless batches of the AnnotatedDatum records of an LMDB, in the order of their keys.

    source      path of the database
    transformer what is done to each image and its objects
    batch_size  records a batch
    tops        1: images only; 2: images and their objects
    boxes       whether records without a type have boxes too (``anno_type``); without, their labels are the second top
    seed        of all that is random
    where       what errors begin with

    The objects are (1, 1, G, 8), a row each: the image's number in the batch, label, instance, xmin, ymin, xmax, ymax,
    difficult; where a batch has none, one row of -1. Images of different sizes need a resize_param, a crop, or a batch
    of 1. A damaged record is a :class:`DataError` with its key, when its turn comes.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        transformer: AnnotatedTransformer,
        batch_size: int,
        tops: int = 2,
        *,
        boxes: bool = False,
        seed: int = 0,
        where: str = "",
    ):
        shared = {"transformer": transformer, "batch_size": batch_size, "tops": tops, "seed": seed, "where": where}
        super().__init__(_Reader(os.fspath(source), boxes, **shared))
