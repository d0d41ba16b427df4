"""tools/extract_features.py: what it writes is what the net computes, as Caffe's own Data layer reads it."""

from __future__ import annotations

from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
import torch

from pycaffe_compat import cli
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.weights import read_weights, write_weights
from tools import extract_features

NET = """
layer { name: "data" type: "HDF5Data" top: "data" hdf5_data_param { source: "list.txt" batch_size: 2 } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "f" type: "InnerProduct" bottom: "c" top: "f" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Reduction" bottom: "f" top: "sum" }
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    with h5py.File("a.h5", "w") as file:
        file["data"] = np.random.default_rng(0).random((5, 1, 6, 7), np.float32)
    Path("list.txt").write_text("a.h5\n")
    graph = Graph("net.prototxt", TEST)
    write_weights("w.caffemodel", graph.param, graph.weights())
    return tmp_path


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda _: extract_features.main(words))
    return int(end.value.code or 0)


def records(path: str) -> list[tuple[bytes, np.ndarray]]:
    with lmdb.open(path, readonly=True) as env, env.begin() as transaction:
        found = []
        for key, value in transaction.cursor():
            datum = caffe_pb2.Datum.FromString(value)
            shape = datum.channels, datum.height, datum.width
            found.append((key, np.array(datum.float_data, np.float32).reshape(shape)))
        return found


def test_records_are_the_nets_blobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("w.caffemodel", "net.prototxt", "c,f", "c_lmdb,f_lmdb", "3", "lmdb", "CPU") == 0
    assert capsys.readouterr().out == 'c_lmdb: 6 records of blob "c"\nf_lmdb: 6 records of blob "f"\n'
    graph = Graph("net.prototxt", TEST)
    graph.load_weights(read_weights("w.caffemodel"))
    with torch.no_grad():
        runs = [graph.run() for _ in range(3)]  # 6 of 5 rows: the first comes again
    for name, shape in (("c", (3, 4, 5)), ("f", (4, 1, 1))):
        found = records(f"{name}_lmdb")
        assert [key for key, _ in found] == [f"{i:010d}".encode() for i in range(6)]
        want = torch.cat([blobs[name] for blobs in runs]).numpy().reshape(6, *shape)
        np.testing.assert_array_equal([array for _, array in found], want)
    assert sorted(p.name for p in Path(".").iterdir() if p.name.endswith("lmdb")) == ["c_lmdb", "f_lmdb"]


def test_a_data_layer_reads_what_it_wrote() -> None:
    assert call("w.caffemodel", "net.prototxt", "c", "c_lmdb", "1", "lmdb") == 0
    Path("next.prototxt").write_text(
        'layer { name: "d" type: "Data" top: "d" data_param { source: "c_lmdb" backend: LMDB batch_size: 2 } }'
    )
    want = [array for _, array in records("c_lmdb")]
    np.testing.assert_array_equal(Graph("next.prototxt", TEST).run()["d"].numpy(), want)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("w.caffemodel net.prototxt g out 1 lmdb", 1, 'error: net.prototxt: has no blob "g"'),
        ("w.caffemodel net.prototxt c,f out 1 lmdb", 1, "error: 2 blobs but 1 databases"),
        ("w.caffemodel net.prototxt c,f out,out 1 lmdb", 1, "error: out: is given twice"),
        ("w.caffemodel net.prototxt c there 1 lmdb", 1, "error: there: exists already"),
        ("w.caffemodel net.prototxt c out 0 lmdb", 2, "'0' is less than 1"),
        ("w.caffemodel net.prototxt c out 1 leveldb", 2, "invalid choice: 'leveldb'"),
        ("w.caffemodel net.prototxt c, out 1 lmdb", 2, "'c,' holds an empty name"),
        ("w.caffemodel net.prototxt c out 1 lmdb GPU 99", 1, "error: --gpu 99: PyTorch sees"),
        ("no net.prototxt c out 1 lmdb", 1, "error: no: no such file"),
        ("w.caffemodel no c out 1 lmdb", 1, "error: no: no such file"),
        ("w.caffemodel net.prototxt c no/such/out 1 lmdb", 1, "error: no/such/"),
    ],
)
def test_refused(words: str, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    before = sorted(Path(".").iterdir())
    assert call(*words.split()) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert sorted(Path(".").iterdir()) == before
