"""In-place layers through pycaffe's face: the original's gradients, and where they are the true ones too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pycaffe_compat import TRAIN, Net
from pycaffe_compat.graph import Graph
from pycaffe_compat.inplace import RULES
from pycaffe_compat.layers import REGISTRY
from pycaffe_compat.proto.text import parse_net

NET = """
force_backward: true
layer {{ name: "in" type: "Input" top: "a" input_param {{ shape {{ dim: 3 dim: 4 }} }} }}
layer {{ name: "pre" type: "Bias" bottom: "a" top: "t" }}
layer {{ name: "op" type: "{}" bottom: "t" top: "{}" {} }}
"""

ALONE = [
    ("ReLU", ""),
    ("ReLU", "relu_param { negative_slope: 0.1 }"),
    ("ELU", "elu_param { alpha: 0.7 }"),
    ("Swish", "swish_param { beta: 1.5 }"),
    ("Sigmoid", ""),
    ("TanH", ""),
    ("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }"),
]


def gradient(kind: str, top: str, settings: str, x: np.ndarray, diff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top and bottom diff of one layer on x."""
    net = Net(Graph(parse_net(NET.format(kind, top, settings)), TRAIN))
    net.blobs["a"].data[...] = x
    net.forward()
    value = net.blobs[top].data.copy()
    net.blobs[top].diff[...] = diff
    net.backward()
    return value, net.blobs["a"].diff.copy()


@pytest.mark.parametrize(("kind", "settings"), ALONE)
def test_a_lone_in_place_layer_has_its_true_gradient(kind: str, settings: str) -> None:
    rng = np.random.default_rng(0)
    x, diff = rng.standard_normal((2, 3, 4)).astype(np.float32)
    for mine, true in zip(gradient(kind, "t", settings, x, diff), gradient(kind, "y", settings, x, diff), strict=True):
        np.testing.assert_allclose(mine, true, rtol=1e-5, atol=1e-6)


SLOPES: list[tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = [
    ("Power", "power_param { scale: 2 shift: 1 }", lambda z: np.full_like(z, 2)),
    ("Power", "power_param { power: 2 scale: 3 shift: 1 }", lambda z: 2 * 3 * (3 * z + 1)),
    ("Power", "power_param { power: 3 scale: 2 }", lambda z: np.full_like(z, 3)),
    ("Power", "power_param { power: 3 scale: 2 shift: 1 }", lambda z: 3 * 2 * z / (2 * z + 1)),
    ("Power", "power_param { power: 2 scale: 0 shift: 3 }", np.zeros_like),
    ("Log", "log_param { base: 2 scale: 3 shift: 1 }", lambda z: 3 / (3 * z + 1) / np.log(2)),
]


@pytest.mark.parametrize(("kind", "settings", "slope"), SLOPES)
def test_power_and_log_leave_the_square_of_a_slope(
    kind: str, settings: str, slope: Callable[[np.ndarray], np.ndarray]
) -> None:
    x, diff = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
    value, got = gradient(kind, "t", settings, x, diff)
    np.testing.assert_allclose(got, slope(value) ** 2, rtol=1e-5)


def test_a_later_in_place_layer_is_what_an_earlier_one_reads() -> None:
    text = NET.format("Sigmoid", "t", "") + 'layer { name: "next" type: "Scale" bottom: "t" top: "t" }'
    net = Net(Graph(parse_net(text), TRAIN))
    net.params["next"][0].data[...] = 4
    net.blobs["a"].data[...] = 0.3
    net.forward()
    net.blobs["t"].diff[...] = 1
    z = net.blobs["t"].data.copy()
    net.backward()
    np.testing.assert_allclose(net.blobs["a"].diff, 4 * z * (1 - z), rtol=1e-6)


def test_the_module_keeps_the_true_gradient() -> None:
    graph = Graph(parse_net(NET.format("Power", "t", "power_param { scale: 2 }")), TRAIN)
    x = torch.ones(3, 4, requires_grad=True)
    graph.run(x)["t"].sum().backward()
    assert x.grad is not None
    assert (x.grad == 2).all()


def test_rules_are_for_types_that_work_in_place() -> None:
    assert all(REGISTRY[name].inplace for name in RULES)
