"""Arrays in BlobProto messages and messages in files, held against protobuf's own reading and writing."""

import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pycaffe_compat.errors import WeightsError
from pycaffe_compat.proto import binary, caffe_pb2
from pycaffe_compat.proto.binary import array_to_blob, blob_to_array, read_message, write_message

arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))


@settings(deadline=None)
@given(arrays)
def test_array_to_blob_and_back(array: npt.NDArray[np.float32]) -> None:
    blob = array_to_blob(array, diff=array[::-1] if array.ndim else array)
    assert list(blob.shape.dim) == list(array.shape)
    np.testing.assert_array_equal(np.array(blob.data, np.float32), array.ravel())  # protobuf's own reading
    back = blob_to_array(blob)
    assert back.shape == array.shape and back.dtype == np.float32
    assert back.flags.writeable and back.flags.c_contiguous
    assert back.tobytes() == array.tobytes()  # to the bit, NaNs too
    np.testing.assert_array_equal(blob_to_array(blob, diff=True), array[::-1] if array.ndim else array)


@settings(deadline=None)
@given(arrays)
def test_the_bytes_are_protobufs_own(array: npt.NDArray[np.float32]) -> None:
    blob = caffe_pb2.BlobProto(data=array.ravel().tolist())
    blob.shape.dim.extend(array.shape)
    blob.shape.SetInParent()
    assert b"".join(binary.blob_pieces(array)) == blob.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(3, 2).T,
        np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::2],
    ],
)
def test_arrays_of_other_kinds(array: npt.NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(blob_to_array(array_to_blob(array)), array.astype(np.float32))


def test_a_diff_of_another_shape() -> None:
    with pytest.raises(ValueError, match="diff's shape"):
        array_to_blob(np.zeros(3), diff=np.zeros(4))


def test_doubles_are_rounded_to_float32() -> None:
    blob = caffe_pb2.BlobProto(double_data=[1 / 3, 1e300], double_diff=[2 / 3, 0])
    blob.shape.dim.append(2)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(blob_to_array(blob), np.array([1 / 3, np.inf], np.float32))
    np.testing.assert_array_equal(blob_to_array(blob, diff=True), np.array([2 / 3, 0], np.float32))


def test_the_older_shape_counts_where_it_is_set() -> None:
    blob = caffe_pb2.BlobProto(num=1, channels=2, height=1, width=3, data=range(6))
    assert blob_to_array(blob).shape == (1, 2, 1, 3)
    blob.shape.dim.extend([6])
    assert blob_to_array(blob).shape == (1, 2, 1, 3)
    assert blob_to_array(caffe_pb2.BlobProto(num=0, data=[])).shape == (0, 0, 0, 0)


def test_no_shape_is_one_number() -> None:
    assert blob_to_array(caffe_pb2.BlobProto(data=[7])) == np.float32(7)


@pytest.mark.parametrize(
    "blob",
    [
        caffe_pb2.BlobProto(data=[1, 2]),
        caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=[3]), data=[1, 2]),
        caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=[-1, -2]), data=[1, 2]),
        caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=[2**62, 2**62])),
        caffe_pb2.BlobProto(num=-1, channels=1, height=1, width=-1, data=[1]),
        caffe_pb2.BlobProto(num=1, data=[1]),
    ],
)
def test_a_shape_that_does_not_fit_the_values(blob: caffe_pb2.BlobProto) -> None:
    with pytest.raises(WeightsError, match=r"^a blob of shape .* holds \d values$"):
        blob_to_array(blob)


def test_values_that_are_not_packed() -> None:
    """Writers may write repeated numbers one by one: a tag in front of each."""
    floats = b"".join(b"\x2d" + np.float32(v).tobytes() for v in (1, 2, 3))
    doubles = b"".join(b"\x41" + np.float64(v).tobytes() for v in (4, 5, 6))
    shape = b"\x3a\x02\x08\x03"  # dim not packed either
    for content, values in ((floats + shape, [1, 2, 3]), (shape + doubles, [4, 5, 6])):
        view = memoryview(content)
        np.testing.assert_array_equal(binary.blob_bytes_to_array(view, 0, len(view)), values)
        np.testing.assert_array_equal(blob_to_array(caffe_pb2.BlobProto.FromString(content)), values)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=[1] * 33), data=[1]), "a blob has 33 axes: Caffe's have at most 32"),
        (caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=[2**31 - 1] * 100_000)), "has 100000 axes"),
        (caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=[2**31 - 1] * 31 + [0])), "is too large"),
        (caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=[2**20, 2**20, 2**10]), data=[1]), "1048576x1048576x1024 holds 1 values"),
        (caffe_pb2.BlobProto.FromString(b"\x50\x03\x62\x04abcd"), "raw values of type 3"),
    ],
)
def test_shapes_that_nothing_has(blob: caffe_pb2.BlobProto, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        blob_to_array(blob)


def test_many_values_one_by_one_take_no_time() -> None:
    """A tag in front of each of a million numbers."""
    content = memoryview((b"\x2d" + np.float32(1.5).tobytes()) * 1_000_000 + b"\x3a\x04\x08\xc0\x84\x3d")
    started = time.process_time()
    values = binary.blob_bytes_to_array(content, 0, len(content))
    assert values.shape == (1_000_000,) and (values == 1.5).all() and time.process_time() - started < 1


@given(st.integers(0, 2**63 - 1), st.binary(max_size=3))
def test_varints(value: int, rest: bytes) -> None:
    content = binary.varint(value)
    assert binary.read_varint(memoryview(content + rest), 0, len(content + rest)) == (value, len(content))
    with pytest.raises(binary.WireError):
        binary.read_varint(memoryview(content), 0, len(content) - 1)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=24))
def test_wire_fields_of_any_bytes(content: bytes) -> None:
    """Either the bytes are cut into spans one after the other, or it is a WireError."""
    view = memoryview(content)
    try:
        spans = list(binary.fields(view, 0, len(view)))
    except binary.WireError:
        return
    ends = [0, *(end for *_, end in spans)]
    assert ends[-1] == len(content)
    assert all(before < start <= end for before, (_, _, start, end) in zip(ends, spans, strict=False))


# ------------------------------------------------------------------------------------------------------ files


def test_messages_to_files_and_back(tmp_path: Path) -> None:
    state = caffe_pb2.SolverState(iter=7, learned_net="a", history=[array_to_blob(np.ones((2, 3)))])
    path = tmp_path / "a.solverstate"
    write_message(path, state)
    assert path.read_bytes() == state.SerializeToString() and os.listdir(tmp_path) == ["a.solverstate"]
    assert read_message(path, caffe_pb2.SolverState) == state


def test_golden_solver_states(golden: Path) -> None:
    paths = sorted(golden.glob("solvers/snap/*.solverstate"))
    assert paths
    for path in paths:
        state = read_message(path, caffe_pb2.SolverState)
        assert state.iter in (10, 20) and state.SerializeToString() == path.read_bytes()
        for blob in state.history:
            np.testing.assert_array_equal(blob_to_array(blob).ravel(), np.array(blob.data, np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"iter: 3\n", "is not a binary SolverState but looks like text"),
        (b"\x89HDF\r\n\x1a\n\0\0", "looks like an HDF5 file"),
        (b"PK\x03\x04\0\0", "looks like a zip archive"),
        (b"<!DOCTYPE html><html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "looks like a Git LFS pointer"),
        (b"\0" * 100, "looks like zeros"),
        (b"\x1a\x05\x01", "is not a SolverState, or is truncated"),
        (b"\xf8\x01\x01", "holds no field of a SolverState"),
        (bytes(range(128, 256)), "is not a SolverState, or is truncated"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.solverstate"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_message(path, caffe_pb2.SolverState)
    said = str(caught.value)
    assert said.startswith(str(path)) and message in said and said.isprintable()


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "is a directory"), (tmp_path / "absent", "no such file")):
        with pytest.raises(WeightsError, match=message):
            read_message(path, caffe_pb2.SolverState)


def test_larger_than_protobuf_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no space
    with pytest.raises(WeightsError, match=r"2\.0 GiB, but a protobuf message ends at 2 GiB: use \.h5"):
        read_message(path, caffe_pb2.SolverState)
    monkeypatch.setattr(binary, "MAX_MESSAGE", 3)
    with pytest.raises(WeightsError, match="ends at 2 GiB"):
        write_message(tmp_path / "new", caffe_pb2.NetParameter(name="abcd"))
    assert os.listdir(tmp_path) == ["large"]


def test_a_message_that_lacks_a_required_field(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing required"):
        write_message(tmp_path / "new", caffe_pb2.ClipParameter())
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("content", [b"\x0a\x01\xa9", b"\x1a\x01\xa9", b"\xa2\x06\x03\x1a\x01\xa9", b"\xa2\x06\x03\x12\x01\xa9"])
def test_names_that_are_not_utf8(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "n").write_bytes(content)
    with pytest.raises(WeightsError, match="n: is not a NetParameter, or is truncated .a name is not UTF-8: "):
        read_message(tmp_path / "n", caffe_pb2.NetParameter)
