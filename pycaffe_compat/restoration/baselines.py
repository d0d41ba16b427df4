"""Classical JPEG restoration to compare networks with: simple postprocessing (spp), as the paper describes it and
as FFmpeg does it.

A. Nosratinia, Embedded post-processing for enhancement of compressed images, Data Compression
Conference, 1999: compress the compressed image again at shifted positions of the block grid and average.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# (x, y) of FFmpeg's default quality 3 (libavfilter/vf_spp.c): one shift in each row and column of the 8x8
# grid.
FFMPEG_SHIFTS = ((0, 0), (5, 1), (2, 2), (7, 3), (4, 4), (1, 5), (6, 6), (3, 7))
ALL_SHIFTS = tuple((x, y) for y in range(8) for x in range(8))

_BLOCK = 8


def dct_matrix(length: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II of ``length`` samples as a (length, length) matrix, a row a frequency."""
    k = np.arange(length)
    matrix = np.sqrt(2 / length) * np.cos((2 * k[None, :] + 1) * k[:, None] * np.pi / (2 * length))
    matrix[0] /= np.sqrt(2)
    return matrix


# Two-dimensional, over flattened blocks.
_DCT = np.kron(dct_matrix(_BLOCK), dct_matrix(_BLOCK))


def checked_steps(name: str, luma: NDArray[np.uint8], table: NDArray[np.integer]) -> NDArray[np.float64]:
    """The quantisation table as float64; ValueError in the name of a method for an image or table of the wrong form."""
    if luma.dtype != np.uint8 or luma.ndim != 2 or luma.size == 0:
        raise ValueError(f"{name} wants a non-empty uint8 (H, W) array, not {luma.dtype} {luma.shape}")
    steps = np.asarray(table, dtype=np.float64)
    if steps.shape != (_BLOCK, _BLOCK):
        raise ValueError(f"a quantisation table is (8, 8), not {steps.shape}")
    if not 1 <= steps.min() <= steps.max() < np.inf:
        raise ValueError(f"a quantisation table has steps of at least 1, not {steps.min():g}..{steps.max():g}")
    return steps


def spp(luma: NDArray[np.uint8], table: NDArray[np.integer], shifts: int = 64) -> NDArray[np.float32]:
    """Re-apply JPEG at shifts of the block grid and average; float32 (H, W) in 0..255.

    luma    uint8 (H, W), the decoded JPEG
    table   the file's luma quantisation table, (8, 8) in natural order (``quantisation_table(quality)``)
    shifts  8, the pattern of FFmpeg's default quality, or 64, all there are (its quality 6)

    On LIVE1 at quality 10 all shifts give 28.41 dB / 28.36 dB / 0.808 (PSNR, PSNR-B, SSIM); the paper quotes
    28.37 / 27.77 / 0.806 for FFmpeg's own filter, which thresholds coefficients instead of rounding them
    (:func:`spp_threshold`).
    """
    steps = checked_steps("spp", luma, table)

    def recompressed(blocks: NDArray[np.float64]) -> NDArray[np.uint8]:
        blocks -= 128.0
        # To the nearest level, halves away from zero as libjpeg does. Halves are common (the mean of a block of
        # integers), so they must not hang on the last bit of a sum: hence the tiny stretch, here and below.
        levels = blocks @ (_DCT.T * ((1 + 1e-9) / steps.ravel()))
        np.rint(levels, out=levels)
        values = np.matmul(levels, steps.ravel()[:, None] * _DCT, out=blocks)
        values += 128.5 + 1e-6
        np.clip(values, 0, 255, out=values)
        return values.astype(np.uint8)

    return _mean_over_shifts(luma, shifts, recompressed)


def spp_threshold(
    luma: NDArray[np.uint8],
    table: NDArray[np.integer],
    shifts: int = 64,
    mode: Literal["hard", "soft"] = "hard",
) -> NDArray[np.float32]:
    """spp as FFmpeg's filter does it: threshold the DCT at shifts of the block grid and average; float32 (H, W).

    luma    uint8 (H, W), the decoded JPEG
    table   the file's luma quantisation table, (8, 8) in natural order (``quantisation_table(quality)``)
    shifts  8, the pattern of FFmpeg's default quality, or 64, all there are (its quality 6)
    mode    "hard" (FFmpeg's default) zeroes the coefficients below the threshold, "soft" also brings the others
            nearer to zero by it; the mean (DC) stays

    The filter knows one quantiser for all coefficients: FFmpeg's JPEG decoder hands on half the larger step of the
    two lowest frequencies, rounded down, and the threshold is twice that. The filter's rounding of coefficients to
    integers and its ordered dither are left out.

    Measured on LIVE1 (PSNR / PSNR-B / SSIM 8x8):

                        quality 10              quality 20
    hard, 64 shifts     28.07 / 28.00 / 0.775   30.56 / 30.32 / 0.865
    hard, 8 shifts      28.05 / 27.99 / 0.776   30.51 / 30.28 / 0.864
    soft, 64 shifts     26.27 / 26.26 / 0.702   28.59 / 28.55 / 0.796
    soft, 8 shifts      26.27 / 26.26 / 0.702   28.59 / 28.56 / 0.796
    the paper's spp     28.37 / 27.77 / 0.806   30.49 / 29.22 / 0.877

    No setting of FFmpeg's filter is known that gives the paper's row exactly; soft thresholding is worse than the JPEG.
    """
    steps = checked_steps("spp_threshold", luma, table)
    if mode not in ("hard", "soft"):
        raise ValueError(f'spp_threshold knows "hard" and "soft", not {mode!r}')
    threshold = np.full(_BLOCK * _BLOCK, 2 * (max(steps[0, 1], steps[1, 0]) // 2))
    threshold[0] = 0

    def thresholded(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
        coefficients = blocks @ _DCT.T
        coefficients[np.abs(coefficients) < threshold] = 0
        if mode == "soft":
            coefficients -= threshold * np.sign(coefficients)
        return coefficients @ _DCT

    return _mean_over_shifts(luma, shifts, thresholded)


def _mean_over_shifts(
    luma: NDArray[np.uint8], shifts: int, restore: Callable[[NDArray[np.float64]], NDArray[Any]]
) -> NDArray[np.float32]:
    """Cut into blocks at each shift of the grid, ``restore`` them as flattened (N, 64), average what comes back."""
    patterns = {8: FFMPEG_SHIFTS, 64: ALL_SHIFTS}
    if shifts not in patterns:
        raise ValueError(f"spp knows 8 and 64 shifts, not {shifts}")
    height, width = luma.shape
    # Up to seven pixels before, and after enough to fill the last block of any shift.
    padded = np.pad(luma, ((7, 7 + _BLOCK), (7, 7 + _BLOCK)), mode="reflect")
    total = np.zeros((height, width))
    for x, y in patterns[shifts]:
        rows, columns = -(-(height + y) // _BLOCK), -(-(width + x) // _BLOCK)
        shifted = padded[7 - y : 7 - y + rows * _BLOCK, 7 - x : 7 - x + columns * _BLOCK]
        blocks = shifted.reshape(rows, _BLOCK, columns, _BLOCK).transpose(0, 2, 1, 3)
        restored = restore(blocks.reshape(-1, _BLOCK * _BLOCK).astype(np.float64))
        pixels = restored.reshape(rows, columns, _BLOCK, _BLOCK).transpose(0, 2, 1, 3)
        total += pixels.reshape(shifted.shape)[y : y + height, x : x + width]
    return (total / len(patterns[shifts])).astype(np.float32)
