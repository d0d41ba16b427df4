"""ONNX export, judged by ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pycaffe_compat import NetError, export
from pycaffe_compat.export import (
    Deployed,
    EveryLayer,
    ImageInOut,
    Proof,
    compare_onnx,
    convert,
    export_onnx,
    test_inputs,
    verify_onnx,
)
from pycaffe_compat.graph import TEST, TRAIN, Graph
from pycaffe_compat.layers import REGISTRY, Layer, register
from pycaffe_compat.proto.text import parse_net

PROTOTXT = Path(__file__).resolve().parents[1] / "prototxt"
# The edge-preserving networks are deployed as the direct ones are.
NETS = ["l4.prototxt", "l4_direct.prototxt", "l8.prototxt", "arcnn.prototxt"]


def restoration_net(name: str) -> Graph:
    graph = Graph(PROTOTXT / name, TEST, stages=["deploy"])
    last = list(graph.params)[-1]
    graph.params[last][0].data.mul_(20)  # the small first values of the last layer would hide a wrong sign
    return graph


@pytest.mark.parametrize("name", NETS)
def test_the_papers_networks_compute_the_same_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    model = Deployed(restoration_net(name))
    path = tmp_path / "net.onnx"
    export_onnx(model, path)
    assert verify_onnx(model, path, test_inputs(model)) < 1e-5
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["data"]
    assert [o.name for o in session.get_outputs()] == ["restored"]
    assert session.get_inputs()[0].shape == ["batch", 1, "height", "width"]


@pytest.mark.parametrize("name", ["l4.prototxt", "l8.prototxt"])
def test_image_in_image_out_takes_luma_of_any_size(name: str, tmp_path: Path) -> None:
    graph = restoration_net(name)
    path = tmp_path / "net.onnx"
    export_onnx(ImageInOut(graph), path, {"weights_file": "none"})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == ["batch", 1, "height", "width"]
    assert session.get_modelmeta().custom_metadata_map["weights_file"] == "none"
    rng = np.random.default_rng(0)
    border = {"l4.prototxt": 9, "l8.prototxt": 12}[name]
    for shape in ((1, 1, 61, 40), (3, 1, 33, 128), (1, 1, border + 1, border + 1)):
        luma = (rng.random(shape) * 255).astype(np.float32)
        (got,) = session.run(None, {"data": luma})
        assert got.shape == shape
        padded = np.pad(luma, ((0, 0), (0, 0), (border, border), (border, border)), mode="reflect")
        want = graph(torch.from_numpy(padded))["restored"].detach().numpy().clip(0, 255)
        np.testing.assert_allclose(got, want, atol=2e-3)


def test_the_file_holds_nothing_of_the_machine_that_made_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export_onnx(Deployed(restoration_net("l4.prototxt")), path)
    content = path.read_bytes()
    for trace in (str(Path(__file__).resolve().parents[1]), "site-packages", "graph.py"):
        assert trace.encode() not in content
    assert onnx.load(path).producer_name == "pycaffe_compat"


def test_a_wrong_file_shows_as_a_difference(tmp_path: Path) -> None:
    """The proof can fail: one weight changed in the file is seen."""
    model = Deployed(restoration_net("l4.prototxt"))
    path = tmp_path / "net.onnx"
    export_onnx(model, path)
    proto = onnx.load(path)
    weight = max(proto.graph.initializer, key=lambda init: len(init.raw_data))
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[7] += 0.5
    weight.raw_data = values.tobytes()
    onnx.save(proto, path)
    assert verify_onnx(model, path, test_inputs(model)) > 1e-4


SIDE = """
layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 9 } shape { dim: 1 dim: 6 } } }
layer { name: "slice" type: "Slice" bottom: "a" top: "s0" top: "s1" top: "s2" slice_param { axis: 1 } }
layer { name: "max" type: "Eltwise" bottom: "s0" bottom: "s1" top: "max" eltwise_param { operation: MAX } }
layer { name: "prelu" type: "PReLU" bottom: "s2" top: "prelu" }
layer { name: "tanh" type: "TanH" bottom: "b" top: "tanh" }
layer { name: "sigmoid" type: "Sigmoid" bottom: "tanh" top: "tanh" }
layer { name: "cube" type: "Power" bottom: "max" top: "cube" power_param { power: 3 scale: 0.01 } }
"""


def test_several_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    model = Deployed(Graph(parse_net(SIDE), TEST))
    path = tmp_path / "net.onnx"
    export_onnx(model, path)
    assert verify_onnx(model, path, test_inputs(model)) < 1e-6
    proto = onnx.load(path)
    assert [i.name for i in proto.graph.input] == ["a", "b"]
    assert [o.name for o in proto.graph.output] == ["cube", "prelu", "tanh"]


def test_image_in_out_refuses_a_net_of_another_form() -> None:
    with pytest.raises(NetError, match="one input and one output"):
        ImageInOut(Graph(parse_net(SIDE), TEST))
    uneven = (
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 9 dim: 9 } } }'
        'layer { name: "c" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 1 kernel_size: 2 } }'
    )
    with pytest.raises(NetError, match="same border on every side; it makes 1x1x8x8 of 1x1x9x9"):
        ImageInOut(Graph(parse_net(uneven), TEST))


def test_a_net_without_inputs_cannot_be_deployed(tmp_path: Path) -> None:
    with pytest.raises(NetError, match="choose its deployment phase and stage"):
        Deployed(Graph(parse_net('name: "empty"'), TEST))


# ------------------------------------------------------------------------------------------- whole nets, with proof

Dims = list[int | str]


def blob(name: str, *dims: int) -> str:
    shape = " ".join(f"dim: {dim}" for dim in dims)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {shape} }} }} }}\n'


def layer(kind: str, bottoms: str, tops: str = "y", settings: str = "", name: str = "op") -> str:
    ends = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(ends)} {settings} }}\n'


def converted(text: str, folder: Path, phase: int = TEST) -> tuple[Proof, dict[str, Dims]]:
    """The proof of a net's conversion, and the sizes that the file declares of its inputs."""
    torch.manual_seed(0)
    proof = convert(EveryLayer(Graph(parse_net(text), phase)), folder / "net.onnx", 1e-5)
    inputs = onnx.load(folder / "net.onnx").graph.input
    return proof, {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in inputs}


XAVIER = 'weight_filler { type: "xavier" }'
RECURRENT = f"recurrent_param {{ num_output: 3 {XAVIER} }}"
IP = f"inner_product_param {{ num_output: 3 {XAVIER} }}"
CONV = f"convolution_param {{ num_output: 1 kernel_size: 3 stride: 2 {XAVIER} }}"
SIZES: list[tuple[str, str, dict[str, Dims]]] = [
    (
        "one step of a captioning net",
        blob("x", 1, 1, 5) + blob("cont", 1, 1) + layer("LSTM", "x cont", settings=RECURRENT),
        {"x": [1, "batch", 5], "cont": [1, "batch"]},
    ),
    (
        "words, cont and an image",
        blob("words", 3, 2)
        + blob("cont", 3, 2)
        + blob("image", 2, 4)
        + layer("Embed", "words", "e", f"embed_param {{ input_dim: 7 num_output: 3 {XAVIER} }}")
        + layer("RNN", "e cont image", settings=RECURRENT),
        {"words": [3, "batch"], "cont": [3, "batch"], "image": ["batch", 4]},
    ),
    (
        "a batch of 1 that a Reshape fixes, beside one that is free",
        blob("v", 1, 2)
        + blob("x", 1, 3, 4)
        + layer("TanH", "v", "t")
        + layer("Reshape", "x", "r", "reshape_param { shape { dim: 1 dim: -1 } }")
        + layer("InnerProduct", "r", settings=IP),
        {"v": ["batch", 2], "x": [1, 3, 4]},
    ),
    (
        "maps that only some sizes let fit together",
        blob("x", 1, 1, 9, 9)
        + layer("Convolution", "x", "c", CONV)
        + layer("Pooling", "x", "p", "pooling_param { kernel_size: 3 stride: 2 }")
        + layer("Concat", "c p"),
        {"x": ["batch", 1, 9, 9]},
    ),
    (
        "maps that a large stride makes fit again",
        blob("x", 1, 1, 65, 65)
        + layer("Pooling", "x", "p", "pooling_param { kernel_size: 1 stride: 64 }")
        + layer("InnerProduct", "p", settings=IP),
        {"x": ["batch", 1, 65, 65]},
    ),
    (
        "maps beside a vector, each with a batch of its own",
        blob("x", 1, 1, 9, 9) + blob("v-1", 1, 4) + layer("Convolution", "x", "c", CONV) + layer("TanH", "v-1", "t"),
        {"x": ["batch", 1, "height", "width"], "v-1": ["v_1_batch", 4]},
    ),
    (
        "statistics of the batch itself",
        blob("x", 2, 3, 5, 5)
        + layer("BatchNorm", "x", settings="batch_norm_param { use_global_stats: false }")
        + layer("Scale", "y", settings="scale_param { bias_term: true filler { value: 3 } }"),
        {"x": ["batch", 3, "height", "width"]},
    ),
]


@pytest.mark.parametrize(("text", "sizes"), [row[1:] for row in SIZES], ids=[row[0] for row in SIZES])
def test_a_file_takes_the_nets_own_sizes_and_those_that_it_is_proved_with(
    text: str, sizes: dict[str, Dims], tmp_path: Path
) -> None:
    _, declared = converted(text, tmp_path)
    assert declared == sizes
    model = Deployed(Graph(parse_net(text), TEST))
    own, *others = test_inputs(model)
    assert [a.shape for a in own] == [model.net.shapes[name] for name in model.input_names]
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for arrays in (own, *others):
        session.run(None, dict(zip(model.input_names, arrays, strict=True)))
    assert bool(others) == any(isinstance(d, str) for dims in sizes.values() for d in dims)


@pytest.fixture
def own_types() -> Iterator[None]:
    before = set(REGISTRY)
    yield
    for name in set(REGISTRY) - before:
        del REGISTRY[name]


@pytest.mark.parametrize("fails", [False, True])
def test_a_batch_that_only_the_exporter_fixes_is_the_nets_own(own_types: None, fails: bool, tmp_path: Path) -> None:
    @register("TestEachItem")
    class EachItem(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            if fails and torch.compiler.is_exporting() and x.shape[0] == 2:
                raise RuntimeError
            return torch.cat([2 * x[i : i + 1] for i in range(int(x.shape[0]))])

    assert converted(blob("x", 1, 3) + layer("TestEachItem", "x"), tmp_path)[1] == {"x": [1, 3]}


def test_what_the_exporter_refuses_is_told_in_a_line(
    own_types: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    @register("TestUnfit")
    class Unfit(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return x @ torch.zeros(x.shape[1] + int(torch.compiler.is_exporting()), 2)

    @register("TestSilent")
    class Silent(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            if torch.compiler.is_exporting():
                raise RuntimeError
            return x

    for kind, reason in (("TestUnfit", "must have same reduction dim"), ("TestSilent", "RuntimeError")):
        with pytest.raises(NetError, match=rf'^net "" cannot be exported to ONNX: .*{reason}.*$'):
            export_onnx(Deployed(Graph(parse_net(blob("x", 2, 3) + layer(kind, "x")), TEST)), tmp_path / "net.onnx")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")


def test_training_nets_normalize_by_the_batch_in_onnx_too(tmp_path: Path) -> None:
    graph = Graph(parse_net(blob("x", 4, 3) + layer("BatchNorm", "x")), TRAIN)
    before = graph.weights()["op"]
    model = Deployed(graph)
    export_onnx(model, tmp_path / "net.onnx")
    for mine, kept in zip(graph.weights()["op"], before, strict=True):
        np.testing.assert_array_equal(mine, kept)
    assert verify_onnx(model, tmp_path / "net.onnx", test_inputs(model)) < 1e-5


def test_an_input_is_no_output(tmp_path: Path) -> None:
    """One that nobody reads is none; what layers in place make of one has a name of its own."""
    text = blob("x", 1, 3) + blob("unread", 1, 2) + layer("TanH", "x", "x") + layer("Power", "x", "x", "power_param { scale: -3 }")
    proof, _ = converted(text, tmp_path)
    assert (proof.inputs, proof.outputs) == (["x", "unread"], ["x_out"])
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    x = np.array([[1, 2, 3]], np.float32)
    (got,) = session.run(["x_out"], {"x": x, "unread": np.zeros((1, 2), np.float32)})
    np.testing.assert_allclose(got, -3 * np.tanh(x), rtol=1e-6)
    with pytest.raises(NetError, match="has no output in this state"):
        Deployed(Graph(parse_net(blob("x", 1, 3)), TEST))


def test_layers_of_one_name_are_told_apart() -> None:
    """A name made of a layer and its top may be a blob's, too."""
    text = (
        blob("a/b", 1, 3)
        + layer("TanH", "a/b", "b", name="a")
        + layer("Power", "b", "b", "power_param { scale: 2 }", name="a")
        + layer("AbsVal", "b", "a/b_", name="a")
    )
    model = EveryLayer(Graph(parse_net(text), TEST))
    assert len(set(model.input_names + model.output_names)) == 4
    x = torch.tensor([[-1.0, 0.5, 2]])
    values = dict(zip(model.output_names, model(x), strict=True))
    assert model.own_outputs == ["a/b_"]
    first, second = (values[name] for name in model.output_names[:2])
    torch.testing.assert_close(first, x.tanh())
    torch.testing.assert_close(second, 2 * x.tanh())
    torch.testing.assert_close(values["a/b_"], 2 * x.tanh().abs())


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("got", "want", "difference"),
    [
        ([1, NAN], [1, NAN], 0),
        ([1, INF, -INF], [2, INF, -INF], 1),
        ([NAN], [1], INF),
        ([1], [NAN], INF),
        ([INF], [-INF], INF),
        ([INF], [NAN], INF),
        ([1, 1], [1], INF),
        ([3e38], [-3e38], 6e38),
        ([], [], 0),
    ],
)
def test_differences(got: list[float], want: list[float], difference: float) -> None:
    measured = export._difference(np.array(got, np.float32), np.array(want, np.float32))
    assert measured == pytest.approx(difference)


def power(scale: float) -> Deployed:
    text = blob("x", 2, 3) + layer("Log", "x", "l") + layer("Power", "l", settings=f"power_param {{ scale: {scale} }}")
    return Deployed(Graph(parse_net(text), TEST))


def test_a_proof_is_of_small_values_and_of_no_numbers_too(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export_onnx(power(1e-5), path)
    x = np.array([[1, 2, 3], [0, -1, 5]], np.float32)  # logarithms: -inf and NaN among them
    assert compare_onnx(power(1e-5), path, [[x], [x[:1]]])["y"] < 1e-6
    assert compare_onnx(power(1.1e-5), path, [[x]])["y"] == pytest.approx(0.1 / 1.1, rel=1e-4)
    assert compare_onnx(power(-1e-5), path, [[x[:1]], [x], [x[:1]]])["y"] == INF  # an inf of the other sign


def test_inputs_that_do_not_fit_are_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = power(1)
    export_onnx(model, path)
    for array, message in (
        (np.ones(3, np.float32), r"none of the test inputs has these sizes: x 3$"),
        (np.ones((2, 4), np.float32), r"takes {'x': \['batch', 3\]}: none of .*: x 2x4$"),
        (np.ones((2, 3), np.float64), "ONNX Runtime fails on inputs of x 2x3: "),
    ):
        with pytest.raises(NetError, match=message):
            compare_onnx(model, path, [[array]])
    path.write_bytes(b"no model")
    with pytest.raises(NetError, match="net.onnx: ONNX Runtime cannot load it: "):
        compare_onnx(model, path, [[np.ones((2, 3), np.float32)]])
    labels = Deployed(Graph(parse_net(blob("x", 2, 3) + blob("label", 2) + layer("SoftmaxWithLoss", "x label")), TEST))
    export_onnx(labels, path)
    with pytest.raises(NetError, match=r"cannot compute the inputs to compare on, x 2x3, label 2: .* --inputs"):
        compare_onnx(labels, path, test_inputs(labels))


def test_more_weights_than_a_file_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MOST_BYTES", 2**16)
    with pytest.raises(NetError, match=r'net "L4" has 28\d\.\d KiB of weights: an ONNX file holds at most 64\.0 KiB'):
        export_onnx(Deployed(restoration_net("l4.prototxt")), tmp_path / "net.onnx")
