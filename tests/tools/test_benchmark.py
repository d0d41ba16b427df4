"""The nets that tools/benchmark.py compares: what it times is the same net twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.net_spec import Top, to_proto
from tools import benchmark

NETS = {
    "lenet": (benchmark.lenet, benchmark.by_hand_lenet, 431_080),
    "alexnet": (benchmark.alexnet, benchmark.by_hand_alexnet, 60_965_224),
    "googlenet": (benchmark.googlenet, benchmark.by_hand_googlenet, 6_998_552),
    "resnet": (partial(benchmark.resnet, 2, 1, 1, 1), partial(benchmark.by_hand_resnet, 2, 1, 1, 1), None),
}


@pytest.mark.parametrize("name", NETS)
def test_a_net_and_its_hand_written_twin_compute_the_same(name: str) -> None:
    net: Callable[[], Top]
    twin: Callable[[], nn.Module]
    net, twin, parameters = NETS[name]
    graph, by_hand = Graph(to_proto(net()), TEST).eval(), twin().eval()
    benchmark.same_weights(graph, by_hand)
    if parameters:  # as published for these nets
        assert sum(p.numel() for p in graph.parameters()) == parameters
    (blob,), (output,) = graph.inputs, graph.outputs
    x = torch.rand(graph.shapes[blob])
    with torch.no_grad():
        want, got = by_hand(x), graph(x)[output]
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    assert want.abs().max() > 0.01


def test_resnet_152_has_its_layers() -> None:
    net = to_proto(benchmark.resnet(3, 8, 36, 3))
    kinds = [layer.type for layer in net.layer]
    assert kinds.count("Convolution") + kinds.count("InnerProduct") == 152 + 4  # and the projections
    assert kinds.count("Eltwise") == 50
