"""Boxes of detectors: (xmin, ymin, xmax, ymax), as fractions of the image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.annotations import areas, overlaps

__all__ = ["areas", "decode", "encode", "match", "overlaps", "suppress"]


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


def encode(boxes: Tensor, priors: Tensor, variances: Tensor | None, code: str) -> Tensor:
    """What a detector must predict for these boxes: the inverse of :func:`decode`, with its arguments."""
    low, high = priors[:, :2], priors[:, 2:]
    size = high - low
    if code == "CENTER_SIZE":
        centre, prior_centre = (boxes[..., :2] + boxes[..., 2:]) / 2, (low + high) / 2
        factor = (boxes[..., 2:] - boxes[..., :2]) / size
        codes = torch.cat([(centre - prior_centre) / size, factor.log()], -1)
    else:
        codes = boxes - priors
        if code == "CORNER_SIZE":
            codes = codes / torch.cat([size, size], 1)
    return codes if variances is None else codes / variances


def match(boxes: np.ndarray, truth: np.ndarray, threshold: float | None, within: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which true box each box stands for.

    First the two that overlap most of all are a pair, then the two that do of what is left, until every true box has
    its box or overlaps none that is left. Of the other boxes, each that overlaps a true box by ``threshold`` at least
    takes the one that it overlaps most (None: no more boxes are matched). Of equal overlaps the first counts.

    Args:
        boxes, truth: (P, 4) and (G, 4).
        within: whether boxes that leave the image are left out.

    Returns:
        For each box the number of its true box, -1 if it has none, -2 if it is left out; and its overlap with it, or
        else the largest with any.
    """
    overlap = np.stack([overlaps(box, boxes) for box in truth], 1) if len(truth) else np.zeros((len(boxes), 0))
    overlap = np.where(overlap > 1e-6, overlap, 0)  # less is none
    out = ((boxes < 0) | (boxes > 1)).any(1) if within else np.zeros(len(boxes), bool)
    overlap[out] = 0
    index = np.where(out, -2, -1)
    largest = overlap.max(1, initial=0)
    left = overlap.copy()
    for _ in truth:
        box, true = divmod(int(left.argmax()), len(truth)) if left.size else (0, 0)
        if not left.size or left[box, true] <= 0:
            break
        index[box], largest[box] = true, left[box, true]
        left[box], left[:, true] = 0, 0
    if threshold is not None and len(truth):
        more = (index == -1) & (largest > 0) & (largest >= np.float32(threshold))
        index[more] = overlap[more].argmax(1)
    return index, largest


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
