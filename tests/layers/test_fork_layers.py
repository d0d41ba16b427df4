"""Single layer types of Caffe's forks against NumPy, value by value where there is anything to get wrong."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from pycaffe_compat import DataError
from pycaffe_compat.export import Deployed, export_onnx, verify_onnx
from pycaffe_compat.graph import TEST
from tests.layers.harness import Row, build, error_test, forward_test, gradient_test, ids, op


def interp(settings: str) -> str:
    return op("Interp", f"interp_param {{ {settings} }}")


def upsample(settings: str, bottoms: int = 1) -> str:
    return op("Upsample", f"upsample_param {{ {settings} }}", bottoms)


def roi(settings: str) -> str:
    return op("ROIPooling", f"roi_pooling_param {{ {settings} }}", 2)


def smooth(settings: str, bottoms: int = 2) -> str:
    return op("SmoothL1Loss", f"smooth_l1_loss_param {{ {settings} }}", bottoms)


def depthwise(kind: str, settings: str) -> str:
    return op(kind, f'convolution_param {{ {settings} weight_filler {{ type: "gaussian" }} bias_filler {{ type: "gaussian" }} }}')


# ------------------------------------------------------------------------------------ what the layers should compute


def bilinear(x: np.ndarray, height: int, width: int) -> np.ndarray:
    top = np.empty((*x.shape[:2], height, width))
    for i, j in itertools.product(range(height), range(width)):
        r = i * (x.shape[2] - 1) / (height - 1) if height > 1 else 0
        c = j * (x.shape[3] - 1) / (width - 1) if width > 1 else 0
        a, b = int(r), int(c)
        below, right = min(a + 1, x.shape[2] - 1), min(b + 1, x.shape[3] - 1)
        upper = x[:, :, a, b] * (1 - c + b) + x[:, :, a, right] * (c - b)
        lower = x[:, :, below, b] * (1 - c + b) + x[:, :, below, right] * (c - b)
        top[:, :, i, j] = upper * (1 - r + a) + lower * (r - a)
    return top


def unpool(x: np.ndarray, mask: np.ndarray, height: int, width: int) -> np.ndarray:
    top = np.zeros((*x.shape[:2], height * width))
    for n, c, i, j in np.ndindex(x.shape):
        top[n, c, int(mask[n, c, i, j])] = x[n, c, i, j]
    return top.reshape(*x.shape[:2], height, width)


def roi_pool(x: np.ndarray, rois: np.ndarray, ph: int, pw: int, scale: float) -> np.ndarray:
    """Fast R-CNN's loop, with its 32-bit floats."""
    _, channels, height, width = x.shape
    top = np.zeros((len(rois), channels, ph, pw))

    def nearest(v: np.float32) -> int:
        return int(math.copysign(math.floor(abs(float(v)) + 0.5), v))

    for n, region in enumerate(rois.reshape(len(rois), 5).astype(np.float32)):
        x1, y1, x2, y2 = (nearest(v * np.float32(scale)) for v in region[1:])
        size = [np.float32(max(b - a + 1, 1)) / np.float32(p) for a, b, p in ((y1, y2, ph), (x1, x2, pw))]
        for i, j in itertools.product(range(ph), range(pw)):
            spans = []
            for k, first, step, limit in ((i, y1, size[0], height), (j, x1, size[1], width)):
                a, b = int(np.floor(np.float32(k) * step)), int(np.ceil(np.float32(k + 1) * step))
                spans.append((min(max(a + first, 0), limit), min(max(b + first, 0), limit)))
            (a, b), (c, d) = spans
            if b > a and d > c:
                top[n, :, i, j] = x[int(region[0]), :, a:b, c:d].max((1, 2))
    return top


def smooth_l1(x: list[np.ndarray], sigma: float = 1) -> list[np.ndarray]:
    d = x[0] - x[1].reshape(x[0].shape)
    if len(x) > 2:
        d = d * x[2].reshape(d.shape)
    f = np.array([0.5 * (sigma * v) ** 2 if abs(v) < 1 / sigma**2 else abs(v) - 0.5 / sigma**2 for v in d.flat])
    return [np.array((f * (x[3].flatten() if len(x) > 3 else 1)).sum() / len(d))]


def depth_conv(x: np.ndarray, w: np.ndarray, b: np.ndarray | float = 0.0, stride: int = 1, pad: int = 0) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    k, each = w.shape[2], w.shape[0] // x.shape[1]
    size = [(n - k) // stride + 1 for n in x.shape[2:]]
    top = np.zeros((len(x), len(w), *size))
    for o, i, j in itertools.product(range(len(w)), *map(range, size)):
        window = x[:, o // each, i * stride : i * stride + k, j * stride : j * stride + k]
        top[:, o, i, j] = (window * w[o, 0]).sum((1, 2))
    return top + np.reshape(b, (-1, 1, 1))


RNG = np.random.default_rng(3)
MASK = np.stack([[RNG.permutation(24)[:6].reshape(2, 3) for _ in range(2)] for _ in range(2)]).astype(float)
SHIFTED = np.arange(12.0).reshape(2, 1, 2, 3) % 6
ROIS = np.array([
    [0, 0, 0, 6, 4], [1, 2, 1, 2, 1], [1, 1.5, 0.5, 4.5, 3.5], [0, 3, 2, 20, 9], [0, -9, -3, -6, -1], [1, -2.5, -1.5, 3, 3],
    [0, 5, 4, 2, 1], [1, 0, 0, 100, 100],
])  # fmt: skip
KEEP = RNG.choice([0.0, 1.0, 0.5], (3, 4))

TABLE: list[Row] = [
    (op("ReLU6"), [np.linspace(-2, 8, 12).reshape(3, 4)], lambda x, p: [np.minimum(np.maximum(x[0], 0), 6)]),
    (op("ReLU6", "relu6_param { negative_slope: 0.1 }"), [(3, 4)], lambda x, p: [np.minimum(np.where(x[0] < 0, 0.1 * x[0], x[0]), 6)]),
    (op("Axpy", bottoms=3), [(2, 3), (2, 3, 2, 4), (2, 3, 2, 4)], lambda x, p: [x[0][:, :, None, None] * x[1] + x[2]]),
    (op("Axpy", bottoms=3), [(2, 3, 1, 1), (2, 3, 2, 4), (2, 3, 2, 4)], lambda x, p: [x[0] * x[1] + x[2]]),
    (
        op("ShuffleChannel", "shuffle_channel_param { group: 2 }"), [(2, 6, 2, 3)],
        lambda x, p: [x[0][:, [0, 3, 1, 4, 2, 5]]],
    ),
    (op("ShuffleChannel"), [(2, 3)], lambda x, p: [x[0]]),
    (
        op("CropCenter", "crop_center_param { crop_size: 0 crop_size: 0 crop_size: 1 crop_size: 2 }"), [(1, 2, 4, 6)],
        lambda x, p: [x[0][:, :, 1:3, 2:4]],
    ),
    (interp("height: 5 width: 9"), [(2, 2, 3, 4)], lambda x, p: [bilinear(x[0], 5, 9)]),
    (interp("height: 2 width: 1"), [(1, 2, 3, 4)], lambda x, p: [bilinear(x[0], 2, 1)]),
    (interp("zoom_factor: 3"), [(1, 2, 3, 4)], lambda x, p: [bilinear(x[0], 7, 10)]),
    (interp("shrink_factor: 2"), [(1, 2, 6, 7)], lambda x, p: [bilinear(x[0], 3, 4)]),
    (interp("shrink_factor: 3 zoom_factor: 2"), [(1, 2, 7, 9)], lambda x, p: [bilinear(x[0], 5, 5)]),
    (interp("zoom_factor: 2 height: 9 width: 9"), [(1, 2, 3, 4)], lambda x, p: [bilinear(x[0], 5, 7)]),
    (interp("shrink_factor: 3 zoom_factor: 2 height: 9 width: 8"), [(1, 2, 3, 4)], lambda x, p: [bilinear(x[0], 9, 8)]),
    (interp("zoom_factor: 2 pad_beg: -1 pad_end: -2"), [(1, 2, 6, 7)], lambda x, p: [bilinear(x[0][:, :, 1:4, 1:5], 5, 7)]),
    (op("Interp", bottoms=2), [(1, 2, 3, 4), np.zeros((2, 1, 5, 9))], lambda x, p: [bilinear(x[0], 5, 9)]),
    (upsample("scale: 2"), [(2, 2, 2, 3)], lambda x, p: [x[0].repeat(2, 2).repeat(2, 3)]),
    (upsample("scale_h: 1 scale_w: 3"), [(1, 2, 2, 3)], lambda x, p: [x[0].repeat(3, 3)]),
    (upsample("upsample_h: 4 upsample_w: 6", 2), [(2, 2, 2, 3), MASK], lambda x, p: [unpool(x[0], MASK, 4, 6)]),
    (upsample("", 2), [(2, 2, 2, 3), MASK], lambda x, p: [unpool(x[0], MASK, 4, 6)]),
    (upsample("pad_out_h: true pad_out_w: true", 2), [(2, 2, 2, 3), MASK % 15], lambda x, p: [unpool(x[0], MASK % 15, 3, 5)]),
    (upsample("scale: 3", 2), [(2, 1, 2, 3), SHIFTED % 4], lambda x, p: [unpool(x[0], SHIFTED % 4, 6, 9)]),
    (roi("pooled_h: 2 pooled_w: 3"), [(2, 2, 5, 7), ROIS], lambda x, p: [roi_pool(x[0], ROIS, 2, 3, 1)]),
    (roi("pooled_h: 4 pooled_w: 4 spatial_scale: 0.5"), [(2, 1, 6, 5), ROIS[:, :, None, None]], lambda x, p: [roi_pool(x[0], ROIS, 4, 4, 0.5)]),
    (roi("pooled_h: 1 pooled_w: 1 spatial_scale: 0.0625"), [(2, 2, 4, 4), ROIS * [1, 16, 16, 16, 16]], lambda x, p: [roi_pool(x[0], ROIS * [1, 16, 16, 16, 16], 1, 1, 0.0625)]),
    (
        depthwise("ConvolutionDepthwise", "num_output: 3 kernel_size: 3 pad: 1 stride: 2"), [(2, 3, 6, 5)],
        lambda x, p: [depth_conv(x[0], *p, stride=2, pad=1)],
    ),
    (
        depthwise("DepthwiseConvolution", "num_output: 3 kernel_size: 2 group: 3 bias_term: false"), [(2, 3, 4, 5)],
        lambda x, p: [depth_conv(x[0], *p)],
    ),
    (depthwise("DepthwiseConvolution", "num_output: 6 kernel_size: 3"), [(1, 3, 4, 5)], lambda x, p: [depth_conv(x[0], *p)]),
    (op("L1Loss", bottoms=2), [(3, 4), (3, 4)], lambda x, p: [np.array(abs(x[0] - x[1]).sum() / 3)]),
    (op("L1Loss", bottoms=2), [(3, 4, 1, 1), (3, 2, 2)], lambda x, p: [np.array(abs(x[0].ravel() - x[1].ravel()).sum() / 3)]),
    (op("SmoothL1Loss", bottoms=2), [(3, 4), (3, 4)], lambda x, p: smooth_l1(x)),
    (smooth("sigma: 3"), [(3, 4), (3, 4, 1, 1)], lambda x, p: smooth_l1(x, 3)),
    (smooth("sigma: 0.8", 3), [(3, 4), (3, 4), KEEP], lambda x, p: smooth_l1(x, 0.8)),
    (smooth("sigma: 1.5", 4), [(3, 4), (3, 4), KEEP, KEEP[::-1].copy()], lambda x, p: smooth_l1(x, 1.5)),
    (
        op("SmoothL1Loss", "loss_param { normalization: NONE }", 2), [(3, 4), (3, 4)],
        lambda x, p: [3 * smooth_l1(x)[0]],
    ),
]  # fmt: skip

BAD = [
    (op("Axpy", bottoms=3), [(2, 3), (2, 3, 4), (2, 3, 5)], "the last two bottoms must have one shape: 2x3x4, 2x3x5"),
    (op("Axpy", bottoms=3), [(2, 3, 2), (2, 3, 4), (2, 3, 4)], "holds a number for each map of 2x3x4, not 2x3x2"),
    (op("ShuffleChannel", "shuffle_channel_param { group: 4 }"), [(2, 6)], "group 4 does not divide 6 channels"),
    (op("ShuffleChannel", "shuffle_channel_param { group: 0 }"), [(2, 6)], "group 0 does not divide 6 channels"),
    (op("CropCenter", "crop_center_param { crop_size: 1 }"), [(2, 6)], "1 crop_size for 2 axes"),
    (op("CropCenter", "crop_center_param { crop_size: 0 crop_size: 3 }"), [(2, 6)], "axis 1: crop_size 3 at both ends leaves nothing of 6"),
    (interp(""), [(1, 1, 3, 3)], "the size is missing"),
    (interp("height: 3"), [(1, 1, 3, 3)], "the size is missing"),
    (op("Interp", "interp_param { height: 3 }", 2), [(1, 1, 3, 3)] * 2, "the second bottom gives the size: remove height"),
    (op("Interp", bottoms=2), [(1, 1, 3, 3), (2, 3)], "the second bottom must have a height and a width, 4 axes, not 2x3"),
    (interp("height: 3 width: 0"), [(1, 1, 3, 3)], "height 3 and width 0 must be positive"),
    (interp("zoom_factor: 0"), [(1, 1, 3, 3)], "zoom_factor 0 must be positive"),
    (interp("zoom_factor: 2 pad_beg: 1"), [(1, 1, 3, 3)], "pad_beg 1 and pad_end 0 must not be positive"),
    (interp("zoom_factor: 2 pad_beg: -1 pad_end: -2"), [(1, 1, 3, 3)], "leave nothing of 3x3"),
    (interp("zoom_factor: 2"), [(1, 3, 3)], "takes 4 axes"),
    (upsample("scale: 0"), [(1, 1, 2, 2)], "scale must be positive"),
    (upsample("upsample_h: 4 upsample_w: 4"), [(1, 1, 2, 2)], "are for a second bottom, the pooling's mask: give scale"),
    (upsample("upsample_h: 4", 2), [(1, 1, 2, 2), (1, 1, 2, 2)], "give both of upsample_h and upsample_w"),
    (upsample("scale: 2 scale_h: 2 scale_w: 2", 2), [(1, 1, 2, 2), (1, 1, 2, 2)], "give scale, or both"),
    (upsample("scale: 3 pad_out_h: true", 2), [(1, 1, 2, 2), (1, 1, 2, 2)], "are for a scale of 2"),
    (upsample("", 2), [(1, 1, 2, 2), (1, 1, 2, 3)], "the mask of shape 1x1x2x3 does not fit the first bottom, 1x1x2x2"),
    (roi("pooled_h: 2"), [(1, 1, 5, 5), (3, 5)], "pooled_h and pooled_w must be given and positive"),
    (roi("pooled_h: 2 pooled_w: 2 spatial_scale: 0"), [(1, 1, 5, 5), (3, 5)], "spatial_scale 0 is not positive"),
    (roi("pooled_h: 2 pooled_w: 2"), [(1, 1, 5, 5), (3, 4)], "holds item, x1, y1, x2, y2 of each region, not 3x4"),
    (roi("pooled_h: 2 pooled_w: 2"), [(1, 5, 5), (3, 5)], "the first bottom has 4 axes"),
    (depthwise("DepthwiseConvolution", "num_output: 4 kernel_size: 3"), [(1, 3, 5, 5)], "num_output 4 is not the number of channels, 3"),
    (depthwise("DepthwiseConvolution", "num_output: 3 kernel_size: 3 group: 1"), [(1, 3, 5, 5)], "group 1 for 3 channels"),
    (depthwise("ConvolutionDepthwise", "kernel_size: 3"), [(1, 3, 5, 5)], "num_output 0 is not positive"),
    (depthwise("ConvolutionDepthwise", "num_output: 3"), [(1, 3, 5, 5)], "kernel_size is missing"),
    (op("L1Loss", bottoms=2), [(3, 4), (3, 5)], "bottoms of 3x4 and 3x5 must hold as many values"),
    (op("SmoothL1Loss", bottoms=3), [(3, 4), (3, 4), (3, 5)], 'bottom "c" of shape 3x5 does not fit the first, 3x4'),
    (smooth("sigma: 0"), [(3, 4), (3, 4)], "sigma 0 is not positive"),
]  # fmt: skip


test_forward_is_the_formula = forward_test(TABLE)
test_gradient_is_the_finite_difference = gradient_test([row for row in TABLE if isinstance(row[1][0], tuple)])
test_bad_settings = error_test(BAD)


# ---------------------------------------------------------------------------------------------------- the edges of it


def test_relu6_passes_no_gradient_at_its_limits() -> None:
    x = torch.tensor([-1.0, 0.0, 3.0, 6.0, 7.0], requires_grad=True)
    build(op("ReLU6"), [(5,)]).run(x)["y"].sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0, 1, 0, 0]


def test_regions_of_all_sizes_and_places() -> None:
    """Against the loop: 400 random regions, halves and pixels outside included, more bins than pixels and fewer."""
    rois = RNG.integers(-16, 80, (400, 5)) / 2.0
    rois[:, 0] = RNG.integers(0, 3, 400)
    x = RNG.integers(0, 9, (3, 2, 13, 17)).astype(np.float32)
    for bins, scale in itertools.product([(1, 1), (7, 7), (3, 20)], (1.0, 0.5, 0.3)):
        graph = build(roi(f"pooled_h: {bins[0]} pooled_w: {bins[1]} spatial_scale: {scale}"), [x.shape, rois.shape])
        got = graph.run(torch.from_numpy(x), torch.from_numpy(rois).float())["y"]
        assert (got.numpy() == roi_pool(x, rois, *bins, scale)).all(), (bins, scale)


def test_the_first_of_equal_maxima_of_a_region_gets_the_gradient() -> None:
    x = torch.zeros(1, 1, 4, 6)
    x[0, 0, 1, 4] = x[0, 0, 2, 1] = x[0, 0, 1, 5] = 1
    x.requires_grad_()
    graph = build(roi("pooled_h: 1 pooled_w: 1"), [(1, 1, 4, 6), (1, 5)])
    graph.run(x, torch.tensor([[0.0, 0, 0, 5, 3]]))["y"].sum().backward()
    assert x.grad is not None and x.grad.nonzero().tolist() == [[0, 0, 1, 4]]


def test_no_regions_no_rows() -> None:
    graph = build(roi("pooled_h: 2 pooled_w: 2"), [(1, 1, 4, 6), (1, 5)])
    assert graph.run(torch.rand(1, 1, 4, 6), torch.zeros(0, 5))["y"].shape == (0, 1, 2, 2)


def test_values_that_point_nowhere_are_named() -> None:
    graph = build(roi("pooled_h: 2 pooled_w: 2"), [(2, 1, 4, 6), (1, 5)])
    with pytest.raises(DataError, match=r'^test.prototxt:3: layer "op" \(ROIPooling\): region 0 lies in item 2 of a batch of 2$'):
        graph.run(torch.rand(2, 1, 4, 6), torch.tensor([[2.0, 0, 0, 1, 1]]))
    graph = build(upsample("", 2), [(1, 1, 1, 2), (1, 1, 1, 2)])
    with pytest.raises(DataError, match="the mask holds 8, which is no position of 2x4: give the size of the pooling's"):
        graph.run(torch.rand(1, 1, 1, 2), torch.tensor([[[[0.0, 8.0]]]]))


def test_upsample_undoes_a_pooling() -> None:
    text = (
        'layer { name: "pool" type: "Pooling" bottom: "a" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } }'
        'layer { name: "op" type: "Upsample" bottom: "p" bottom: "m" top: "y" upsample_param { upsample_h: 5 upsample_w: 7 } }'
    )
    x = torch.rand(2, 3, 5, 7)
    blobs = build(text, [(2, 3, 5, 7)]).run(x)
    y = blobs["y"]
    kept = y != 0
    assert kept.sum() == blobs["p"].numel() and torch.equal(y[kept], x[kept])


def test_a_depthwise_layer_is_saved_as_a_grouped_one() -> None:
    graph = build(depthwise("DepthwiseConvolution", "num_output: 3 kernel_size: 2"), [(1, 3, 4, 5)])
    grouped = build(op("Convolution", "convolution_param { num_output: 3 kernel_size: 2 group: 3 }"), [(1, 3, 4, 5)])
    grouped.load_weights(graph.weights())
    x = torch.rand(1, 3, 4, 5)
    torch.testing.assert_close(graph.run(x)["y"], grouped.run(x)["y"], rtol=0, atol=0)
    assert graph.param.layer[-1].convolution_param.group == 3


def test_half_precision_gives_a_float32_loss() -> None:
    for text in (op("L1Loss", bottoms=2), op("SmoothL1Loss", bottoms=2)):
        a, b = torch.rand(2, 3, 4).bfloat16()
        y = build(text, [(3, 4), (3, 4)]).run(a, b)["y"]
        assert y.dtype == torch.float32
        torch.testing.assert_close(y, build(text, [(3, 4), (3, 4)]).run(a.float(), b.float())["y"])


@pytest.mark.parametrize(
    "text",
    [interp("zoom_factor: 2 pad_beg: -1"), interp("shrink_factor: 2"), upsample("scale: 3"), op("CropCenter", "crop_center_param { crop_size: 0 crop_size: 0 crop_size: 1 crop_size: 1 }")],
    ids=ids,
)  # fmt: skip
def test_onnx_takes_images_of_other_sizes(text: str, tmp_path: Path) -> None:
    model = Deployed(build(text, [(1, 2, 6, 8)], TEST))
    export_onnx(model, tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    for shape in ((1, 2, 6, 8), (3, 2, 11, 9)):
        given = rng.standard_normal(shape).astype(np.float32)
        assert verify_onnx(model, tmp_path / "net.onnx", [[given]]) < 1e-6


def test_an_exported_roi_pooling_takes_any_number_of_regions(tmp_path: Path) -> None:
    model = Deployed(build(roi("pooled_h: 3 pooled_w: 2 spatial_scale: 0.5"), [(2, 3, 9, 7), (4, 5)], TEST))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(model, tmp_path / "net.onnx")
    x = RNG.standard_normal((2, 3, 9, 7)).astype(np.float32)
    for count in (4, 9):
        rois = (RNG.integers(-4, 20, (count, 5)) * [0, 1, 1, 1, 1]).astype(np.float32)
        assert verify_onnx(model, tmp_path / "net.onnx", [[x, rois]]) == 0
