"""Deconvolution and Im2col against sums written out in NumPy. (Most of Convolution: test_layers.py.)"""

from __future__ import annotations

import itertools

import numpy as np

from tests.layers.harness import Row, error_test, forward_test, gradient_test, op

FILLED = 'weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'


def deconv(settings: str) -> str:
    return op("Deconvolution", f"convolution_param {{ {settings} {FILLED} }}")


def im2col(settings: str) -> str:
    return op("Im2col", f"convolution_param {{ {settings} }}")


def conv(settings: str) -> str:
    return op("Convolution", f"convolution_param {{ {settings} {FILLED} }}")


def spread(x: np.ndarray, w: np.ndarray, b: float | np.ndarray = 0.0, stride=1, pad=0, dilation=1, group=1) -> np.ndarray:
    """Every value adds its filter to the top, over any number of spatial axes."""
    axes = x.ndim - 2
    stride, pad, dilation = (np.broadcast_to(v, axes) for v in (stride, pad, dilation))
    kernel, n_in, n_out = np.array(w.shape[2:]), x.shape[1] // group, w.shape[1]
    size = stride * (np.array(x.shape[2:]) - 1) + dilation * (kernel - 1) + 1
    top = np.zeros((x.shape[0], n_out * group, *size))
    for place in itertools.product(*map(range, x.shape[2:])):
        for tap in itertools.product(*map(range, kernel)):
            at = tuple(stride * place + dilation * tap)
            for g in range(group):
                values = x[(slice(None), slice(g * n_in, (g + 1) * n_in), *place)]
                filters = w[(slice(g * n_in, (g + 1) * n_in), slice(None), *tap)]
                top[(slice(None), slice(g * n_out, (g + 1) * n_out), *at)] += values @ filters
    top = top[(..., *(slice(p, s - p) for p, s in zip(pad, size, strict=True)))]
    return top + np.reshape(b, (-1, *[1] * axes))


def windows(x: np.ndarray, kernel, stride=1, pad=0, dilation=1) -> np.ndarray:
    axes = x.ndim - 2
    kernel, stride, pad, dilation = (np.broadcast_to(v, axes) for v in (kernel, stride, pad, dilation))
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in pad)])
    reach = dilation * (kernel - 1) + 1
    missing = np.maximum(reach - x.shape[2:], 0)  # of the first window: zeros, if it is less than a stride
    assert (missing < stride).all()
    x = np.pad(x, [(0, 0), (0, 0), *((0, m) for m in missing)])
    size = (np.array(x.shape[2:]) - reach) // stride + 1
    top = np.zeros((x.shape[0], x.shape[1], *kernel, *size))
    for tap in itertools.product(*map(range, kernel)):
        starts = dilation * tap
        cut = tuple(slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(starts, stride, size, strict=True))
        top[(slice(None), slice(None), *tap)] = x[(..., *cut)]
    return top.reshape(x.shape[0], -1, *size)


def products(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride=1, pad=0) -> np.ndarray:
    """What the filters make of the windows."""
    columns = windows(x, w.shape[2:], stride, pad)
    top = np.einsum("ok,nk...->no...", w.reshape(len(w), -1), columns)
    return top + np.reshape(b, (-1, *[1] * (x.ndim - 2)))


TABLE: list[Row] = [
    (deconv("num_output: 3 kernel_size: 3"), [(2, 4, 3, 2)], lambda x, p: [spread(x[0], *p)]),
    (deconv("num_output: 3 kernel_size: 4 stride: 2 pad: 1"), [(1, 2, 3, 4)], lambda x, p: [spread(x[0], *p, stride=2, pad=1)]),
    (deconv("num_output: 4 kernel_size: 3 group: 2"), [(1, 6, 3, 2)], lambda x, p: [spread(x[0], *p, group=2)]),
    (deconv("num_output: 2 kernel_size: 2 dilation: 3"), [(1, 2, 3, 2)], lambda x, p: [spread(x[0], *p, dilation=3)]),
    (
        deconv("num_output: 2 kernel_h: 1 kernel_w: 3 stride_h: 2 stride_w: 1 bias_term: false"), [(1, 2, 3, 2)],
        lambda x, p: [spread(x[0], *p, stride=(2, 1))],
    ),
    (deconv("num_output: 2 kernel_size: 2 stride: 3"), [(1, 2, 3)], lambda x, p: [spread(x[0], *p, stride=3)]),
    (deconv("num_output: 2 kernel_size: 2"), [(1, 2, 2, 2, 2)], lambda x, p: [spread(x[0], *p)]),
    (
        deconv("num_output: 3 kernel_size: 3 axis: 2"), [(2, 2, 4, 3, 2)],
        lambda x, p: [spread(x[0].reshape(4, 4, 3, 2), *p).reshape(2, 2, 3, 5, 4)],
    ),
    (deconv("num_output: 4 group: 2 kernel_size: 1"), [(3, 6)], lambda x, p: [spread(x[0], *p, group=2)]),
    (im2col("kernel_size: 3 stride: 2 pad: 1"), [(2, 2, 5, 6)], lambda x, p: [windows(x[0], 3, 2, 1)]),
    (im2col("kernel_h: 2 kernel_w: 3"), [(1, 2, 4, 5)], lambda x, p: [windows(x[0], (2, 3))]),
    (im2col("kernel_size: 2 dilation: 2"), [(1, 1, 5, 4)], lambda x, p: [windows(x[0], 2, dilation=2)]),
    (im2col("kernel_size: 2"), [(1, 2, 3, 3, 2)], lambda x, p: [windows(x[0], 2)]),
    (im2col("kernel_size: 5 stride: 2"), [(1, 2, 4, 4)], lambda x, p: [windows(x[0], 5, 2)]),
    (im2col("kernel_size: 3 stride: 3 dilation: 2 pad: 1"), [(1, 1, 2, 1)], lambda x, p: [windows(x[0], 3, 3, 1, 2)]),
    (conv("num_output: 1 kernel_size: 5 stride: 2"), [(1, 1, 4, 4)], lambda x, p: [products(x[0], *p, stride=2)]),
    (conv("num_output: 3 kernel_h: 3 kernel_w: 6 stride: 4 pad: 1"), [(2, 2, 6, 3)], lambda x, p: [products(x[0], *p, stride=4, pad=1)]),
    (conv("num_output: 2 kernel_size: 3 relu: true"), [(1, 2, 4, 5)], lambda x, p: [np.maximum(products(x[0], *p), 0)]),
    (
        conv("num_output: 2 kernel_size: 3 relu: true negative_slope: 0.5"), [(1, 2, 4, 5)],
        lambda x, p: [(lambda y: np.where(y > 0, y, 0.5 * y))(products(x[0], *p))],
    ),
    (
        conv("num_output: 2 kernel_size: 3 relu: true").replace("conv", "relu_param { negative_slope: 0.1 } conv"), [(1, 2, 4, 5)],
        lambda x, p: [(lambda y: np.where(y > 0, y, 0.1 * y))(products(x[0], *p))],
    ),
    (im2col("kernel_size: 2 axis: 2"), [(2, 2, 3, 4)], lambda x, p: [windows(x[0].reshape(4, 3, 4), 2).reshape(2, 2, 6, 3)]),
]  # fmt: skip

BAD = [
    (deconv("num_output: 3"), [(1, 2, 3, 3)], "kernel_size is missing"),
    (deconv("num_output: 3 kernel_size: 3 group: 2"), [(1, 2, 3, 3)], "group 2 does not divide 2 input channels and num"),
    (deconv("num_output: 2 kernel_size: 3 pad: 3"), [(1, 2, 3, 3)], "pad 3x3 leaves nothing of what kernel 3x3 makes"),
    (deconv("num_output: 2 kernel_size: 3 stride: 0"), [(1, 2, 3, 3)], "stride 0 is not positive"),
    (deconv("num_output: 2 kernel_size: 1"), [(1, 2, 1, 1, 1, 1)], "has 4 spatial axes behind axis 1: 3 at most work"),
    (conv("num_output: 1 kernel_size: 5 stride: 2"), [(1, 1, 4, 3)], "kernel 5x5 does not fit into a bottom of shape 1x1x4x3"),
    (im2col("kernel_size: 5"), [(1, 2, 3, 3)], "kernel 5x5 does not fit into a bottom of shape 1x2x3x3"),
    (im2col("kernel_size: 1"), [(1, 2)], "a bottom of shape 1x2 has no spatial axis"),
]


test_forward_is_the_formula = forward_test(TABLE)
test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)
