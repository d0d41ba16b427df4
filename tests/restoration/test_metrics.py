"""Metrics against scikit-image and slow loops, and the paper's own figures."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pycaffe_compat.restoration import metrics
from pycaffe_compat.restoration.degradation import jpeg, list_images, read_luma, rgb_to_luma

PHOTOGRAPHS = ["astronaut", "chelsea", "coffee", "rocket"]


@pytest.fixture(params=PHOTOGRAPHS)
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """A JPEG of quality 10 and its original; the odd sizes are cut so that no side is a multiple of 8."""
    luma = rgb_to_luma(getattr(skimage.data, request.param)())[:187, :251]
    return jpeg(luma, 10), luma


def test_psnr_and_ssim_are_scikit_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pair
    assert metrics.psnr(x, y) == pytest.approx(peak_signal_noise_ratio(y, x, data_range=255), abs=1e-10)
    # scikit-image has odd windows only, so the uniform one is compared at 7; 8 is compared with loops below.
    uniform = structural_similarity(x, y, win_size=7, data_range=255, use_sample_covariance=False)
    assert metrics._ssim(x, y, np.full(7, 1 / 7)) == pytest.approx(uniform, abs=1e-10)
    gaussian = structural_similarity(
        x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert metrics.ssim_gaussian(x, y) == pytest.approx(gaussian, abs=1e-10)


def slow_ssim(x: np.ndarray, y: np.ndarray, size: int = 8) -> float:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(x.shape[0] - size + 1):
        for j in range(x.shape[1] - size + 1):
            a = x[i : i + size, j : j + size].astype(float)
            b = y[i : i + size, j : j + size].astype(float)
            covariance = ((a - a.mean()) * (b - b.mean())).mean()
            values.append(
                (2 * a.mean() * b.mean() + c1)
                * (2 * covariance + c2)
                / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var() + b.var() + c2))
            )
    return float(np.mean(values))


def test_ssim_8x8_is_the_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = (image[:40, :33] for image in pair)
    assert metrics.ssim(x, y) == pytest.approx(slow_ssim(x, y), abs=1e-12)


def slow_blocking_effect(x: np.ndarray) -> float:
    height, width = x.shape
    at_edges = elsewhere = 0.0
    for i in range(height):
        for j in range(width - 1):
            difference = (float(x[i, j]) - float(x[i, j + 1])) ** 2
            if (j + 1) % 8 == 0:
                at_edges += difference
            else:
                elsewhere += difference
    for i in range(height - 1):
        for j in range(width):
            difference = (float(x[i, j]) - float(x[i + 1, j])) ** 2
            if (i + 1) % 8 == 0:
                at_edges += difference
            else:
                elsewhere += difference
    n_hb, n_vb = height * (width / 8 - 1), width * (height / 8 - 1)
    n_hbc, n_vbc = height * (width - 1) - n_hb, width * (height - 1) - n_vb
    d_b, d_bc = at_edges / (n_hb + n_vb), elsewhere / (n_hbc + n_vbc)
    return np.log2(8) / np.log2(min(height, width)) * (d_b - d_bc) if d_b > d_bc else 0.0


@given(
    height=st.integers(9, 40), width=st.integers(9, 40), quality=st.integers(1, 60), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_psnr_b_is_the_definition(height: int, width: int, quality: int, seed: int) -> None:
    smooth = np.random.default_rng(seed).normal(0, 4, (height, width)).cumsum(0).cumsum(1)
    y = np.clip(smooth + 128, 0, 255).astype(np.uint8)
    x = jpeg(y, quality)
    assert metrics.blocking_effect(x) == pytest.approx(slow_blocking_effect(x), rel=1e-9, abs=1e-9)
    error = np.mean((x.astype(float) - y) ** 2) + slow_blocking_effect(x)
    if error:
        assert metrics.psnr_b(x, y) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (5, 7), (8, 8), (9, 3), (16, 10)])
def test_tiny_images_have_scores(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
    assert np.isfinite(astuple(metrics.score(x, y))).all()
    assert metrics.score(y, y) == metrics.Scores(np.inf, pytest.approx(metrics.psnr_b(y, y)), 1.0, 1.0)


def test_ipsnr_is_the_gain() -> None:
    y = np.zeros((16, 16))
    assert metrics.ipsnr(y + 1, y + 10, y) == pytest.approx(20)
    assert metrics.ipsnr(y + 10, y + 10, y) == 0
    assert metrics.ipsnr(y, y, y) == 0
    assert metrics.ipsnr(y, y + 1, y) == np.inf


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="one size"):
        metrics.psnr(np.zeros((8, 8)), np.zeros((8, 9)))


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "quality", "paper"),
    [
        ("live1", 10, ("27.77", "25.33", "0.791")),
        ("live1", 20, ("30.07", "27.57", "0.868")),
        ("bsds500/val", 10, ("27.58", "24.97", "0.769")),
        ("bsds500/val", 20, ("29.72", "26.97", "0.852")),
    ],
)
def test_the_papers_distorted_scores(
    jpeg_data: Path, folder: str, quality: int, paper: tuple[str, str, str]
) -> None:
    """Tables 3 and 4, first rows, to the last printed digit."""
    images = [read_luma(path) for path in list_images(jpeg_data / folder)]
    mean = metrics.Scores.mean([metrics.score(jpeg(image, quality), image) for image in images])
    assert (f"{mean.psnr:.2f}", f"{mean.psnr_b:.2f}", f"{mean.ssim:.3f}") == paper
