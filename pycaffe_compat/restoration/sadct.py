"""Pointwise shape-adaptive DCT: the strongest classical JPEG restoration that the paper compares with.

A. Foi, V. Katkovnik, K. Egiazarian, Pointwise shape-adaptive DCT for high-quality denoising and deblocking of
grayscale and color images, IEEE Transactions on Image Processing 16(5), 2007. For every pixel:

1. In 8 directions, the longest line on which the image is still one polynomial (:func:`directional_scales`).
2. The octagon that these lines span is the pixel's support (:func:`supports`): it reaches far in flat regions and
   stops at edges.
3. An orthonormal DCT of that shape (:class:`ShapeAdaptiveDCT`), small coefficients set to zero, and back.

All estimates of a pixel are averaged, by weights that fall with their variance. A second pass on smaller supports
replaces the threshold by a Wiener filter whose spectrum is the first pass's result.

Numbers are the publication's and those of the authors' released demonstration (order mixture of the kernels, scales,
Gamma). What they leave free was chosen on five to ten photographs of BSDS500 train: the coefficients of columns are
aligned at the first row, as in Sikora's SA-DCT (alignment by frequency is up to 0.02 dB worse), and the image goes on
beyond its border as its mirror image. The authors cap the number of estimates of a pixel to save time; here all are
used.

Measured on LIVE1 (PSNR / PSNR-B / SSIM 8x8), the paper's row behind:

    quality 10   28.61 / 27.94 / 0.809   28.65 / 28.01 / 0.809
    quality 20   30.76 / 29.71 / 0.878   30.81 / 29.82 / 0.878
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pycaffe_compat.restoration.baselines import checked_steps, dct_matrix

SCALES = (1, 2, 3, 5, 7, 9)
"""Lengths in pixels, the centre included, of the lines that are tried. (The authors add 12, and 8 below, where the
noise's deviation is above 40, which no table of 8-bit steps reaches.)"""
WIENER_SCALES = (1, 2, 3, 5, 6)
"""Lengths for the second pass: a pixel's index into SCALES is limited to these and used again."""

# The share of the constant fit in each scale's kernel; the rest is the linear fit.
_CONSTANT_SHARE = (0.75, 0.70, 0.85, 0.90, 0.97, 1.00)
_THRESHOLD = 0.925

# (x, y), turning by 45 degrees.
_DIRECTIONS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))

# Rows and columns of pixels whose patches are in memory at once: about a megabyte an array, which caches like.
_TILE = (16, 64)


def sa_dct(luma: NDArray[np.uint8], table: NDArray[np.integer]) -> NDArray[np.float32]:
    """Deblock by pointwise SA-DCT; float32 (H, W), in 0..255 up to small overshoots.

    luma    uint8 (H, W), the decoded JPEG
    table   the file's luma quantisation table, (8, 8) in natural order (``quantisation_table(quality)``)
    """
    sigma = noise_deviation(checked_steps("sa_dct", luma, table))
    noisy = luma.astype(np.float32)
    indices = directional_scales(noisy, sigma)
    pilot = _filter(noisy, indices, SCALES, sigma)
    return _filter(noisy, np.minimum(indices, len(WIENER_SCALES) - 1), WIENER_SCALES, sigma, pilot)


def noise_deviation(table: NDArray[np.number]) -> float:
    """The standard deviation, in 8-bit gray levels, of the white noise that stands for JPEG's error:
    sigma^2 = 0.69 q^1.3, q the mean of the table's 3x3 lowest frequencies."""
    return float(np.sqrt(0.69 * table[:3, :3].mean() ** 1.3))


def directional_scales(noisy: NDArray[np.float32], sigma: float) -> NDArray[np.uint8]:
    """LPA-ICI: for each of 8 directions and each pixel of (H, W) the index into SCALES, uint8 (8, H, W).

    Along each direction the pixel is estimated from ever longer lines by a local polynomial approximation. The scale
    taken is the last one before the intersection of the confidence intervals (estimate +- Gamma deviations) gets empty.
    """
    gamma = max(0.8, 2.4 / np.log(1 + 60 * sigma / 255))
    reach = SCALES[-1] - 1
    height, width = noisy.shape
    padded = np.pad(noisy, reach, mode="symmetric")
    kernels = [_kernel(length, share) for length, share in zip(SCALES, _CONSTANT_SHARE, strict=True)]
    indices = np.zeros((len(_DIRECTIONS), height, width), dtype=np.uint8)
    for chosen, (dx, dy) in zip(indices, _DIRECTIONS, strict=True):
        line = [
            padded[reach + step * dy :, reach + step * dx :][:height, :width] for step in range(SCALES[-1])
        ]
        low = np.full((height, width), -np.inf, dtype=np.float32)
        high = np.full((height, width), np.inf, dtype=np.float32)
        for index, kernel in enumerate(kernels):
            estimate = np.zeros((height, width), dtype=np.float32)
            for weight, pixels in zip(kernel, line, strict=False):
                estimate += weight * pixels
            radius = np.float32(gamma * sigma * np.linalg.norm(kernel))
            np.maximum(low, estimate - radius, out=low)
            np.minimum(high, estimate + radius, out=high)
            # Bounds only tighten: an intersection that is empty stays empty.
            chosen[low <= high] = index
    return indices


def _kernel(length: int, constant_share: float) -> NDArray[np.float32]:
    """Weights (length,) that estimate a line's first pixel: a mixture of least-squares fits of order 0 and 1."""
    constant = np.full(length, 1 / length)
    if length == 1:
        return constant.astype(np.float32)
    linear = np.linalg.pinv(np.vander(np.arange(length), 2, increasing=True))[0]
    return (constant_share * constant + (1 - constant_share) * linear).astype(np.float32)


def supports(indices: NDArray[np.uint8], scales: tuple[int, ...]) -> NDArray[np.bool_]:
    """Octagons of M pixels: indices (8, M) into ``scales`` -> bool (M, D, D), D = 2 scales[-1] - 1, as [column, row].

    The vertices lie on the 8 directions, scale - 1 steps from the pixel in the middle; borders belong to the support.
    """
    octants = _octants(scales)
    result = octants[0, indices[0], indices[1]]
    for k in range(1, len(octants)):
        result |= octants[k, indices[k], indices[(k + 1) % len(octants)]]
    return result


@cache
def _octants(scales: tuple[int, ...]) -> NDArray[np.bool_]:
    """The triangle between directions k and k + 1 for every two scales: [k, scale, next scale, column, row]."""
    reach = scales[-1] - 1
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    steps = np.array(scales) - 1
    a, b = steps[:, None, None, None], steps[None, :, None, None]
    triangles = []
    for k, (ux, uy) in enumerate(_DIRECTIONS):
        vx, vy = _DIRECTIONS[(k + 1) % len(_DIRECTIONS)]
        # (x, y) = p u + q v, in whole numbers since neighbouring directions span a parallelogram of area 1.
        p, q = x * vy - y * vx, ux * y - uy * x
        triangles.append((p >= 0) & (q >= 0) & (p <= a) & (q <= b) & (p * b + q * a <= a * b))
    return np.array(triangles)


class ShapeAdaptiveDCT:
    """The orthonormal SA-DCT on many supports at once: bool (M, D, D) as [column, row], D up to 17.

    The pixels of each column slide to its start and are transformed by a DCT of their number, then the coefficients of
    each row slide to its start and are transformed likewise (T. Sikora, B. Makai, Shape-adaptive DCT for generic coding
    of video, 1995). There are as many coefficients as pixels; on a rectangle it is the ordinary two-dimensional DCT.
    Values and coefficients are float (M, D, D) arrays, zero outside support and ``coefficients``.
    """

    def __init__(self, support: NDArray[np.bool_]) -> None:
        position = np.arange(support.shape[-1], dtype=np.uint8)
        self.support = support
        self._is_square = bool(support.all())
        self._column_lengths = support.sum(2, dtype=np.uint8)
        self._columns = position < self._column_lengths[..., None]
        self._rows = _transposed(self._columns)
        self._row_lengths = self._rows.sum(2, dtype=np.uint8)
        self.coefficients = position < self._row_lengths[..., None]
        """Where coefficients are, bool (M, D, D) as [row, column]: vertical, then horizontal frequency."""

    def forward(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Values (M, D, D) as [column, row] -> coefficients (M, D, D) as [vertical, horizontal frequency]."""
        columns = self._slide(values, self.support, self._columns)
        columns = _transform(columns, self._column_lengths)
        rows = self._slide(_transposed(columns), self._rows, self.coefficients)
        return _transform(rows, self._row_lengths)

    def inverse(self, coefficients: NDArray[np.floating]) -> NDArray[np.floating]:
        """The transform back, exact up to rounding."""
        rows = _transform(coefficients, self._row_lengths, inverse=True)
        columns = _transposed(self._slide(rows, self.coefficients, self._rows))
        columns = _transform(columns, self._column_lengths, inverse=True)
        return self._slide(columns, self._columns, self.support)

    def _slide(
        self, values: NDArray[np.floating], source: NDArray[np.bool_], target: NDArray[np.bool_]
    ) -> NDArray[np.floating]:
        """Move what is at ``source`` to ``target``, in order; lines of both hold equally many."""
        if self._is_square:
            return values
        moved = np.zeros_like(values)
        moved[target] = values[source]
        return moved


def _transposed(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array.transpose(0, 2, 1))


_DCT = [np.empty((0, 0)), *(dct_matrix(length) for length in range(1, 2 * SCALES[-1]))]


def _transform(
    lines: NDArray[np.floating], lengths: NDArray[np.uint8], inverse: bool = False
) -> NDArray[np.floating]:
    """The DCT of each line of (M, D, D) over its first ``lengths`` (M, D) elements, or its inverse."""
    flat = lines.reshape(-1, lines.shape[-1])
    result = np.zeros_like(flat)
    for length in range(1, flat.shape[-1] + 1):
        matrix = _DCT[length].astype(flat.dtype)
        matrix = matrix if inverse else matrix.T
        which = np.flatnonzero(lengths == length)
        if which.size == len(flat):
            np.matmul(flat[:, :length], matrix, out=result[:, :length])
        elif which.size:
            result[which, :length] = flat[which, :length] @ matrix
    return result.reshape(lines.shape)


def _filter(
    noisy: NDArray[np.float32],
    indices: NDArray[np.uint8],
    scales: tuple[int, ...],
    sigma: float,
    pilot: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """One pass over (H, W): threshold, or the Wiener filter where ``pilot`` is given, and average."""
    reach = scales[-1] - 1
    side = 2 * reach + 1
    height, width = noisy.shape
    patches = _patches(noisy, reach)
    guides = None if pilot is None else _patches(pilot, reach)
    total = np.zeros((height + 2 * reach, width + 2 * reach))
    weight = np.zeros_like(total)
    for top in range(0, height, _TILE[0]):
        for left in range(0, width, _TILE[1]):
            tile = np.s_[top : top + _TILE[0], left : left + _TILE[1]]
            support = supports(indices[:, *tile].reshape(len(indices), -1), scales)
            values = patches[tile].reshape(support.shape)
            guide = None if guides is None else guides[tile].reshape(support.shape)
            shape = patches[tile].shape
            estimates = np.zeros(support.shape, dtype=np.float32)
            weights = np.zeros((len(support), 1, 1), dtype=np.float32)
            # Most supports are the whole square, which needs no sliding: those by themselves.
            square = support.all((1, 2))
            for group in (np.flatnonzero(square), np.flatnonzero(~square)):
                if group.size:
                    estimates[group], variance = _estimate(
                        values[group], support[group], sigma, None if guide is None else guide[group]
                    )
                    weights[group] = 1 / (variance * support[group].sum((1, 2), keepdims=True))
            window = np.s_[top : top + shape[0] + side - 1, left : left + shape[1] + side - 1]
            _overlap_add(total[window], (estimates * weights).reshape(shape))
            _overlap_add(weight[window], (support * weights).reshape(shape))
    inside = np.s_[reach : reach + height, reach : reach + width]
    return (total[inside] / weight[inside]).astype(np.float32)


def _patches(image: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """A view (H, W, D, D) of what surrounds each pixel, as [column, row]."""
    padded = np.pad(image, reach, mode="symmetric")
    return sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1)).transpose(0, 1, 3, 2)


def _estimate(
    values: NDArray[np.float32],
    support: NDArray[np.bool_],
    sigma: float,
    guide: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.floating]]:
    """Estimates (M, D, D), zero outside the supports, and the variance of each (M, 1, 1) in units of sigma^2.

    The mean is taken off before the transform ("DC separation") and put back: on a support that is not a rectangle a
    constant would leak into many coefficients. It counts as one coefficient that is kept.
    """
    size = support.sum((1, 2), keepdims=True, dtype=np.float32)
    mean, values = _without_mean(values, support, size)
    transform = ShapeAdaptiveDCT(support)
    spectrum = transform.forward(values)
    if guide is None:
        gain = np.abs(spectrum) > _THRESHOLD * sigma * np.sqrt(2 * np.log(size) + 1)
    else:
        _, guide = _without_mean(guide, support, size)
        power = np.square(transform.forward(guide))
        gain = power / (power + np.float32(sigma**2))
    estimates = (transform.inverse(spectrum * gain) + mean) * support
    return estimates, 1 + np.square(gain, dtype=np.float32).sum((1, 2), keepdims=True)


def _without_mean(
    values: NDArray[np.float32], support: NDArray[np.bool_], size: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean over each support, (M, 1, 1), and the values less the mean, zero outside."""
    mean = (values * support).sum((1, 2), keepdims=True) / size
    return mean, (values - mean) * support


def _overlap_add(image: NDArray[np.float64], patches: NDArray[np.float32]) -> None:
    """Add every patch of (h, w, D, D), as [column, row], at its place to (h + D - 1, w + D - 1)."""
    height, width, side, _ = patches.shape
    # Columns first, in single precision: the D rows stay next to each other in memory.
    columns = np.zeros((height, width + side - 1, side), dtype=np.float32)
    for x in range(side):
        columns[:, x : x + width] += patches[:, :, x]
    for y in range(side):
        image[y : y + height] += columns[:, :, y]
