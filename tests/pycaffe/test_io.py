"""io as Caffe's test_io.py has it, then resizing against SciPy, image files, bad input; see conftest.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import skimage.io
import skimage.transform
from PIL import Image

import pycaffe_compat as caffe
from pycaffe_compat import DataError, NetError
from pycaffe_compat.proto.caffe_pb2 import BlobProto

# ---- old_format new_format no_shape scalar label_none_size


def blob_of(count: int, **fields: int) -> Any:
    blob = BlobProto(**fields)
    blob.data.extend([0.0] * count)
    return blob


def test_old_format() -> None:
    blob = blob_of(100, num=1, channels=1, height=10, width=10)
    assert caffe.io.blobproto_to_array(blob).shape == (1, 1, 10, 10)


def test_new_format() -> None:
    blob = blob_of(100)
    blob.shape.dim.extend([10, 10])
    assert caffe.io.blobproto_to_array(blob).shape == (10, 10)


def test_no_shape() -> None:
    with pytest.raises(ValueError, match="holds 100 values, its shape is none") as error:
        caffe.io.blobproto_to_array(blob_of(100))
    assert isinstance(error.value, DataError)


def test_scalar() -> None:
    blob = BlobProto(data=[123.0])
    assert caffe.io.blobproto_to_array(blob) == 123


def test_label_none_size() -> None:
    with_label = caffe.io.array_to_datum(np.ones((10, 10, 3)), label=1)
    assert with_label.label == 1
    assert len(with_label.SerializeToString()) > len(caffe.io.array_to_datum(np.ones((10, 10, 3))).SerializeToString())


# ---- further: protocol buffers


def test_blobprotos_both_ways() -> None:
    random = np.random.default_rng(0)
    data, diff = (random.standard_normal((2, 3)).astype(np.float32) for _ in range(2))
    blob = caffe.io.array_to_blobproto(data, diff)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob), data)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob, return_diff=True), diff)
    vector = caffe.io.arraylist_to_blobprotovector_str([data, diff[0]])
    for got, want in zip(caffe.io.blobprotovector_str_to_arraylist(vector), [data, diff[0]], strict=True):
        np.testing.assert_array_equal(got, want)
    assert caffe.io.blobproto_to_array(caffe.io.array_to_blobproto(np.array(3.0))).shape == ()
    double = BlobProto(double_data=[1, 2])
    double.shape.dim.append(2)
    assert caffe.io.blobproto_to_array(double).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: caffe.io.blobproto_to_array(blob_of(3, num=1, channels=1, height=2, width=2)), "holds 3 values, its shape is 1x1x2x2"),
        (lambda: caffe.io.array_to_blobproto(np.zeros(3), np.zeros(2)), "data of shape .* and diff"),
        (lambda: caffe.io.array_to_datum(np.zeros((2, 2))), "3 dimensions"),
        (lambda: caffe.io.datum_to_array(caffe.proto.caffe_pb2.Datum(channels=1, height=2, width=2, data=b"abc")), "Datum: holds 3"),
        (lambda: caffe.io.oversample([np.zeros((4, 4, 1))], (5, 4)), "crops of 5x4 out of images of 4x4"),
        (lambda: transformer().set_mean("data", np.zeros(2)), "mean of 2 channels, the input has 3"),
        (lambda: transformer().set_mean("data", np.zeros((2, 4, 4))), "mean of shape"),
        (lambda: transformer().set_mean("data", np.zeros((4, 5))), "mean of shape"),
        (lambda: transformer().set_mean("data", np.zeros((1, 3, 4, 5))), "mean of shape"),
        (lambda: caffe.io.resize_image(np.zeros((2, 2, 1)), (3, 3), 6), "interp_order is 6"),
    ],
)
def test_arrays_that_do_not_fit(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()


def transformer() -> caffe.io.Transformer:
    return caffe.io.Transformer({"data": (1, 3, 4, 5)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.set_raw_scale("date", 1), '"date" is not one of the net\'s inputs'),
        (lambda t: t.preprocess("date", np.zeros((4, 5, 3))), '"date" is not one'),
        (lambda t: t.set_transpose("data", (1, 0)), "one entry is needed for each axis"),
        (lambda t: t.set_channel_swap("data", (0, 1)), "the input has 3 channels"),
    ],
)
def test_transformer_settings_that_do_not_fit(call: Callable[[caffe.io.Transformer], object], message: str) -> None:
    with pytest.raises(NetError, match=message):
        call(transformer())


def test_deprocess_undoes_swaps_that_are_not_their_own_inverse() -> None:
    t = transformer()
    t.set_transpose("data", (2, 0, 1))
    t.set_channel_swap("data", (2, 0, 1))
    image = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(t.deprocess("data", t.preprocess("data", image)), image)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_mean_of_another_size_is_resized(channels: int) -> None:
    mean = np.random.default_rng(0).normal(100, 20, (channels, 8, 8))
    t = caffe.io.Transformer({"data": (1, channels, 6, 5)})
    t.set_mean("data", mean)
    low, high = mean.min(), mean.max()
    unit = ((mean - low) / (high - low)).transpose(1, 2, 0)
    if channels == 4:
        want = scipy.ndimage.zoom(unit, (6 / 8, 5 / 8, 1), order=1)
    else:
        want = skimage.transform.resize(unit, (6, 5), order=1, mode="constant")
    np.testing.assert_allclose(t.mean["data"], want.transpose(2, 0, 1) * (high - low) + low, rtol=1e-6)
    t.set_mean("data", np.full((channels, 8, 8), 7.0))
    np.testing.assert_array_equal(t.mean["data"], np.full((channels, 6, 5), 7))


# ---- resizing against scikit-image and SciPy


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("size", "new"), [((5, 8), (12, 3)), ((17, 40), (17, 41)), ((2, 3), (1, 9)), ((30, 9), (4, 9))])
def test_resizing_is_what_scikit_image_and_scipy_compute(
    size: tuple[int, int], new: tuple[int, int], channels: int, order: int
) -> None:
    image = np.random.default_rng(0).standard_normal((*size, channels))
    if channels == 4:
        want = scipy.ndimage.zoom(image, (new[0] / size[0], new[1] / size[1], 1), order=order)
    else:
        low, high = image.min(), image.max()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an order that scikit-image does not like for some images
            want = skimage.transform.resize((image - low) / (high - low), new, order=order, mode="constant")
        want = want * (high - low) + low
    got = caffe.io.resize_image(image, new, order)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-6)


# ---- image files

FILES = {
    "gray.png": np.arange(48, dtype=np.uint8).reshape(6, 8) * 5,
    "rgb.png": (np.arange(144) % 256).astype(np.uint8).reshape(6, 8, 3),
    "rgba.png": np.random.default_rng(0).integers(0, 256, (6, 8, 4)).astype(np.uint8),
    "deep.png": (np.arange(48) * 1300).astype(np.uint16).reshape(6, 8),
    "bits.png": np.arange(48).reshape(6, 8) % 2 == 0,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("color", [True, False])
def test_load_image(name: str, color: bool, tmp_path: Path) -> None:
    Image.fromarray(FILES[name]).save(tmp_path / name)
    got = caffe.io.load_image(tmp_path / name, color)
    want = skimage.util.img_as_float(skimage.io.imread(tmp_path / name, as_gray=not color))
    want = want[:, :, np.newaxis] if want.ndim == 2 else want[:, :, :3]
    if color and want.shape[2] == 1:
        want = np.tile(want, (1, 1, 3))
    assert got.dtype == np.float32
    assert got.shape == (6, 8, 3 if color else 1)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_palette_becomes_colours(tmp_path: Path) -> None:
    Image.fromarray(FILES["rgb.png"]).quantize(16).save(tmp_path / "p.png")
    want = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")) / 255
    np.testing.assert_allclose(caffe.io.load_image(tmp_path / "p.png"), want, atol=1e-6)


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_files_that_are_no_images(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match="x.png: cannot be read as an image"):
        caffe.io.load_image(tmp_path / "x.png")
