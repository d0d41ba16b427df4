"""Datum messages, the records of Caffe's databases: one image and its label.

The pixels are uint8 or float32 numbers, channels x height x width with the channels in OpenCV's order (blue, green,
red), or a whole image file (JPEG, PNG, ...), "encoded".
"""

from __future__ import annotations

from math import prod
from typing import Any

import cv2
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from pycaffe_compat.data.images import decode_image, to_channels_first
from pycaffe_compat.errors import DataError
from pycaffe_compat.proto import caffe_pb2


def parse_datum(content: bytes) -> caffe_pb2.Datum:
    """A record's bytes as a Datum.

    Raises:
        DataError: they are none. Says why; the caller knows which record it was.
    """
    try:
        datum = caffe_pb2.Datum.FromString(content)
    except DecodeError as error:
        raise DataError(f"is no Datum, or is damaged ({' '.join(str(error).split())})") from None
    if not datum.data and not datum.float_data:
        raise DataError("is a Datum without pixels" if datum.ListFields() else "is no Datum")
    return datum


def datum_to_array(datum: caffe_pb2.Datum, color: bool | None = None) -> NDArray[Any]:
    """The pixels of a Datum, channels x height x width: uint8, or float32 where it holds ``float_data``.

    Args:
        color: of an encoded one: True decodes to 3 channels, False to 1, None to what the image has. Numbers are
            given as they are.

    Raises:
        DataError: the size is not what its dimensions say, or the image does not decode.
    """
    if datum.encoded:
        return to_channels_first(decode_image(datum.data, color))
    shape = (datum.channels, datum.height, datum.width)
    if min(shape) < 1:
        raise DataError(f"has dimensions {'x'.join(map(str, shape))} (channels, height, width): all must be positive")
    if datum.data:
        values: NDArray[Any] = np.frombuffer(datum.data, np.uint8)
    else:
        values = np.array(datum.float_data, np.float32)
    if values.size != prod(shape):
        raise DataError(f"holds {values.size} numbers; {'x'.join(map(str, shape))} needs {prod(shape)}")
    return values.reshape(shape)


def array_to_datum(array: NDArray[Any], label: int | None = None) -> caffe_pb2.Datum:
    """A Datum of an array, channels x height x width: uint8 goes into ``data``, all else into ``float_data``.

    Raises:
        ValueError: the array has not three dimensions.
    """
    if array.ndim != 3:
        raise ValueError(f"a Datum holds channels x height x width, not an array of {array.ndim} dimensions")
    channels, height, width = array.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    if array.dtype == np.uint8:
        datum.data = array.tobytes()
    else:
        datum.float_data.extend(np.asarray(array, np.float32).reshape(-1).tolist())
    if label is not None:
        datum.label = label
    return datum


def image_to_datum(image: NDArray[np.uint8], label: int, encoding: str = "") -> caffe_pb2.Datum:
    """A Datum of an image, height x width x channels as OpenCV reads it; ``encoding`` ("png", "jpg") makes it a file.

    Raises:
        DataError: OpenCV cannot encode so.
    """
    if not encoding:
        return array_to_datum(to_channels_first(image), label)
    try:
        good, content = cv2.imencode(f".{encoding.removeprefix('.')}", image)
    except cv2.error:
        good = False
    if not good:
        raise DataError(f'OpenCV has no encoder "{encoding}": use png or jpg')
    return encoded_datum(content.tobytes(), label, to_channels_first(image).shape)


def encoded_datum(content: bytes, label: int, shape: tuple[int, ...] = ()) -> caffe_pb2.Datum:
    """A Datum that holds an image file as it is; its shape is written where given."""
    datum = caffe_pb2.Datum(data=content, label=label, encoded=True)
    if shape:
        datum.channels, datum.height, datum.width = shape
    return datum
