"""Activations against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from pycaffe_compat.graph import TEST, TRAIN
from tests.layers.harness import Row, build, error_test, forward_test, gradient_test, op

TABLE: list[Row] = [
    (op("AbsVal"), [(2, 3, 4)], lambda x, p: [abs(x[0])]),
    (op("BNLL"), [(2, 3)], lambda x, p: [np.log1p(np.exp(x[0]))]),
    (op("Clip", "clip_param { min: -0.5 max: 1 }"), [(2, 3, 4)], lambda x, p: [np.clip(x[0], -0.5, 1)]),
    (op("Clip", "clip_param { min: 2 max: 1 }"), [(2, 3)], lambda x, p: [np.full((2, 3), 2.0)]),
    (op("ELU"), [(2, 3)], lambda x, p: [np.where(x[0] > 0, x[0], np.expm1(x[0]))]),
    (op("ELU", "elu_param { alpha: 0.3 }"), [(2, 3)], lambda x, p: [np.where(x[0] > 0, x[0], 0.3 * np.expm1(x[0]))]),
    (op("Exp"), [(2, 3)], lambda x, p: [np.exp(x[0])]),
    (op("Exp", "exp_param { base: 2 scale: 3 shift: -1 }"), [(2, 3)], lambda x, p: [2 ** (3 * x[0] - 1)]),
    (op("Exp", "exp_param { scale: 0.5 shift: 2 }"), [(2, 3)], lambda x, p: [np.exp(x[0] / 2 + 2)]),
    (op("Log", "log_param { shift: 9 }"), [(2, 3)], lambda x, p: [np.log(9 + x[0])]),
    (op("Log", "log_param { base: 2 scale: 0.5 shift: 9 }"), [(2, 3)], lambda x, p: [np.log2(9 + x[0] / 2)]),
    (op("Log", "log_param { base: 0.5 shift: 9 }"), [(2, 3)], lambda x, p: [-np.log2(9 + x[0])]),
    (op("Swish"), [(2, 3)], lambda x, p: [x[0] * special.expit(x[0])]),
    (op("Swish", "swish_param { beta: -0.7 }"), [(2, 3)], lambda x, p: [x[0] * special.expit(-0.7 * x[0])]),
    (op("Softmax"), [(2, 3, 4)], lambda x, p: [special.softmax(x[0], 1)]),
    (op("Softmax", "softmax_param { axis: -1 }"), [(2, 3, 4)], lambda x, p: [special.softmax(x[0], -1)]),
    (op("Dropout", "dropout_param { dropout_ratio: 0 }"), [(2, 3)], lambda x, p: [x[0]]),
]  # fmt: skip

FORWARD_ONLY: list[Row] = [
    (op("BNLL"), [np.array([-90.0, 30.0, 90.0])], lambda x, p: [np.logaddexp(0, x[0])]),
    (op("Threshold"), [np.array([-1.0, 0.0, 1.0])], lambda x, p: [np.array([0.0, 0.0, 1.0])]),
    (op("Threshold", "threshold_param { threshold: -0.5 }"), [(2, 3)], lambda x, p: [(x[0] > -0.5).astype(float)]),
]

BAD = [
    (op("ELU", "elu_param { lambda: 1.5 }"), [(2, 3)], "elu_param: lambda 1.5 is a fork's, and not implemented"),
    (op("Exp", "exp_param { base: -2 }"), [(2, 3)], "exp_param: base -2 must be positive, or -1 for e"),
    (op("Log", "log_param { base: 0 }"), [(2, 3)], "log_param: base 0 must be positive"),
    (op("Log", "log_param { base: 1 }"), [(2, 3)], "there is no logarithm to base 1"),
    (op("Dropout", "dropout_param { dropout_ratio: 1 }"), [(2, 3)], "dropout_ratio 1 is not in 0..1"),
    (op("Softmax", "softmax_param { axis: 2 }"), [(2, 3)], "axis 2 does not exist in a blob of 2 dimensions"),
    (op("AbsVal", tops=["a"]), [(2, 3)], 'top "a" is also its bottom: AbsVal does not work in place'),
]


test_forward_is_the_formula = forward_test(TABLE + FORWARD_ONLY)
test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)


@pytest.mark.parametrize(
    ("text", "at", "slope"),
    [
        (op("AbsVal"), 0.0, 0.0),
        (op("Clip", "clip_param { min: -1 max: 1 }"), 1.0, 1.0),
        (op("Clip", "clip_param { min: -1 max: 1 }"), -1.0, 1.0),
        (op("ELU", "elu_param { alpha: 0.3 }"), 0.0, 0.3),
        (op("ReLU"), 0.0, 0.0),
    ],
)
def test_where_there_is_no_derivative_the_gradient_is_the_originals(text: str, at: float, slope: float) -> None:
    x = torch.tensor([at], requires_grad=True)
    build(text, [(1,)]).run(x)["y"].sum().backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ("Power power_param { scale: 0 shift: -2 power: 0.5 }", np.nan),
        ("Power power_param { scale: 0 power: -1 }", np.inf),
        ("Power power_param { scale: 0 shift: 1e30 power: 20 }", np.inf),
        ("Power power_param { scale: 0 shift: 1e30 power: 2 }", np.inf),  # beyond float32 only
        ("Power power_param { scale: 0 shift: 3 power: 2 }", 9),
        ("Exp exp_param { shift: 800 }", np.inf),
        ("Exp exp_param { base: 2 shift: 200 }", np.inf),
    ],
)
def test_constants_of_the_file_are_computed_as_in_c(settings: str, value: float) -> None:
    kind, param = settings.split(" ", 1)
    y = build(op(kind, param), [(2,)]).run(torch.ones(2))["y"]
    np.testing.assert_array_equal(y.numpy(), np.full(2, value, np.float32))


def test_dropout_drops_in_train_alone_and_keeps_the_mean() -> None:
    text = op("Dropout", "dropout_param { dropout_ratio: 0.2 }")
    x = torch.ones(200, 500, requires_grad=True)
    y = build(text, [(200, 500)], TRAIN).run(x)["y"]
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert float((y == 0).float().mean()) == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 1e5) ** 0.5)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # what was dropped gets no gradient
    assert torch.equal(build(text, [(200, 500)], TEST).train().run(x)["y"], x)


def test_a_blob_may_be_changed_in_place_and_keeps_the_true_gradient() -> None:
    net = op("Sigmoid", tops=["y"]) + op("Exp", tops=["y"]).replace('"op"', '"e"').replace('"a"', '"y"')
    graph = build(net, [(2, 3)]).double()
    assert torch.autograd.gradcheck(lambda x: graph(x)["y"], torch.randn(2, 3, dtype=torch.float64, requires_grad=True))
