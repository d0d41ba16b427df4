"""spp against the same thing made of libjpeg calls, and against its measured scores."""

from pathlib import Path

import numpy as np
import pytest
import skimage

from pycaffe_compat.restoration.baselines import ALL_SHIFTS, FFMPEG_SHIFTS, spp
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


def test_patterns() -> None:
    assert len(set(FFMPEG_SHIFTS)) == 8 and len(set(ALL_SHIFTS)) == 64
    assert {x for x, _ in FFMPEG_SHIFTS} == {y for _, y in FFMPEG_SHIFTS} == set(range(8))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 3), (8, 8), (17, 30)])
def test_any_size(shape: tuple[int, int]) -> None:
    flat = np.full(shape, 77, dtype=np.uint8)
    assert np.array_equal(spp(flat, np.ones((8, 8), dtype=int)), flat)


def test_bad_arguments() -> None:
    luma = np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match="8 and 64"):
        spp(luma, quantisation_table(10), 16)
    with pytest.raises(ValueError, match="quantisation table"):
        spp(luma, np.zeros((8, 8), dtype=int))


@pytest.mark.data
@pytest.mark.slow
def test_scores_on_live1(jpeg_data: Path) -> None:
    images = [read_luma(path) for path in list_images(jpeg_data / "live1")]
    table = quantisation_table(10)
    mean = Scores.mean([score(np.rint(spp(jpeg(image, 10), table, 64)), image) for image in images])
    assert (f"{mean.psnr:.2f}", f"{mean.psnr_b:.2f}", f"{mean.ssim:.3f}") == ("28.41", "28.36", "0.808")
