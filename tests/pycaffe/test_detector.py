"""Detector: windows, their context, and what is not there; the numbers of its crops are worked out by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import pycaffe_compat as caffe
from pycaffe_compat import NetError

NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "same" type: "Power" bottom: "data" top: "same" }
"""


@pytest.fixture
def image(tmp_path: Path) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return pixels.astype(np.float32) / 255


@pytest.fixture
def make(write_net: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., caffe.Detector]:
    monkeypatch.chdir(tmp_path)
    path = write_net(NET)
    caffe.Net(path, caffe.TEST).save("w.caffemodel")
    return lambda **settings: caffe.Detector(path, "w.caffemodel", **settings)


def test_windows_are_warped_to_the_input(make: Callable[..., caffe.Detector], image: np.ndarray) -> None:
    windows = [(0, 0, 6, 6), (2, 3, 14, 9), (14, 24, 20, 30)]
    found = make(raw_scale=255, channel_swap=(2, 1, 0)).detect_windows([("image.png", windows)])
    assert [entry["window"] for entry in found] == windows
    assert {entry["filename"] for entry in found} == {"image.png"}
    for entry, (y0, x0, y1, x1) in zip(found, windows, strict=True):
        want = caffe.io.resize_image(image[y0:y1, x0:x1], (6, 6))[:, :, ::-1].transpose(2, 0, 1) * 255
        np.testing.assert_allclose(entry["prediction"], want, rtol=1e-5, atol=1e-4)


def test_no_windows(make: Callable[..., caffe.Detector], image: np.ndarray) -> None:
    assert make().detect_windows([("image.png", [])]) == []


def test_context_around_a_window(make: Callable[..., caffe.Detector], image: np.ndarray) -> None:
    # An input of 6 with 1 of context on each side: 6/4 of the window's 4 x 4 pixels, so 3 from its centre each way.
    crop = make(context_pad=1).crop(image, np.array([7, 11, 10, 14]))
    assert crop.shape == (6, 6, 3)
    # The window's pixels are 7..10 and 11..14, their centre 9, 13; the box 6..12, 10..16 counts its last pixel: 7 of 7
    # are scaled to 6.
    np.testing.assert_allclose(crop, caffe.io.resize_image(image[6:12, 10:16], (6, 6)), atol=1e-6)


def test_beyond_the_edge_stands_the_mean(make: Callable[..., caffe.Detector], image: np.ndarray) -> None:
    mean = np.array([10.0, 20.0, 30.0])
    detector = make(mean=mean, raw_scale=100, channel_swap=(2, 1, 0), context_pad=1)
    crop = detector.crop(image, np.array([0, 11, 3, 14]))  # one row of context lies above the image
    np.testing.assert_allclose(crop[0], np.tile([0.3, 0.2, 0.1], (6, 1)), atol=1e-6)
    np.testing.assert_allclose(crop[1:], caffe.io.resize_image(image[0:5, 10:16], (5, 6)), atol=1e-6)
    blob = detector.transformer.preprocess("data", crop)
    np.testing.assert_allclose(blob[:, 0], 0, atol=1e-5)


@pytest.mark.parametrize("context_pad", [None, 1])
def test_a_window_outside(make: Callable[..., caffe.Detector], image: np.ndarray, context_pad: int | None) -> None:
    with pytest.raises(NetError, match="lies outside of an image of 20x30"):
        make(context_pad=context_pad).crop(image, np.array([50, 50, 60, 60]))


def test_too_much_context(make: Callable[..., caffe.Detector]) -> None:
    with pytest.raises(NetError, match="context_pad 3: needs a square input that is larger, not 6x6"):
        make(context_pad=3)


def test_selective_search_says_what_it_needs(make: Callable[..., caffe.Detector], image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = make()
    with pytest.raises(NetError, match="call detect_windows"):
        detector.detect_selective_search(["image.png"])
    module = ModuleType("selective_search_ijcv_with_python")
    module.get_windows = lambda names, cmd: [[(0, 0, 6, 6)] for _ in names]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (found,) = detector.detect_selective_search(["image.png"])
    np.testing.assert_allclose(found["prediction"], image[:6, :6].transpose(2, 0, 1), atol=1e-6)
