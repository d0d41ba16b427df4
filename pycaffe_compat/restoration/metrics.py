"""Image quality as the paper measures it: PSNR, PSNR-B, SSIM, IPSNR (section 4).

Every function takes the image that is judged first and the reference second: arrays (H, W) of one size in
0..255, of any real type; everything is computed in float64 over the whole image, no border is cut.
"""

from dataclasses import astuple, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.floating] | NDArray[np.integer]

PEAK = 255.0
_C1 = (0.01 * PEAK) ** 2
_C2 = (0.03 * PEAK) ** 2
SSIM_SIZE = 8
GAUSSIAN_SIZE = 11
GAUSSIAN_SIGMA = 1.5


@dataclass(frozen=True)
class Scores:
    """The four scores of one image against its reference; PSNR and PSNR-B in decibels, SSIM in -1..1."""

    psnr: float
    psnr_b: float
    ssim: float
    ssim_gaussian: float

    @staticmethod
    def mean(scores: "list[Scores]") -> "Scores":
        """The score of a set of images: the mean of their scores (not the score of the mean error)."""
        return Scores(*(float(np.mean(column)) for column in zip(*(astuple(s) for s in scores), strict=True)))


def score(image: Gray, reference: Gray) -> Scores:
    """All scores of ``image`` against ``reference``."""
    return Scores(
        psnr(image, reference),
        psnr_b(image, reference),
        ssim(image, reference),
        ssim_gaussian(image, reference),
    )


def mse(image: Gray, reference: Gray) -> float:
    """Mean squared difference over all pixels."""
    x, y = _pair(image, reference)
    return float(np.mean((x - y) ** 2))


def psnr(image: Gray, reference: Gray) -> float:
    """Peak signal-to-noise ratio in decibels, 10 log10(255^2 / MSE); infinite for equal images."""
    return _decibels(mse(image, reference))


def psnr_b(image: Gray, reference: Gray) -> float:
    """PSNR-B in decibels: PSNR with the blocking effect factor of ``image`` added to the error.

    Yim and Bovik, Quality assessment of deblocked images, IEEE TIP 20(1), 2011. Not symmetric: blocks of the
    reference do not count.
    """
    return _decibels(mse(image, reference) + blocking_effect(image))


def blocking_effect(image: Gray, block: int = 8) -> float:
    """The blocking effect factor (BEF) of an image: how much more neighbours differ across block edges than
    elsewhere.

    BEF = eta (D_B - D_BC), where D_B is the mean squared difference of neighbours on two sides of an edge of
    the block grid, D_BC that of all others, and eta = log2(block) / log2(min(H, W)) if D_B > D_BC, else 0.
    As the authors' program does, the number of pairs at edges is computed as H (W / 8 - 1) + W (H / 8 - 1),
    a real number that is not the count of pairs where a side is no multiple of 8; the paper's figures are
    made with it. An image no larger than a block has no such edge, and one a pixel wide or high no defined
    eta: their BEF is 0.
    """
    x = np.asarray(image, dtype=np.float64)
    height, width = x.shape
    if min(height, width) < 2:
        return 0.0
    across_columns = (x[:, 1:] - x[:, :-1]) ** 2
    across_rows = (x[1:, :] - x[:-1, :]) ** 2
    at_edges = float(across_columns[:, block - 1 :: block].sum() + across_rows[block - 1 :: block, :].sum())
    elsewhere = float(across_columns.sum() + across_rows.sum()) - at_edges
    # max: a side shorter than a block has no edge in its direction, not a negative number of them.
    edge_pairs = height * max(width / block - 1, 0.0) + width * max(height / block - 1, 0.0)
    other_pairs = height * (width - 1) + width * (height - 1) - edge_pairs
    if edge_pairs <= 0 or other_pairs <= 0:
        return 0.0
    d_edge, d_other = at_edges / edge_pairs, elsewhere / other_pairs
    if d_edge <= d_other:
        return 0.0
    return float(np.log2(block) / np.log2(min(height, width))) * (d_edge - d_other)


def ssim(image: Gray, reference: Gray) -> float:
    """Structural similarity with a uniform 8x8 window, which gives the paper's figures.

    Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 13(4),
    2004, with K1 = 0.01, K2 = 0.03, L = 255, population moments, mean over the windows wholly
    inside the image. An image with a side shorter than the window is judged by a window cut to that side.
    """
    return _ssim(image, reference, np.full(SSIM_SIZE, 1.0 / SSIM_SIZE))


def ssim_gaussian(image: Gray, reference: Gray) -> float:
    """Structural similarity with the Gaussian 11x11 window of deviation 1.5 that newer papers report; else
    as :func:`ssim`."""
    offsets = np.arange(GAUSSIAN_SIZE) - GAUSSIAN_SIZE // 2
    weights = np.exp(-(offsets**2) / (2 * GAUSSIAN_SIGMA**2))
    return _ssim(image, reference, weights / weights.sum())


def ipsnr(image: Gray, degraded: Gray, reference: Gray) -> float:
    """The increase of PSNR, in decibels, of ``image`` over the ``degraded`` image that it was restored
    from."""
    before, after = mse(degraded, reference), mse(image, reference)
    # Equal errors are no increase, even where both are zero and both PSNRs infinite.
    return 0.0 if before == after else _decibels(after) - _decibels(before)


def _pair(image: Gray, reference: Gray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(image, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if x.ndim != 2 or x.shape != y.shape or x.size == 0:
        raise ValueError(f"scores compare two images (H, W) of one size, not {x.shape} and {y.shape}")
    return x, y


def _decibels(error: float) -> float:
    return float("inf") if error == 0 else float(10 * np.log10(PEAK**2 / error))


def _ssim(image: Gray, reference: Gray, window: NDArray[np.float64]) -> float:
    x, y = _pair(image, reference)
    rows, columns = _cut(window, x.shape[0]), _cut(window, x.shape[1])

    def local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        # OpenCV filters in float64 and pads; what the padding has touched is cut off again.
        filtered = cv2.sepFilter2D(values, cv2.CV_64F, columns, rows, anchor=(0, 0))
        return np.asarray(filtered[: values.shape[0] - len(rows) + 1, : values.shape[1] - len(columns) + 1])

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x**2
    variance_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    denominator = (mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2)
    return float(np.mean(numerator / denominator))


def _cut(window: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The middle of the window, no longer than the image's side, its weights adding up to one again."""
    first = max(len(window) - length, 0) // 2
    middle = window[first : first + length]
    return middle / middle.sum()
