"""Bottoms of other shapes than those that a net was built with: computed anew, or refused as the builder refuses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pycaffe_compat as caffe
from pycaffe_compat import NetError
from pycaffe_compat.export import Deployed, export_onnx, verify_onnx
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.layers import REGISTRY
from tests.layers.harness import Arrays, build, op, values

Shapes = list[tuple[int, ...]]
Formula = Callable[[Arrays], Arrays]

# A layer, the shapes that it is built with, others that it takes too, and its top.
COMPUTED: list[tuple[str, Shapes, Shapes, Formula]] = [
    (
        op("Scale", "scale_param { axis: 0 }", 2), [(2, 3, 4, 5), (2, 3)], [(5, 3, 2, 2), (5, 3)],
        lambda x: [x[0] * x[1][:, :, None, None]],
    ),
    (op("Scale", bottoms=2), [(2, 3, 4), (3,)], [(2, 4, 4), (4,)], lambda x: [x[0] * x[1][:, None]]),
    (op("Bias", "bias_param { axis: 0 }", 2), [(2, 3), (2,)], [(4, 3), (4,)], lambda x: [x[0] + x[1][:, None]]),
    (op("Bias", "bias_param { axis: 1 }", 2), [(2, 3), (3,)], [(2, 4, 5), (4,)], lambda x: [x[0] + x[1][:, None]]),
    (op("Slice", "slice_param { axis: 0 }", tops=("y", "z")), [(2, 3)], [(6, 3)], lambda x: np.split(x[0], 2)),
    (
        op("Slice", "slice_param { axis: 0 slice_point: 1 }", tops=("y", "z")), [(2, 3)], [(6, 3)],
        lambda x: np.split(x[0], [1]),
    ),
    (op("Im2col", "convolution_param { kernel_size: 3 stride: 2 }"), [(1, 1, 9, 9)], [(1, 1, 2, 3)], lambda x: [
        np.pad(x[0], ((0, 0), (0, 0), (0, 1), (0, 0))).reshape(1, 9, 1, 1)
    ]),
    (op("Im2col", "convolution_param { kernel_size: 3 stride: 2 }"), [(1, 1, 2, 2)], [(1, 1, 3, 3)], lambda x: [
        x[0].reshape(1, 9, 1, 1)
    ]),
]  # fmt: skip

# A layer, the shapes that it is built with, others that do not go together, and what is said.
REFUSED: list[tuple[str, Shapes, Shapes, str]] = [
    (op("Scale"), [(2, 3, 4)], [(2, 1, 4)], "its parameters of shape 3 do not fit a bottom of shape 2x1x4"),
    (op("Bias"), [(2, 1, 4)], [(2, 3, 4)], "its parameters of shape 1 do not fit a bottom of shape 2x3x4"),
    (op("Scale", bottoms=2), [(2, 3), (3,)], [(2, 3), (1,)], "the second bottom of shape 1 does not fit 2x3"),
    (op("Eltwise", bottoms=2), [(2, 3)] * 2, [(2, 3), (1, 3)], "must have one shape, Eltwise does not broadcast"),
    (op("Axpy", bottoms=3), [(2, 3), (2, 3, 4), (2, 3, 4)], [(1, 3), (2, 3, 4), (2, 3, 4)], "a number for each map"),
    (op("Crop", "crop_param { offset: 2 }", 2), [(1, 1, 8, 8), (1, 1, 5, 5)], [(1, 1, 6, 6), (1, 1, 5, 5)],
     "axis 2: offset 2 + size 5 is more than the bottom's 6"),
    (op("SPP", "spp_param { pyramid_height: 3 }"), [(1, 1, 8, 8)], [(1, 1, 5, 5)], "do not divide into 4x4 windows"),
    (op("Pooling", "pooling_param { kernel_size: 5 stride: 2 }"), [(1, 1, 8, 8)], [(1, 1, 2, 8)], "kernel 5x5 does not fit"),
    (op("Convolution", "convolution_param { num_output: 1 kernel_size: 3 }"), [(1, 2, 8, 8)], [(1, 2, 2, 8)],
     "kernel 3x3 does not fit into a bottom of shape 1x2x2x8"),
    (op("Convolution", "convolution_param { num_output: 1 kernel_size: 1 }", 2, ("y", "z")), [(1, 2, 8, 8)] * 2,
     [(1, 2, 8, 8), (1, 2, 8, 7)], "all bottoms must have one shape: 1x2x8x8, 1x2x8x7"),
    (op("Deconvolution", "convolution_param { num_output: 1 kernel_size: 3 pad: 2 }"), [(1, 2, 8, 8)], [(1, 2, 8, 2)],
     "pad 2x2 leaves nothing of what kernel 3x3 makes of a bottom of shape 1x2x8x2"),
    (op("Slice", tops=("y", "z")), [(2, 4)], [(2, 5)], "axis 1 of size 5 does not divide into 2 equal tops"),
    (op("HingeLoss", bottoms=2), [(4, 3), (4,)], [(4, 3), (2,)], "bottoms of shapes 4x3 and 2 differ in their first axis, the batch"),
    (op("ContrastiveLoss", bottoms=3), [(4, 3), (4, 3), (4,)], [(4, 3), (1, 3), (4,)], "4x3 and 1x3 are no pairs"),
    (op("LSTM", "recurrent_param { num_output: 2 }", 2), [(3, 2, 4), (3, 2)], [(3, 2, 4), (3, 1)], "cont time x batch"),
    (op("InnerProduct", "inner_product_param { num_output: 4 }"), [(2, 3, 8, 8)], [(2, 3, 3, 3)],
     "bottoms of shapes 2x3x3x3: "),
]  # fmt: skip


@pytest.mark.parametrize(("text", "built", "other", "expected"), COMPUTED)
def test_a_top_follows_its_bottoms(text: str, built: Shapes, other: Shapes, expected: Formula) -> None:
    graph = build(text, built)
    for shapes in (other, built, other):
        given = values(shapes)
        got = graph.run(*map(torch.from_numpy, given))
        tops = [got[name].detach().numpy() for name in graph.nodes[-1].tops]
        assert [top.shape for top in tops] == [tuple(t.shape) for t in graph.nodes[-1].infer(*(
            torch.empty(shape, device="meta") for shape in shapes
        ))]  # fmt: skip
        if shapes is other:
            for top, want in zip(tops, expected(given), strict=True):
                np.testing.assert_allclose(top, want, rtol=1e-6)


@pytest.mark.parametrize(("text", "built", "other", "message"), REFUSED)
def test_shapes_that_do_not_fit_name_the_layer_whoever_computes(
    text: str, built: Shapes, other: Shapes, message: str
) -> None:
    graph = build(text, built)
    given = [torch.zeros(shape) for shape in other]
    net = caffe.Net(build(text, built))
    for name, shape in zip(net.inputs, other, strict=True):
        net.blobs[name].reshape(*shape)
    for call in (lambda: graph(*given), lambda: graph.run(*given), net.reshape, net.forward):
        with pytest.raises(NetError) as error:
            call()
        assert str(error.value).startswith(f'test.prototxt:{len(built) + 1}: layer "op" ({graph.nodes[-1].type}): ')
        assert message in str(error.value) and "\n" not in str(error.value)
    graph(*(torch.zeros(shape) for shape in built))  # the net still works


def test_a_net_that_cannot_take_a_shape_keeps_its_own() -> None:
    net = caffe.Net(build(op("ReLU") + op("Eltwise", bottoms=2).replace('"a"', '"y"').replace('top: "y"', 'top: "z"'),
                          [(2, 3), (2, 3)]))  # fmt: skip
    net.blobs["a"].reshape(4, 3)
    with pytest.raises(NetError, match="Eltwise does not broadcast"):
        net.reshape()
    assert net.blobs["y"].shape == (2, 3)


def test_a_compiled_net_is_not_asked_for_its_shapes_again() -> None:
    text = op("Scale", "scale_param { axis: 0 }", 2)
    graph = build(text, [(2, 3, 4), (2, 3)])
    torch._dynamo.reset()
    compiled = torch.compile(graph, fullgraph=True, backend="eager")
    for batch in (2, 5, 7):
        x, s = torch.randn(batch, 3, 4), torch.randn(batch, 3)
        torch.testing.assert_close(compiled(x, s)["y"], x * s[:, :, None])


def test_a_squeeze_and_excitation_block_is_exported_with_an_open_batch(tmp_path: Path) -> None:
    graph = build(op("Scale", "scale_param { axis: 0 }", 2), [(2, 3, 4, 5), (2, 3)], TEST)
    model = Deployed(graph)
    export_onnx(model, tmp_path / "net.onnx")
    for batch in (1, 2, 6):
        assert verify_onnx(model, tmp_path / "net.onnx", [values([(batch, 3, 4, 5), (batch, 3)])]) < 1e-6


def test_every_type_that_checks_is_checked() -> None:
    graph: Graph = build(op("Eltwise", bottoms=2), [(2, 3), (2, 3)])
    assert [node.checks for node in graph.nodes] == [False, False, True]
    assert "check" not in vars(REGISTRY["ReLU"].cls)
