"""spp against the same thing made of libjpeg calls and of SciPy's DCT, and against its measured scores."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import skimage

from pycaffe_compat.restoration.baselines import ALL_SHIFTS, FFMPEG_SHIFTS, spp, spp_threshold
from pycaffe_compat.restoration.degradation import (
    jpeg,
    list_images,
    quantisation_table,
    read_luma,
    rgb_to_luma,
)
from pycaffe_compat.restoration.metrics import Scores, psnr, score


def slow_spp(luma: np.ndarray, quality: int, shifts: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Every shift through libjpeg's own encoder and decoder."""
    height, width = luma.shape
    total = np.zeros(luma.shape)
    for x, y in shifts:
        padded = np.pad(luma, ((y, -(height + y) % 8), (x, -(width + x) % 8)), mode="reflect")
        total += jpeg(np.ascontiguousarray(padded), quality)[y : y + height, x : x + width]
    return total / len(shifts)


@pytest.mark.parametrize(("count", "shifts"), [(8, FFMPEG_SHIFTS), (64, ALL_SHIFTS)])
def test_spp_is_jpeg_applied_again(count: int, shifts: tuple[tuple[int, int], ...]) -> None:
    luma = rgb_to_luma(skimage.data.astronaut())[100:231, 120:245]
    degraded = jpeg(luma, 10)
    fast, slow = spp(degraded, quantisation_table(10), count), slow_spp(degraded, 10, shifts)
    # libjpeg transforms in integers: few coefficients near a half step fall to the other side.
    assert np.abs(fast - slow).mean() < 0.06
    assert psnr(fast, luma) == pytest.approx(psnr(slow, luma), abs=0.01)
    assert psnr(fast, luma) > psnr(degraded, luma) + 0.3


def slow_spp_threshold(luma: np.ndarray, threshold: float, shifts: tuple, mode: str) -> np.ndarray:
    """Every shift, block by block."""
    height, width = luma.shape
    total = np.zeros(luma.shape)
    for x, y in shifts:
        padded = np.pad(luma.astype(float), ((y, -(height + y) % 8), (x, -(width + x) % 8)), mode="reflect")
        for top in range(0, padded.shape[0], 8):
            for left in range(0, padded.shape[1], 8):
                block = padded[top : top + 8, left : left + 8]
                spectrum = scipy.fft.dctn(block, norm="ortho")
                for key in np.ndindex(8, 8):
                    size = abs(spectrum[key])
                    if key != (0, 0) and mode == "hard":
                        spectrum[key] *= size >= threshold
                    elif key != (0, 0):
                        spectrum[key] = np.sign(spectrum[key]) * max(size - threshold, 0)
                block[:] = scipy.fft.idctn(spectrum, norm="ortho")
        total += padded[y : y + height, x : x + width]
    return total / len(shifts)


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize(("count", "shifts"), [(8, FFMPEG_SHIFTS), (64, ALL_SHIFTS)])
def test_spp_threshold_block_by_block(mode: str, count: int, shifts: tuple[tuple[int, int], ...]) -> None:
    degraded = jpeg(rgb_to_luma(skimage.data.astronaut())[100:133, 120:147], 20)
    table = np.full((8, 8), 1)
    table[0, 1], table[1, 0] = 31, 22  # quantiser 15, threshold 30
    fast = spp_threshold(degraded, table, count, mode)
    np.testing.assert_allclose(fast, slow_spp_threshold(degraded, 30, shifts, mode), atol=1e-4)
    np.testing.assert_array_equal(fast, spp_threshold(degraded, table.T, count, mode))


@pytest.mark.parametrize(("mode", "gain"), [("hard", 0.3), ("soft", -2.0)])
def test_spp_threshold_restores(mode: str, gain: float) -> None:
    luma = rgb_to_luma(skimage.data.astronaut())
    degraded = jpeg(luma, 10)
    assert psnr(spp_threshold(degraded, quantisation_table(10), 8, mode), luma) > psnr(degraded, luma) + gain


def test_patterns() -> None:
    assert len(set(FFMPEG_SHIFTS)) == 8 and len(set(ALL_SHIFTS)) == 64
    assert {x for x, _ in FFMPEG_SHIFTS} == {y for _, y in FFMPEG_SHIFTS} == set(range(8))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 3), (8, 8), (17, 30)])
def test_any_size(shape: tuple[int, int]) -> None:
    flat = np.full(shape, 77, dtype=np.uint8)
    table = np.ones((8, 8), dtype=int)
    assert np.array_equal(spp(flat, table), flat)
    for mode in ("hard", "soft"):
        np.testing.assert_allclose(spp_threshold(flat, table, 64, mode), flat, atol=1e-4)


@pytest.mark.parametrize("method", [spp, spp_threshold])
def test_bad_arguments(method: Callable[..., np.ndarray]) -> None:
    luma, table = np.zeros((8, 8), np.uint8), quantisation_table(10)
    for wrong in (luma.astype(float), luma[None], luma[:0]):
        with pytest.raises(ValueError, match=rf"{method.__name__} wants a non-empty uint8 \(H, W\) array"):
            method(wrong, table)
    with pytest.raises(ValueError, match="8 and 64"):
        method(luma, table, 16)
    for wrong in (np.zeros((8, 8), dtype=int), table[:4], np.full((8, 8), np.nan)):
        with pytest.raises(ValueError, match="quantisation table"):
            method(luma, wrong)


def test_bad_mode() -> None:
    with pytest.raises(ValueError, match=r'"hard" and "soft", not \'medium\''):
        spp_threshold(np.zeros((8, 8), np.uint8), quantisation_table(10), 8, "medium")


@pytest.mark.data
@pytest.mark.slow
def test_scores_on_live1(jpeg_data: Path) -> None:
    images = [read_luma(path) for path in list_images(jpeg_data / "live1")]
    table = quantisation_table(10)
    mean = Scores.mean([score(np.rint(spp(jpeg(image, 10), table, 64)), image) for image in images])
    assert (f"{mean.psnr:.2f}", f"{mean.psnr_b:.2f}", f"{mean.ssim:.3f}") == ("28.41", "28.36", "0.808")
