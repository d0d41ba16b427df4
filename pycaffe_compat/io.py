"""pycaffe's ``io``: images in and out of nets, and protocol buffers in and out of arrays.

Images are (H, W, K) arrays, float32 and 0..1 where :func:`load_image` made them; nets take (K, H, W).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from math import comb, factorial
from os import PathLike, fspath
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from .errors import DataError, NetError
from .proto import caffe_pb2

Dims: TypeAlias = Sequence[int] | np.ndarray


_ELSEWHERE = {"skimage": "skimage", "resize": "skimage.transform", "zoom": "scipy.ndimage"}


def __getattr__(name: str) -> Any:
    """What pycaffe's module has only because it imports it, and scripts take from it: ``caffe.io.skimage``,
    ``caffe.io.resize``. They need scikit-image and SciPy, as they do there."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("skimage.io")
    module = importlib.import_module(_ELSEWHERE[name])
    return module if name == "skimage" else getattr(module, name)


# ------------------------------------------------------------------------------------------------ protocol buffers


def blobproto_to_array(blob: caffe_pb2.BlobProto, return_diff: bool = False) -> np.ndarray:
    """A BlobProto's values (or gradients) as an array of its shape, in the present form or the 4-d one of before.

    Raises:
        DataError: the number of values is not that of the shape. (A ValueError too, as in Caffe.)
    """
    values = np.array(blob.diff if return_diff else blob.data, np.float64)
    if not values.size:
        values = np.array(blob.double_diff if return_diff else blob.double_data, np.float64)
    old = any(blob.HasField(name) for name in ("num", "channels", "height", "width"))
    shape = (blob.num, blob.channels, blob.height, blob.width) if old else tuple(blob.shape.dim)
    if values.size == 1 and not shape:
        return values.reshape(())  # a scalar's shape has no dimensions, or is not there
    return _shaped(values, shape, "BlobProto")


class _ShapeError(DataError, ValueError):
    """DataError, and for scripts that expect numpy's error ValueError."""


def _shaped(values: np.ndarray, shape: Sequence[int], what: str) -> np.ndarray:
    if values.size != int(np.prod(shape)) or not len(shape):
        shown = "x".join(map(str, shape)) or "none"
        raise _ShapeError(f"{what}: holds {values.size} values, its shape is {shown}")
    return values.reshape(shape)


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> caffe_pb2.BlobProto:
    """An array of any shape (and gradients of the same) as a BlobProto."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(arr.astype(float).ravel().tolist())
    if diff is not None:
        if diff.shape != arr.shape:
            raise _ShapeError(f"array_to_blobproto: data of shape {arr.shape} and diff of shape {diff.shape}")
        blob.diff.extend(diff.astype(float).ravel().tolist())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Sequence[np.ndarray]) -> bytes:
    """Arrays as a serialised BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector()
    vector.blobs.extend(array_to_blobproto(array) for array in arraylist)
    return vector.SerializeToString()


def blobprotovector_str_to_arraylist(text: bytes) -> list[np.ndarray]:
    """The arrays of a serialised BlobProtoVector."""
    return [blobproto_to_array(blob) for blob in caffe_pb2.BlobProtoVector.FromString(text).blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> caffe_pb2.Datum:
    """A (K, H, W) array as a Datum: uint8 as bytes, all else as floats.

    Raises:
        DataError: the array has other than three dimensions. (A ValueError too, as in Caffe.)
    """
    if arr.ndim != 3:
        raise _ShapeError(f"array_to_datum: an array of 3 dimensions (K, H, W) is needed, this has {arr.ndim}")
    datum = caffe_pb2.Datum()
    datum.channels, datum.height, datum.width = arr.shape
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).ravel().tolist())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: caffe_pb2.Datum) -> np.ndarray:
    """A Datum's (K, H, W) array: uint8, or float64 where it holds floats. Its label is ``datum.label``."""
    values = np.frombuffer(datum.data, np.uint8).copy() if datum.data else np.array(datum.float_data, float)
    return _shaped(values, (datum.channels, datum.height, datum.width), "Datum")


# ------------------------------------------------------------------------------------------------- preprocessing


class Transformer:
    """Brings images into the form that a net's input takes, and back.

    In this order: to float32, resize to the input's size, ``transpose``, ``channel_swap``, times ``raw_scale``, minus
    ``mean``, times ``input_scale``; each but the first two only if it is set.

    Args:
        inputs: the shapes of input blobs by name: ``{"data": net.blobs["data"].data.shape}``.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise NetError(f'"{in_}" is not one of the net\'s inputs: {list(self.inputs)}')
        return tuple(self.inputs[in_])

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """An image (H, W, K) as the net's input ``in_`` takes it: (K, H', W'), float32."""
        size = self._shape(in_)[2:]
        result = data.astype(np.float32, copy=False)
        if result.shape[:2] != size:
            result = resize_image(result, size)
        if in_ in self.transpose:
            result = result.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            result = result[list(self.channel_swap[in_])]
        # Not in place: the caller's array stays as it was.
        if in_ in self.raw_scale:
            result = result * np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            result = (result - self.mean[in_]).astype(np.float32, copy=False)
        if in_ in self.input_scale:
            result = result * np.float32(self.input_scale[in_])
        return result

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The image (H, W, K) that was preprocessed to this; the size stays the net's.

        A batch of one may keep its first axis. The original drops every axis of size 1 and then fails on images of
        one channel; here they come back as (H, W, 1).
        """
        axes = len(self._shape(in_)) - 1
        result = data.copy()
        if result.ndim > axes:
            result = result.reshape(result.shape[result.ndim - axes :])
        if in_ in self.input_scale:
            result = result / np.float32(self.input_scale[in_])
        if in_ in self.mean:
            result = (result + self.mean[in_]).astype(result.dtype, copy=False)
        if in_ in self.raw_scale:
            result = result / np.float32(self.raw_scale[in_])
        if in_ in self.channel_swap:
            result = result[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            result = result.transpose(np.argsort(self.transpose[in_]))
        return result

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of the image's axes in the blob: (2, 0, 1) makes (K, H, W) of (H, W, K)."""
        if len(order) != len(self._shape(in_)) - 1:
            raise NetError(f"transpose order {tuple(order)}: one entry is needed for each axis behind the first")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Which channel comes first, second, ... after transpose: (2, 1, 0) makes BGR of RGB."""
        if len(order) != self._shape(in_)[1]:
            raise NetError(f"channel swap {tuple(order)}: the input has {self._shape(in_)[1]} channels")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """What the raw image is multiplied by: 255 for nets that were trained on 0..255."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """What is subtracted: one value a channel, or an image (K, H, W). One of another size, e.g. of 256x256 for
        inputs of 227x227, is resized; one of one channel is subtracted from each.

        Raises:
            DataError: another number of dimensions or channels, or an image (H, W) of another size. (A ValueError
                too, as in Caffe.)
        """
        shape = self._shape(in_)
        if mean.ndim == 1:
            if mean.shape[0] != shape[1]:
                raise _ShapeError(f"mean of {mean.shape[0]} channels, the input has {shape[1]}")
            mean = mean[:, np.newaxis, np.newaxis]
        else:
            image = (1, *mean.shape) if mean.ndim == 2 else mean.shape
            if tuple(image) != shape[1:]:
                if mean.ndim != 3 or mean.shape[0] not in (1, shape[1]):
                    raise _ShapeError(f"mean of shape {mean.shape}, the input's is {shape[1:]}")
                # The original brings it to 0..1 meanwhile, which changes nothing but makes a constant mean NaN.
                mean = resize_image(mean.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """What the blob is multiplied by last, after the mean was subtracted."""
        self._shape(in_)
        self.input_scale[in_] = scale


# ----------------------------------------------------------------------------------------------------- image files

_LUMA = np.array([0.2125, 0.7154, 0.0721])  # Rec. 709, as scikit-image's rgb2gray, which the original calls


def load_image(filename: str | PathLike[str], color: bool = True) -> np.ndarray:
    """An image file as float32 in 0..1: (H, W, 3) RGB, or with ``color=False`` (H, W, 1) luma. Alpha is dropped.

    Raises:
        DataError: the file is no image that can be read.
    """
    try:
        with Image.open(filename) as file:
            if file.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
                alpha = file.mode == "P" and "transparency" in file.info
                pixels = np.asarray(file.convert("RGBA" if alpha else "RGB"))
            else:
                pixels = np.asarray(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{fspath(filename)}: cannot be read as an image: {error}") from None
    if pixels.dtype.kind in "ui":
        # Pillow gives 16-bit gray as int32
        bits = 16 if pixels.dtype.itemsize > 1 else 8
        pixels = pixels.astype(np.float64) / (2**bits - 1)
    image = pixels.astype(np.float64)
    if image.ndim == 2:
        image = image[:, :, np.newaxis]
    if not color and image.shape[2] >= 3:
        if image.shape[2] == 4:  # on white, as scikit-image does
            image = image[:, :, :3] * image[:, :, 3:] + 1 - image[:, :, 3:]
        image = (image @ _LUMA)[:, :, np.newaxis]
    image = image[:, :, : 3 if image.shape[2] >= 3 else 1]
    if color and image.shape[2] == 1:
        image = np.tile(image, (1, 1, 3))
    return image.astype(np.float32)


def resize_image(im: np.ndarray, new_dims: Dims, interp_order: int = 1) -> np.ndarray:
    """An image (H, W, K) in another size (H', W'), float32, interpolated by splines of ``interp_order`` (0 to 5).

    As the original does through scikit-image 0.19: images of 1 or 3 channels are blurred before they are made smaller
    and take the pixels' areas as the grid (beyond the edge lies the darkest value); others take the corner pixels'
    centres as the grid's corners, without a blur.
    """
    if not 0 <= interp_order <= 5:
        raise DataError(f"resize_image: interp_order is {interp_order}; it is 0 to 5")
    height, width = (int(n) for n in new_dims)
    areas = im.shape[-1] in (1, 3)
    lowest, highest = (float(im.min()), float(im.max())) if areas else (0.0, 1.0)
    if lowest == highest:
        return np.full((height, width, im.shape[-1]), lowest, np.float32)
    image = (im.astype(np.float64) - lowest) / (highest - lowest)
    for axis, size in ((0, height), (1, width)):
        operator = _resampling(image.shape[axis], size, interp_order, areas)
        image = np.moveaxis(np.tensordot(operator, image, (1, axis)), 0, axis)
    if areas:
        image = image.clip(0, 1)
    return (image * (highest - lowest) + lowest).astype(np.float32)


def _resampling(n: int, m: int, order: int, areas: bool) -> np.ndarray:
    """The (m, n) matrix that makes m samples of n."""
    if areas:
        places = (np.arange(m) + 0.5) * (n / m) - 0.5
        # The spline goes through the samples and, beyond them, through zeros.
        margin = 12 if order > 1 else 0
        spline = _spline(n + 2 * margin, places + margin, order, mirror=False)
        return _of_blurred(spline[:, margin : margin + n], max(0.0, (n / m - 1) / 2))
    places = np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 1.0)
    return _spline(n, places.clip(0, n - 1), order, mirror=True)


def _of_blurred(operator: np.ndarray, sigma: float) -> np.ndarray:
    """The operator that blurs before: by a Gaussian cut off at four sigma, with zeros beyond the samples."""
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2) if reach else np.ones(1)
    n = operator.shape[1]
    blurred = np.zeros_like(operator)
    for weight, shift in zip(weights / weights.sum(), range(-reach, reach + 1), strict=True):
        if abs(shift) < n:
            blurred[:, max(0, shift) : n + min(0, shift)] += weight * operator[:, max(0, -shift) : n - max(0, shift)]
    return blurred


def _spline(n: int, places: np.ndarray, order: int, mirror: bool) -> np.ndarray:
    """The (len(places), n) matrix that evaluates the spline through n samples.

    mirror: beyond the first and last coefficient they repeat backwards; else there is nothing.
    """
    first = np.floor(places + 0.5 if order % 2 == 0 else places).astype(int) - order // 2
    taps = first[:, None] + np.arange(order + 1)
    weights = _b_spline(places[:, None] - taps, order) if order else np.ones(taps.shape)
    matrix = np.zeros((len(places), n))
    inside = _mirrored(taps, n) if mirror else taps
    known = (inside >= 0) & (inside < n)
    rows = np.broadcast_to(np.arange(len(places))[:, None], taps.shape)
    np.add.at(matrix, (rows[known], inside[known]), weights[known])
    if order < 2:
        return matrix
    # From samples to coefficients: the inverse of what makes samples of coefficients.
    reach = np.arange(-(order // 2), order // 2 + 1)
    collocation = np.zeros((n, n))
    near = _mirrored(np.arange(n)[:, None] + reach, n)
    values = np.broadcast_to(_b_spline(reach.astype(float), order), near.shape)
    np.add.at(collocation, (np.broadcast_to(np.arange(n)[:, None], near.shape), near), values)
    return np.linalg.solve(collocation.T, matrix.T).T


def _mirrored(index: np.ndarray, n: int) -> np.ndarray:
    period = max(1, 2 * n - 2)
    index = index % period
    return np.where(index < n, index, period - index)


def _b_spline(x: np.ndarray, order: int) -> np.ndarray:
    """The centred B-spline of this order, at x."""
    terms = (
        (-1) ** k * comb(order + 1, k) * np.maximum(0.0, x + (order + 1) / 2 - k) ** order for k in range(order + 2)
    )
    return np.asarray(sum(terms) / factorial(order))


def oversample(images: Sequence[np.ndarray], crop_dims: Dims) -> np.ndarray:
    """Ten crops of each image (H, W, K): the corners (upper left, upper right, lower left, lower right), the centre,
    and the same five mirrored. Returns (10 N, h, w, K), float32."""
    height, width = (int(n) for n in crop_dims)
    full_height, full_width = images[0].shape[:2]
    if height > full_height or width > full_width:
        raise _ShapeError(f"oversample: crops of {height}x{width} out of images of {full_height}x{full_width}")
    corners = [(y, x) for y in (0, full_height - height) for x in (0, full_width - width)]
    centre = (int(full_height / 2.0 - height / 2.0), int(full_width / 2.0 - width / 2.0))
    crops: list[Any] = []
    for image in images:
        five = [image[y : y + height, x : x + width] for y, x in (*corners, centre)]
        crops += five + [crop[:, ::-1] for crop in five]
    return np.asarray(crops, np.float32)
