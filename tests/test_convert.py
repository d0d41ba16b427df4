"""Weights of a module into files and back, bit for bit; and files among themselves, by the library and by the tool."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import pycaffe_compat
from pycaffe_compat import Graph, WeightsError, cli
from pycaffe_compat.convert import SUFFIXES, carried_net, convert_weights
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import format_message, parse_net
from pycaffe_compat.weights import Weights, read_weights
from tools import convert_weights as tool

NET = """
name: "twins"
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv.1" type: "Convolution" bottom: "x" top: "c" param { name: "w" } convolution_param { num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "sc" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true bias_filler { type: "uniform" } } }
layer { name: "a/b" type: "Convolution" bottom: "c" top: "d" param { name: "w" } convolution_param { num_output: 3 kernel_size: 3 bias_term: false } }
layer { name: "pop" type: "InnerProduct" bottom: "d" top: "y" inner_product_param { num_output: 3 weight_filler { type: "gaussian" } } }
layer { name: "flat" type: "InnerProduct" bottom: "y" top: "z" param { name: "v" } inner_product_param { num_output: 4 bias_term: false weight_filler { type: "gaussian" } } }
layer { name: "view" type: "InnerProduct" bottom: "z" top: "o" param { name: "v" share_mode: PERMISSIVE } inner_product_param { num_output: 3 bias_term: false } }
"""
KEYS = {
    "conv.1": ["layers.conv_1.weight", "layers.conv_1.bias"],
    "bn": ["layers.bn.mean", "layers.bn.variance", "layers.bn.factor"],
    "sc": ["layers.sc.scale", "layers.sc.bias"],
    "a/b": ["layers.conv_1.weight"],
    "pop": ["layers.pop_.weight", "layers.pop_.bias"],
    "flat": ["layers.flat.weight"],
    "view": ["layers.flat.weight"],
}


@pytest.fixture
def graph() -> Graph:
    return Graph(parse_net(NET, "net.prototxt"), pycaffe_compat.TEST)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return path


def same(got: Weights, want: Weights) -> bool:
    return got.keys() == want.keys() and all(
        [a.tobytes() for a in got[name]] == [a.tobytes() for a in want[name]]
        and [a.shape for a in got[name]] == [a.shape for a in want[name]]
        for name in want
    )


def test_keys_are_layers_layer_blob(graph: Graph) -> None:
    assert graph.blob_keys == KEYS
    state = graph.state_dict()
    assert {key for keys in KEYS.values() for key in keys} | {"layers.a/b.weight"} == set(state)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_modules_weights_come_back_bit_for_bit(suffix: str, graph: Graph, net: Path, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.view(torch.int32).random_(0x00800000, 0x7F000000)  # any normal float32
    want = graph.weights()
    pycaffe_compat.save(graph, path)
    back = pycaffe_compat.load(net, path)
    assert same(back.weights(), want)
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(back(x)["o"], graph(x)["o"], rtol=0, atol=0, equal_nan=True)


def test_a_trained_state_dict_goes_back_to_caffe(graph: Graph, net: Path, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD((p for p in graph.parameters() if p.requires_grad), lr=0.01)
    before = graph.weights()
    graph(torch.randn(2, 3, 6, 6))["o"].square().sum().backward()
    optimizer.step()
    checkpoint = {key: value.clone() for key, value in graph.state_dict().items()}
    trained = graph.weights()
    graph.load_weights(before)
    pycaffe_compat.save(graph, tmp_path / "w.caffemodel", checkpoint)
    assert same(graph.weights(), before)
    assert same(read_weights(tmp_path / "w.caffemodel"), trained) and not same(trained, before)
    message = caffe_pb2.NetParameter.FromString((tmp_path / "w.caffemodel").read_bytes())
    assert [layer.type for layer in message.layer] == [node.type for node in graph.nodes]


def test_channels_last_filters_are_written_in_caffes_order(graph: Graph, net: Path, tmp_path: Path) -> None:
    want = graph.weights()
    for suffix in SUFFIXES:
        pycaffe_compat.save(graph, tmp_path / f"a{suffix}")
        fast = pycaffe_compat.load(net, tmp_path / f"a{suffix}", channels_last=True)
        assert fast.params["conv.1"][0].is_contiguous(memory_format=torch.channels_last)
        pycaffe_compat.save(fast, tmp_path / f"b{suffix}")
        assert same(pycaffe_compat.load(net, tmp_path / f"b{suffix}").weights(), want)
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(fast(x)["o"], graph(x)["o"], rtol=1e-5, atol=1e-5)


def test_safetensors_is_a_state_dict_with_the_net_in_its_metadata(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    pycaffe_compat.save(graph, path)
    other = Graph(parse_net(NET), pycaffe_compat.TEST)
    other.load_state_dict(safetensors.torch.load_file(path))
    assert same(other.weights(), graph.weights())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert hashlib.sha256(metadata["net"].encode()).hexdigest() == metadata["net_sha256"]
    assert metadata["net"] == format_message(graph.param)
    assert json.loads(metadata["blobs"])["view"] == [["layers.flat.weight", [3, 4]]]


def test_half_precision_is_kept_in_safetensors_and_widened_in_caffes_files(graph: Graph, tmp_path: Path) -> None:
    want = graph.bfloat16().weights()
    for suffix in (".safetensors", ".caffemodel"):
        pycaffe_compat.save(graph, tmp_path / f"w{suffix}")
        assert same(read_weights(tmp_path / f"w{suffix}"), want)
    assert {t.dtype for t in safetensors.torch.load_file(tmp_path / "w.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("middle", SUFFIXES)
@pytest.mark.parametrize("first", SUFFIXES)
def test_files_convert_among_each_other(first: str, middle: str, graph: Graph, net: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}{suffix}" for i, suffix in enumerate((first, middle, first))]
    want = graph.weights()
    pycaffe_compat.save(graph, paths[0])
    for source, target in zip(paths, paths[1:], strict=False):
        assert convert_weights(source, target, Graph(str(net)) if source.suffix == ".h5" else None) == []
        fresh = Graph(str(net))
        assert {*fresh.load_weights(read_weights(target)), "a/b", "view"} == set(want)  # .h5: with the owners only
        assert same(fresh.weights(), want)


def test_a_caffemodel_whose_net_cannot_be_built_here_converts_to_hdf5(tmp_path: Path) -> None:
    """A snapshot carries its training net, databases and all: they are not opened."""
    net = parse_net('layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "gone" } } layer { name: "c" type: "Convolution" bottom: "x" top: "y" }')
    from pycaffe_compat.weights import write_weights

    arrays = {"c": [np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2), np.zeros(2, np.float32)]}
    write_weights(tmp_path / "w.caffemodel", net.param, arrays)
    convert_weights(tmp_path / "w.caffemodel", tmp_path / "w.h5")
    assert same(read_weights(tmp_path / "w.h5"), arrays)
    with pytest.raises(pycaffe_compat.CaffeError, match="name a net that can be built here") as error:
        convert_weights(tmp_path / "w.caffemodel", tmp_path / "w.safetensors")
    assert 'layer "d"' in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layers.sc.bias"), 'lacks the key "layers.sc.bias"'),
        (lambda s: s.update({"layers.sc.bia": torch.zeros(3)}), 'a key "layers.sc.bia", which the net has not; did you mean'),
        (lambda s: s.update({"layers.sc.bias": torch.zeros(4)}), '"layers.sc.bias" has shape 4 in the state_dict, 3 in the net'),
    ],
)
def test_a_state_dict_that_does_not_fit(change: object, message: str, graph: Graph, tmp_path: Path) -> None:
    state = dict(graph.state_dict())
    change(state)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=message):
        pycaffe_compat.save(graph, tmp_path / "w.h5", state)
    assert not list(tmp_path.iterdir())


def test_another_ending(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"w.pt: weights are written as .caffemodel, .h5, .safetensors"):
        pycaffe_compat.save(graph, tmp_path / "w.pt")


def header(metadata: dict[str, str] | None, **tensors: object) -> bytes:
    text = json.dumps({**({"__metadata__": metadata} if metadata is not None else {}), **tensors}).encode()
    return len(text).to_bytes(8, "little") + text


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "F32", "shape": [2**18], "data_offsets": [0, 2**20]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(None, a=A) + bytes(8), "does not say which layers its tensors belong to"),
        (header({"net": ""}, a=A) + bytes(8), "does not say which layers"),
        (header({"blobs": "{}"}, a=A) + bytes(4), "or damaged"),
        (header({"blobs": "{"}, a=A) + bytes(8), "or damaged"),
        (header({"blobs": "[]"}, a=A) + bytes(8), "or damaged"),
        (header({"blobs": '{"c": [["b", [2]]]}'}, a=A) + bytes(8), "or damaged"),
        (header({"blobs": '{"c": [["a", [3]]]}'}, a=A) + bytes(8), "or damaged"),
        (header({"blobs": '{"c": [["a"]]}'}, a=A) + bytes(8), "or damaged"),
        (header({"blobs": '{"c": 7}'}, a=A) + bytes(8), "or damaged"),
        (header({"blobs": '{"c": [["a", "x"]]}'}, a=A) + bytes(8), "or damaged"),
        (header({"blobs": json.dumps({"c": [["b", [2**18]]] * 90})}, b=B) + bytes(2**20), "far more memory"),
        ((2**30).to_bytes(8, "little") + b"{", "or damaged"),
        ((9).to_bytes(8, "little") + b'{"a": 1', "or damaged"),
    ],
)
def test_damaged_safetensors(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read_weights(path)
    assert message in str(error.value) and str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_no_caffemodel_is_taken_for_safetensors(graph: Graph, tmp_path: Path) -> None:
    """They are told apart by content: the names may lie."""
    pycaffe_compat.save(graph, tmp_path / "w.caffemodel")
    path = (tmp_path / "w.caffemodel").rename(tmp_path / "w.safetensors")
    assert same(read_weights(path), graph.weights())
    net = carried_net(path)
    assert net is not None and net.param.name == "twins"


# ------------------------------------------------------------------------------------------------------- the tool


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda argv: tool.main([str(a) for a in args]))
    return int(end.value.code or 0)


def test_the_tool(graph: Graph, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, back = (tmp_path / name for name in ("w.caffemodel.h5", "w.safetensors", "back.caffemodel"))
    pycaffe_compat.save(graph, old)
    assert call(old, new) == 1
    assert capsys.readouterr().err == f"error: {old}: HDF5 weights carry no net: name its prototxt (--net)\n"
    assert call(old, new, "--net", net) == 0
    assert capsys.readouterr().out == f"{new}: {new.stat().st_size:,} bytes\n"
    assert call(new, back) == 0
    assert same(read_weights(back), graph.weights())


def test_the_tool_names_what_is_left_out_and_what_lacks(
    graph: Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pycaffe_compat.save(graph, tmp_path / "w.caffemodel")
    short = tmp_path / "short.prototxt"
    short.write_text("".join(NET.splitlines(keepends=True)[:4]))
    assert call(tmp_path / "w.caffemodel", tmp_path / "w.h5", "--net", short) == 0
    assert 'note: layer "bn" of' in capsys.readouterr().err
    assert list(read_weights(tmp_path / "w.h5")) == ["conv.1"]
    short.write_text(NET.replace('"sc"', '"other"'))
    assert call(tmp_path / "w.caffemodel", tmp_path / "x.h5", "--net", short) == 1
    assert 'holds no weights for layer "other" of the net' in capsys.readouterr().err
    assert not (tmp_path / "x.h5").exists()
    assert call(tmp_path / "none.caffemodel", tmp_path / "x.h5") == 1
    assert call(tmp_path / "w.caffemodel", tmp_path / "x.onnx") == 1
