"""Boxes of detectors: (xmin, ymin, xmax, ymax), as fractions of the image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def decode(loc: Tensor, priors: Tensor, variances: Tensor | None, code: str) -> Tensor:
    """The boxes that a detector predicts relative to prior boxes.

    Args:
        loc: the predictions, (..., P, 4).
        priors, variances: (P, 4) both; None where the variances are part of the predictions already.
        code: CORNER, a shift of each corner; CORNER_SIZE, a shift in units of the prior's size; CENTER_SIZE, a shift of
            the centre in that unit and the logarithm of the factor to the prior's size.
    """
    if variances is not None:
        loc = variances * loc
    if code == "CORNER":
        return priors + loc
    low, high = priors[:, :2], priors[:, 2:]
    size = high - low
    if code == "CORNER_SIZE":
        return priors + loc * torch.cat([size, size], 1)
    centre = loc[..., :2] * size + (low + high) / 2
    half = loc[..., 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Area of each box (..., 4), 0 of one that is inside out."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return np.where((width < 0) | (height < 0), 0, width * height)


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) with each of others (n, 4); 0 where they only touch."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    width, height = (high - low).T
    common = width * height
    union = areas(box) + areas(others) - common
    apart = ~((width > 0) & (height > 0))
    return np.where(apart, 0, common / np.where(apart, 1, union))


def suppress(boxes: np.ndarray, threshold: float, eta: float) -> list[int]:
    """Non-maximum suppression: which of the boxes (n, 4), best first, overlap no better one by more than threshold.

    With ``eta`` below 1 the threshold is multiplied by it after each box that is kept, while it is above 0.5.
    """
    # The threshold is a float of 32 bits in the original, and so are its products with eta.
    limit, factor = np.float32(threshold), np.float32(eta)
    kept: list[int] = []
    worst = np.zeros(len(boxes), boxes.dtype)  # the largest overlap with a box that is kept
    for i in range(len(boxes)):
        if worst[i] <= limit:
            kept.append(i)
            worst[i + 1 :] = np.maximum(worst[i + 1 :], overlaps(boxes[i], boxes[i + 1 :]))
            if factor < 1 and limit > 0.5:
                limit *= factor
    return kept
