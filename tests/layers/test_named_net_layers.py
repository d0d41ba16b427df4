"""Fork layers without which certain well-known nets do not run (PSPNet, SegNet, R-FCN, CTPN, YOLO), against NumPy."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pycaffe_compat import DataError, NetError, WeightsError
from pycaffe_compat.export import Deployed, export_onnx, verify_onnx
from pycaffe_compat.graph import TEST, TRAIN
from tests.layers.harness import Row, build, error_test, forward_test, gradient_test, op

GAUSS = 'filler { type: "gaussian" mean: 1 std: 0.5 }'
PSPNET = f"slope_{GAUSS} bias_{GAUSS}"
SEGNET = f"scale_{GAUSS} shift_{GAUSS}"


def bn(settings: str) -> str:
    return op("BN", f"bn_param {{ {settings} }}")


def psroi(settings: str) -> str:
    return op("PSROIPooling", f"psroi_pooling_param {{ {settings} }}", 2)


def lstm(settings: str = "", bottoms: int = 1) -> str:
    fillers = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" std: 0.5 }'
    return op("Lstm", f"lstm_param {{ num_output: 3 {fillers} {settings} }}", bottoms)


def reorg(settings: str) -> str:
    return op("Reorg", f"reorg_param {{ {settings} }}")


def transpose(*dims: int) -> str:
    return op("Transpose", f"transpose_param {{ {' '.join(f'dim: {d}' for d in dims)} }}")


# ------------------------------------------------------------------------------------ what the layers should compute


def by_batch(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, eps: float) -> np.ndarray:
    axes = (0, *range(2, x.ndim))
    each = (-1, *[1] * (x.ndim - 2))
    norm = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    return norm * scale.reshape(each) + shift.reshape(each)


def psroi_pool(x: np.ndarray, rois: np.ndarray, dim: int, group: int, scale: float) -> np.ndarray:
    """R-FCN's loop, with its 32-bit floats."""
    _, _, height, width = x.shape
    top = np.zeros((len(rois), dim, group, group))

    def nearest(v: np.float32) -> np.float32:
        return np.float32(math.copysign(math.floor(abs(float(v)) + 0.5), v))

    for n, region in enumerate(rois.reshape(len(rois), 5).astype(np.float32)):
        x1, y1 = (nearest(v) * np.float32(scale) for v in region[1:3])
        x2, y2 = ((nearest(v) + np.float32(1)) * np.float32(scale) for v in region[3:])
        steps = [max(b - a, np.float32(0.1)) / np.float32(group) for a, b in ((y1, y2), (x1, x2))]
        for c, i, j in np.ndindex(dim, group, group):
            (a, b), (d, e) = (
                [min(max(int(f(np.float32(at) * step + first)), 0), limit) for f, at in ((np.floor, k), (np.ceil, k + 1))]
                for k, first, step, limit in ((i, y1, steps[0], height), (j, x1, steps[1], width))
            )
            if b > a and e > d:
                top[n, c, i, j] = x[int(region[0]), (c * group + i) * group + j, a:b, d:e].mean()
    return top


def sequences(x: np.ndarray, p: list[np.ndarray], cont: np.ndarray | None = None) -> np.ndarray:
    (w_x, w_h, b), steps = p, x.reshape(*x.shape[:2], -1)
    h = c = np.zeros((x.shape[1], w_h.shape[1]))
    top = []
    for t, step in enumerate(steps):
        goes_on = np.full(x.shape[1], t > 0) if cont is None else cont.reshape(x.shape[:2])[t] != 0
        h, c = h * goes_on[:, None], c * goes_on[:, None]
        i, f, o, g = np.split(step @ w_x.T + b + h @ w_h.T, 4, 1)
        i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        top.append(h)
    return np.stack(top)


def darknet(x: np.ndarray, s: int, reverse: bool) -> np.ndarray:
    """Darknet's loop over flat arrays."""
    n, channels, h, w = x.shape
    few = channels // s**2
    flat, out = x.reshape(n, -1), np.empty((n, x[0].size))
    for k, j, i in np.ndindex(channels, h, w):
        here = i + w * (j + h * k)
        offset = k // few
        there = i * s + offset % s + w * s * (j * s + offset // s + h * s * (k % few))
        if reverse:
            out[:, there] = flat[:, here]
        else:
            out[:, here] = flat[:, there]
    return out.reshape((n, few, h * s, w * s) if reverse else (n, channels * s**2, h // s, w // s))


RNG = np.random.default_rng(5)
ROIS = np.array([
    [0, 0, 0, 6, 4], [1, 2, 1, 2, 1], [1, 1.5, 0.5, 4.5, 3.5], [0, 3, 2, 20, 9], [0, -9, -3, -6, -1], [1, -2.5, -1.5, 3, 3],
    [0, 5, 4, 2, 1], [1, 0, 0, 100, 100],
])  # fmt: skip
CONT = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])

TABLE: list[Row] = [
    (bn(PSPNET), [(3, 4, 2, 3)], lambda x, p: [by_batch(x[0], p[0], p[1], 1e-5)]),
    (bn(f"{PSPNET} eps: 0.5 momentum: 0.2"), [(5, 4)], lambda x, p: [by_batch(x[0], p[0], p[1], 0.5)]),
    (bn(f"{PSPNET} frozen: true eps: 3"), [(2, 3, 2, 2)], lambda x, p: [x[0] / 2 * p[0] + p[1]]),
    (bn(f"{SEGNET} moving_average: true decay: 0.05 var_eps: 0.5"), [(3, 4, 2, 3)], lambda x, p: [by_batch(x[0], p[0], p[1], 0.5)]),
    (bn(f"{SEGNET} decay: 0.05"), [(3, 4, 2, 3)], lambda x, p: [by_batch(x[0], p[0], p[1], 1e-10)]),
    (bn(SEGNET), [(3, 4, 2, 3)], lambda x, p: [by_batch(x[0], p[0], p[1], 1e-9)]),
    (bn(f"{SEGNET} bn_mode: INFERENCE"), [(2, 4, 2, 3)], lambda x, p: [x[0] * p[0] + p[1]]),
    (bn(f"{SEGNET} bn_mode: INFERENCE"), [(2, 4)], lambda x, p: [x[0] * p[0].ravel() + p[1].ravel()]),
    (
        bn(SEGNET).replace('top: "y"', 'top: "y" top: "m" top: "v"'), [(3, 4, 2, 3)],
        lambda x, p: [by_batch(x[0], p[0], p[1], 1e-9), *(f(x[0], (0, 2, 3)).reshape(1, 4, 1, 1) for f in (np.mean, np.var))],
    ),
    (bn("").replace('top: "y"', 'top: "y" top: "m"'), [(5, 2)], lambda x, p: [0 * x[0], x[0].mean(0).reshape(1, 2, 1, 1)]),
    (psroi("output_dim: 2 group_size: 2 spatial_scale: 1"), [(2, 8, 5, 7), ROIS], lambda x, p: [psroi_pool(x[0], ROIS, 2, 2, 1)]),
    (
        psroi("output_dim: 1 group_size: 3 spatial_scale: 0.0625"), [(2, 9, 4, 4), 16 * ROIS[:, :, None, None] - [[[15]], [[0]], [[0]], [[0]], [[0]]] * (ROIS[:, :1, None, None] > 0)],
        lambda x, p: [psroi_pool(x[0], x[1], 1, 3, 0.0625)],
    ),
    (transpose(2, 0, 1), [(2, 3, 4)], lambda x, p: [x[0].transpose(2, 0, 1)]),
    (transpose(3, 2, 0, 1), [(2, 3, 4, 2)], lambda x, p: [x[0].transpose(3, 2, 0, 1)]),
    (op("Reverse"), [(4, 3)], lambda x, p: [x[0][::-1]]),
    (op("Reverse", "reverse_param { axis: -1 }"), [(2, 3, 4)], lambda x, p: [x[0][..., ::-1]]),
    (lstm(), [(4, 2, 5)], lambda x, p: [sequences(x[0], p)]),
    (lstm("clipping_threshold: 9"), [(1, 2, 2, 2)], lambda x, p: [sequences(x[0], p)]),
    (lstm(bottoms=2), [(4, 2, 5), CONT], lambda x, p: [sequences(x[0], p, CONT)]),
    (lstm(bottoms=2), [(4, 2, 5), CONT.reshape(8)], lambda x, p: [sequences(x[0], p, CONT)]),
    (reorg("stride: 2"), [(2, 8, 4, 6)], lambda x, p: [darknet(x[0], 2, False)]),
    (reorg("stride: 3"), [(1, 9, 3, 6)], lambda x, p: [darknet(x[0], 3, False)]),
    (reorg("stride: 2 reverse: true"), [(2, 12, 3, 2)], lambda x, p: [darknet(x[0], 2, True)]),
    (op("Mish"), [(3, 4)], lambda x, p: [x[0] * np.tanh(np.log1p(np.exp(x[0])))]),
]  # fmt: skip

BAD = [
    (bn(""), [(4,)], "BN takes 2 to 4 axes, channels being the second, not 4"),
    (bn(f"{PSPNET} bn_mode: LEARN"), [(2, 3, 4, 4)], "bn_param has fields of two forks, bias_filler, slope_filler and bn_mode: keep"),
    (bn(PSPNET).replace('top: "y"', 'top: "y" top: "m"'), [(2, 3, 4, 4)], "has 2 tops: a mean and a variance are tops of SegNet's BN in"),
    (bn(f"{SEGNET} bn_mode: LEARN decay: 1"), [(2, 3, 4, 4)], "bn_param has fields of two forks, decay and bn_mode: keep"),
    (psroi("output_dim: 2 group_size: 2 spatial_scale: 1"), [(1, 7, 5, 5), (3, 5)], "is 2 x 2 x 2 = 8 channels, the first bottom has 7"),
    (psroi("output_dim: 2 group_size: 0 spatial_scale: 1"), [(1, 8, 5, 5), (3, 5)], "output_dim 2 and group_size 0 must be positive"),
    (psroi("output_dim: 2 group_size: 2 spatial_scale: -1"), [(1, 8, 5, 5), (3, 5)], "spatial_scale -1 is not positive"),
    (psroi("output_dim: 2 group_size: 2 spatial_scale: 1"), [(1, 8, 5, 5), (3, 4)], "holds item, x1, y1, x2, y2 of each region, not 3x4"),
    (psroi("output_dim: 2 group_size: 2 spatial_scale: 1"), [(8, 5, 5), (3, 5)], "the first bottom has 4 axes"),
    (transpose(1, 0), [(2, 3, 4)], "dim [1, 0] is no order of the 3 axes of 2x3x4"),
    (transpose(1, 1, 0), [(2, 3, 4)], "dim [1, 1, 0] is no order of the 3 axes"),
    (op("Reverse", "reverse_param { axis: 2 }"), [(2, 3)], "axis 2 does not exist in a blob of 2 dimensions"),
    (op("Lstm"), [(2, 3, 4)], "num_output 0 is not positive"),
    (lstm(), [(4,)], "x is time x batch x ..., cont has a number for each step of each sequence: not 4"),
    (lstm(bottoms=2), [(4, 2, 5), (4, 3)], "not 4x2x5 and 4x3"),
    (reorg("stride: 2"), [(1, 6, 4, 4)], "stride 2 does not divide a bottom of 1x6x4x4 evenly"),
    (reorg("stride: 2"), [(1, 4, 5, 4)], "stride 2 does not divide a bottom of 1x4x5x4 evenly"),
    (reorg(""), [(1, 4, 4, 4)], "stride must be given and positive"),
    (reorg("stride: 2"), [(4, 4, 4)], "Reorg takes 4 axes"),
]  # fmt: skip


test_forward_is_the_formula = forward_test(TABLE)
test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)


# ---------------------------------------------------------------------------------------------------- the edges of it


@pytest.mark.parametrize("settings", [f"{PSPNET} momentum: 0.75 eps: 0.1", f"{SEGNET} moving_average: true decay: 0.25 var_eps: 0.1"])
def test_bn_keeps_statistics_in_training_and_takes_them_in_testing(settings: str) -> None:
    train = build(bn(settings), [(3, 4, 2, 3)], TRAIN)
    mean, variance = np.zeros(4), np.zeros(4)
    for _ in range(3):
        x = RNG.standard_normal((3, 4, 2, 3)).astype(np.float32) + 2
        train.run(torch.from_numpy(x))
        mean = 0.75 * mean + 0.25 * x.mean((0, 2, 3))
        variance = 0.75 * variance + 0.25 * x.var((0, 2, 3))
    scale, shift, *kept = train.weights()["op"]
    assert [blob.shape for blob in (scale, shift, *kept)] == [(1, 4, 1, 1)] * 4
    np.testing.assert_allclose(np.ravel(kept), np.concatenate([mean, variance]), rtol=1e-5)
    test = build(bn(settings), [(3, 4, 2, 3)], TEST)
    test.load_weights(train.weights())
    want = (x - mean.reshape(1, 4, 1, 1)) / np.sqrt(variance.reshape(1, 4, 1, 1) + 0.1) * scale + shift
    np.testing.assert_allclose(test.run(torch.from_numpy(x))["y"].detach().numpy(), want, rtol=1e-4, atol=1e-5)


def test_bn_without_a_moving_average_takes_the_batch_in_testing_and_keeps_nothing() -> None:
    graph = build(bn(f"{SEGNET} decay: 0.5"), [(3, 4, 2, 3)], TEST)
    x = RNG.standard_normal((3, 4, 2, 3)).astype(np.float32)
    got = graph.run(torch.from_numpy(x))["y"].detach().numpy()
    scale, shift, mean, variance = graph.weights()["op"]
    np.testing.assert_allclose(got, by_batch(x, scale, shift, 1e-10), rtol=1e-4, atol=1e-5)
    assert not mean.any() and not variance.any()


@pytest.mark.parametrize(
    ("settings", "rates"),
    [(PSPNET, [1, 2, 0, 0]), (f"{PSPNET} frozen: true", [0, 0, 0, 0]), (SEGNET, [1, 2]), (f"{SEGNET} decay: 0.1", [1, 2, 0, 0])],
)
def test_no_solver_touches_statistics_of_bn(settings: str, rates: list[float]) -> None:
    specs = "param { lr_mult: 1 } param { lr_mult: 2 } " + "param { lr_mult: 1 } " * (len(rates) - 2)
    graph = build(op("BN", f"{specs} bn_param {{ {settings} }}"), [(3, 4, 2, 3)], TRAIN)
    assert [entry.lr_mult for entry in graph.learnable] == rates


def test_weights_of_bn_fit_with_and_without_axes_of_1_at_the_end() -> None:
    graph = build(bn(PSPNET), [(3, 4, 2, 3)], TEST)
    for shape in ((1, 4), (1, 4, 1, 1), (1, 4, 1)):
        blobs = [RNG.standard_normal(shape).astype(np.float32) for _ in range(4)]
        graph.load_weights({"op": blobs})
        for got, want in zip(graph.weights()["op"], blobs, strict=True):
            np.testing.assert_array_equal(got, want.reshape(1, 4, 1, 1))
    for wrong in ((4,), (4, 1), (1, 3)):
        with pytest.raises(WeightsError, match=r"parameter 0 has shape 1x4x1x1, the weights holds"):
            graph.load_weights({"op": [np.zeros(wrong, np.float32)] * 4})


def test_one_value_a_channel_is_its_own_mean() -> None:
    for settings in (PSPNET, SEGNET):
        graph = build(bn(settings), [(1, 3, 1, 1)], TRAIN)
        shift = graph.weights()["op"][1]
        np.testing.assert_allclose(graph.run(torch.rand(1, 3, 1, 1))["y"].detach().numpy(), shift, rtol=1e-5)
        assert all(np.isfinite(blob).all() for blob in graph.weights()["op"])


def test_position_sensitive_regions_of_all_sizes_and_places() -> None:
    """Against the loop: 200 random regions, halves and pixels outside included. Whole numbers: sums are exact."""
    rois = RNG.integers(-64, 320, (200, 5)) / 2.0
    rois[:, 0] = RNG.integers(0, 3, 200)
    x = RNG.integers(0, 9, (3, 2 * 49, 9, 11)).astype(np.float32)
    for scale in (1.0, 0.5, 0.0625):
        graph = build(psroi(f"output_dim: 2 group_size: 7 spatial_scale: {scale}"), [x.shape, rois.shape])
        got = graph.run(torch.from_numpy(x), torch.from_numpy(rois).float())["y"]
        np.testing.assert_allclose(got.numpy(), psroi_pool(x, rois, 2, 7, scale), rtol=1e-6)


def test_a_region_of_no_item_is_named() -> None:
    graph = build(psroi("output_dim: 1 group_size: 1 spatial_scale: 1"), [(2, 1, 4, 6), (1, 5)])
    with pytest.raises(DataError, match=r'"op" \(PSROIPooling\): region 0 lies in item 2 of a batch of 2$'):
        graph.run(torch.rand(2, 1, 4, 6), torch.tensor([[2.0, 0, 0, 1, 1]]))
    assert graph.run(torch.rand(2, 1, 4, 6), torch.zeros(0, 5))["y"].shape == (0, 1, 1, 1)


def test_a_cont_of_1_at_the_first_step_goes_on_from_the_last_forward() -> None:
    graph = build(lstm(bottoms=2), [(2, 1, 5), (2, 1)])
    x = torch.from_numpy(RNG.standard_normal((4, 1, 5)).astype(np.float32))
    parts = [graph.run(x[:2], torch.tensor([[0.0], [1]]))["y"], graph.run(x[2:], torch.ones(2, 1))["y"]]
    want = sequences(x.double().numpy(), [p.astype(float) for p in graph.weights()["op"]])
    np.testing.assert_allclose(torch.cat(parts).detach().numpy(), want, rtol=1e-5, atol=1e-6)


def test_clipping_limits_the_gradient_of_the_gates() -> None:
    """With a single step the bias's gradient is the gates'."""
    x = torch.full((1, 1, 2), 0.5)
    gradients = []
    for settings in ("", "clipping_threshold: 0.25"):
        graph = build(lstm(settings), [(1, 1, 2)])
        bias = graph.layers["op"].b_c
        (1000 * graph.run(x)["y"].sum()).backward()
        assert isinstance(bias, torch.nn.Parameter) and bias.grad is not None
        gradients.append(bias.grad)
    assert gradients[0].abs().max() > 0.25
    assert gradients[1].abs().max() == 0.25


@pytest.mark.parametrize("reverse", [False, True])
def test_reorg_and_its_reverse_undo_each_other(reverse: bool) -> None:
    x = torch.rand(2, 8, 4, 6)
    there = build(reorg(f"stride: 2 reverse: {'true' if reverse else 'false'}"), [x.shape]).run(x)["y"]
    if reverse:
        assert there.shape == (2, 2, 8, 12)
        assert torch.equal(there[:, :, ::2, 1::2], x[:, 2:4])  # the second quarter of the channels: row 0, column 1
    else:
        assert there.shape == (2, 32, 2, 3)
        assert sorted(there.flatten().tolist()) == sorted(x.flatten().tolist())


@pytest.mark.parametrize(
    ("settings", "dilation"), [("hole: 2 pad: 2", [2]), ("hole: 1 pad: 1", [1]), ("pad: 1", []), ("hole_h: 2 hole_w: 3 pad_h: 2 pad_w: 3", [2, 3])]
)
def test_a_hole_is_a_dilation(settings: str, dilation: list[int]) -> None:
    text = op("HoleConvolution", f"convolution_param {{ num_output: 2 kernel_size: 3 {settings} }}")
    graph = build(text, [(1, 3, 8, 8)])
    assert graph.shapes["y"] == (1, 2, 8, 8)
    assert list(graph.param.layer[-1].convolution_param.dilation) == dilation
    plain = settings.replace("hole_h: 2 hole_w: 3", "dilation: 2 dilation: 3").replace("hole", "dilation")
    other = build(op("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 3 {plain} }}"), [(1, 3, 8, 8)])
    weights = {"op": [RNG.standard_normal(blob.shape).astype(np.float32) for blob in graph.weights()["op"]]}
    for each in (graph, other):
        each.load_weights(weights)
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(graph.run(x)["y"], other.run(x)["y"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [("hole: 2 dilation: 2", "both hole and dilation are set"), ("hole_h: 2", "hole_h: give hole, or both of hole_h and hole_w")],
)
def test_a_hole_that_is_no_dilation(settings: str, message: str) -> None:
    with pytest.raises(NetError, match=rf'^test.prototxt:2: layer "op" \(Convolution\): {message}'):
        build(op("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 3 {settings} }}"), [(1, 3, 8, 8)])


def test_exported_position_sensitive_pooling_takes_any_number_of_regions(tmp_path: Path) -> None:
    model = Deployed(build(psroi("output_dim: 2 group_size: 3 spatial_scale: 0.5"), [(2, 18, 9, 7), (4, 5)], TEST))
    export_onnx(model, tmp_path / "net.onnx")
    x = RNG.standard_normal((2, 18, 9, 7)).astype(np.float32)
    for count, top in itertools.product((4, 9), (20, 40)):
        rois = (RNG.integers(-4, top, (count, 5)) * [0, 1, 1, 1, 1]).astype(np.float32)
        assert verify_onnx(model, tmp_path / "net.onnx", [[x, rois]]) < 1e-6
