"""BatchNorm and the Scale above it as one step of ``Graph.forward``: the same numbers, and hooks still see both."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pycaffe_compat.graph import TEST, TRAIN, Graph
from pycaffe_compat.layers.normalization import ScaledBatchNorm
from pycaffe_compat.proto.text import parse_net

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 dim: 5 dim: 5 } } }'
CONV = 'layer { name: "c" type: "PReLU" bottom: "x" top: "x" }'
RELU = 'layer { name: "relu" type: "ReLU" bottom: "s" top: "s" }'


def norm(top: str = "b", settings: str = "") -> str:
    return f'layer {{ name: "norm" type: "BatchNorm" bottom: "x" top: "{top}" {settings} }}'


def scale(bottom: str = "b", settings: str = "bias_term: true", extra: str = "") -> str:
    return f'layer {{ name: "scale" type: "Scale" bottom: "{bottom}" {extra} top: "s" scale_param {{ {settings} }} }}'


def build(text: str, phase: int = TEST) -> Graph:
    graph = Graph(parse_net(INPUT + text, "net.prototxt"), phase)
    with torch.no_grad():
        for blobs in graph.params.values():
            for blob in blobs:
                blob.uniform_(0.5, 2)
    return graph


def merged(graph: Graph) -> bool:
    return any(isinstance(node.layer, ScaledBatchNorm) for node in graph._steps)


@pytest.mark.parametrize("factor", [0.5, 1, 999.98])
@pytest.mark.parametrize("bias", ["", "bias_term: true"])
def test_it_computes_what_numpy_and_the_two_layers_compute(bias: str, factor: float) -> None:
    graph = build(norm() + scale(settings=bias) + RELU)
    assert merged(graph)
    graph.params["norm"][2].data.fill_(factor)
    x = torch.randn(2, 4, 7, 3)
    given = x.clone()
    got = graph(x)["s"]
    torch.testing.assert_close(x, given, rtol=0, atol=0)
    torch.testing.assert_close(got, graph.run(x)["s"], rtol=1e-6, atol=1e-6)
    mean, variance, factor = (b.astype(np.float64) for b in graph.weights()["norm"])
    gain, *shift = (b.astype(np.float64)[:, None, None] for b in graph.weights()["scale"])
    y = (x.double().numpy() - (mean / factor)[:, None, None]) / np.sqrt((variance / factor)[:, None, None] + 1e-5)
    want = np.maximum(0, y * gain + (shift[0] if shift else 0))
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-5, atol=1e-5)


def test_its_gradients_are_those_of_the_two_layers() -> None:
    graph = build(norm() + scale() + RELU).double()
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    leaves = [x, *(p for p in graph.parameters() if p.requires_grad)]
    assert len(leaves) == 3
    got = torch.autograd.grad(graph(x)["s"].square().sum(), leaves)
    want = torch.autograd.grad(graph.run(x)["s"].square().sum(), leaves)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_statistics_of_no_batch_are_zero_eager_and_compiled() -> None:
    graph = build(norm() + scale())
    graph.params["norm"][2].data.zero_()
    x = torch.randn(2, 4, 5, 5)
    gain, shift = (blob.detach()[:, None, None] for blob in graph.params["scale"])
    want = x / 1e-5**0.5 * gain + shift
    torch.testing.assert_close(graph(x)["s"].detach(), want)
    whole = torch.compile(graph, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(x)["s"].detach(), want)


def test_backward_goes_by_the_statistics_of_its_forward() -> None:
    graph = build(norm() + scale())
    graph.params["norm"][2].data.fill_(1)
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    (want,) = torch.autograd.grad(graph(x)["s"].square().sum(), x)
    loss = graph(x)["s"].square().sum()
    with torch.no_grad():
        graph.params["norm"][1].mul_(2)
    (got,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_several_sets_of_weights_at_once() -> None:
    """torch.func's way with ensembles: no value of the statistics can be looked at then."""
    graphs = [build(norm() + scale()) for _ in range(3)]
    x = torch.randn(2, 4, 5, 5)
    weights, buffers = torch.func.stack_module_state(graphs)
    both = torch.func.vmap(lambda w, b: torch.func.functional_call(graphs[0], (w, b), (x,))["s"])(weights, buffers)
    torch.testing.assert_close(both, torch.stack([graph(x)["s"] for graph in graphs]))


@pytest.mark.parametrize("layer", ["norm", "scale"])
def test_a_hook_sees_its_layer(layer: str) -> None:
    graph = build(norm() + scale())
    seen: list[torch.Tensor] = []
    handle = graph.layers[layer].register_forward_hook(lambda module, given, top: seen.append(top))
    x = torch.randn(2, 4, 5, 5)
    graph(x)
    torch.testing.assert_close(seen[0], graph.run(x)["b" if layer == "norm" else "s"])
    handle.remove()
    graph(x)
    assert len(seen) == 2


def test_a_copy_is_on_its_own_and_keys_do_not_change() -> None:
    graph = build(norm() + scale())
    assert [key.removeprefix("layers.") for key in graph.state_dict()] == [
        "norm.mean", "norm.variance", "norm.factor", "scale.scale", "scale.bias",
    ]  # fmt: skip
    other = copy.deepcopy(graph)
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        other.params["scale"][0].zero_()
    assert not torch.equal(graph(x)["s"], other(x)["s"])
    torch.testing.assert_close(other(x)["s"], other.run(x)["s"])


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        (norm() + scale(), TRAIN),
        (norm(settings="batch_norm_param { use_global_stats: false }") + scale(), TEST),
        (norm() + scale(settings="axis: 2"), TEST),
        (norm() + scale(settings="num_axes: 2"), TEST),
        (norm() + scale(settings="num_axes: 0"), TEST),
        (norm() + scale(settings="axis: 0", extra='bottom: "x"'), TEST),
        (CONV + norm() + scale(extra="propagate_down: false"), TEST),
        (norm() + scale() + 'layer { name: "r" type: "ReLU" bottom: "b" top: "r" }', TEST),
        (norm(settings="loss_weight: 1") + scale(), TEST),
    ],
)
def test_what_is_not_a_scale_of_fixed_statistics_stays_two_layers(text: str, phase: int) -> None:
    graph = build(text, phase)
    assert not merged(graph)
    x = torch.rand(3, 4, 5, 5)
    torch.testing.assert_close(graph(x)["s"], graph.run(x)["s"])


def test_a_blob_of_two_axes_is_merged_too() -> None:
    text = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }' + norm("x") + scale("x")
    graph = Graph(parse_net(text), TEST)
    graph.params["norm"][2].data.fill_(1)
    assert merged(graph)
    x = torch.randn(3, 4)
    torch.testing.assert_close(graph(x)["s"], graph.run(x)["s"])
