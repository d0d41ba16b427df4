"""Weights files in both formats, held against protobuf, h5py and the files that Caffe wrote."""

import errno
import os
import resource
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pycaffe_compat.errors import WeightsError
from pycaffe_compat.files import atomic_write
from pycaffe_compat.proto import binary, caffe_pb2
from pycaffe_compat.proto.binary import array_to_blob, blob_to_array
from pycaffe_compat.solver.snapshot import State, write_state
from pycaffe_compat.tensor_file import write_tensor_file
from pycaffe_compat.weights import Weights, read_weights, write_weights


def net_of(*names: str) -> caffe_pb2.NetParameter:
    net = caffe_pb2.NetParameter(name="net", force_backward=True, state=caffe_pb2.NetState(stage=["deploy"]))
    for name in names:  # fields before and after the arrays
        net.layer.add(name=name, type="Convolution", loss_weight=[0.5], propagate_down=[True], phase=1)
    return net


def assert_same(have: Weights, want: Weights) -> None:
    assert set(have) == set(want)
    for name, arrays in want.items():
        assert [a.shape for a in have[name]] == [a.shape for a in arrays]
        assert all(a.dtype == np.float32 and a.flags.writeable and a.flags.owndata for a in have[name])
        assert [a.tobytes() for a in have[name]] == [a.tobytes() for a in arrays]


def weights_of_message(net: caffe_pb2.NetParameter) -> Weights:
    """What protobuf reads."""
    return {layer.name: [blob_to_array(blob) for blob in layer.blobs] for layer in net.layer if layer.blobs}


# ---------------------------------------------------------------------------------------------- Caffe's files


def golden_models(golden: Path) -> list[Path]:
    paths = [p for p in sorted(golden.glob("**/*.caffemodel")) if p.parent.name != "data"]
    assert len(paths) > 20
    return paths


def test_golden_models_are_read_as_protobuf_reads_them(golden: Path) -> None:
    for path in golden_models(golden):
        net = caffe_pb2.NetParameter.FromString(path.read_bytes())
        assert_same(read_weights(path), weights_of_message(net))


def test_golden_models_written_again_are_the_same_bytes(golden: Path, tmp_path: Path) -> None:
    for path in golden_models(golden):
        net = caffe_pb2.NetParameter.FromString(path.read_bytes())
        diffs = {
            layer.name: [blob_to_array(blob, diff=True) for blob in layer.blobs]
            for layer in net.layer
            if layer.blobs and layer.blobs[0].diff
        }
        write_weights(tmp_path / "w.caffemodel", net, read_weights(path), diffs or None)
        assert (tmp_path / "w.caffemodel").read_bytes() == path.read_bytes(), path


def tree(path: Path) -> dict[str, bytes | None]:
    """Every group (None) and dataset (its bytes) of an HDF5 file."""
    found: dict[str, bytes | None] = {}

    def visit(name: str, item: h5py.HLObject) -> None:
        found[name] = item[()].tobytes() if isinstance(item, h5py.Dataset) else None

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_golden_hdf5_is_read_and_written_as_caffe_does(golden: Path, tmp_path: Path) -> None:
    paths = [p for p in sorted(golden.glob("**/*.caffemodel.h5")) if p.with_suffix("").exists()]
    assert len(paths) >= 5
    for path in paths:
        model = path.with_suffix("")
        whole, owned = read_weights(model), read_weights(path)
        assert_same(owned, {name: whole[name] for name in owned})
        write_weights(tmp_path / "w.h5", caffe_pb2.NetParameter.FromString(model.read_bytes()), whole)
        assert tree(tmp_path / "w.h5") == tree(path)


def test_golden_npz(golden: Path) -> None:
    for folder in ("L4", "L8"):
        if not (golden / folder).is_dir():
            continue
        weights = read_weights(golden / folder / "weights.caffemodel")
        with np.load(golden / folder / "weights.npz") as wanted:
            for key in wanted.files:
                layer, index = key.rsplit(":", 1)
                np.testing.assert_array_equal(weights[layer][int(index)], wanted[key])


def test_weights_of_before_2014_and_doubles(golden: Path) -> None:
    for name in ("v0", "v1"):
        path = golden / "layers" / "data" / f"{name}.caffemodel"
        layers = caffe_pb2.NetParameter.FromString(path.read_bytes()).layers
        wanted = {
            (layer.layer.name or layer.name): [blob_to_array(b) for b in [*layer.layer.blobs, *layer.blobs]]
            for layer in layers
        }
        assert_same(read_weights(path), {name: blobs for name, blobs in wanted.items() if blobs})
    path = golden / "layers" / "data" / "double.caffemodel"
    net = caffe_pb2.NetParameter.FromString(path.read_bytes())
    np.testing.assert_array_equal(
        read_weights(path)["ip"][0].ravel(), np.array(net.layer[0].blobs[0].double_data, np.float32)
    )


# ------------------------------------------------------------------------------------------------ round trips

_part = st.text(st.sampled_from("abcé_-. λ"), min_size=1, max_size=5).filter(lambda part: part != ".")
_name = st.lists(_part, min_size=1, max_size=3).map("/".join)
_array = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
_weights = st.dictionaries(_name, st.lists(_array, min_size=1, max_size=3), max_size=4)


@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=_weights, other=_name)
def test_what_is_written_reads_back(suffix: str, weights: Weights, other: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    net = net_of(*weights, *({other} - set(weights)))
    write_weights(path, net, weights)
    assert_same(read_weights(path), weights)
    if suffix == ".caffemodel":
        for layer in net.layer:
            layer.blobs.extend(array_to_blob(array) for array in weights.get(layer.name, ()))
        assert path.read_bytes() == net.SerializeToString(deterministic=True)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".caffemodel", ".h5"])
def test_diffs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    blobs = {"a": [np.ones((2, 3), np.float32), np.zeros(2, np.float32)], "b": [np.ones(1, np.float32)]}
    diffs = {"a": [np.full((2, 3), 7, np.float32), np.full(2, 8, np.float32)]}
    write_weights(path, net_of("a", "b"), blobs, diffs)
    assert_same(read_weights(path), blobs)
    if suffix == ".h5":
        with h5py.File(path) as file:
            assert sorted(file["diff"]) == ["a", "b"] and not len(file["diff/b"])
            np.testing.assert_array_equal(file["diff/a/1"], diffs["a"][1])
    else:
        a, b = caffe_pb2.NetParameter.FromString(path.read_bytes()).layer
        assert list(a.blobs[1].diff) == [8, 8] and not b.blobs[0].diff


def test_arrays_that_the_net_message_carries_are_left_out(tmp_path: Path) -> None:
    net = net_of("a", "b")
    for layer in net.layer:
        layer.blobs.append(array_to_blob(np.zeros(9)))
    write_weights(tmp_path / "w", net, {"a": [np.ones(2, np.float32)]})
    assert_same(read_weights(tmp_path / "w"), {"a": [np.ones(2, np.float32)]})
    assert len(net.layer[0].blobs[0].data) == 9  # the caller's message is as it was


def test_shared_parameters_are_stored_under_their_owner_in_hdf5(tmp_path: Path) -> None:
    net = net_of("a", "b", "c")
    for layer, names in zip(net.layer, (["w", "v"], ["w"], ["", "v"]), strict=True):
        for name in names:
            layer.param.add(name=name)
    blobs = {name: [np.full(2, i, np.float32), np.full(1, i, np.float32)] for i, name in enumerate("abc")}
    write_weights(tmp_path / "w.h5", net, blobs)
    assert [name for name, content in tree(tmp_path / "w.h5").items() if content is not None] == [
        "data/a/0", "data/a/1", "data/b/1", "data/c/0",
    ]  # fmt: skip
    back = read_weights(tmp_path / "w.h5")
    assert [array.shape for array in back["b"]] == [(0,), (1,)]
    assert [array.shape for array in back["c"]] == [(2,)]
    write_weights(tmp_path / "w.caffemodel", net, blobs)
    assert_same(read_weights(tmp_path / "w.caffemodel"), blobs)


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_layers_without_arrays_are_named_where_they_are_asked_for(tmp_path: Path, suffix: str) -> None:
    blobs = {"b": [np.ones(2, np.float32)]}
    write_weights(tmp_path / f"w{suffix}", net_of("a", "b", "c"), blobs)
    assert_same(read_weights(tmp_path / f"w{suffix}"), blobs)
    assert_same(read_weights(tmp_path / f"w{suffix}", empty=True), {"a": [], "c": [], **blobs})


def test_of_two_layers_with_one_name_the_later_counts(tmp_path: Path) -> None:
    net = net_of("a", "a", "a")
    for layer, value in zip(net.layer, (1, 2), strict=False):
        layer.blobs.append(array_to_blob([value]))
    (tmp_path / "w").write_bytes(net.SerializeToString())
    assert_same(read_weights(tmp_path / "w"), {"a": [np.array([2], np.float32)]})


def test_the_format_is_told_by_content(tmp_path: Path) -> None:
    blobs = {"a": [np.ones(2, np.float32)]}
    write_weights(tmp_path / "w.h5", net_of("a"), blobs)
    (tmp_path / "w.h5").rename(tmp_path / "w.caffemodel")
    assert_same(read_weights(tmp_path / "w.caffemodel"), blobs)


def test_reading_takes_no_second_copy(tmp_path: Path) -> None:
    size = 4 << 20
    write_weights(tmp_path / "w", net_of("a", "b"), {n: [np.ones(size // 4, np.float32)] for n in "ab"})
    tracemalloc.start()
    weights = read_weights(tmp_path / "w")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(blob.nbytes for blobs in weights.values() for blob in blobs) == 2 * size
    assert peak < 2.1 * size


# -------------------------------------------------------------------------------------------------- bad files


def test_every_truncation_is_an_error_or_fewer_layers(tmp_path: Path) -> None:
    """A protobuf message does not tell its length: cut between two layers it is one with fewer layers."""
    weights = {name: [np.arange(5, dtype=np.float32)] for name in "abc"}
    write_weights(tmp_path / "w", net_of(*weights), weights)
    content = (tmp_path / "w").read_bytes()
    whole = 0
    for end in range(1, len(content)):
        (tmp_path / "w").write_bytes(content[:end])
        try:
            have = read_weights(tmp_path / "w")
        except WeightsError as error:
            assert str(error).startswith(str(tmp_path / "w")) and str(error).isprintable()
        else:
            whole += 1
            assert_same(have, {name: weights[name] for name in have})
    assert whole == 2


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_changed_at_random_raise_only_our_error(tmp_path: Path, data: st.DataObject) -> None:
    weights: dict[str, list[npt.ArrayLike]] = {name: [np.arange(5, dtype=np.float32)] for name in "ab"}
    write_weights(tmp_path / "w", net_of(*weights), weights)
    content = bytearray((tmp_path / "w").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "w").write_bytes(content)
    try:
        read_weights(tmp_path / "w")
    except WeightsError as error:
        assert str(error).startswith(str(tmp_path / "w")) and "\n" not in str(error)


def test_truncated_hdf5(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.h5", net_of("a"), {"a": [np.ones((50, 50), np.float32)]})
    content = (tmp_path / "w.h5").read_bytes()
    for end in (9, 100, 1000, len(content) // 2, len(content) - 1):
        (tmp_path / "w.h5").write_bytes(content[:end])
        with pytest.raises(WeightsError, match=r"w\.h5: broken or truncated HDF5: ") as caught:
            read_weights(tmp_path / "w.h5")
        assert str(caught.value).isprintable()


SOLVER_STATE = caffe_pb2.SolverState(iter=3, learned_net="a").SerializeToString()
MEAN_IMAGE = caffe_pb2.BlobProto(num=1, channels=1, height=1, width=1, data=[1]).SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'name: "L4"\nlayer {\n}\n', "is not a binary NetParameter but looks like text"),
        (b"# a net\n", "looks like text"),
        (b"layer {}", "looks like text"),
        (b"input: 'x'", "looks like text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "looks like a PNG image"),
        (b"PK\x03\x04\x14\0\0\0", "looks like a zip archive (PyTorch and NumPy files are such)"),
        (b"\x93NUMPY\x01\0v\0{'descr'", "looks like a NumPy array"),
        (b"\x1f\x8b\x08\0\0\0", "looks like a gzip file: unpack it first"),
        (b"\x80\x02}q\0.", "looks like a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "looks like a Git LFS pointer"),
        (b"\n <HTML><body>not found", "looks like a web page"),
        (b"\0" * 64, "looks like zeros"),
        (b"\n\x02L4", "is not a NetParameter, or is truncated (it holds no layers)"),
        (SOLVER_STATE, "looks like a solver state or a mean image"),
        (MEAN_IMAGE, "looks like a solver state or a mean image"),
        (bytes(range(200, 256)) * 9, "is not a NetParameter, or is truncated"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.caffemodel"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and message in said and said.isprintable()


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"data": np.zeros(3)}, '"data" is a dataset, as in a training database'),
        ({"iter": 3, "history/0": np.zeros(3)}, "it is a solver state"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, 'there is no group "data", only x, y'),
        ({}, 'there is no group "data", only nothing'),
        ({"data/conv/weight": np.zeros(3)}, '"data/conv/weight" is no layer\'s array'),
        ({"data/0": np.zeros(3)}, '"data/0" is no layer\'s array'),
        ({"data/a/0": np.zeros(3, np.int64)}, '"data/a/0" is no layer\'s array'),
        ({"data/a/0": "text"}, '"data/a/0" is no layer\'s array'),
        ({"data/a/99999999": np.zeros(3)}, '"data/a/99999999"'),
    ],
)
def test_hdf5_that_is_not_weights(tmp_path: Path, datasets: dict[str, npt.ArrayLike], message: str) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: is HDF5 but not Caffe weights: ")
    assert message in said and said.isprintable()


def test_hdf5_in_double_and_half_precision(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["data/a/0"] = np.array([1 / 3])
        file["data/a/1"] = np.array([0.5], np.float16)
        file.create_group("data/empty")
    wanted = [np.array([1 / 3], np.float32), np.array([0.5], np.float32)]
    assert_same(read_weights(tmp_path / "w.h5"), {"a": wanted})


def test_a_blob_whose_values_do_not_fit_its_shape(tmp_path: Path) -> None:
    net = net_of("conv1")
    net.layer[0].blobs.add(shape=caffe_pb2.BlobShape(dim=[2, 3]), data=[1, 2])
    (tmp_path / "w").write_bytes(net.SerializeToString())
    with pytest.raises(WeightsError, match=r'w: layer "conv1", blob 0: a blob of shape 2x3 holds 2 values$'):
        read_weights(tmp_path / "w")
    net.layer[0].name = "conv\n1"
    (tmp_path / "w").write_bytes(net.SerializeToString())
    with pytest.raises(WeightsError, match=r'w: layer "conv 1", blob 0: '):
        read_weights(tmp_path / "w")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "is a directory"), (tmp_path / "absent", "no such file")):
        with pytest.raises(WeightsError, match=message):
            read_weights(path)


def test_larger_than_protobuf_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "w").open("wb") as file:
        file.write(b"\n\x02L4")
        file.truncate(2**31)  # sparse: takes no space
    with pytest.raises(WeightsError, match=r"2\.0 GiB, but a protobuf message ends at 2 GiB: use \.h5"):
        read_weights(tmp_path / "w")
    monkeypatch.setattr(binary, "MAX_MESSAGE", 60)
    with pytest.raises(WeightsError, match="ends at 2 GiB"):
        write_weights(tmp_path / "new", net_of("a"), {"a": [np.zeros(9)]})
    assert os.listdir(tmp_path) == ["w"]


# ---------------------------------------------------------------------------------------- what is not written


@pytest.mark.parametrize("suffix", [".caffemodel", ".h5"])
def test_weights_that_do_not_belong_to_the_net(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    for blobs, diffs, message in (
        ({"b": [np.zeros(1)]}, None, r'weights for layer "b", not in net "net"'),
        ({"a": [np.zeros(1)]}, {"c": [np.zeros(1)]}, r'weights for layer "c", not in net "net"'),
        ({"a": [np.zeros(1)]}, {"a": [np.zeros(2)]}, r'layer "a": diffs of shapes \[\(2,\)\] for data of'),
        ({"a": [np.zeros(1)]}, {"a": []}, r'layer "a": diffs of shapes \[\] for data of'),
    ):
        with pytest.raises(WeightsError, match=message):
            write_weights(path, net_of("a"), blobs, diffs)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("",),
        ("/a",),
        ("a/",),
        ("a//b",),
        (".",),
        ("a/./b",),
        ("a\0b",),
        ("a", "a/0"),
        ("a/0", "a"),
        ("a", "a"),
    ],
)
def test_names_that_hdf5_cannot_hold(tmp_path: Path, names: tuple[str, ...]) -> None:
    blobs = {name: [np.zeros(1, np.float32)] for name in names}
    with pytest.raises(WeightsError, match="has no place in HDF5"):
        write_weights(tmp_path / "w.h5", net_of(*names), blobs)
    assert not os.listdir(tmp_path)
    write_weights(tmp_path / "w.caffemodel", net_of(*names), blobs)
    assert_same(read_weights(tmp_path / "w.caffemodel"), blobs)


def test_a_net_that_lacks_a_required_field(tmp_path: Path) -> None:
    net = net_of("a")
    net.layer[0].clip_param.min = 0
    with pytest.raises(WeightsError, match=r"w\.caffemodel: layer\[0\]\.clip_param\.max must be set"):
        write_weights(tmp_path / "w.caffemodel", net, {})
    assert not os.listdir(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    for suffix in (".caffemodel", ".h5"):
        path = tmp_path / f"w{suffix}"
        write_weights(path, net_of("a"), {"a": [np.ones(1, np.float32)]})
        with pytest.raises(ValueError, match="could not convert string to float"):
            write_weights(path, net_of("a"), {"a": ["x"]})
        assert_same(read_weights(path), {"a": [np.ones(1, np.float32)]})
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("limit", [0, 1000, 30_000])
@pytest.mark.parametrize("name", ["w.caffemodel", "w.caffemodel.h5", "w.solverstate", "w.solverstate.h5", "w.safetensors"])
def test_a_full_disk_is_one_error_that_names_the_file(tmp_path: Path, name: str, limit: int) -> None:
    """(HDF5 on the disk itself ends the process, with a segmentation fault at some limits.)"""
    path, array = tmp_path / name, np.ones(10_000, np.float32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError) as error:
            if "state" in name:
                with atomic_write(path) as temporary:
                    write_state(os.fspath(temporary), State(1, "w", [array]))
            elif "safe" in name:
                write_tensor_file(path, net_of("a"), {"a": torch.from_numpy(array)}, {"a": [("a", (10_000,))]})
            else:
                write_weights(path, net_of("a"), {"a": [array]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
    assert not os.listdir(tmp_path)
