"""The table of a net: against gradients (receptive fields), PyTorch's counter and sums by hand (multiply-adds)."""

from __future__ import annotations

import pytest
import torch

from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.proto.text import parse_net
from pycaffe_compat.summary import format_table, summarize


def chain(*layers: str, shape: str = "dim: 1 dim: 2 dim: 41 dim: 41") -> Graph:
    text = f'layer {{ name: "in" type: "Input" top: "t0" input_param {{ shape {{ {shape} }} }} }}\n'
    for i, settings in enumerate(layers):
        kind, _, rest = settings.partition(" ")
        text += f'layer {{ name: "l{i}" type: "{kind}" bottom: "t{i}" top: "t{i + 1}" {rest} }}\n'
    return Graph(parse_net(text), TEST)


CONV3 = 'Convolution convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "constant" value: 1 } }'
STRIDED = 'Convolution convolution_param { num_output: 2 kernel_size: 5 stride: 2 pad: 2 weight_filler { type: "constant" value: 1 } }'
DILATED = 'Convolution convolution_param { num_output: 2 kernel_size: 3 dilation: 4 pad: 4 group: 2 weight_filler { type: "constant" value: 1 } }'
UP = 'Deconvolution convolution_param { num_output: 2 kernel_size: 4 stride: 2 pad: 1 weight_filler { type: "constant" value: 1 } }'
POOL = "Pooling pooling_param { pool: AVE kernel_size: 3 stride: 2 }"
LRN = "LRN lrn_param { local_size: 5 norm_region: WITHIN_CHANNEL alpha: 0.1 }"
SIGMOID = "Power power_param { scale: 2 }"
GLOBAL = "Pooling pooling_param { pool: AVE global_pooling: true }"
FC = 'InnerProduct inner_product_param { num_output: 3 weight_filler { type: "constant" value: 1 } }'


def extent(graph: Graph) -> int:
    """Rows of the input that one row in the middle of the output has a gradient of."""
    x = torch.rand(graph.shapes["t0"], requires_grad=True)
    y = graph(x)[graph.outputs[0]]
    most = 0
    for shift in (0, 1):  # behind a deconvolution positions differ in how much they see
        (grad,) = torch.autograd.grad(y[0, 0, y.shape[2] // 2 + shift, y.shape[3] // 2].sum(), x, retain_graph=True)
        rows = grad[0].abs().sum((0, 2)).nonzero()
        most = max(most, int(rows.max() - rows.min()) + 1)
    return most


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([CONV3], 3),
        ([CONV3, SIGMOID, CONV3], 5),
        ([STRIDED, CONV3], 9),
        ([DILATED], 9),
        ([STRIDED, DILATED, SIGMOID], 21),
        ([POOL, CONV3, POOL], 11),
        ([UP, CONV3], 3),
        ([STRIDED, UP], 7),
        ([POOL, UP, CONV3], 7),
        ([LRN, CONV3], 7),
    ],
)
def test_receptive_fields_are_where_gradients_reach(layers: list[str], size: int) -> None:
    graph = chain(*layers)
    assert summarize(graph)[-1].field == f"{size}x{size}"
    assert extent(graph) == size


@pytest.mark.parametrize(
    ("layers", "field"),
    [
        ([GLOBAL], "all"),
        ([CONV3, FC], "all"),
        ([FC, SIGMOID], "all"),
        (["Flatten"], "?"),
        (["Reshape reshape_param { shape { dim: 1 dim: -1 dim: 1 dim: 2 } }", CONV3.replace("kernel_size: 3", "kernel_size: 1")], "?"),
        (["Reduction"], "all"),
    ],
)
def test_receptive_fields_without_a_size(layers: list[str], field: str) -> None:
    assert summarize(chain(*layers))[-1].field == field


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "parameters"),
    [
        (CONV3, "dim: 2 dim: 3 dim: 9 dim: 7", 2 * 2 * 7 * 5 * 3 * 9, 3 * 2 * 9 + 2),
        (DILATED, "dim: 1 dim: 4 dim: 9 dim: 9", 2 * 81 * 2 * 9, 2 * 2 * 9 + 2),
        (CONV3.replace("num_output: 2", "num_output: 1"), "dim: 1 dim: 3 dim: 9 dim: 9", 49 * 27, 28),
        (UP, "dim: 1 dim: 3 dim: 5 dim: 5", 25 * 3 * 2 * 16, 3 * 2 * 16 + 2),
        (FC, "dim: 4 dim: 6 dim: 2", 4 * 12 * 3, 39),
        (SIGMOID, "dim: 4 dim: 6", 0, 0),
    ],
)
def test_multiply_adds_and_parameters(layer: str, shape: str, macs: int, parameters: int) -> None:
    row = summarize(chain(layer, shape=shape))[-1]
    assert (row.macs, row.parameters) == (macs, parameters)


def test_recurrent_layers() -> None:
    """4 time steps, 2 sequences, 3 inputs, 5 cells: the input's product for each step, the state's too."""
    text = (
        'layer { name: "x" type: "Input" top: "x" top: "cont" input_param { shape { dim: 4 dim: 2 dim: 3 } shape { dim: 4 dim: 2 } } }'
        'layer { name: "l" type: "LSTM" bottom: "x" bottom: "cont" top: "y" recurrent_param { num_output: 5 } }'
    )
    assert summarize(Graph(parse_net(text), TEST))[-1].macs == 4 * 2 * (3 * 20 + 5 * 20)


def test_totals_count_a_shared_parameter_once_and_leave_splits_out() -> None:
    share = 'param { name: "w" } param { name: "b" }'
    graph = chain(CONV3.replace("convolution_param", f"{share} convolution_param"), CONV3.replace("convolution_param", f"{share} convolution_param"), shape="dim: 1 dim: 2 dim: 9 dim: 9")
    rows = summarize(graph)
    assert [row.parameters for row in rows] == [0, 38, 0]
    lines = format_table(rows)
    assert lines[-1].split() == ["total", "3", "layers", "38", f"{2 * (49 + 25) * 2 * 9:,}"]
    named = chain(CONV3, CONV3, shape="dim: 1 dim: 2 dim: 9 dim: 9")
    for node in named.nodes:
        node.name = "same"
    assert [row.parameters for row in summarize(named)] == [0, 38, 38]
    diamond = Graph(
        parse_net(
            'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 9 dim: 9 } } }'
            'layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 1 kernel_size: 3 pad: 1 } }'
            'layer { name: "s" type: "Eltwise" bottom: "x" bottom: "a" top: "s" }'
        )
    )
    assert [(row.name, row.field) for row in summarize(diamond)] == [("in", "1x1"), ("a", "3x3"), ("s", "3x3")]
