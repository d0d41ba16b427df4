"""The schemas of forks: found by trial, given by name or file, and of no concern to the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pycaffe_compat
from pycaffe_compat.errors import CaffeError, PrototxtError
from pycaffe_compat.graph import Graph
from pycaffe_compat.layers.base import REGISTRY, Layer, register
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary import blob_to_array
from pycaffe_compat.proto.binary_net import parse_binary_net, read_binary_net
from pycaffe_compat.proto.dialects import NAMES, Dialect, find_dialect, settings_of
from pycaffe_compat.proto.protofile import HERE, read_schema
from pycaffe_compat.proto.text import parse_message, parse_net, parse_solver, read_net
from pycaffe_compat.weights import read_weights, write_weights

FORKS = NAMES[1:]


def dialect_of(message: Any) -> str:
    return str(message.DESCRIPTOR.file.name).removesuffix(".proto").replace("caffe", "bvlc")


# ------------------------------------------------------------------------------------------------------- the facts


@pytest.mark.parametrize(
    ("dialect", "message", "field", "number"),
    [
        *((fork, "LayerParameter", name, number) for fork in FORKS for name, number in {
            "annotated_data_param": 200, "multibox_loss_param": 201, "permute_param": 202, "prior_box_param": 203,
            "detection_output_param": 204, "detection_evaluate_param": 205, "norm_param": 206, "video_data_param": 207,
        }.items()),
        ("ssd", "SolverParameter", "eval_type", 41),
        ("ssd", "SolverParameter", "layer_wise_reduce", 20041),
        ("ssd", "LayerParameter", "clip_param", 148),
        ("nvidia", "LayerParameter", "forward_type", 145),
        ("nvidia", "LayerParameter", "backward_type", 146),
        ("nvidia", "LayerParameter", "forward_math", 147),
        ("nvidia", "LayerParameter", "backward_math", 148),
        ("nvidia", "LayerParameter", "recurrent_param", 151),
        ("nvidia", "LayerParameter", "parameter_param", 20145),
        ("nvidia", "LayerParameter", "detectnet_groundtruth_param", 6801),
        ("nvidia", "TransformationParameter", "use_gpu_transform", 8),
        ("nvidia", "TransformationParameter", "resize_param", 208),
        ("nvidia", "BlobProto", "raw_data", 12),
        ("intel", "LayerParameter", "smooth_l1_loss_param", 148),
        ("intel", "LayerParameter", "roi_pooling_param", 154),
        ("intel", "NetParameter", "engine", 9),
        ("intel", "PoolingParameter", "avg_include_pad", 13),
        ("intel", "PoolingParameter", "round_mode", 20013),
        ("community", "LayerParameter", "roi_pooling_param", 8266711),
        ("community", "LayerParameter", "shuffle_channel_param", 164),
        ("community", "LayerParameter", "swish_param", 147),
    ],
)  # fmt: skip
def test_numbers(dialect: str, message: str, field: str, number: int) -> None:
    fields = find_dialect(dialect)[message].DESCRIPTOR.fields_by_name
    assert fields[field].number == number


@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_lacks_nothing_that_the_code_asks_for(fork: str) -> None:
    """Every message, field and enum value of stock Caffe is there by its name, of the same kind."""
    theirs = find_dialect(fork)
    for name, ours in caffe_pb2.DESCRIPTOR.message_types_by_name.items():
        descriptor = theirs[name].DESCRIPTOR
        for field in ours.fields:
            other = descriptor.fields_by_name[field.name]
            assert (other.type, other.is_repeated) == (field.type, field.is_repeated), field.full_name
            for value in field.enum_type.values if field.enum_type else ():
                assert other.enum_type.values_by_name[value.name].number == value.number


# --------------------------------------------------------------------------------------------------- found by trial

SAMPLES = {
    "bvlc": 'layer { name: "a" type: "Swish" swish_param { beta: 2 } } layer { type: "Clip" clip_param { min: 0 max: 1 } }',
    "ssd": 'layer { name: "a" type: "Permute" permute_param { order: 0 order: 2 order: 1 } }',
    "nvidia": 'default_forward_type: FLOAT16 layer { name: "a" type: "ReLU" forward_type: FLOAT16 backward_math: FLOAT }',
    "intel": 'layer { name: "a" type: "ReLU" relu_param { engine: MKL2017 } engine: "MKLDNN" }',
    "community": 'layer { name: "a" type: "ROIPooling" roi_pooling_param { pooled_h: 7 pooled_w: 7 spatial_scale: 0.0625 } interp_param { height: 3 } upsample_param { scale: 2 } mish_param { engine: CUDNN } }',
}


@pytest.mark.parametrize("dialect", NAMES)
def test_text_and_binary_nets_are_told_apart(dialect: str) -> None:
    param = parse_net(SAMPLES[dialect]).param
    assert dialect_of(param) == dialect
    given = parse_net(SAMPLES[dialect], dialect=dialect).param
    assert type(given) is type(param) and given == param
    binary = parse_binary_net(param.SerializeToString())
    assert dialect_of(binary.param) == dialect and binary.param == param and not binary.notes


def test_a_given_dialect_is_the_only_one_tried() -> None:
    with pytest.raises(PrototxtError, match=r'^n:1:.*LayerParameter has no field "permute_param"[^,]*$'):
        parse_net(SAMPLES["ssd"], "n", dialect="bvlc")


def test_of_dialects_that_do_not_fit_the_nearest_speaks() -> None:
    text = 'layer { name: "x"\n forward_type: FLOAT16\n permute_param { }\n strange_param { } }'
    with pytest.raises(PrototxtError) as caught:
        parse_net(text, "n.prototxt")
    assert str(caught.value).startswith('n.prototxt:4:2: LayerParameter has no field "strange_param" (layer "x"), nor has')
    assert "more of the kind" not in str(caught.value)


def test_what_no_schema_knows_in_a_binary_net_is_noted_and_kept() -> None:
    net = caffe_pb2.NetParameter.FromString(
        caffe_pb2.NetParameter(name="n", layer=[caffe_pb2.LayerParameter(name="c", type="My")]).SerializeToString()
    )
    layer = net.layer[0]
    layer.MergeFromString(b"\xf2\xff\x03\x02\x08\x07")  # field 8190: a message
    layer.convolution_param.MergeFromString(b"\xb8\x3f\x01")  # field 1015: a number
    source = parse_binary_net(net.SerializeToString(), "n.caffemodel")
    assert source.notes == [
        'n.caffemodel: layer "c" (My): LayerParameter has no field of number 8190: it is ignored',
        'n.caffemodel: layer "c" (My): ConvolutionParameter has no field of number 1015: it is ignored',
    ]
    assert source.param.SerializeToString() == net.SerializeToString()


def test_solvers_of_forks() -> None:
    solver = parse_solver('base_lr: 0.1 eval_type: "detection" ap_version: "11point" solver_type: ADAM')
    assert (dialect_of(solver), solver.eval_type, solver.type, list(solver.weights)) == ("ssd", "detection", "Adam", [])
    assert dialect_of(parse_solver("base_lr: 0.1 larc: true")) == "nvidia"


# --------------------------------------------------------------------------------------------------- a user's schema

OVERLAY = 'import "ssd.proto"; extend LayerParameter { optional MyParameter my_param = 999; }\nmessage MyParameter { optional int32 size = 1; }'


@pytest.mark.parametrize("kind", ["overlay", "whole", "desc"])
def test_a_schema_of_the_users(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("my.desc" if kind == "desc" else "my.proto")
    if kind == "overlay":
        path.write_text(OVERLAY)
    elif kind == "whole":
        text = (HERE / "caffe.proto").read_text(encoding="utf-8")
        text = text.replace("optional WindowDataParameter window_data_param = 129;", "optional MyParameter my_param = 999;", 1)
        path.write_text(text + "/* ours */ message MyParameter { optional int32 size = 1; reserved 2; }", encoding="utf-8")
    else:
        (tmp_path / "x.proto").write_text(OVERLAY)
        path.write_bytes(read_schema(tmp_path / "x.proto").SerializeToString())
    net = tmp_path / "n.prototxt"
    net.write_text('layers { name: "a" type: RELU } ')
    assert read_net(net, dialect=path).param.layer[0].type == "ReLU"
    net.write_text('layer { type: "My" my_param { size: 3 } }')
    source = read_net(net, dialect=path)
    assert source.param.layer[0].my_param.size == 3
    (tmp_path / "n.caffemodel").write_bytes(source.param.SerializeToString())
    assert read_binary_net(tmp_path / "n.caffemodel", dialect=find_dialect(path)).param.layer[0].my_param.size == 3


@pytest.mark.parametrize("package", ["caffe", "my.caffe", ""])
def test_a_schema_of_an_older_caffe_is_completed(package: str, permuting: None, tmp_path: Path) -> None:
    """Like the one of Fast R-CNN: no Input layer, no BatchNorm, one kernel_size."""
    (tmp_path / "old.proto").write_text(
        (f"package {package};" if package else "")
        + "message BlobProto { repeated float data = 5 [packed = true]; }\n"
        "message NetParameter { optional string name = 1; repeated LayerParameter layer = 100; repeated string input = 3; }\n"
        "message LayerParameter { optional string name = 1; optional string type = 2; repeated string bottom = 3; repeated string top = 4;\n"
        "  repeated BlobProto blobs = 7; optional ConvolutionParameter convolution_param = 106;\n"
        "  optional PermuteParameter permute_param = 143; }\n"
        "message PermuteParameter { repeated uint32 order = 1; }\n"
        "message ConvolutionParameter { optional uint32 num_output = 1; optional uint32 kernel_size = 4 [default = 1]; optional bool bias_term = 2; }\n"
    )
    text = 'input: "x" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5 ' + NET.split("\n", 2)[2]
    graph = Graph(parse_net(text, dialect=tmp_path / "old.proto"), phase=1)
    assert graph.shapes["z"] == (2, 2, 5, 3)
    number = graph.param.layer[0].DESCRIPTOR.fields_by_name["input_param"].number
    assert number == 20143 and graph.param.layer[0].input_param.shape[0].dim[0] == 2
    again = parse_binary_net(graph.param.SerializeToString(), dialect=tmp_path / "old.proto").param
    assert list(again.layer[1].permute_param.order) == [0, 2, 3, 1]
    solver = parse_solver("base_lr: 1 solver_type: ADAM", dialect=tmp_path / "old.proto")
    assert solver.type == "Adam"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sdd", None, 'unknown dialect "sdd"; did you mean "ssd"? (known: bvlc, ssd, nvidia, community, intel), or give a .proto'),
        ("absent.proto", None, "absent.proto: cannot be read: No such file"),
        ("a.proto", b"message M {", "a.proto: the file ends in the middle of a definition"),
        ("a.proto", b"\nservice X { }", "a.proto: line 2: message or enum expected, found service"),
        ("a.proto", b'import "a.proto";', "a.proto: line 1: import a.proto: "),
        ("a.proto", b"\xff", "a.proto: 'utf-8' codec can't decode"),
        ("a.desc", b"", "a.desc: is no schema of Caffe's: it has no message NetParameter"),
        ("a.proto", b"package p; message NetParameter { }", "a.proto: is no schema of Caffe's: it has no message LayerParameter"),
        ("a.proto", b"message NetParameter { } message LayerParameter { optional int32 a = 1; optional int32 b = 1; }", "a.proto: is no schema: "),
        ("a.proto", b"message NetParameter { } message LayerParameter { optional int32 a = 0; }", "a.proto: is no schema: "),
        ("a.proto", b"message NetParameter { optional LayerParameter layer = 5; } message LayerParameter { } message BlobProto { }", "is no schema of Caffe's: NetParameter has no field layer"),
        ("a.desc", b"\x0a\x05\x01", "a.desc: is no schema: "),
    ],
)  # fmt: skip
def test_schemas_that_are_none(
    name: str, content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(PrototxtError) as caught:
        parse_net("", dialect=name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# ----------------------------------------------------------------------------- layers find their settings, wherever


@pytest.fixture
def permuting() -> Iterator[None]:
    """A layer type that knows nothing but the name of its message."""

    @register("PermuteForTest", param="permute_param")
    class PermuteForTest(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(list(self.settings.order) or list(range(x.ndim)))

    yield
    del REGISTRY["PermuteForTest"]


NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }
layer { name: "p" type: "PermuteForTest" bottom: "x" top: "y" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "c" type: "Convolution" bottom: "y" top: "z" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "s1" type: "Sigmoid" bottom: "z" top: "s1" }
layer { name: "s2" type: "Sigmoid" bottom: "z" top: "s2" }
layer { name: "in2" type: "Sigmoid" bottom: "z" top: "s3" include { phase: TRAIN } }
"""


@pytest.mark.parametrize("dialect", [None, *FORKS])
def test_a_registered_layer_gets_the_message_of_its_dialect(permuting: None, dialect: str | None, tmp_path: Path) -> None:
    source = parse_net(NET, dialect=dialect)
    graph = Graph(source, phase=1)
    assert graph.shapes["y"] == (2, 4, 5, 3) and graph.shapes["s1"] == (2, 2, 5, 3)
    x = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(graph.run(x)["y"], x.permute(0, 2, 3, 1))

    path = tmp_path / "w.caffemodel"
    write_weights(path, graph.param, graph.weights())
    again = Graph(read_binary_net(path, dialect), phase=1)
    again.load_weights(read_weights(path))
    for name, value in graph(x).items():
        torch.testing.assert_close(again(x)[name], value, rtol=0, atol=0)
    assert dialect_of(again.param) == dialect_of(graph.param) == (dialect or "ssd")


def test_a_net_that_does_not_set_it_gets_the_defaults(permuting: None) -> None:
    text = 'input: "x" input_shape { dim: 2 dim: 3 } layer { name: "p" type: "PermuteForTest" bottom: "x" top: "y" }'
    source = parse_net(text)
    assert dialect_of(source.param) == "bvlc"
    assert Graph(source).shapes["y"] == (2, 3)
    with pytest.raises(CaffeError, match="no dialect has the field nonsense_param"):
        settings_of(source.param.layer[0], "nonsense_param")


def test_load_takes_a_dialect(permuting: None, tmp_path: Path) -> None:
    path = tmp_path / "n.prototxt"
    path.write_text(NET)
    assert pycaffe_compat.load(path, dialect="ssd")(torch.rand(2, 3, 4, 5))["s1"].shape == (2, 2, 5, 3)
    with pytest.raises(PrototxtError, match="permute_param"):
        pycaffe_compat.load(path, dialect="bvlc")


def test_half_precision_of_nvidias_files(tmp_path: Path) -> None:
    nvidia: Dialect = find_dialect("nvidia")
    values = np.array([[1, 2.5, -3]])
    net = nvidia["NetParameter"](name="n")
    for name, dtype, kind in (("h", np.float16, "FLOAT16"), ("f", np.float32, "FLOAT"), ("d", np.float64, "DOUBLE")):
        blob = net.layer.add(name=name).blobs.add(raw_data=values.astype(dtype).tobytes(), raw_diff=bytes(dtype().nbytes * 3))
        blob.raw_data_type = blob.raw_diff_type = nvidia.messages[kind]
        blob.shape.dim.extend([1, 3])
    (tmp_path / "w").write_bytes(net.SerializeToString())
    weights = read_weights(tmp_path / "w")
    assert all(weights[name][0].tolist() == values.tolist() for name in "hfd")
    stock = parse_message("", caffe_pb2.BlobProto())
    stock.MergeFromString(net.layer[0].blobs[0].SerializeToString())
    assert blob_to_array(stock).tolist() == values.tolist() and not blob_to_array(stock, diff=True).any()
