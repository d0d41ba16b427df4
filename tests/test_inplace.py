"""In-place layers through pycaffe's face: the original's gradients, and where they are the true ones too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pycaffe_compat import TRAIN, Net
from pycaffe_compat.graph import Graph
from pycaffe_compat.inplace import BELOW, IN_PLACE, READS_TOP
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
    ("Softmax", ""),
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


UNDER = """
force_backward: true
layer {{ name: "in" type: "Input" top: "a" input_param {{ shape {{ dim: 2 dim: 3 dim: 1 dim: 2 }} }} }}
layer {{ name: "op" type: "{}" bottom: "a" top: "y" {} }}
layer {{ name: "next" type: "Scale" bottom: "y" top: "y" scale_param {{ axis: 0 num_axes: 0 }} }}
"""


def under(kind: str, settings: str, factor: float, x: np.ndarray, diff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A layer's own top, and what it gives its bottom where the next one multiplies its top in place.

    ``diff`` is the gradient that arrives at the layer.
    """
    net = Net(Graph(parse_net(UNDER.format(kind, settings)), TRAIN))
    net.params["next"][0].data[...] = factor
    net.blobs["a"].data[...] = x
    net.forward()
    y = net.blobs["y"].data / factor
    net.blobs["y"].diff[...] = diff / factor
    net.backward()
    return y, net.blobs["a"].diff.copy()


def lrn(x: np.ndarray, z: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Windows of 3 channels, alpha 2, beta 0.75: a value's share in what its neighbours are divided by."""
    near = np.abs(np.subtract.outer(range(3), range(3))) <= 1
    base = 1 + 2 / 3 * np.einsum("ij,njhw->nihw", near, x**2)
    return d * base**-0.75 - 2 * 2 / 3 * 0.75 * x * np.einsum("ij,njhw->nihw", near, d * z / base)


def mvn(x: np.ndarray, z: np.ndarray, d: np.ndarray) -> np.ndarray:
    mean = lambda v: v.mean((2, 3), keepdims=True)  # noqa: E731
    return (d - mean(d) - z * mean(z * d)) / (x.std((2, 3), keepdims=True) + 1e-9)


FORMULAS: list[tuple[str, str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]]] = [
    ("ELU", "elu_param { alpha: 0.7 }", lambda x, z, d: d * np.where(x > 0, 1, 0.7 + z)),
    ("Exp", "exp_param { scale: 0.5 shift: 1 }", lambda x, z, d: d * z / 2),
    ("LRN", "lrn_param { local_size: 3 alpha: 2 }", lrn),
    ("MVN", "", mvn),
    ("Power", "power_param { power: 3 scale: 2 }", lambda x, z, d: d * 3 * z / x),
    ("Power", "power_param { power: 3 scale: 2 shift: 1 }", lambda x, z, d: d * 6 * z / (2 * x + 1)),
    ("Sigmoid", "", lambda x, z, d: d * z * (1 - z)),
    ("Softmax", "", lambda x, z, d: z * (d - (z * d).sum(1, keepdims=True))),
    ("Swish", "", lambda x, z, d: d * (z + (1 - z) / (1 + np.exp(-x)))),
    ("TanH", "", lambda x, z, d: d * (1 - z * z)),
]


@pytest.mark.parametrize(("kind", "settings", "formula"), FORMULAS)
def test_a_layer_under_an_in_place_one_reads_what_it_wrote(
    kind: str, settings: str, formula: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
) -> None:
    x, diff = np.random.default_rng(0).standard_normal((2, 2, 3, 1, 2)).astype(np.float32)
    y, got = under(kind, settings, 1, x, diff)
    np.testing.assert_allclose(got, formula(x, y, diff), rtol=1e-4, atol=1e-5)  # the true gradient, so far
    net = Net(Graph(parse_net(UNDER.format(kind, settings).replace('"Scale" bottom: "y" top: "y"', '"Scale" bottom: "y" top: "z"')), TRAIN))
    net.blobs["a"].data[...] = x
    net.forward()
    net.blobs["z"].diff[...] = diff
    net.backward()
    np.testing.assert_allclose(got, net.blobs["a"].diff, rtol=1e-4, atol=1e-5)
    y, got = under(kind, settings, 3, x, diff)
    np.testing.assert_allclose(got, formula(x, 3 * y, diff), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("LRN", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }"), ("MVN", "mvn_param { normalize_variance: false }")],
)
def test_settings_that_do_not_read_the_top(kind: str, settings: str) -> None:
    x, diff = np.random.default_rng(0).standard_normal((2, 2, 3, 1, 2)).astype(np.float32)
    one, three = (under(kind, settings, factor, x, diff)[1] for factor in (1, 3))
    np.testing.assert_allclose(one, three, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stable", [True, False])
def test_a_product_under_an_in_place_layer(stable: bool) -> None:
    """Unstable, each gradient is the top over that bottom."""
    text = f"""
    force_backward: true
    layer {{ name: "in" type: "Input" top: "a" top: "b" input_param {{ shape {{ dim: 2 }} }} }}
    layer {{ name: "op" type: "Eltwise" bottom: "a" bottom: "b" top: "y"
             eltwise_param {{ operation: PROD stable_prod_grad: {str(stable).lower()} }} }}
    layer {{ name: "next" type: "Dropout" bottom: "y" top: "y" }}
    """
    net = Net(Graph(parse_net(text), TRAIN))
    a, b = np.array([2, 3], np.float32), np.array([5, 7], np.float32)
    net.blobs["a"].data[...], net.blobs["b"].data[...] = a, b
    net.forward()
    kept = net.blobs["y"].data / (a * b)  # 0 or 2
    net.blobs["y"].diff[...] = 1
    net.backward()
    factor = kept if stable else kept**2
    np.testing.assert_allclose(net.blobs["a"].diff, factor * b)
    np.testing.assert_allclose(net.blobs["b"].diff, factor * a)


def test_two_numbers_of_the_original() -> None:
    text = NET.format("TanH", "y", "") + 'layer { name: "n" type: "Power" bottom: "y" top: "y" power_param { scale: 3 } }'
    net = Net(Graph(parse_net(text), TRAIN))
    net.blobs["a"].data[...] = 0.5
    net.forward()
    net.blobs["y"].diff[...] = 1
    net.backward()
    np.testing.assert_allclose(net.blobs["a"].diff, 9 * (1 - (3 * np.tanh(0.5)) ** 2), rtol=1e-5)  # -8.298

    text = NET.format("Softmax", "t", "") + 'layer { name: "n" type: "Power" bottom: "t" top: "t" power_param { scale: 2 } }'
    net = Net(Graph(parse_net(text), TRAIN))
    net.blobs["a"].data[...] = range(4)
    net.forward()
    p = net.blobs["t"].data / 2
    net.blobs["t"].diff[...] = [1, 0, 0, 0]
    net.backward()
    np.testing.assert_allclose(net.blobs["a"].diff, -8 * p, rtol=1e-5)


def test_the_module_keeps_the_true_gradient() -> None:
    graph = Graph(parse_net(NET.format("Power", "t", "power_param { scale: 2 }")), TRAIN)
    x = torch.ones(3, 4, requires_grad=True)
    graph.run(x)["t"].sum().backward()
    assert x.grad is not None
    assert (x.grad == 2).all()


def test_rules_are_for_types_that_work_in_place() -> None:
    assert all(REGISTRY[name].inplace for name in IN_PLACE)
    assert set(READS_TOP) <= set(BELOW) <= set(REGISTRY)
