"""Luma, JPEG and file reading against OpenCV, Pillow and the formula in floating point."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pycaffe_compat.errors import DataError
from pycaffe_compat.restoration.degradation import (
    estimate_quality,
    jpeg,
    list_images,
    quantisation_table,
    read_luma,
    rgb_to_luma,
)


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def test_luma_is_the_rounded_formula(rgb: np.ndarray) -> None:
    y = rgb_to_luma(rgb)
    for (r, g, b), got in zip(rgb.reshape(-1, 3)[:300].tolist(), y.ravel()[:300].tolist(), strict=True):
        exact = 16 + (Fraction("65.481") * r + Fraction("128.553") * g + Fraction("24.966") * b) / 255
        assert got == int(exact + Fraction(1, 2))
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    assert rgb_to_luma(ends).tolist() == [[16, 235]]


@pytest.mark.parametrize("quality", [1, 10, 20, 49, 50, 75, 95, 100])
def test_quantisation_tables_are_libjpegs(quality: int, rgb: np.ndarray, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), rgb[..., 0], [cv2.IMWRITE_JPEG_QUALITY, quality])
    with Image.open(tmp_path / "a.jpg") as image:
        table = np.reshape(image.quantization[0], (8, 8))
    assert np.array_equal(table, quantisation_table(quality))
    assert estimate_quality(table) == quality
    assert np.array_equal(jpeg(rgb[..., 0], quality), np.asarray(Image.open(tmp_path / "a.jpg")))


def test_a_table_of_another_maker_has_a_like_quality() -> None:
    odd = np.maximum(quantisation_table(30) + np.random.default_rng(0).integers(-2, 3, (8, 8)), 1)
    assert abs(estimate_quality(odd) - 30) <= 3


@pytest.mark.parametrize("quality", [0, 101, -3])
def test_quality_out_of_range(quality: int) -> None:
    with pytest.raises(ValueError, match="1..100"):
        jpeg(np.zeros((8, 8), np.uint8), quality)


def test_gray_is_taken_as_it_is_and_colour_is_converted(rgb: np.ndarray, tmp_path: Path) -> None:
    gray = rgb[..., 1]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(rgb).convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(gray).convert("LA").save(tmp_path / "la.png")
    assert np.array_equal(read_luma(tmp_path / "gray.png"), gray)
    assert np.array_equal(read_luma(tmp_path / "deep.png"), gray)
    assert np.array_equal(read_luma(tmp_path / "la.png"), gray)
    assert np.array_equal(read_luma(tmp_path / "rgb.png"), rgb_to_luma(rgb))
    assert np.array_equal(read_luma(tmp_path / "rgba.png"), rgb_to_luma(rgb))


def test_jpeg_photographs_decode_as_opencv_does(rgb: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.jpg", quality=90)
    assert np.array_equal(
        read_luma(tmp_path / "a.jpg"), rgb_to_luma(cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1])
    )


def test_bad_images_name_the_file(rgb: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(rgb).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg")
    for name in ("cut.jpg", "text.png", "empty.png", "cmyk.jpg", "missing.png"):
        with pytest.raises(DataError, match=name) as caught:
            read_luma(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "sub/c.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")

    def names(*paths: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in list_images([tmp_path / p for p in paths])]

    assert names(".") == ["a.jpg", "b.PNG"]
    assert names(".", "a.jpg", "*.jpg") == ["a.jpg", "b.PNG"]
    assert names("**/*.jpg") == ["a.jpg", "sub/c.jpg"]
    assert names("notes.txt") == ["notes.txt"]
    with pytest.raises(DataError, match="nowhere"):
        names("nowhere")
    with pytest.raises(DataError, match="no image"):
        names("*.bmp")
    with pytest.raises(DataError, match="no image"):
        list_images([])
