"""Layers that bring data in or write it out, as a net file names them; what they read is tested in data_sources."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest
import torch

from pycaffe_compat import CaffeError, DataError, Net, NetError, Solver
from pycaffe_compat.data.datum import image_to_datum
from pycaffe_compat.graph import TEST, TRAIN, Graph
from pycaffe_compat.proto.binary import array_to_blob, write_message
from pycaffe_compat.proto.text import parse_net
from pycaffe_compat.weights import read_weights

ROWS = 5


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6, 7, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database, image files with a list, a window file and a mean, all relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    with lmdb.open("db", map_size=2**24) as env, env.begin(write=True) as transaction:
        for i in range(ROWS):
            transaction.put(b"%d" % i, image_to_datum(pixels(i), i).SerializeToString())
            cv2.imwrite(f"{i}.png", pixels(i))
    Path("list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(ROWS)))
    Path("windows.txt").write_text("# 0 0.png 3 6 7 2 1 0.9 0 0 6 5 0 0.1 2 2 4 4")
    write_message("mean.binaryproto", array_to_blob(np.full((1, 3, 6, 7), 9, np.float32)))
    with h5py.File("a.h5", "w") as h5:
        h5["data"] = h5["label"] = np.zeros((3, 2))
    Path("h5.txt").write_text("a.h5")
    return tmp_path


def build(text: str, phase: int = TRAIN) -> Graph:
    return Graph(parse_net(text, "net.prototxt"), phase)


def layer(kind: str, settings: str, tops: str = 'top: "data" top: "label"') -> str:
    return f'layer {{ name: "d" type: "{kind}" {tops} {settings} }}'


DB = 'source: "db" backend: LMDB batch_size: 2'
READERS = [
    (layer("Data", f"data_param {{ {DB} }} transform_param {{ crop_size: 4 mirror: true }}"), (2, 3, 4, 4)),
    (layer("ImageData", 'image_data_param { source: "list.txt" batch_size: 3 shuffle: true new_height: 9 new_width: 8 is_color: false }'), (3, 1, 9, 8)),
    (layer("ImageData", 'image_data_param { source: "list.txt" batch_size: 2 rand_skip: 3 } transform_param { scale: 0.1 mean_file: "mean.binaryproto" }'), (2, 3, 6, 7)),
    (layer("WindowData", 'window_data_param { source: "windows.txt" batch_size: 4 context_pad: 1 } transform_param { crop_size: 8 mirror: true }'), (4, 3, 8, 8)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shape"), READERS)
def test_a_seeded_net_reads_alike_and_resumes_alike(text: str, shape: tuple[int, ...]) -> None:
    def batches(graph: Graph, count: int) -> list[dict[str, torch.Tensor]]:
        return [graph() for _ in range(count)]

    torch.manual_seed(3)
    graph = build(text)
    assert graph.shapes == {"data": shape, "label": shape[:1]}
    assert graph.inputs == []
    whole = batches(graph, 6)
    torch.manual_seed(3)
    graph = build(text)
    batches(graph, 2)
    state = graph.data_layers["d"].source.state_dict()
    other = build(text)
    other.data_layers["d"].source.load_state_dict(state)
    for again in (graph, other):
        for got, want in zip(batches(again, 4), whole[2:], strict=True):
            assert all(torch.equal(got[name], want[name]) for name in want)


def test_a_training_on_an_lmdb_resumes_bit_for_bit() -> None:
    Path("net.prototxt").write_text(
        layer("Data", f"data_param {{ {DB} }} transform_param {{ crop_size: 4 mirror: true scale: 0.01 }}")
        + """
        layer { name: "c" type: "Convolution" bottom: "data" top: "c"
                convolution_param { num_output: 5 kernel_size: 4 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" top: "loss" }"""
    )
    solver = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 random_seed: {} snapshot_prefix: "s"'
    Path("a.prototxt").write_text(solver.format(1))
    Path("b.prototxt").write_text(solver.format(2))
    Solver("a.prototxt", max_iter=9).solve()
    whole = read_weights("s_iter_9.caffemodel")["c"]
    Solver("a.prototxt", max_iter=4).solve()
    Solver("b.prototxt", max_iter=9).solve("s_iter_4.solverstate")
    for got, want in zip(read_weights("s_iter_9.caffemodel")["c"], whole, strict=True):
        np.testing.assert_array_equal(got, want)


# ----------------------------------------------------------------------------------------------------------- MemoryData

MEMORY = layer("MemoryData", "memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 }")


def test_memory_data_walks_through_the_arrays_round_and_round() -> None:
    net = Net(parse_net(MEMORY, "net.prototxt"), TEST)
    assert net.blobs["label"].shape == (2,)
    data = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    for i in range(5):
        net.forward()
        rows = slice(2 * (i % 2), 2 * (i % 2) + 2)
        np.testing.assert_array_equal(net.blobs["data"].data, data[rows])
        np.testing.assert_array_equal(net.blobs["label"].data, np.arange(4).reshape(4, 1, 1, 1)[rows])
    data[:] = 7  # the arrays are not copied
    net.forward()
    assert (net.blobs["data"].data == 7).all()
    net._set_input_arrays(data[:2] + 1, np.array([5, 6], np.float32).reshape(2, 1, 1, 1))
    net.forward()
    assert (net.blobs["data"].data == 8).all()
    assert net.blobs["label"].data.reshape(-1).tolist() == [5, 6]


def test_memory_data_resumes_where_it_was() -> None:
    graph = build(MEMORY)
    source = graph.data_layers["d"].source
    data, labels = np.zeros((6, 1, 2, 3), np.float32), np.arange(6, dtype=np.float32)
    graph.data_layers["d"].reset(data, labels)
    graph()
    state = source.state_dict()
    other = build(MEMORY).data_layers["d"]
    with pytest.raises(DataError, match="hand the arrays over before resuming"):
        other.source.load_state_dict(state)
    other.reset(data, labels)
    other.source.load_state_dict(state)
    assert other()[1].reshape(-1).tolist() == [2, 3]


def rows(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (rows(2, 1, 2, 4), rows(2), "data of shape (2, 1, 2, 4); items must be 1x2x3"),
        (rows(2, 6), rows(2), "data of shape (2, 6)"),
        (rows(2, 1, 2, 3), rows(3), "labels of shape (3,) for 2 items"),
        (rows(2, 1, 2, 3), rows(2, 1), "labels of shape (2, 1) for 2 items"),
        (rows(3, 1, 2, 3), rows(3), "3 items; give a multiple of batch_size 2"),
        (rows(0, 1, 2, 3), rows(0), "0 items"),
        (np.zeros((2, 1, 2, 3)), rows(2), "data must be a C-contiguous float32 array, this is float64: give np.asc"),
        (rows(2, 1, 3, 2).transpose(0, 1, 3, 2), rows(2), "data must be a C-contiguous float32 array"),
        (rows(2, 1, 2, 3), [0, 1], "labels must be a C-contiguous float32 array, this is list"),
    ],
)
def test_arrays_that_do_not_fit(data: np.ndarray, labels: np.ndarray, message: str) -> None:
    net = Net(parse_net(MEMORY, "net.prototxt"), TEST)
    with pytest.raises(DataError) as error:
        net.set_input_arrays(data, labels)
    assert str(error.value).startswith('net.prototxt:1: layer "d" (MemoryData): ')
    assert message in str(error.value)
    with pytest.raises(DataError, match="has no data yet: call net.set_input_arrays"):
        net.forward()


def test_set_input_arrays_is_for_nets_that_begin_with_memory_data() -> None:
    with pytest.raises(NetError, match=r'begin with a MemoryData layer: net.prototxt:1: layer "d" \(Data\)'):
        Net(parse_net(READERS[0][0], "net.prototxt"), TEST).set_input_arrays(np.zeros(1), np.zeros(1))


# ------------------------------------------------------------------------------------------------------------ DummyData


def dummy(settings: str, tops: int) -> Graph:
    return build(layer("DummyData", f"dummy_data_param {{ {settings} }}", " ".join(f'top: "t{i}"' for i in range(tops))))


@pytest.mark.parametrize(
    ("settings", "tops", "shapes", "values"),
    [
        ("shape { dim: 2 dim: 3 }", 2, [(2, 3)] * 2, [0, 0]),
        ("shape { dim: 2 } shape { }", 2, [(2,), ()], [0, 0]),
        ('shape { dim: 2 } data_filler { type: "constant" value: 4 }', 2, [(2,)] * 2, [4, 4]),
        ("shape { dim: 2 } data_filler { value: 4 } data_filler { value: 5 }", 2, [(2,)] * 2, [4, 5]),
        ("num: 2 channels: 3 height: 4 width: 5", 2, [(2, 3, 4, 5)] * 2, [0, 0]),
        ("num: 5 channels: 3 channels: 1 height: 4 width: 4", 2, [(5, 3, 4, 4), (5, 1, 4, 4)], [0, 0]),
        ("num: 2 num: 1 channels: 3 channels: 1 height: 4 height: 1 width: 5 width: 1", 2, [(2, 3, 4, 5), (1, 1, 1, 1)], [0, 0]),
    ],
)
def test_dummy_data(settings: str, tops: int, shapes: list[tuple[int, ...]], values: list[float]) -> None:
    graph = dummy(settings, tops)
    got = graph()
    for i in range(tops):
        assert got[f"t{i}"].shape == graph.shapes[f"t{i}"] == shapes[i]
        assert (got[f"t{i}"] == values[i]).all()


def test_random_dummies_are_drawn_anew_for_each_batch() -> None:
    graph = dummy('shape { dim: 500 } data_filler { type: "gaussian" mean: 3 }', 1)
    first, second = graph()["t0"], graph()["t0"]
    assert abs(first.mean() - 3) < 0.3
    assert (first != second).all()


def test_a_net_fills_constant_dummies_once_and_random_ones_in_each_forward() -> None:
    filled = 'dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" mean: 9 } data_filler { value: 4 } }'
    net = Net(parse_net(layer("DummyData", filled) + SUM, "net.prototxt"), TEST)
    data, label = net.blobs["data"], net.blobs["label"]
    assert not data.data.any()
    assert (label.data == 4).all()
    for blob in (data, label):
        blob.reshape(5, 3)
    net.reshape()
    assert net.blobs["sum"].shape == (5, 3)
    label.data[...] = 7
    first = net.forward()["sum"].copy()
    assert first.shape == data.shape == (5, 3)
    np.testing.assert_array_equal(first, data.data + 7)
    assert (net.forward()["sum"] != first).all()


SUM = 'layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "label" top: "sum" }'


def test_an_input_without_a_shape_gets_one_from_the_script() -> None:
    text = 'layer { name: "x" type: "Input" top: "x" } layer { name: "y" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }'
    net = Net(parse_net(text, "net.prototxt"), TEST)
    assert net.blobs["x"].shape == ()
    net.blobs["x"].reshape(2, 3)
    assert (net.forward(x=np.ones((2, 3)))["y"] == np.full((2, 3), 2)).all()


# ----------------------------------------------------------------------------------------------------------- HDF5Output

OUTPUT = """layer { name: "in" type: "Input" top: "x" top: "n" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "out" type: "HDF5Output" bottom: "x" bottom: "n" hdf5_output_param { file_name: "out.h5" } }
"""


def test_output_collects_the_rows_of_all_forwards() -> None:
    with h5py.File("out.h5", "w") as h5:
        h5["of an earlier run"] = 1
    before = Path("out.h5").read_bytes()
    graph = build(OUTPUT)
    assert Path("out.h5").read_bytes() == before  # building a net destroys nothing
    x, n = torch.randn(6, 3), torch.arange(6.0)
    for i in range(3):
        graph.run(x[2 * i : 2 * i + 2], n[2 * i : 2 * i + 2])
        with h5py.File("out.h5") as h5:
            assert set(h5) == {"data", "label"}
            assert h5["data"].dtype == h5["label"].dtype == np.float32
            np.testing.assert_array_equal(h5["data"], x[: 2 * i + 2, :, None, None])
            np.testing.assert_array_equal(h5["label"], n[: 2 * i + 2, None, None, None])
    assert sorted(path.name for path in Path().glob("*out*")) == ["out.h5"]
    build(OUTPUT).run(x[:2], n[:2])  # another run begins anew
    with h5py.File("out.h5") as h5:
        assert len(h5["data"]) == 2


def test_rows_that_change_their_shape_leave_the_file_as_it_was() -> None:
    graph = build(OUTPUT)
    graph.run(torch.ones(2, 3), torch.ones(2))
    with pytest.raises(DataError) as error:
        graph.run(torch.ones(2, 4), torch.ones(2))
    message = 'out.h5: rows of "data" have changed their shape: 4x1x1 after 3x1x1'
    assert str(error.value) == f'net.prototxt:2: layer "out" (HDF5Output): {message}'
    with h5py.File("out.h5") as h5:
        assert h5["data"].shape == (2, 3, 1, 1)


def test_a_file_that_cannot_be_written() -> None:
    with pytest.raises(DataError) as error:
        build(OUTPUT.replace("out.h5", "none/out.h5")).run(torch.ones(2, 3), torch.ones(2))
    message = f"none/out.h5: cannot be written: {os.strerror(errno.ENOENT)}"
    assert str(error.value) == f'net.prototxt:2: layer "out" (HDF5Output): {message}'


@pytest.mark.parametrize("name", ["folder", "list.txt", "link", "dangling", "nul\\000"])
def test_what_is_no_hdf5_file_is_not_replaced(name: str) -> None:
    Path("folder").mkdir()
    Path("link").symlink_to("a.h5")
    Path("dangling").symlink_to("nowhere")
    before = Path("list.txt").read_bytes()
    with pytest.raises(NetError, match=r'net.prototxt:2: layer "out" \(HDF5Output\): .* is no HDF5 file') as error:
        build(OUTPUT.replace("out.h5", name))
    assert "\0" not in str(error.value)
    assert Path("list.txt").read_bytes() == before


def test_a_full_disk_leaves_the_rows_of_before(workdir: Path) -> None:
    program = f"""
        import os, resource, torch
        from pycaffe_compat.errors import DataError
        from pycaffe_compat.graph import Graph, TEST
        from pycaffe_compat.proto.text import parse_net
        def run(limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                graph.run(torch.ones(2, 3000), torch.ones(2))
            except DataError as error:
                assert str(error).endswith("out.h5: cannot be written: File too large"), error
                return
            assert limit == 10**9
        for first in (0, 1000, 20000):
            graph = Graph(parse_net({OUTPUT!r}.replace("dim: 3", "dim: 3000"), ""), TEST)
            run(first)
            assert not os.path.exists("out.h5"), first
        run(10**9)
        size = os.path.getsize("out.h5")
        for more in range(0, 30000, 1999):
            run(size + more)
            assert os.path.getsize("out.h5") == size
        run(10**9)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=environment)
    assert [path.name for path in Path().glob("*out*")] == ["out.h5"] and not list(Path().glob(".*"))
    with h5py.File("out.h5") as h5:
        assert (h5["data"][:] == np.ones((4, 3000, 1, 1))).all() and (h5["label"][:] == np.ones((4, 1, 1, 1))).all()


@pytest.mark.parametrize(
    ("reader", "file"),
    [
        (layer("HDF5Data", 'hdf5_data_param { source: "h5.txt" batch_size: 1 }'), "a.h5"),
        (layer("HDF5Data", 'hdf5_data_param { source: "h5.txt" batch_size: 1 }'), "./h5.txt"),
        (READERS[0][0], "db/data.mdb"),
        (READERS[2][0], "list.txt"),
        (READERS[2][0], "mean.binaryproto"),
        (READERS[3][0], "windows.txt"),
    ],
)
def test_output_over_what_the_net_reads_is_refused(reader: str, file: str) -> None:
    before = Path(file).read_bytes()
    text = f'{reader}\nlayer {{ name: "out" type: "HDF5Output" bottom: "data" bottom: "label" hdf5_output_param {{ file_name: "{file}" }} }}'
    with pytest.raises(NetError) as error:
        build(text)
    assert str(error.value).startswith('net.prototxt:2: layer "out" (HDF5Output): ')
    message = '/a.h5: layer "d" reads it' if file == "a.h5" else f'file_name "{file}" is no HDF5 file'
    assert message in str(error.value)
    assert Path(file).read_bytes() == before


def test_output_over_the_net_itself_is_refused() -> None:
    Path("net.prototxt").write_text(OUTPUT.replace("out.h5", "net.prototxt"))
    with pytest.raises(NetError, match="net.prototxt\" is no HDF5 file"):
        Graph("net.prototxt", TEST)


def test_a_killed_run_leaves_a_whole_file_or_none(workdir: Path) -> None:
    program = f"""
        import torch
        from pycaffe_compat.graph import Graph, TEST
        from pycaffe_compat.proto.text import parse_net
        graph = Graph(parse_net({OUTPUT!r}.replace("dim: 3", "dim: 3000"), ""), TEST)
        print("ready", flush=True)
        while True:
            graph.run(torch.ones(2, 3000), torch.ones(2))
    """
    for delay in (0.02, 0.11, 0.3):
        Path("out.h5").unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as run:
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(delay)
            run.send_signal(signal.SIGKILL)
        if Path("out.h5").exists():
            with h5py.File("out.h5") as h5:
                assert len(h5["data"]) == len(h5["label"]) > 0
                assert (h5["data"][:] == 1).all()


# ------------------------------------------------------------------------------------------- settings that nobody reads

UNREAD = [
    (layer("Data", f"data_param {{ {DB} scale: 0.5 }}"), "scale is not read from here, by Caffe neither: write transform_param { scale: ... }"),
    (layer("Data", f"data_param {{ {DB} force_encoded_color: true }}"), "write transform_param { force_color: ... }"),
    (layer("ImageData", 'image_data_param { source: "list.txt" crop_size: 3 }'), "crop_size is not read from here"),
    (layer("WindowData", 'window_data_param { source: "windows.txt" batch_size: 4 } transform_param { scale: 2 crop_size: 3 }'), "write it in window_data_param"),
    (layer("WindowData", 'window_data_param { source: "windows.txt" batch_size: 4 mirror: true } transform_param { crop_size: 3 }'), "mirror is not read from here"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), UNREAD)
def test_settings_that_nobody_reads_are_told(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    build(text)()
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ bad input

BAD = [
    (layer("Data", 'data_param { source: "none" batch_size: 2 backend: LMDB }'), "none: no such LMDB"),
    (layer("Data", 'data_param { source: "db" backend: LMDB }'), "batch_size 0 is not positive"),
    (layer("Data", f"data_param {{ {DB} }}", 'top: "a" top: "b" top: "c"'), "has 3 tops: Data takes 1 to 2"),
    (layer("Data", f"data_param {{ {DB} }} transform_param {{ crop_size: 7 }}"), 'db: record "0": is 7x6, smaller than crop_size 7'),
    (layer("Data", f"data_param {{ {DB} }} transform_param {{ mean_file: 'none' }}"), "mean_file: none: no such file"),
    (layer("Data", f"data_param {{ {DB} }} transform_param {{ mean_value: 1 mean_value: 2 }}"), 'db: record "0": 2 mean_value for 3 channels'),
    (layer("ImageData", 'image_data_param { source: "list.txt" new_height: 3 }'), "new_height and new_width go together"),
    (layer("ImageData", 'image_data_param { source: "none" }'), "none: the list of images cannot be read"),
    (layer("ImageData", 'image_data_param { source: "list.txt" rand_skip: 9 }'), "rand_skip 9 is more than the 5 images"),
    (layer("ImageData", 'image_data_param { source: "list.txt" root_folder: "x/" }'), "list.txt:1: x/0.png: no such file"),
    (layer("WindowData", 'window_data_param { source: "windows.txt" batch_size: 4 }'), "windows.txt: windows have no size: give transform_param a crop_size"),
    (layer("MemoryData", "memory_data_param { batch_size: 2 channels: 1 height: 2 }"), "must be positive, not (2, 1, 2, 0)"),
    (layer("DummyData", "dummy_data_param { }"), "0 shape for 2 tops"),
    (layer("DummyData", "dummy_data_param { shape { dim: 1 } num: 1 }"), "shape excludes the older num"),
    (layer("DummyData", "dummy_data_param { num: 1 num: 2 num: 3 channels: 1 height: 1 width: 1 }"), "3 num for 2 tops: give one, or one a top"),
    (layer("DummyData", "dummy_data_param { num: 1 channels: 1 height: 1 }"), "0 width for 2 tops"),
    (layer("DummyData", "dummy_data_param { shape { dim: 1 } shape { dim: 1 } shape { dim: 1 } }"), "3 shape for 2 tops"),
    (layer("DummyData", "dummy_data_param { shape { dim: 1 } data_filler { } data_filler { } data_filler { } }"), "3 data_filler for 2 tops"),
    (layer("DummyData", "dummy_data_param { shape { dim: -1 } }"), "a dimension is negative"),
    (layer("DummyData", "dummy_data_param { shape { dim: 1000000000000000 } }"), 'top "data" of shape 1000000000000000 takes '),
    (layer("DummyData", 'dummy_data_param { shape { dim: 1 } data_filler { type: "gausian" } }'), 'did you mean "gaussian"?'),
    (layer("DummyData", "dummy_data_param { shape { dim: 2 } }") + '\nlayer { name: "o" type: "HDF5Output" bottom: "data" bottom: "label" }', 'layer "o" (HDF5Output): hdf5_output_param: give a file_name'),
    (layer("DummyData", "dummy_data_param { shape { dim: 2 } shape { dim: 3 } }") + '\nlayer { name: "o" type: "HDF5Output" bottom: "data" bottom: "label" hdf5_output_param { file_name: "o" } }', "2 items of data, 3 of label"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_cannot_be_built_says_where_and_why(text: str, message: str) -> None:
    with pytest.raises(CaffeError) as error:
        build(text)
    assert message in str(error.value)
    assert str(error.value).startswith(("net.prototxt:1: layer \"d\" (", "net.prototxt:2: layer"))
    assert str(error.value).count("net.prototxt:") == 1
    assert "\n" not in str(error.value)


def test_what_goes_wrong_later_says_where_too() -> None:
    graph = build(READERS[2][0])
    for i in range(ROWS):
        Path(f"{i}.png").unlink()
    with pytest.raises(DataError) as error:
        for _ in range(9):
            graph()
    assert str(error.value).startswith('net.prototxt:1: layer "d" (ImageData): list.txt:')
    assert str(error.value).endswith(".png: no such file")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("HDF5Data", "hdf5_data_param { batch_size: 1 }"),
        ("Data", "data_param { batch_size: 1 }"),
        ("AnnotatedData", "data_param { batch_size: 1 }"),
        ("ImageData", "image_data_param { batch_size: 1 }"),
        ("WindowData", "transform_param { crop_size: 4 } window_data_param { batch_size: 1 }"),
    ],
)
def test_a_layer_without_a_source_says_so(kind: str, settings: str) -> None:
    with pytest.raises(NetError, match=rf'^net.prototxt:1: layer "d" \({kind}\): source is missing: say where the data'):
        build(layer(kind, settings))
