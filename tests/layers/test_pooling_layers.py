"""Pooling and SPP against Caffe's rule for windows, written out in NumPy over odd settings."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from pycaffe_compat.graph import TEST, TRAIN
from pycaffe_compat.layers.pooling import average_pool, max_pool
from tests.layers.harness import Row, build, error_test, forward_test, gradient_test, op

LOWEST = np.finfo(np.float32).min


def pooling(settings: str, tops: tuple[str, ...] = ("y",)) -> str:
    return op("Pooling", f"pooling_param {{ {settings} }}", tops=tops)


def slices(size: int, k: int, s: int, p: int, ceil: bool, clip: bool) -> list[tuple[int, int]]:
    """Start and end of each window, the end cut off where the padding ends."""
    n = (math.ceil if ceil else math.floor)((size + 2 * p - k) / s) + 1
    if clip and (n - 1) * s >= size + p:
        n -= 1
    return [(i * s - p, min(i * s - p + k, size + p)) for i in range(n)]


def pool(x: np.ndarray, method: str, kernel, stride, pad, ceil: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Pooled maps and the positions of the maxima, value by value."""
    geometry = zip(x.shape[2:], kernel, stride, pad, strict=True)
    rows, columns = (slices(*axis, ceil, any(pad)) for axis in geometry)
    top = np.zeros((*x.shape[:2], len(rows), len(columns)))
    mask = np.full(top.shape, -1.0)
    for (i, (r0, r1)), (j, (c0, c1)) in itertools.product(enumerate(rows), enumerate(columns)):
        size = (r1 - r0) * (c1 - c0)
        r, c = range(max(r0, 0), min(r1, x.shape[2])), range(max(c0, 0), min(c1, x.shape[3]))
        for n, m in np.ndindex(x.shape[:2]):
            inside = [(x[n, m, a, b], -a * x.shape[3] - b) for a in r for b in c]
            if method == "AVE":
                total = sum(v for v, _ in inside)
                top[n, m, i, j] = total / size if size else np.nan
            else:
                value, at = max(inside, default=(LOWEST, 1))
                top[n, m, i, j], mask[n, m, i, j] = value, -at
    return top, mask


def both(method: str, kernel: int, stride: int, pad: int = 0, **kw: bool):  # type: ignore[no-untyped-def]
    return lambda x, p: [pool(x[0], method, (kernel,) * 2, (stride,) * 2, (pad,) * 2, **kw)[0]]


def without_padding(kernel: int, stride: int, pad: int):  # type: ignore[no-untyped-def]
    """The mean of the values within the map: of ones, a window's mean is their share of it."""
    geometry = (kernel,) * 2, (stride,) * 2, (pad,) * 2
    return lambda x, p: [pool(x[0], "AVE", *geometry)[0] / pool(np.ones_like(x[0]), "AVE", *geometry)[0]]


TABLE: list[Row] = [
    (pooling("kernel_size: 3 stride: 2"), [(2, 3, 6, 7)], both("MAX", 3, 2)),
    (pooling("kernel_size: 3 stride: 2 pad: 1"), [(1, 2, 6, 7)], both("MAX", 3, 2, 1)),
    (pooling("kernel_size: 3 stride: 2 round_mode: FLOOR"), [(1, 2, 6, 8)], both("MAX", 3, 2, ceil=False)),
    (pooling("kernel_size: 3 stride: 2 pad: 2"), [(1, 2, 5, 6)], both("MAX", 3, 2, 2)),
    (
        pooling("kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 1"), [(1, 2, 5, 6)],
        lambda x, p: [pool(x[0], "MAX", (2, 3), (1, 2), (0, 1))[0]],
    ),
    (pooling("kernel_size: 2 stride: 4"), [(1, 2, 9, 10)], both("MAX", 2, 4)),
    (pooling("global_pooling: true"), [(2, 3, 4, 5)], lambda x, p: [x[0].max((2, 3), keepdims=True)]),
    (pooling("pool: AVE kernel_size: 3 stride: 2"), [(2, 3, 6, 7)], both("AVE", 3, 2)),
    (pooling("pool: AVE kernel_size: 3 stride: 2 pad: 1"), [(1, 2, 6, 7)], both("AVE", 3, 2, 1)),
    (pooling("pool: AVE kernel_size: 3 stride: 2 pad: 2"), [(1, 2, 5, 6)], both("AVE", 3, 2, 2)),
    (pooling("pool: AVE kernel_size: 3 stride: 2 round_mode: FLOOR"), [(1, 2, 6, 8)], both("AVE", 3, 2, ceil=False)),
    (pooling("pool: AVE kernel_size: 7 stride: 7"), [(1, 2, 5, 8)], both("AVE", 7, 7)),
    (pooling("kernel_size: 3 kernel_h: 2 stride: 2"), [(1, 2, 5, 8)], both("MAX", 3, 2)),
    (pooling("kernel_size: 3 stride: 2 ceil_mode: false"), [(1, 2, 6, 8)], both("MAX", 3, 2, ceil=False)),
    (pooling("kernel_size: 3 stride: 2 ceil_mode: true"), [(1, 2, 6, 8)], both("MAX", 3, 2)),
    (pooling("pool: AVE kernel_size: 3 stride: 2 torch_pooling: true"), [(1, 2, 6, 8)], both("AVE", 3, 2, ceil=False)),
    (pooling("pool: AVE kernel_size: 3 stride: 2 avg_include_pad: false"), [(1, 2, 6, 8)], both("AVE", 3, 2)),
    (pooling("pool: AVE kernel_size: 3 stride: 2 pad: 1 avg_include_pad: false"), [(1, 2, 6, 7)], without_padding(3, 2, 1)),
    (pooling("pool: AVE kernel_size: 3 stride: 2 pad: 2 avg_include_pad: false"), [(1, 2, 5, 6)], without_padding(3, 2, 2)),
    (pooling("pool: AVE global_pooling: true"), [(2, 3, 4, 5)], lambda x, p: [x[0].mean((2, 3), keepdims=True)]),
    (
        op("SPP", "spp_param { pyramid_height: 2 }"), [(2, 3, 5, 7)],
        lambda x, p: [
            np.concatenate([x[0].max((2, 3)), pool(x[0], "MAX", (3, 4), (3, 4), (1, 1))[0].reshape(2, 12)], 1)
        ],
    ),
    (
        op("SPP", "spp_param { pyramid_height: 3 pool: AVE }"), [(1, 2, 8, 8)],
        lambda x, p: [np.concatenate([pool(x[0], "AVE", (k, k), (k, k), (0, 0))[0].reshape(1, -1) for k in (8, 4, 2)], 1)],
    ),
    (op("SPP", "spp_param { pyramid_height: 1 }"), [(2, 3, 4, 5)], lambda x, p: [x[0].max((2, 3), keepdims=True)]),
]  # fmt: skip

FORWARD_ONLY: list[Row] = [  # the mask has no gradient
    (
        pooling("kernel_size: 3 stride: 2", ("y", "mask")), [(2, 3, 6, 7)],
        lambda x, p: pool(x[0], "MAX", (3, 3), (2, 2), (0, 0)),
    ),
    (
        pooling("kernel_size: 3 stride: 2 pad: 2", ("y", "mask")), [(1, 2, 5, 6)],
        lambda x, p: pool(x[0], "MAX", (3, 3), (2, 2), (2, 2)),
    ),
    (
        pooling("kernel_size: 2 stride: 4", ("y", "mask")), [(1, 1, 5, 7)],
        lambda x, p: pool(x[0], "MAX", (2, 2), (4, 4), (0, 0)),
    ),
    (
        pooling("global_pooling: true", ("y", "mask")), [np.array([[[[1.0, 5.0], [5.0, 0.0]]]])],
        lambda x, p: [np.array([[[[5.0]]]]), np.array([[[[1.0]]]])],
    ),
]  # fmt: skip

BAD = [
    (pooling(""), [(1, 1, 5, 5)], "kernel_size is missing: say kernel_size, or kernel_h and kernel_w"),
    (pooling("kernel_size: 3 kernel_h: 2 kernel_w: 2"), [(1, 1, 5, 5)], "give kernel_size, or both of kernel_h and kernel_w"),
    (pooling("kernel_h: 2"), [(1, 1, 5, 5)], "give kernel_size, or both of kernel_h and kernel_w"),
    (pooling("kernel_size: 2 stride: 2 stride_h: 1"), [(1, 1, 5, 5)], "give stride, or both of stride_h and stride_w"),
    (pooling("kernel_size: 2 axis: 2"), [(1, 1, 5, 5)], "pooling_param: axis 2 is a fork's, and not implemented"),
    (pooling("kernel_size: 2 stride: 0"), [(1, 1, 5, 5)], "stride 0 is not positive"),
    (pooling("kernel_size: 2 pad: 2"), [(1, 1, 5, 5)], "pad 2x2 must be less than the kernel 2x2"),
    (pooling("kernel_size: 6"), [(1, 1, 5, 5)], "kernel 6x6 does not fit into a bottom of shape 1x1x5x5"),
    (pooling("kernel_size: 2"), [(1, 5, 5)], "Pooling takes 4 axes (num, channels, height, width), not 1x5x5"),
    (pooling("kernel_size: 2 global_pooling: true"), [(1, 1, 5, 5)], "remove kernel_size"),
    (pooling("global_pooling: true stride: 2"), [(1, 1, 5, 5)], "pad must be 0 and stride 1"),
    (pooling("pool: AVE kernel_size: 2", ("y", "m")), [(1, 1, 5, 5)], "a second top is the mask of MAX, AVE has none"),
    (pooling("pool: STOCHASTIC kernel_size: 2 pad: 1"), [(1, 1, 5, 5)], "pad is for MAX and AVE only"),
    (op("SPP"), [(1, 1, 5, 5)], "pyramid_height must be 1 or more"),
    (op("SPP", "spp_param { pyramid_height: 2 }"), [(1, 5, 5)], "SPP takes 4 axes"),
    (
        op("SPP", "spp_param { pyramid_height: 4 }"), [(1, 1, 9, 9)],
        "maps of 9x9 do not divide into 8x8 windows: pyramid_height 3 is the most",
    ),
]  # fmt: skip


test_forward_is_the_formula = forward_test(TABLE + FORWARD_ONLY)
test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)


def test_every_geometry_follows_the_rule() -> None:
    """All kernels, strides and pads up to 4 on sizes 4 to 9, rounded up and down: PyTorch's kernels and what they leave."""
    rng = np.random.default_rng(0)
    compared = 0
    for size, k, s, p, ceil in itertools.product(range(4, 10), range(1, 5), range(1, 5), range(4), (True, False)):
        if p >= k:
            continue
        x = rng.standard_normal((1, 1, size, 5)).astype(np.float32)
        geometry = (k, 2), (s, 1), (p, 0)
        top, index = max_pool(torch.from_numpy(x), *geometry, ceil)
        want, mask = pool(x, "MAX", *geometry, ceil)
        assert (top.numpy() == want.astype(np.float32)).all(), (size, *geometry, ceil)
        assert (index.numpy() == mask).all(), (size, *geometry, ceil)
        mean = average_pool(torch.from_numpy(x), *geometry, ceil)
        np.testing.assert_allclose(mean, pool(x, "AVE", *geometry, ceil)[0], rtol=1e-5, atol=1e-6)
        compared += 1
    assert compared > 400


def test_the_first_of_equal_maxima_gets_the_gradient() -> None:
    for settings in ("kernel_size: 2", "kernel_size: 2 pad: 1 stride: 3", "global_pooling: true"):
        x = torch.ones(1, 1, 2, 2, requires_grad=True)
        build(pooling(settings), [(1, 1, 2, 2)]).run(x)["y"].sum().backward()
        assert x.grad is not None
        assert x.grad.flatten().tolist() == [1, 0, 0, 0]


def test_windows_behind_the_image_are_the_originals() -> None:
    """Without padding, Caffe keeps a last window that lies outside: no maximum, a mean of nothing."""
    x = torch.ones(1, 1, 5, 6)
    top = build(pooling("kernel_size: 2 stride: 4"), [(1, 1, 5, 6)]).run(x)["y"]
    assert top.shape == (1, 1, 2, 2)
    outside = build(pooling("kernel_size: 1 stride: 3"), [(1, 1, 5, 5)]).run(torch.ones(1, 1, 5, 5))["y"]
    assert outside.shape == (1, 1, 3, 3)
    assert (outside[0, 0, 2] == LOWEST).all()
    mean = build(pooling("pool: AVE kernel_size: 2 stride: 4"), [(1, 1, 8, 8)]).run(torch.ones(1, 1, 8, 8))["y"]
    assert mean.shape == (1, 1, 3, 3)
    assert torch.isnan(mean[0, 0, 2]).all()


def test_stochastic_pooling_draws_in_proportion_and_averages_in_test() -> None:
    text = pooling("pool: STOCHASTIC kernel_size: 2 stride: 2")
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0]]).repeat(1, 1, 100, 100).requires_grad_()
    drawn = build(text, [(1, 1, 200, 200)], TRAIN).run(x)["y"]
    for value in (1.0, 3.0, 4.0):
        assert float((drawn == value).float().mean()) == pytest.approx(value / 8, abs=0.025)  # 5 standard errors
    drawn.sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == drawn.numel()
    mean = build(text, [(1, 1, 200, 200)], TEST).run(x)["y"]
    torch.testing.assert_close(mean, torch.full_like(mean, 26 / 8))
    assert (build(text, [(1, 1, 4, 4)], TEST).run(torch.zeros(1, 1, 4, 4))["y"] == 0).all()
