"""The SA-DCT filter against itself written out pixel by pixel, SciPy's DCT, and the paper's scores."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import skimage

from pycaffe_compat.restoration.baselines import spp
from pycaffe_compat.restoration.degradation import (
    jpeg,
    list_images,
    quantisation_table,
    read_luma,
    rgb_to_luma,
)
from pycaffe_compat.restoration.metrics import Scores, psnr, score
from pycaffe_compat.restoration.sadct import (
    SCALES,
    WIENER_SCALES,
    ShapeAdaptiveDCT,
    directional_scales,
    noise_deviation,
    sa_dct,
    supports,
)

# (row, column) of right, down right, down, ...
STEPS = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
SHARES = {1: 0.75, 2: 0.70, 3: 0.85, 5: 0.90, 7: 0.97, 9: 1.00}


def mirrored(image: np.ndarray, row: int, column: int) -> float:
    """The image beyond its border: ... b a | a b c | c b ..."""
    height, width = image.shape
    row, column = row % (2 * height), column % (2 * width)
    return float(image[min(row, 2 * height - 1 - row), min(column, 2 * width - 1 - column)])


@cache
def slow_kernel(length: int) -> np.ndarray:
    """A line's weights for its first pixel. Fits are linear in the data: unit vectors through polyfit give them."""
    constant = np.full(length, 1 / length)
    if length == 1:
        return constant
    linear = np.array([np.polyfit(np.arange(length), unit, 1)[-1] for unit in np.eye(length)])
    return SHARES[length] * constant + (1 - SHARES[length]) * linear


def slow_scale(image: np.ndarray, row: int, column: int, step: tuple[int, int], sigma: float) -> int:
    """The length of the line from a pixel in a direction, by the ICI rule as it is told."""
    gamma = max(0.8, 2.4 / np.log(1 + 60 * sigma / 255))
    low, high, best = -np.inf, np.inf, 0
    for length in (1, 2, 3, 5, 7, 9):
        line = [mirrored(image, row + i * step[0], column + i * step[1]) for i in range(length)]
        weights = slow_kernel(length)
        estimate, radius = weights @ line, gamma * sigma * np.sqrt(np.sum(weights**2))
        low, high = max(low, estimate - radius), min(high, estimate + radius)
        if low > high:
            break
        best = length
    return best


@cache
def slow_support(lengths: tuple[int, ...], reach: int) -> list[tuple[int, int]]:
    """(row, column) offsets inside the octagon, by the signs of the areas that they span with a triangle's sides."""
    points = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    inside = np.zeros(points.shape[1], dtype=bool)
    for k in range(8):
        u = np.multiply(STEPS[k], lengths[k] - 1)
        v = np.multiply(STEPS[(k + 1) % 8], lengths[(k + 1) % 8] - 1)
        corners = [np.zeros(2), u, v]
        areas = []
        for a, b in zip(corners, [u, v, np.zeros(2)], strict=True):
            areas.append((b[0] - a[0]) * (points[1] - a[1]) - (b[1] - a[1]) * (points[0] - a[0]))
        one_sign = (np.min(areas, axis=0) >= 0) | (np.max(areas, axis=0) <= 0)
        # Triangles without area are lines: the box around them keeps their continuation out.
        low, high = np.min(corners, axis=0)[:, None], np.max(corners, axis=0)[:, None]
        inside |= one_sign & np.all((low <= points) & (points <= high), axis=0)
    return [(int(y), int(x)) for y, x in points.T[inside]]


def slow_matrix(support: list[tuple[int, int]]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The transform of a support's pixels (row, column) as a matrix, and the frequencies (down, across) of its rows."""
    vertical, places = np.zeros((len(support), len(support))), []
    for column in sorted({x for _, x in support}):
        pixels = [support.index(pixel) for pixel in sorted(support) if pixel[1] == column]
        dct = scipy.fft.dct(np.eye(len(pixels)), axis=0, norm="ortho")
        for frequency, row in enumerate(dct):
            vertical[len(places), pixels] = row
            places.append((frequency, column))
    horizontal, frequencies = np.zeros_like(vertical), []
    for down in sorted({frequency for frequency, _ in places}):
        line = [i for i, (frequency, _) in enumerate(places) if frequency == down]
        dct = scipy.fft.dct(np.eye(len(line)), axis=0, norm="ortho")
        for across, row in enumerate(dct):
            horizontal[len(frequencies), line] = row
            frequencies.append((down, across))
    return horizontal @ vertical, frequencies


def slow_sa_dct(luma: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The whole filter, one pixel after the other, in double precision."""
    sigma = np.sqrt(0.69 * table[:3, :3].mean() ** 1.3)
    height, width = luma.shape
    noisy = luma.astype(np.float64)
    lengths = {
        (r, c): [slow_scale(noisy, r, c, step, sigma) for step in STEPS]
        for r in range(height)
        for c in range(width)
    }

    def one_pass(limit: int, pilot: np.ndarray | None) -> np.ndarray:
        total, weight = np.zeros(luma.shape), np.zeros(luma.shape)
        for (r, c), longest in lengths.items():
            support = slow_support(tuple(min(length, limit) for length in longest), limit - 1)
            matrix, _ = slow_matrix(support)
            values = np.array([mirrored(noisy, r + y, c + x) for y, x in support])
            mean = values.mean()
            spectrum = matrix @ (values - mean)
            if pilot is None:
                gain = np.abs(spectrum) > 0.925 * sigma * np.sqrt(2 * np.log(len(support)) + 1)
            else:
                guide = np.array([mirrored(pilot, r + y, c + x) for y, x in support])
                power = (matrix @ (guide - guide.mean())) ** 2
                gain = power / (power + sigma**2)
            estimate = matrix.T @ (gain * spectrum) + mean
            w = 1 / (sigma**2 * (1 + np.sum(gain.astype(float) ** 2)) * len(support))
            for (y, x), value in zip(support, estimate, strict=True):
                if 0 <= r + y < height and 0 <= c + x < width:
                    total[r + y, c + x] += w * value
                    weight[r + y, c + x] += w
        return total / weight

    return one_pass(6, one_pass(9, None))


def random_supports(count: int, side: int) -> np.ndarray:
    """Connected or not, with gaps in their lines: the transform takes any shape but the empty one."""
    masks = np.random.default_rng(3).random((count, side, side)) < np.linspace(0.1, 1, count)[:, None, None]
    masks[:, side // 2, side // 2] = True
    return masks


def photograph() -> np.ndarray:
    return rgb_to_luma(skimage.data.astronaut())[100:172, 180:276]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (6, 1), (4, 9), (17, 17), (17, 3)])
def test_rectangles_have_the_ordinary_dct(height: int, width: int) -> None:
    block = np.random.default_rng(0).normal(size=(height, width))
    support = np.zeros((1, 17, 17), dtype=bool)
    top = (17 - height) // 2
    support[0, 17 - width :, top : top + height] = True
    values = np.zeros((1, 17, 17))
    values[support] = block.T.ravel()
    spectrum = ShapeAdaptiveDCT(support).forward(values)[0]
    expected = np.zeros((17, 17))
    expected[:height, :width] = scipy.fft.dctn(block, norm="ortho")
    np.testing.assert_allclose(spectrum, expected, atol=1e-12)


def test_any_shape_is_transformed_as_its_lines_are() -> None:
    masks = random_supports(12, 9)
    values = np.random.default_rng(1).normal(size=masks.shape) * masks
    spectra = ShapeAdaptiveDCT(masks).forward(values)
    for mask, value, spectrum in zip(masks, values, spectra, strict=True):
        support = [(int(y), int(x)) for x, y in np.argwhere(mask)]
        matrix, frequencies = slow_matrix(support)
        expected = np.zeros((9, 9))
        expected[tuple(np.transpose(frequencies))] = matrix @ [value[x, y] for y, x in support]
        np.testing.assert_allclose(spectrum, expected, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-4)])
def test_perfect_reconstruction(dtype: type, tolerance: float) -> None:
    masks = random_supports(40, 17)
    values = (np.random.default_rng(2).normal(size=masks.shape) * 50 * masks).astype(dtype)
    transform = ShapeAdaptiveDCT(masks)
    spectrum = transform.forward(values)
    assert spectrum.dtype == dtype
    np.testing.assert_allclose(transform.inverse(spectrum), values, atol=tolerance)
    assert np.array_equal(transform.coefficients.sum((1, 2)), masks.sum((1, 2)))
    assert not spectrum[~transform.coefficients].any()


@pytest.mark.parametrize("seed", range(4))
def test_orthonormal(seed: int) -> None:
    mask = np.random.default_rng(seed).random((7, 7)) < 0.2 + 0.25 * seed
    size = int(mask.sum())
    units = np.zeros((size, 7, 7))
    units[:, mask] = np.eye(size)
    transform = ShapeAdaptiveDCT(np.broadcast_to(mask, units.shape).copy())
    matrix = transform.forward(units)[:, transform.coefficients[0]]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)


def test_supports_against_signs_of_areas() -> None:
    rng = np.random.default_rng(4)
    for scales in (SCALES, WIENER_SCALES):
        indices = rng.integers(0, len(scales), (8, 150)).astype(np.uint8)
        indices[:, 0], indices[:, 1] = 0, len(scales) - 1
        reach = scales[-1] - 1
        for mask, chosen in zip(supports(indices, scales), indices.T, strict=True):
            slow = slow_support(tuple(scales[i] for i in chosen), reach)
            assert {(int(y), int(x)) for x, y in np.argwhere(mask) - reach} == set(slow)
        assert supports(indices, scales)[0].sum() == 1 and supports(indices, scales)[1].all()


@pytest.mark.parametrize("quality", [10, 30, 60])
def test_directional_scales_against_plain_loops(quality: int) -> None:
    degraded = jpeg(photograph(), quality)[20:36, 30:49]
    sigma = noise_deviation(quantisation_table(quality))
    indices = directional_scales(degraded.astype(np.float32), sigma)
    where = list(np.ndindex(16, 19))
    slow = [[slow_scale(degraded.astype(float), r, c, step, sigma) for r, c in where] for step in STEPS]
    assert len(np.unique(slow)) >= 4, "the image must try several scales"
    # Single precision may decide a tie the other way.
    assert np.mean(np.array(SCALES)[indices].reshape(8, -1) != slow) < 0.001


@pytest.mark.parametrize("quality", [10, 40])
def test_whole_filter_against_one_pixel_after_the_other(quality: int) -> None:
    degraded = jpeg(photograph(), quality)[24:34, 30:42]
    table = quantisation_table(quality)
    fast, slow = sa_dct(degraded, table), slow_sa_dct(degraded, table)
    assert np.abs(slow - degraded).max() > 2
    np.testing.assert_allclose(fast, slow, atol=2e-3)


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    degraded, table = jpeg(photograph(), 10), quantisation_table(10)
    whole = sa_dct(degraded, table)
    monkeypatch.setattr("pycaffe_compat.restoration.sadct._TILE", (7, 11))
    np.testing.assert_allclose(sa_dct(degraded, table), whole, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 3), (8, 8), (17, 300)])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_image_stays(shape: tuple[int, int], value: int) -> None:
    flat = np.full(shape, value, dtype=np.uint8)
    restored = sa_dct(flat, quantisation_table(10))
    assert restored.shape == shape and restored.dtype == np.float32
    np.testing.assert_allclose(restored, flat, atol=1e-3)


@pytest.mark.parametrize("quality", [5, 10, 20])
def test_gains_more_than_spp_on_smooth_regions_and_edges(quality: int) -> None:
    y, x = np.mgrid[:96, :112]
    image = 90 + 0.5 * x + 12 * np.sin(y / 17)
    image[(x - 60) ** 2 + (y - 40) ** 2 < 700] += 70
    image[x + 2 * y > 230] -= 50
    luma = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    degraded, table = jpeg(luma, quality), quantisation_table(quality)
    gain = psnr(sa_dct(degraded, table), luma) - psnr(degraded, luma)
    assert gain > 1
    assert gain > psnr(spp(degraded, table), luma) - psnr(degraded, luma) + 0.2


def test_noise_deviation() -> None:
    assert noise_deviation(np.full((8, 8), 10)) == pytest.approx(np.sqrt(0.69 * 10**1.3))
    table = np.ones((8, 8))
    table[:3, :3] = 4
    assert noise_deviation(table) == pytest.approx(np.sqrt(0.69 * 4**1.3))


GOOD = np.zeros((8, 8), np.uint8)


@pytest.mark.parametrize(
    ("luma", "table", "message"),
    [
        (np.zeros((8, 8), np.float32), np.ones((8, 8)), r"uint8 \(H, W\) array, not float32 \(8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), np.ones((8, 8)), r"not uint8 \(8, 8, 3\)"),
        (np.zeros((0, 8), np.uint8), np.ones((8, 8)), "non-empty"),
        (GOOD, np.ones((8, 4)), r"quantisation table is \(8, 8\), not \(8, 4\)"),
        (GOOD, np.ones(64), r"not \(64,\)"),
        (GOOD, np.zeros((8, 8)), "steps of at least 1"),
        (GOOD, np.full((8, 8), np.nan), "steps of at least 1"),
        (GOOD, np.full((8, 8), np.inf), "steps of at least 1"),
    ],
)
def test_bad_input(luma: np.ndarray, table: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sa_dct(luma, table)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("quality", "paper"), [(10, Scores(28.65, 28.01, 0.809, np.nan)), (20, Scores(30.81, 29.82, 0.878, np.nan))]
)
def test_scores_on_live1(jpeg_data: Path, quality: int, paper: Scores) -> None:
    table = quantisation_table(quality)
    scores = []
    for path in list_images(jpeg_data / "live1"):
        luma = read_luma(path)
        restored = np.clip(np.rint(sa_dct(jpeg(luma, quality), table)), 0, 255).astype(np.uint8)
        scores.append(score(restored, luma))
    mean = Scores.mean(scores)
    assert mean.psnr == pytest.approx(paper.psnr, abs=0.15)
    assert mean.psnr_b == pytest.approx(paper.psnr_b, abs=0.15)
    assert mean.ssim == pytest.approx(paper.ssim, abs=0.003)
