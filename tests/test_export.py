"""ONNX export, judged by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pycaffe_compat import NetError
from pycaffe_compat.export import Deployed, ImageInOut, export_onnx, test_inputs, verify_onnx
from pycaffe_compat.graph import TEST, Graph
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
