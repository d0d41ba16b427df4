"""How good detections are: average precision, of what SSD's DetectionEvaluate layer says of them.

Its rows are image, class, confidence, and whether the detection is a true or a false positive (neither: it does not
count); and for each class -1, class, how many objects there are, -1, -1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSIONS = ("11point", "MaxIntegral", "Integral")
_EPS = 1e-6


def average_precisions(rows: NDArray[Any], version: str) -> dict[int, float]:
    """Average precision of each class that has a row of its own, (n, 5) rows of any number of batches.

    Args:
        version: 11point, the mean of the best precision at recall 0, 0.1, ... 1 and beyond (VOC 2007); MaxIntegral, the
            area under the best precision at each recall and beyond (VOC 2012); Integral, under precision over recall.

    Raises:
        ValueError: there is no such version.
    """
    if version not in VERSIONS:
        raise ValueError(f"{version!r} is none of {', '.join(VERSIONS)}")
    image, label = np.trunc(rows[:, 0]), np.trunc(rows[:, 1])
    counts = rows[image == -1]
    found = rows[(image != -1) & (rows[:, 3:5] != 0).any(1)]
    return {
        int(c): _average_precision(
            found[np.trunc(found[:, 1]) == c], int(counts[np.trunc(counts[:, 1]) == c, 2].sum()), version
        )
        for c in np.unique(label[image == -1])
    }


def _average_precision(found: NDArray[Any], objects: int, version: str) -> float:
    """Of the detections of a class, out of so many objects."""
    if not len(found) or not objects:
        return 0.0
    hits = found[np.argsort(-found[:, 2], kind="stable"), 3].cumsum()
    # As floats of 32 bits, as the original has them: 7 of 10 objects are less than a recall of 0.7.
    precision = (hits / np.arange(1, len(hits) + 1)).astype(np.float32).astype(np.float64)
    recall = (hits / objects).astype(np.float32).astype(np.float64)
    if version == "11point":
        return float(sum(precision[recall >= j / 10].max(initial=0) for j in range(11)) / 11)
    if version == "Integral":
        steps = np.diff(recall, prepend=0)
        return float((precision * np.where(steps > _EPS, steps, 0)).sum())
    best = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall)  # each under the best precision from its beginning on
    return float((best[:-1] * np.where(steps > _EPS, steps, 0)).sum() + recall[0] * best[0])
