"""Boxes around the objects of an image: (xmin, ymin, xmax, ymax) as fractions of it, (n, 4) arrays of float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[Any]


def areas(boxes: Boxes) -> Boxes:
    """Area of each box (..., 4), 0 of one that is inside out."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return np.where((width < 0) | (height < 0), 0, width * height)


def intersections(box: Boxes, others: Boxes) -> Boxes:
    """Area that a box (4,) has in common with each of others (n, 4); 0 where they only touch."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    width, height = (high - low).T
    return np.where((width > 0) & (height > 0), width * height, 0)


def overlaps(box: Boxes, others: Boxes, border: int = 0) -> Boxes:
    """Intersection over union of a box (4,) with each of others (n, 4); 0 where they only touch.

    ``border``: 1 where boxes are in pixels and include their last row and column.
    """
    if border:
        more = np.array([0, 0, border, border], box.dtype)
        box, others = box + more, others + more
    common = intersections(box, others)
    union = areas(box) + areas(others) - common
    return np.where(common > 0, common / np.where(common > 0, union, 1), 0)


def coverages(boxes: Boxes, other: Boxes) -> Boxes:
    """Which part of each of the boxes (n, 4) lies in another (4,)."""
    common = intersections(other, boxes)
    return np.where(common > 0, common / np.where(common > 0, areas(boxes), 1), 0)


def seen_from(boxes: Boxes, view: Boxes) -> tuple[Boxes, NDArray[np.bool_]]:
    """The boxes as fractions of a part of the image (4,), cut at its edges; and which of them there are."""
    there = (boxes[:, :2] < view[2:]).all(1) & (boxes[:, 2:] > view[:2]).all(1)
    size = np.tile(view[2:] - view[:2], 2)
    seen = ((boxes - np.tile(view[:2], 2)) / size).clip(0, 1)
    return seen, there & (areas(seen) > 0)
