"""Datum messages and arrays: round trips, images of OpenCV, and what is damaged."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pycaffe_compat.data.datum import array_to_datum, datum_to_array, encoded_datum, image_to_datum, parse_datum
from pycaffe_compat.errors import DataError
from pycaffe_compat.proto import caffe_pb2

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)
FLOATS = st.floats(width=32, allow_nan=True)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, SHAPES) | hnp.arrays(np.float32, SHAPES, elements=FLOATS), st.none() | st.integers(-(2**31), 2**31 - 1))
def test_an_array_survives_the_bytes_of_a_record(array: np.ndarray, label: int | None) -> None:
    datum = parse_datum(array_to_datum(array, label).SerializeToString())
    back = datum_to_array(datum)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert datum.label == (label or 0)
    assert datum.HasField("label") == (label is not None)


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3]))))
def test_an_encoded_image_survives(image: np.ndarray) -> None:
    datum = parse_datum(image_to_datum(image, 7, "png").SerializeToString())
    assert datum.encoded
    assert (datum.channels, datum.height, datum.width, datum.label) == (image.shape[2], *image.shape[:2], 7)
    np.testing.assert_array_equal(datum_to_array(datum), image.transpose(2, 0, 1))


def test_pixels_are_in_opencvs_order() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[..., 0] = 200  # blue
    for encoding in ("", "png"):
        assert datum_to_array(image_to_datum(image, 0, encoding))[:, 0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", ".jpg", "png", "bmp"])
def test_encodings(suffix: str) -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    datum = image_to_datum(image, 1, suffix)
    assert cv2.imdecode(np.frombuffer(datum.data, np.uint8), -1).shape == image.shape
    assert abs(datum_to_array(datum).astype(int) - 100).max() <= 2


@pytest.mark.parametrize(("color", "channels"), [(None, 4), (True, 3), (False, 1)])
def test_colour_is_forced_where_asked(color: bool | None, channels: int) -> None:
    content = cv2.imencode(".png", np.full((2, 2, 4), 9, np.uint8))[1].tobytes()
    assert datum_to_array(encoded_datum(content, 0), color).shape == (channels, 2, 2)


def test_pixels_in_bytes_win_over_floats() -> None:
    datum = array_to_datum(np.ones((1, 1, 2), np.uint8))
    datum.float_data.extend([7, 7])
    assert datum_to_array(datum).tolist() == [[[1, 1]]]


SIXTEEN = cv2.imencode(".png", np.zeros((2, 2), np.uint16))[1].tobytes()
BAD = [
    (caffe_pb2.Datum(channels=3, height=2, width=2, data=b"\1" * 11), "holds 11 numbers; 3x2x2 needs 12"),
    (caffe_pb2.Datum(channels=1, height=2, width=2, float_data=[1] * 5), "holds 5 numbers; 1x2x2 needs 4"),
    (caffe_pb2.Datum(data=b"\1"), "has dimensions 0x0x0"),
    (caffe_pb2.Datum(channels=-1, height=-1, width=1, data=b"\1"), "has dimensions -1x-1x1"),
    (caffe_pb2.Datum(channels=2**31 - 1, height=2**31 - 1, width=2**31 - 1, data=b"\1"), "holds 1 numbers"),
    (encoded_datum(b"no image", 0), "is no image that OpenCV reads, or is damaged"),
    (encoded_datum(b"", 0), "is empty"),
    (encoded_datum(SIXTEEN, 0), "holds uint16 pixels"),
]


@pytest.mark.parametrize(("datum", "message"), BAD)
def test_a_damaged_datum_says_how(datum: caffe_pb2.Datum, message: str) -> None:
    with pytest.raises(DataError) as error:
        datum_to_array(datum)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is no Datum"), (b"\xff\xff\xff", "is no Datum, or is damaged"), (b"\x08\x03", "is a Datum without pixels")],
)
def test_what_is_no_datum(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_datum(content)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_an_array_or_a_data_error(content: bytes) -> None:
    try:
        assert datum_to_array(parse_datum(content)).ndim == 3
    except DataError as error:
        assert "\n" not in str(error)


def test_arrays_of_other_ranks_and_unknown_encoders() -> None:
    with pytest.raises(ValueError, match="2 dimensions"):
        array_to_datum(np.zeros((2, 2)))
    with pytest.raises(DataError, match='OpenCV has no encoder "zip"'):
        image_to_datum(np.zeros((2, 2, 3), np.uint8), 0, "zip")


def test_an_image_that_claims_too_many_pixels_is_refused_before_there_is_memory_for_them() -> None:
    content = bytearray(image_to_datum(np.zeros((8, 8, 3), np.uint8), 0, "jpg").data)
    size = content.index(b"\xff\xc0") + 5
    content[size : size + 4] = (20000).to_bytes(2, "big") * 2
    with pytest.raises(DataError, match=r"^is too large an image \(Image size \(400000000 pixels\) exceeds limit"):
        datum_to_array(encoded_datum(bytes(content), 0))


@pytest.mark.parametrize("chunk", [b"IDAT", b"IEND"])
def test_a_chunk_of_a_png_image_that_is_larger_than_the_file_is_refused(chunk: bytes) -> None:
    content = bytearray(image_to_datum(np.zeros((8, 8, 3), np.uint8), 0, "png").data)
    at = content.index(chunk) - 4
    content[at : at + 4] = b"\xff\xff\xff\xe0"
    with pytest.raises(DataError, match="^is a PNG image that is cut off or damaged$"):
        datum_to_array(encoded_datum(bytes(content), 0))
