"""BatchNorm, MVN and LRN against NumPy."""

from __future__ import annotations

import numpy as np
import torch

from pycaffe_compat.graph import TEST, TRAIN
from tests.layers.harness import Row, build, error_test, forward_test, gradient_test, op


def normalized(x: np.ndarray, axes: tuple[int, ...], eps: float = 0.0, inside: float = 0.0) -> np.ndarray:
    centred = x - x.mean(axes, keepdims=True)
    return centred / (np.sqrt((centred**2).mean(axes, keepdims=True) + inside) + eps)


def lrn_across(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    total = np.zeros_like(x)
    for c in range(x.shape[1]):
        total[:, c] = (x[:, max(0, c - size // 2) : c + size // 2 + 1] ** 2).sum(1)
    return x * (k + alpha / size * total) ** -beta


def lrn_within(x: np.ndarray, size: int, alpha: float, beta: float) -> np.ndarray:
    padded = np.pad(x**2, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    total = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3)).sum((-1, -2))
    return x * (1 + alpha / size**2 * total) ** -beta


def mvn(settings: str) -> str:
    return op("MVN", f"mvn_param {{ {settings} }}")


def lrn(settings: str) -> str:
    return op("LRN", f"lrn_param {{ {settings} }}")


def batch_norm(settings: str) -> str:
    return op("BatchNorm", f"batch_norm_param {{ {settings} }}")


TABLE: list[Row] = [
    (op("BatchNorm"), [(4, 3, 2, 3)], lambda x, p: [normalized(x[0], (0, 2, 3), inside=1e-5)]),
    (op("BatchNorm", "batch_norm_param { eps: 0.1 }"), [(4, 3)], lambda x, p: [normalized(x[0], (0,), inside=0.1)]),
    (batch_norm("use_weight_bias: false relu: false engine: CAFFE"), [(4, 3)], lambda x, p: [normalized(x[0], (0,), inside=1e-5)]),
    (op("BatchNorm"), [(5,)], lambda x, p: [normalized(x[0], (0,), inside=1e-5)]),
    (op("BatchNorm"), [(4, 3, 2, 2, 2)], lambda x, p: [normalized(x[0], (0, 2, 3, 4), inside=1e-5)]),
    (mvn(""), [(2, 3, 4, 5)], lambda x, p: [normalized(x[0], (2, 3))]),
    (mvn("across_channels: true"), [(2, 3, 4)], lambda x, p: [normalized(x[0], (1, 2))[..., None]]),
    (mvn("across_channels: true"), [(2, 3)], lambda x, p: [normalized(x[0], (1,))[..., None, None]]),
    (mvn("normalize_variance: false"), [(2, 3, 4)], lambda x, p: [(x[0] - x[0].mean(2, keepdims=True))[..., None]]),
    (mvn("normalize_variance: false"), [(2, 3)], lambda x, p: [np.zeros((2, 3, 1, 1))]),
    (lrn(""), [(2, 7, 2, 3)], lambda x, p: [lrn_across(x[0], 5, 1, 0.75, 1)]),
    (lrn("local_size: 3 alpha: 0.5 beta: 2 k: 3"), [(2, 2, 2, 3)], lambda x, p: [lrn_across(x[0], 3, 0.5, 2, 3)]),
    (
        lrn("norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 k: 9"), [(2, 2, 4, 5)],
        lambda x, p: [lrn_within(x[0], 3, 2, 0.75)],
    ),
]  # fmt: skip

FORWARD_ONLY: list[Row] = [  # an eps of this size shows in MVN's gradient, which is the original's
    (mvn("eps: 0.5"), [(2, 3, 4)], lambda x, p: [normalized(x[0], (2,), 0.5)[..., None]]),
    (mvn(""), [(2, 3)], lambda x, p: [np.zeros((2, 3, 1, 1))]),
    (mvn(""), [()], lambda x, p: [np.zeros((1, 1, 1, 1))]),
]

BAD = [
    (lrn("local_size: 4"), [(1, 2, 3, 3)], "local_size 4 must be odd"),
    (lrn(""), [(1, 2, 3)], "LRN takes 4 axes (num, channels, height, width), not 1x2x3"),
    (op("BatchNorm", "param { lr_mult: 1 }"), [(2, 3)], "lr_mult must be 0, or not given"),
    (batch_norm("scale_bias: true"), [(2, 3)], "batch_norm_param: scale_bias true is a fork's, and not implemented"),
    (batch_norm("scale_filler { value: 1 }"), [(2, 3)], "batch_norm_param: scale_filler is a fork's, and not impl"),
    (batch_norm("use_weight_bias: true"), [(2, 3)], "use_weight_bias true is a fork's, and not implemented: the layer"),
    (batch_norm("bias_term: true"), [(2, 3)], "bias_term true is a fork's"),
    (batch_norm("relu: true"), [(2, 3)], "relu true is a fork's"),
    (batch_norm("stats_batch_size: 8"), [(2, 3)], "stats_batch_size 8 is a fork's"),
    (op("BatchNorm"), [()], "BatchNorm needs a batch axis: its bottom is a scalar"),
    (mvn(""), [(2, 3, 2, 2, 2)], "MVN takes 4 axes (num, channels, height, width) at most, not 2x3x2x2x2"),
]


test_forward_is_the_formula = forward_test(TABLE + FORWARD_ONLY)
test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)


def test_mvns_gradient_is_the_originals_formula_and_finite_on_constant_maps() -> None:
    graph = build(mvn("eps: 0.5"), [(2, 3, 4, 1)])
    x = torch.randn(2, 3, 4, 1, requires_grad=True)
    g = torch.randn(2, 3, 4, 1)
    y = graph.run(x)["y"]
    (got,) = torch.autograd.grad(y, x, g)
    y, deviation = y.detach(), x.detach().std(2, correction=0, keepdim=True)
    want = (g - g.mean(2, keepdim=True) - y * (g * y).mean(2, keepdim=True)) / (deviation + 0.5)
    torch.testing.assert_close(got, want)
    flat = torch.ones(2, 3, 4, 1, requires_grad=True)
    (got,) = torch.autograd.grad(graph.run(flat)["y"], flat, g)
    torch.testing.assert_close(got, (g - g.mean(2, keepdim=True)) / 0.5)


def test_batchnorm_sums_up_what_it_saw_and_uses_it_in_test() -> None:
    text = op("BatchNorm", "batch_norm_param { moving_average_fraction: 0.9 eps: 0.01 }")
    train, test = build(text, [(4, 3, 2, 5)], TRAIN), build(text, [(4, 3, 2, 5)], TEST)
    rng = np.random.default_rng(0)
    sums = [np.zeros(3), np.zeros(3), 0.0]
    for _ in range(4):
        x = rng.standard_normal((4, 3, 2, 5)) * 3 + 1
        train(torch.from_numpy(x.astype(np.float32)))
        seen = [x.mean((0, 2, 3)), x.var((0, 2, 3), ddof=1), 1.0]
        sums = [0.9 * total + value for total, value in zip(sums, seen, strict=True)]
    for blob, want in zip(train.weights()["op"], sums, strict=True):
        np.testing.assert_allclose(blob, np.reshape(want, blob.shape), rtol=1e-5)
    test.load_weights(train.weights())
    mean, variance = (total.reshape(1, 3, 1, 1) / sums[2] for total in sums[:2])
    got = test(torch.from_numpy(x.astype(np.float32)))["y"].detach()
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(variance + 0.01), rtol=1e-4, atol=1e-5)
    for blob, want in zip(test.weights()["op"], train.weights()["op"], strict=True):
        assert (blob == want).all()


def test_batchnorms_blobs_are_no_solvers_business() -> None:
    graph = build(op("BatchNorm"), [(4, 3)])
    assert [p.lr_mult for p in graph.learnable] == [0, 0, 0]
    assert not any(p.requires_grad for p in graph.parameters())


def test_batchnorm_before_any_training_takes_the_sums_as_zero() -> None:
    x = torch.randn(2, 3)
    y = build(op("BatchNorm"), [(2, 3)], TEST).run(x)["y"]
    torch.testing.assert_close(y, x / 1e-5**0.5)
