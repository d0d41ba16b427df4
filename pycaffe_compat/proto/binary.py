"""Binary files: protobuf messages on disk, and arrays in BlobProto messages.

Arrays are moved as packed bytes. Element by element a repeated field costs 0.2 to 1 microsecond a number,
which for the 60 million of an old classification network is up to a minute; the packed bytes are one copy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, EncodeError, Message

from pycaffe_compat.errors import WeightsError
from pycaffe_compat.files import atomic_write
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.sniff import describe_content

_M = TypeVar("_M", bound=Message)
Array: TypeAlias = npt.NDArray[np.float32]
Piece: TypeAlias = bytes | memoryview

MAX_MESSAGE = 2**31 - 1  # bytes; no protobuf runtime reads or writes more

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
MAX_AXES = 32  # of a blob, in Caffe

_DATA, _DIFF, _SHAPE = 5, 6, 7  # BlobProto's fields
# floats, doubles, and in NVIDIA's files bytes of the type that the fourth names
_DATA_FIELDS, _DIFF_FIELDS = (_DATA, 8, 12, 10), (_DIFF, 9, 13, 11)
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}
_LEGACY_SHAPE = (1, 2, 3, 4)  # num, channels, height, width


class WireError(ValueError):
    """Bytes that are not a protobuf message."""


# ------------------------------------------------------------------------------------------------ wire format


def read_varint(buffer: memoryview, position: int, end: int) -> tuple[int, int]:
    """The integer at ``position`` and the position after it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = buffer[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7
    raise WireError("a number is cut off" if position >= end else "a number is too long")


def varint(value: int) -> bytes:
    """A non-negative integer in base 128, lowest digits first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def header(number: int, length: int) -> bytes:
    """What stands before a length-delimited field."""
    return varint(number << 3 | BYTES) + varint(length)


def fields(buffer: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message in ``buffer[start:end]``: number, wire type, begin and end of the value.

    Raises:
        WireError: the bytes are no message, or are cut off.
    """
    position = start
    while position < end:
        key, position = read_varint(buffer, position, end)
        number, wire_type = key >> 3, key & 7
        if wire_type == BYTES:
            length, position = read_varint(buffer, position, end)
        elif wire_type == VARINT:
            length = read_varint(buffer, position, end)[1] - position
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise WireError(f"wire type {wire_type} at byte {position}")
        if not 0 < number < 2**29:
            raise WireError(f"field number {number} at byte {position}")
        if length > end - position:
            raise WireError(f"{length} bytes expected at byte {position}, only {end - position} are there")
        yield number, wire_type, position, position + length
        position += length


# ----------------------------------------------------------------------------------------------------- arrays


def blob_pieces(array: npt.ArrayLike, diff: npt.ArrayLike | None = None) -> list[Piece]:
    """A BlobProto as pieces of bytes to be written one after the other: header, content, header, content...

    The values themselves are not copied where the array is float32 and C-contiguous already.
    """
    values = _little_endian(array)
    pieces: list[Piece] = []
    for number, part in ((_DATA, values), (_DIFF, None if diff is None else _little_endian(diff))):
        if part is None:
            continue
        if part.shape != values.shape:
            raise ValueError(f"the diff's shape {part.shape} is not the data's {values.shape}")
        if part.size:
            pieces += [header(number, part.nbytes), part.reshape(-1).view(np.uint8).data]
    shape = caffe_pb2.BlobShape(dim=values.shape).SerializeToString()
    pieces += [header(_SHAPE, len(shape)), shape]
    return pieces


def array_to_blob(array: npt.ArrayLike, diff: npt.ArrayLike | None = None) -> caffe_pb2.BlobProto:
    """A BlobProto with the array's shape and values as float32, and a diff of the same shape where given."""
    pieces = blob_pieces(array, diff)
    blob = caffe_pb2.BlobProto()
    for key, piece in zip(pieces[::2], pieces[1::2], strict=True):
        blob.MergeFromString(b"".join((key, piece)))
    return blob


def same_shape(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether ``given`` is this shape, or has ones in front of it up to four axes: old files know no other number."""
    return given in (shape, (1,) * (4 - len(shape)) + shape)


def blob_to_array(blob: caffe_pb2.BlobProto, *, diff: bool = False) -> Array:
    """The values of a BlobProto, or its diff, as a new float32 array; doubles are rounded.

    The shape is ``shape``, or, where one of them is set, the older num, channels, height, width (Caffe's
    rule).

    Raises:
        WeightsError: the number of values is not what the shape says.
    """
    content = memoryview(blob.SerializeToString())
    return blob_bytes_to_array(content, 0, len(content), diff=diff)


def blob_bytes_to_array(buffer: memoryview, start: int, end: int, *, diff: bool = False) -> Array:
    """``blob_to_array`` for a serialised BlobProto at ``buffer[start:end]``, in one copy.

    Raises:
        WireError: the bytes are no BlobProto.
        WeightsError: the number of values is not what the shape says.
    """
    chunks: dict[str, list[np.ndarray]] = {"<f4": [], "<f8": []}
    shape: list[int] = []
    legacy: dict[int, int] = {}
    raw: tuple[int, int] | None = None
    raw_type = 0
    data, doubles, raw_data, raw_kind = _DIFF_FIELDS if diff else _DATA_FIELDS
    for number, wire_type, at, stop in fields(buffer, start, end):
        if number in (data, doubles):
            dtype, single = ("<f4", FIXED32) if number == data else ("<f8", FIXED64)
            if wire_type == single:  # each value on its own: protobuf packs them
                return blob_bytes_to_array(packed := _packed(buffer[start:end]), 0, len(packed), diff=diff)
            if wire_type == BYTES and at < stop:  # doubles that are none do not count before floats
                chunks[dtype].append(_numbers(buffer, at, stop, dtype))
        elif number == _SHAPE and wire_type == BYTES:
            shape += _dims(buffer[at:stop])
        elif number in _LEGACY_SHAPE and wire_type == VARINT:
            legacy[number] = read_varint(buffer, at, stop)[0]
        elif number == raw_data and wire_type == BYTES:
            raw = at, stop
        elif number == raw_kind and wire_type == VARINT:
            raw_type = read_varint(buffer, at, stop)[0]
    values = chunks["<f8"] or chunks["<f4"]
    if raw is not None:
        if raw_type not in _RAW_TYPES:
            raise WeightsError(f"a blob holds raw values of type {raw_type}: only double, float and half are read")
        values = [_numbers(buffer, *raw, _RAW_TYPES[raw_type])]
    if legacy:
        shape = [legacy.get(number, 0) for number in _LEGACY_SHAPE]
    if len(shape) > MAX_AXES:
        raise WeightsError(f"a blob has {len(shape)} axes: Caffe's have at most {MAX_AXES}")
    count = sum(chunk.size for chunk in values)
    if any(not 0 <= dim < 2**31 for dim in shape) or prod(shape) != count:
        raise WeightsError(f"a blob of shape {_shown(shape)} holds {count} values")
    out = np.empty(count, np.float32)
    with np.errstate(over="ignore"):  # a double that is no float becomes infinite
        np.concatenate(values or [np.empty(0, np.float32)], out=out, casting="same_kind")
    try:
        out.shape = tuple(shape)
    except ValueError:  # no values, and dimensions whose product numpy cannot hold
        raise WeightsError(f"a blob of shape {_shown(shape)} is too large") from None
    return out


def _packed(content: memoryview) -> memoryview:
    """A serialised BlobProto with its numbers in one piece each."""
    try:
        return memoryview(caffe_pb2.BlobProto.FromString(bytes(content)).SerializeToString())
    except DecodeError as error:
        raise WireError(str(error)) from None


def _numbers(buffer: memoryview, start: int, end: int, dtype: str) -> np.ndarray:
    if (end - start) % np.dtype(dtype).itemsize:
        raise WireError(f"the values at byte {start} end in the middle of one")
    return np.frombuffer(buffer[start:end], dtype)


def _dims(content: memoryview) -> list[int]:
    try:
        return list(caffe_pb2.BlobShape.FromString(bytes(content)).dim)
    except DecodeError as error:
        raise WireError(str(error)) from None


def _little_endian(array: npt.ArrayLike) -> np.ndarray:
    return np.asarray(array, dtype="<f4", order="C")


def _shown(shape: Sequence[int]) -> str:
    if len(shape) > MAX_AXES:
        return f"{len(shape)} axes"
    return "x".join(map(str, shape)) if shape else "() (one number)"


# ------------------------------------------------------------------------------------------------------ files


def file_size(path: str | os.PathLike[str]) -> int:
    """The size in bytes of a binary file that is there, not empty, and not larger than protobuf allows.

    Raises:
        WeightsError: it is not.
    """
    shown = os.fspath(path)
    try:
        if Path(path).is_dir():
            raise WeightsError(f"{shown}: is a directory, not a file of weights")
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise WeightsError(f"{shown}: no such file") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{shown}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if size == 0:
        raise WeightsError(f"{shown}: is empty")
    return size


def check_size(path: str | os.PathLike[str], size: int) -> None:
    """Raises WeightsError where ``size`` bytes are more than a protobuf message can have."""
    if size > MAX_MESSAGE:
        raise WeightsError(
            f"{os.fspath(path)}: {size / 2**30:.1f} GiB, but a protobuf message ends at 2 GiB: use .h5"
        )


def not_a_message(
    path: str | os.PathLike[str], type_name: str, content: bytes, detail: object
) -> WeightsError:
    """The error for a file that is no message of the type: what it looks like instead, or that it is cut off.

    ``content`` is the file's beginning, ``detail`` what the reader of the message complained of.
    """
    kind = describe_content(content)
    if kind == "binary data":
        reason = " ".join(str(detail).split())
        return WeightsError(f"{os.fspath(path)}: is not a {type_name}, or is truncated ({reason})")
    return WeightsError(f"{os.fspath(path)}: is not a binary {type_name} but looks like {kind}")


def read_message(path: str | os.PathLike[str], message_class: type[_M]) -> _M:
    """Reads a binary message, such as a SolverState.

    Raises:
        WeightsError: the file cannot be read, is empty, truncated, larger than 2 GiB, or something else.
    """
    check_size(path, file_size(path))
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from None
    name = message_class.DESCRIPTOR.name
    try:
        message = message_class.FromString(content)
        check_strings(message)
    except (DecodeError, WireError) as error:
        raise not_a_message(path, name, content[:4096], error) from None
    if not message.ListFields():
        raise not_a_message(path, name, content[:4096], f"it holds no field of a {name}")
    return message


def check_strings(message: Message) -> None:
    """Raises WireError where a string is not UTF-8: protobuf gives bytes in its place, or an error when one looks."""
    try:
        for field, value in message.ListFields():
            if field.cpp_type == field.CPPTYPE_MESSAGE:
                for inner in (value,) if isinstance(value, Message) else value:
                    check_strings(inner)
            elif field.type == field.TYPE_STRING:
                for text in (value,) if isinstance(value, (str, bytes)) else value:
                    if isinstance(text, bytes):
                        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"a name is not UTF-8: {error}") from None


def write_message(path: str | os.PathLike[str], message: Message) -> None:
    """Writes a binary message; the file is replaced whole or stays as it was.

    Raises:
        WeightsError: the message is larger than 2 GiB or lacks a required field.
        OSError: the file cannot be written.
    """
    try:
        check_size(path, message.ByteSize())
        content = message.SerializeToString()
    except (EncodeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{os.fspath(path)}: cannot be written as a protobuf message: {reason}") from None
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
