"""What holds for every registered type: it has a row in a table, compiles, exports; docs/layers.md says what is so.

The tables are the ``TABLE`` and ``FORWARD_ONLY`` of the test files here; a type's first row is its sample.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format

from docs.layer_table import layer_table
from pycaffe_compat import NetError
from pycaffe_compat.export import Deployed, export_onnx, verify_onnx
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.layers import REGISTRY
from pycaffe_compat.proto.dialects import find_dialect
from pycaffe_compat.proto.fields import NOT_READ
from pycaffe_compat.proto.schema import NAMES
from pycaffe_compat.proto.text import parse_net
from tests.layers.harness import build, ids, op, values

HERE = Path(__file__).resolve().parent
# Types whose tests are not rows of a table.
ELSEWHERE = {
    "AnnotatedData": "tests/data_sources/test_annotated_source.py",
    "HDF5Data": "tests/data_sources/test_hdf5_source.py",
    "Input": "every row",
    "Python": "tests/layers/test_layers.py",
    "Silence": "tests/layers/test_layers.py",
} | dict.fromkeys(
    ("Data", "DummyData", "HDF5Output", "ImageData", "MemoryData", "WindowData"), "tests/layers/test_data_layers.py"
)
PARAMETER = (
    'layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 3 } } }'
    'layer { name: "op" type: "Bias" bottom: "a" bottom: "w" top: "y" }'
)
SILENCE = op("Split", tops=["y", "z"]) + 'layer { name: "s" type: "Silence" bottom: "z" }'
# Their tables are test_losses.py's, in a form of their own.
LABELS = np.array([0, 2], np.float32)
LOSSES: dict[str, tuple[str, Any]] = {
    "Accuracy": (op("Accuracy", bottoms=2), [(2, 3), LABELS]),
    "ContrastiveLoss": (op("ContrastiveLoss", bottoms=3), [(2, 3), (2, 3), np.array([0, 1], np.float32)]),
    "HingeLoss": (op("HingeLoss", bottoms=2), [(2, 3), LABELS]),
    "InfogainLoss": (op("InfogainLoss", bottoms=3), [(2, 3), LABELS, np.eye(3, dtype=np.float32).reshape(1, 1, 3, 3)]),
    "MultinomialLogisticLoss": (op("MultinomialLogisticLoss", bottoms=2), [np.full((2, 3), 1 / 3), LABELS]),
    "SigmoidCrossEntropyLoss": (op("SigmoidCrossEntropyLoss", bottoms=2), [(2, 3), np.eye(2, 3, dtype=np.float32)]),
    "SoftmaxWithLoss": (op("SoftmaxWithLoss", bottoms=2), [(2, 3), LABELS]),
}


def samples() -> dict[str, tuple[str, Any]]:
    """Layer text and bottoms of a row of each type."""
    found: dict[str, tuple[str, Any]] = {
        "Input": (op("AbsVal"), [(2, 3)]),
        "Parameter": (PARAMETER, [(2, 3)]),
        "Silence": (SILENCE, [(2, 3)]),
        **LOSSES,
    }
    for file in sorted(HERE.glob("test_*_layers.py")) + [HERE / "test_layers.py"]:
        module = importlib.import_module(f"tests.layers.{file.stem}")
        for row in [*getattr(module, "TABLE", []), *getattr(module, "FORWARD_ONLY", [])]:
            found.setdefault(ids(row[0]) or "", (row[0], row[1]))
    return found


SAMPLES = samples()
TYPES = sorted(name for name in REGISTRY if not name.startswith("Test"))
COMPUTED = [name for name in TYPES if name in SAMPLES and not REGISTRY[name].cls.no_onnx]


# Fields of forks in stock Caffe's messages. Those that are read:
READ = """
    ConvolutionParameter: hole hole_h hole_w negative_slope relu
    PoolingParameter: avg_include_pad ceil_mode torch_pooling
    TransformationParameter: crop_h crop_w distort_param emit_constraint expand_param noise_param resize_param
"""
# Those that change nothing of what is computed (engines, threads, precision), or only what is refused itself
# (normalization PRE_FIXED, ImageSegData).
HARMLESS = """
    BatchNormParameter: engine
    ConcatParameter: engine
    ConvolutionParameter: conv_algorithm conv_algos_override cudnn_convolution_algo_seeker
    DataParameter: cache parser_threads precache threads
    DropoutParameter: engine random_seed
    EltwiseParameter: engine
    ImageDataParameter: cache label_type precache threads
    InnerProductParameter: engine
    LossParameter: pre_fixed_normalizer
    ReLUParameter: fuse
    TransformationParameter: allow_upscale display forward_packing interpolation_algo_down interpolation_algo_up
    TransformationParameter: num_labels random_seed use_gpu_transform
"""


def test_no_field_of_a_fork_is_passed_over() -> None:
    known = {(message, name) for message, names in NOT_READ.items() for name in names}
    for line in (READ + HARMLESS).split("\n"):
        message, _, names = line.strip().partition(":")
        known |= {(message, name) for name in names.split()}
    stock = find_dialect("bvlc")["LayerParameter"].DESCRIPTOR.fields_by_name
    params = {row.param for row in REGISTRY.values() if row.param} | {"transform_param", "loss_param"}
    found = set()
    for dialect in map(find_dialect, NAMES):
        for param in dialect["LayerParameter"].DESCRIPTOR.fields:
            if param.name in params and param.name in stock:
                own = set(param.message_type.fields_by_name) - set(stock[param.name].message_type.fields_by_name)
                found |= {(param.message_type.name, name) for name in own}
    assert found == known


def test_every_type_has_a_row_or_a_test_of_its_own() -> None:
    assert not set(TYPES) - set(SAMPLES) - set(ELSEWHERE)


# What PyTorch's compiler does with an autograd.Function, PyTorch itself warns of.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in COMPUTED if name != "Filter"])
def test_it_compiles_as_one_graph(name: str) -> None:
    """(Filter does not: the sizes behind it are not known when it is compiled.)"""
    text, bottoms = SAMPLES[name]
    given = [torch.from_numpy(v) for v in values(bottoms)]
    want = build(text, bottoms, TEST)
    graph = build(text, bottoms, TEST)
    graph.load_state_dict(want.state_dict())
    torch._dynamo.reset()
    got = torch.compile(graph, fullgraph=True, backend="eager")(*given)
    for top, value in want(*given).items():
        torch.testing.assert_close(got[top], value)


@pytest.mark.parametrize("name", [name for name in TYPES if name in SAMPLES])
def test_it_has_a_gradient_where_it_says_so(name: str) -> None:
    text, bottoms = SAMPLES[name]
    if name in ("Input", "Silence"):
        assert REGISTRY[name].cls.gradient == "no"
        return
    graph = build(text, bottoms)
    tops = graph.run(*(torch.from_numpy(v).requires_grad_() for v in values(bottoms)))
    assert any(tops[top].requires_grad for top in graph.nodes[-1].tops) == (REGISTRY[name].cls.gradient != "no")


def test_what_has_a_form_in_onnx_computes_the_same_there(tmp_path: Path) -> None:
    """One net of all types' samples, side by side, as ONNX Runtime computes it."""
    net, inputs = find_dialect("community")["NetParameter"](name="samples"), []  # it has every fork's types
    for name in COMPUTED:
        text, bottoms = SAMPLES[name]
        inputs += values(bottoms)
        for layer in build(text, bottoms, TEST).param.layer:
            copy = net.layer.add()
            text_format.Parse(text_format.MessageToString(layer), copy)
            copy.name = f"{name} {layer.name}"
            copy.bottom[:] = [f"{name} {blob}" for blob in layer.bottom]
            copy.top[:] = [f"{name} {blob}" for blob in layer.top]
    model = Deployed(Graph(net, TEST))
    export_onnx(model, tmp_path / "samples.onnx")
    assert verify_onnx(model, tmp_path / "samples.onnx", [inputs]) < 1e-5
    refused = {name for name in TYPES if REGISTRY[name].cls.no_onnx}
    assert set(COMPUTED) | refused == set(TYPES)


def test_what_has_no_form_in_onnx_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "same_layer.py").write_text(
        "import pycaffe_compat as caffe\n"
        "class Same(caffe.Layer):\n"
        "    def reshape(self, bottom, top):\n"
        "        top[0].reshape(*bottom[0].data.shape)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    graph = build(op("Python", "python_param { module: 'same_layer' layer: 'Same' }"), [(2, 3)])
    with pytest.raises(NetError, match=r'test.prototxt:2: layer "op" \(Python\): has no form in ONNX: it runs Python'):
        export_onnx(Deployed(graph), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


FIXED = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 6 dim: 6 } } }
layer { name: "pool" type: "Pooling" bottom: "x" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 3 } }
"""


def test_a_size_that_a_layer_fixes_is_fixed_in_onnx(tmp_path: Path) -> None:
    import onnx

    model = Deployed(Graph(parse_net(FIXED), TEST))
    export_onnx(model, tmp_path / "net.onnx")
    (value,) = onnx.load(tmp_path / "net.onnx").graph.input
    assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["batch", 2, 6, 6]
    x = np.random.default_rng(0).standard_normal((5, 2, 6, 6)).astype(np.float32)
    assert verify_onnx(model, tmp_path / "net.onnx", [[x]]) < 1e-6


def test_the_table_of_layers_is_current(repo_root: Path) -> None:
    """Write it anew with docs/layer_table.py."""
    assert (repo_root / "docs/layers.md").read_text() == layer_table(repo_root)
