"""SSD's layers against NumPy and plain loops, and a small SSD from its text to its detections."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pycaffe_compat
from pycaffe_compat import DataError, NetError
from pycaffe_compat.export import Deployed, export_onnx, verify_onnx
from pycaffe_compat.graph import TEST, TRAIN, Graph
from pycaffe_compat.proto.binary_net import read_binary_net
from pycaffe_compat.proto.text import parse_net
from pycaffe_compat.weights import read_weights, write_weights
from tests.layers.harness import Row, build, error_test, forward_test, gradient_test, op

RNG = np.random.default_rng(7)
F = np.float32


def permute(*order: int) -> str:
    return op("Permute", f"permute_param {{ {' '.join(f'order: {i}' for i in order)} }}")


def normalize(settings: str) -> str:
    return op("Normalize", f"norm_param {{ {settings} }}")


def prior(settings: str, bottoms: int = 2) -> str:
    return op("PriorBox", f"prior_box_param {{ {settings} }}", bottoms)


def detect(settings: str) -> str:
    return op("DetectionOutput", f"detection_output_param {{ {settings} }}", 3)


# ------------------------------------------------------------------------------------ what the layers should compute


def priors(
    size: tuple[int, int], image: tuple[int, int], min_size: list[int], max_size: list[int] | None = None,
    ratios: list[float] | None = None, variance: list[float] | None = None, step: tuple[float, float] | None = None,
    offset: float = 0.5, clip: bool = False,
) -> np.ndarray:  # fmt: skip
    """SSD's loops, with steps and ratios as (height, width) and all ratios listed."""
    step = step or (image[0] / size[0], image[1] / size[1])
    boxes = []
    for h, w in itertools.product(range(size[0]), range(size[1])):
        cx, cy = (w + offset) * step[1], (h + offset) * step[0]
        for k, small in enumerate(min_size):
            shapes = [(small, small)]
            if max_size:
                shapes.append((math.sqrt(small * max_size[k]),) * 2)
            shapes += [(small * math.sqrt(r), small / math.sqrt(r)) for r in ratios or []]
            for bw, bh in shapes:
                box = [(cx - bw / 2) / image[1], (cy - bh / 2) / image[0], (cx + bw / 2) / image[1], (cy + bh / 2) / image[0]]
                boxes.append([min(max(v, 0), 1) for v in box] if clip else box)
    variances = [variance or [0.1] * 4] * len(boxes)
    return np.stack([np.ravel(boxes), np.ravel(variances)])[None]


def decoded(loc: Any, box: Any, variance: Any, code: str, in_target: bool) -> list[np.float32]:
    loc = [v if in_target else F(s) * F(v) for v, s in zip(loc, variance, strict=True)]
    if code == "CORNER":
        return [F(b + v) for b, v in zip(box, loc, strict=True)]
    w, h = F(box[2] - box[0]), F(box[3] - box[1])
    if code == "CORNER_SIZE":
        return [F(b + v * s) for b, v, s in zip(box, loc, (w, h, w, h), strict=True)]
    cx, cy = F(loc[0] * w + (box[0] + box[2]) / F(2)), F(loc[1] * h + (box[1] + box[3]) / F(2))
    bw, bh = F(np.exp(F(loc[2])) * w), F(np.exp(F(loc[3])) * h)
    return [cx - bw / F(2), cy - bh / F(2), cx + bw / F(2), cy + bh / F(2)]


def jaccard(a: Any, b: Any) -> float:
    def area(x: Any) -> Any:
        return F(0) if x[2] < x[0] or x[3] < x[1] else (x[2] - x[0]) * (x[3] - x[1])

    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return w * h / (area(a) + area(b) - w * h) if w > 0 and h > 0 else F(0)


def slow_detections(
    loc: np.ndarray, conf: np.ndarray, prior: np.ndarray, classes: int, share: bool = True, background: int = 0,
    code: str = "CORNER", in_target: bool = False, threshold: float = -math.inf, nms: float = 0.3, eta: float = 1,
    top_k: int = -1, keep_top_k: int = -1,
) -> np.ndarray:  # fmt: skip
    """Detections, box by box."""
    boxes, variances = prior.astype(F).reshape(2, -1, 4)
    count = len(boxes)
    loc = loc.astype(F).reshape(len(loc), count, 1 if share else classes, 4)
    conf = conf.astype(F).reshape(len(conf), count, classes)
    rows: list[list[float]] = []
    for n in range(len(loc)):
        image = []
        for c in range(classes):
            if c == background:
                continue
            order = sorted((p for p in range(count) if conf[n, p, c] > threshold), key=lambda p: (-conf[n, p, c], p))
            limit, kept = F(nms), []
            for p in order if top_k < 0 else order[:top_k]:
                box = decoded(loc[n, p, 0 if share else c], boxes[p], variances[p], code, in_target)
                if all(jaccard(box, other) <= limit for _, other in kept):
                    kept.append((p, box))
                    if eta < 1 and limit > 0.5:
                        limit = F(limit * F(eta))
            image += [[n, c, conf[n, p, c], *box] for p, box in kept]
        if -1 < keep_top_k < len(image):
            best = sorted(range(len(image)), key=lambda i: (-image[i][2], i))[:keep_top_k]
            image = [image[i] for i in sorted(best)]
        rows += image
    rows = rows or [[n, *[-1] * 6] for n in range(len(loc))]
    return np.array(rows)[None, None]


def case(images: int, size: tuple[int, int], classes: int, share: bool = True, ties: bool = False) -> list[np.ndarray]:
    """Bottoms of DetectionOutput: small shifts of overlapping prior boxes and confidences, many of them equal if ties."""
    prior_boxes = priors(size, (60, 60), [25], [40], [2, 0.5], variance=[0.1, 0.1, 0.2, 0.2])
    count = prior_boxes.shape[2] // 4
    loc = RNG.standard_normal((images, count * 4 * (1 if share else classes)))
    conf = RNG.integers(0, 6, (images, count * classes)) / 5 if ties else RNG.random((images, count * classes))
    return [loc, conf, prior_boxes]


IMAGE = (1, 3, 30, 40)
TABLE: list[Row] = [
    (permute(0, 2, 3, 1), [(2, 3, 4, 5)], lambda x, p: [x[0].transpose(0, 2, 3, 1)]),
    (permute(2), [(2, 3, 4)], lambda x, p: [x[0].transpose(2, 0, 1)]),
    (op("Permute"), [(2, 3)], lambda x, p: [x[0]]),
    (op("Normalize"), [(2, 3, 4, 5)], lambda x, p: [p[0] * x[0] / np.sqrt((x[0] ** 2).sum((1, 2, 3), keepdims=True) + 1e-10)]),
    (
        normalize('across_spatial: false channel_shared: false scale_filler { type: "uniform" min: 5 max: 20 }'), [(2, 3, 2, 2)],
        lambda x, p: [p[0][:, None, None] * x[0] / np.sqrt((x[0] ** 2).sum(1, keepdims=True))],
    ),
    (normalize("eps: 0.5 across_spatial: false"), [(2, 3)], lambda x, p: [x[0] / np.sqrt((x[0] ** 2).sum(1, keepdims=True) + 0.5)]),
    (normalize("channel_shared: false"), [(2, 3, 4)], lambda x, p: [x[0] / np.sqrt((x[0] ** 2).sum((1, 2), keepdims=True))]),
]  # fmt: skip

FORWARD_ONLY: list[Row] = [
    (prior("min_size: 10"), [(2, 8, 3, 4), IMAGE], lambda x, p: [priors((3, 4), (30, 40), [10])]),
    (
        prior("min_size: 10 max_size: 17 aspect_ratio: 2 aspect_ratio: 3 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 clip: true"),
        [(1, 2, 2, 5), IMAGE],
        lambda x, p: [priors((2, 5), (30, 40), [10], [17], [2, 1 / 2, 3, 1 / 3], [0.1, 0.1, 0.2, 0.2], clip=True)],
    ),
    (
        prior("min_size: 8 min_size: 12 max_size: 11 max_size: 20 aspect_ratio: 1 aspect_ratio: 2 aspect_ratio: 0.5 flip: false"),
        [(1, 2, 2, 2), IMAGE],
        lambda x, p: [priors((2, 2), (30, 40), [8, 12], [11, 20], [2, 0.5])],
    ),
    (
        prior("min_size: 8 aspect_ratio: 2 aspect_ratio: 0.5 aspect_ratio: 2 step: 7 offset: 0.25 variance: 0.3"), [(1, 2, 3, 2), IMAGE],
        lambda x, p: [priors((3, 2), (30, 40), [8], None, [2, 0.5], [0.3] * 4, (7, 7), 0.25)],
    ),
    (prior("min_size: 8.9 max_size: 20.7 img_size: 50", 1), [(1, 2, 2, 3)], lambda x, p: [priors((2, 3), (50, 50), [8], [20])]),
    (
        prior("min_size: 8 img_h: 60 img_w: 90 step_h: 12 step_w: 9"), [(1, 2, 2, 3), IMAGE],
        lambda x, p: [priors((2, 3), (60, 90), [8], step=(12, 9))],
    ),
]  # fmt: skip


def row_of(settings: str, bottoms: list[np.ndarray], **rule: Any) -> Row:
    return detect(settings), bottoms, lambda x, p: [slow_detections(*bottoms, **rule)]


FORWARD_ONLY += [
    row_of("num_classes: 3", case(2, (2, 2), 3), classes=3),
    *(
        row_of(f"num_classes: 4 code_type: {code} variance_encoded_in_target: {str(v).lower()} nms_param {{ nms_threshold: 0.45 }}", case(2, (3, 3), 4), classes=4, code=code, in_target=v, nms=0.45)
        for code in ("CORNER", "CENTER_SIZE", "CORNER_SIZE")
        for v in (False, True)
    ),
    row_of("num_classes: 3 share_location: false background_label_id: 2", case(2, (3, 2), 3, share=False), classes=3, share=False, background=2),
    row_of("num_classes: 2 background_label_id: -1 confidence_threshold: 0.6", case(2, (3, 3), 2), classes=2, background=-1, threshold=0.6),
    row_of("num_classes: 3 nms_param { top_k: 7 nms_threshold: 0.6 } keep_top_k: 5", case(3, (4, 4), 3), classes=3, top_k=7, nms=0.6, keep_top_k=5),
    row_of("num_classes: 3 nms_param { nms_threshold: 0.9 eta: 0.9 } code_type: CENTER_SIZE", case(2, (4, 4), 3), classes=3, nms=0.9, eta=0.9, code="CENTER_SIZE"),
    row_of("num_classes: 3 nms_param { nms_threshold: 0 }", case(1, (4, 4), 3), classes=3, nms=0),
    row_of("num_classes: 4 keep_top_k: 11 nms_param { top_k: 20 nms_threshold: 0.5 } confidence_threshold: 0.2", case(2, (4, 4), 4, ties=True), classes=4, keep_top_k=11, top_k=20, nms=0.5, threshold=0.2),
    row_of("num_classes: 3 confidence_threshold: 2", case(3, (2, 2), 3), classes=3, threshold=2),
    row_of("num_classes: 3 keep_top_k: 0", case(2, (2, 2), 3), classes=3, keep_top_k=0),
    row_of("num_classes: 1", case(2, (2, 2), 1), classes=1),
]  # fmt: skip

PRIORS = (1, 2, 8)
BAD = [
    (permute(0, 2), [(2, 3)], "order [0, 2]: there is no axis 2 in a blob of 2 dimensions"),
    (permute(1, 1), [(2, 3)], "order [1, 1] names an axis twice"),
    (op("Normalize"), [(3,)], "Normalize needs a channel axis: its bottom has 1 dimensions"),
    (prior("max_size: 5"), [(1, 1, 2, 2), IMAGE], "at least one min_size is needed"),
    (prior("min_size: -5"), [(1, 1, 2, 2), IMAGE], "all must be positive"),
    (prior("min_size: 5 min_size: 6 max_size: 8"), [(1, 1, 2, 2), IMAGE], "1 max_size for 2 min_size: give one each, or none"),
    (prior("min_size: 5 max_size: 5"), [(1, 1, 2, 2), IMAGE], "max_size 5 is not larger than its min_size 5"),
    (prior("min_size: 5 aspect_ratio: 0"), [(1, 1, 2, 2), IMAGE], "aspect_ratio 0 is not positive"),
    (prior("min_size: 5 variance: 0.1 variance: 0.1"), [(1, 1, 2, 2), IMAGE], "2 variance: give 1 or 4, all positive"),
    (prior("min_size: 5 variance: 0"), [(1, 1, 2, 2), IMAGE], "1 variance: give 1 or 4, all positive"),
    (prior("min_size: 5 img_h: 5"), [(1, 1, 2, 2), IMAGE], "img_h and img_w must be given and positive"),
    (prior("min_size: 5 img_size: 5 img_h: 5 img_w: 5"), [(1, 1, 2, 2), IMAGE], "give img_size, or both of img_h and img_w"),
    (prior("min_size: 5 step: 0"), [(1, 1, 2, 2), IMAGE], "step must be given and positive"),
    (prior("min_size: 5", 1), [(1, 1, 2, 2)], "needs the image as its second bottom, or its img_size"),
    (prior("min_size: 5"), [(1, 1, 2, 2), (3, 4)], 'bottom "b" must have a height and a width, 4 axes, not 3x4'),
    (detect(""), [(1, 8), (1, 6), PRIORS], "num_classes is missing"),
    (detect("num_classes: 3"), [(1, 8), (1, 7), PRIORS], "confidences of shape 1x7 must be N x 6, 3 for each of 2 prior boxes"),
    (detect("num_classes: 3"), [(2, 8), (1, 6), PRIORS], "confidences of shape 1x6 must be N x 6"),
    (detect("num_classes: 3 share_location: false"), [(1, 8), (1, 6), PRIORS], "locations of shape 1x8 must be N x 24, 12 for each"),
    (detect("num_classes: 3"), [(1, 8), (1, 6), (1, 8)], "the third bottom is PriorBox's, 1 x 2 x 4 P, not 1x8"),
    (detect("num_classes: 3 nms_param { eta: 0 }"), [(1, 8), (1, 6), PRIORS], "eta 0 is not in 0..1"),
    (detect("num_classes: 3 nms_param { nms_threshold: -1 }"), [(1, 8), (1, 6), PRIORS], "nms_threshold -1 is negative"),
    (detect("num_classes: 3 save_output_param { output_directory: 'x' }"), [(1, 8), (1, 6), PRIORS], "writes no files and pictures"),
    (detect("num_classes: 3 visualize: true"), [(1, 8), (1, 6), PRIORS], "writes no files and pictures"),
]  # fmt: skip


test_forward_is_the_formula = forward_test(TABLE + FORWARD_ONLY)
test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)


# ------------------------------------------------------------------------------------------- DetectionOutput, by hand

SQUARES = [[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.6], [0.6, 0.6, 0.9, 0.9], [0.5, 0.5, 0.6, 0.6]]


def by_hand(conf: list[list[float]], settings: str, boxes: list[list[float]] = SQUARES) -> list[list[float]]:
    """Detections of one image where the prior boxes are what is predicted: (label, score, which box)."""
    bottoms = [np.zeros((1, 4 * len(boxes))), np.ravel(conf)[None], np.stack([np.ravel(boxes), np.ones(4 * len(boxes))])[None]]
    graph = build(detect(f"num_classes: {len(conf[0])} {settings}"), bottoms)
    rows = graph.run(*(torch.from_numpy(b).float() for b in bottoms))["y"][0, 0].tolist()
    places = [np.abs(np.subtract(boxes, row[3:])).max(1) for row in rows]
    return [[row[1], round(row[2], 4), int(p.argmin()) if p.min() < 1e-6 else -1] for row, p in zip(rows, places, strict=True)]


@pytest.mark.parametrize(
    ("conf", "settings", "want"),
    [
        # the second box overlaps the first by 0.8
        ([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.9, 0.05]], "", [[1, 0.9, 0], [1, 0.7, 2], [1, 0.05, 3]]),
        ([[0.1, 0.8], [0.2, 0.9], [0.3, 0.7], [0.9, 0.05]], "", [[1, 0.9, 1], [1, 0.7, 2], [1, 0.05, 3]]),
        ([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.9, 0.05]], "nms_param { nms_threshold: 0.81 }", [[1, 0.9, 0], [1, 0.8, 1], [1, 0.7, 2], [1, 0.05, 3]]),
        # top_k is before the suppression, keep_top_k after it
        ([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.9, 0.05]], "nms_param { top_k: 2 }", [[1, 0.9, 0]]),
        ([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.9, 0.05]], "keep_top_k: 2", [[1, 0.9, 0], [1, 0.7, 2]]),
        # a score must be above the threshold, an overlap may be as large as its
        ([[0.1, 0.5], [0.2, 0.25], [0.3, 0.75], [0.9, 0.5]], "confidence_threshold: 0.5", [[1, 0.75, 2]]),
        ([[0.1, 0.5], [0.2, 0.75], [0.3, 0.25], [0.9, 0.5]], "nms_param { nms_threshold: 0 }", [[1, 0.75, 1], [1, 0.5, 3], [1, 0.25, 2]]),
        # eta 0.8: after the first box the threshold 0.9 is 0.72
        ([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.9, 0.05]], "nms_param { nms_threshold: 0.9 eta: 0.8 }", [[1, 0.9, 0], [1, 0.7, 2], [1, 0.05, 3]]),
        # classes do not see each other; equal scores in the order of the boxes
        ([[0.5, 0.9, 0.5], [0.5, 0.1, 0.5]], "", [[1, 0.9, 0], [2, 0.5, 0]]),
        ([[0.5, 0.9, 0.7], [0.5, 0.1, 0.8]], "keep_top_k: 1", [[1, 0.9, 0]]),
        ([[0.5, 0.9, 0.7], [0.5, 0.1, 0.8]], "background_label_id: 1", [[0, 0.5, 0], [2, 0.8, 1]]),
        ([[0.9, 0.1], [0.8, 0.2]], "confidence_threshold: 0.3", [[-1, -1, -1]]),
    ],
)  # fmt: skip
def test_detections_by_hand(conf: list[list[float]], settings: str, want: list[list[float]]) -> None:
    assert by_hand(conf, settings, SQUARES[: len(conf)]) == want


def test_boxes_inside_out_overlap_nothing() -> None:
    boxes = [[0.5, 0.5, 0.1, 0.1], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.1, 0.1]]
    assert by_hand([[0, 0.9], [0, 0.8], [0, 0.7]], "", boxes) == [[1, 0.9, 0], [1, 0.8, 1], [1, 0.7, 0]]


def test_scores_that_are_no_numbers_are_no_detections() -> None:
    assert by_hand([[0, math.nan], [0, 0.8]], "", SQUARES[::2]) == [[1, 0.8, 1]]


def test_a_prior_box_without_size_is_named() -> None:
    graph = build(detect("num_classes: 2 code_type: CENTER_SIZE"), [(1, 8), (1, 4), PRIORS])
    boxes = torch.tensor([[0, 0, 1, 1, 0.5, 0.5, 0.5, 1], [0.1] * 8])[None]
    with pytest.raises(DataError, match=r'^test.prototxt:4: layer "op" \(DetectionOutput\): prior box 1 has no size: CENTER_SIZE'):
        graph.run(torch.zeros(1, 8), torch.zeros(1, 4), boxes)


def test_detections_get_no_gradient() -> None:
    bottoms = [torch.from_numpy(b).float().requires_grad_() for b in case(1, (2, 2), 2)]
    assert not build(detect("num_classes: 2"), [tuple(b.shape) for b in bottoms]).run(*bottoms)["y"].requires_grad


# ------------------------------------------------------------------------------------------------------- a small SSD


def conv(name: str, bottom: str, num: int, kernel: int = 3, stride: int = 1) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ num_output: {num} '
        f'kernel_size: {kernel} pad: {kernel // 2} stride: {stride} weight_filler {{ type: "msra" }} }} }}\n'
        f'layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
    )


def head(source: str, kind: str, num: int) -> str:
    name = f"{source}_mbox_{kind}"
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{source}" top: "{name}" convolution_param {{ num_output: {num} '
        f'kernel_size: 3 pad: 1 weight_filler {{ type: "gaussian" std: 0.3 }} }} }}\n'
        f'layer {{ name: "{name}_perm" type: "Permute" bottom: "{name}" top: "{name}_perm" permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}\n'
        f'layer {{ name: "{name}_flat" type: "Flatten" bottom: "{name}_perm" top: "{name}_flat" flatten_param {{ axis: 1 }} }}\n'
    )


def ssd() -> str:
    """A VGG-like base, two scales (the first normalised), 3 classes, as SSD's scripts write such nets."""
    text = 'name: "ssd"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 48 } } }\n'
    text += conv("conv1", "data", 8) + conv("conv2", "conv1", 8, stride=2)
    text += 'layer { name: "pool" type: "Pooling" bottom: "conv2" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }\n'
    text += conv("conv3", "pool", 12)
    text += (
        'layer { name: "norm" type: "Normalize" bottom: "conv3" top: "norm" norm_param { across_spatial: false '
        'scale_filler { type: "constant" value: 20 } channel_shared: false } }\n'
    )
    text += conv("conv4", "conv3", 12, stride=2)
    for source, boxes, settings in (("norm", 4, "min_size: 8 max_size: 14 step: 4"), ("conv4", 4, "min_size: 14 max_size: 24 step: 8")):
        text += head(source, "loc", boxes * 4) + head(source, "conf", boxes * 3)
        text += (
            f'layer {{ name: "{source}_priorbox" type: "PriorBox" bottom: "{source}" bottom: "data" top: "{source}_priorbox" '
            f"prior_box_param {{ {settings} aspect_ratio: 2 flip: true clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 offset: 0.5 }} }}\n"
        )
    for what, suffix, axis in (("loc", "mbox_loc_flat", 1), ("conf", "mbox_conf_flat", 1), ("priorbox", "priorbox", 2)):
        text += (
            f'layer {{ name: "mbox_{what}" type: "Concat" bottom: "norm_{suffix}" bottom: "conv4_{suffix}" top: "mbox_{what}" '
            f"concat_param {{ axis: {axis} }} }}\n"
        )
    return text + (
        'layer { name: "reshape" type: "Reshape" bottom: "mbox_conf" top: "conf_reshape" reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }\n'
        'layer { name: "softmax" type: "Softmax" bottom: "conf_reshape" top: "conf_softmax" softmax_param { axis: 2 } }\n'
        'layer { name: "flatten" type: "Flatten" bottom: "conf_softmax" top: "conf_flatten" flatten_param { axis: 1 } }\n'
    )


OUTPUT = (
    'layer { name: "detection_out" type: "DetectionOutput" bottom: "mbox_loc" bottom: "conf_flatten" bottom: "mbox_priorbox" '
    'top: "detection_out" include { phase: TEST } detection_output_param { num_classes: 3 share_location: true background_label_id: 0 '
    "nms_param { nms_threshold: 0.45 top_k: 40 } save_output_param { label_map_file: 'labelmap.prototxt' } code_type: CENTER_SIZE "
    "keep_top_k: 20 confidence_threshold: 0.2 } }\n"
)
COUNT = (8 * 12 + 4 * 6) * 4


def test_a_small_ssd_runs_from_its_text() -> None:
    graph = Graph(parse_net(ssd() + OUTPUT, "ssd.prototxt"), TEST)
    assert graph.shapes["mbox_loc"] == (1, COUNT * 4) and graph.shapes["conf_flatten"] == (1, COUNT * 3)
    assert graph.shapes["mbox_priorbox"] == (1, 2, COUNT * 4) and graph.shapes["detection_out"] == (1, 1, 1, 7)
    assert graph.param.DESCRIPTOR.file.name == "ssd.proto"
    blobs = graph.run(torch.rand(2, 3, 32, 48))
    want = slow_detections(
        *(blobs[name].detach().numpy() for name in ("mbox_loc", "conf_flatten", "mbox_priorbox")),
        classes=3, code="CENTER_SIZE", nms=0.45, top_k=40, keep_top_k=20, threshold=0.2,
    )  # fmt: skip
    assert want.shape[2] > 20
    np.testing.assert_allclose(blobs["detection_out"].numpy(), want, rtol=1e-5, atol=1e-5)


def test_a_caffemodel_of_ssds_dialect_is_written_and_read(tmp_path: Path) -> None:
    (tmp_path / "ssd.prototxt").write_text(ssd() + OUTPUT)
    graph = Graph(parse_net(ssd() + OUTPUT), TEST)
    write_weights(tmp_path / "ssd.caffemodel", graph.param, graph.weights())
    x = torch.rand(2, 3, 32, 48)
    want = graph(x)["detection_out"]
    again = pycaffe_compat.load(tmp_path / "ssd.prototxt", tmp_path / "ssd.caffemodel")
    torch.testing.assert_close(again(x)["detection_out"], want, rtol=0, atol=0)
    # the file itself holds the settings, of SSD's numbers
    source = read_binary_net(tmp_path / "ssd.caffemodel")
    assert source.param.DESCRIPTOR.file.name == "ssd.proto" and not source.notes
    alone = Graph(source, TEST)
    alone.load_weights(read_weights(tmp_path / "ssd.caffemodel"))
    torch.testing.assert_close(alone(x)["detection_out"], want, rtol=0, atol=0)


def test_pycaffes_net_gives_detections_as_arrays(tmp_path: Path) -> None:
    (tmp_path / "ssd.prototxt").write_text(ssd() + OUTPUT)
    net = pycaffe_compat.Net(str(tmp_path / "ssd.prototxt"), pycaffe_compat.TEST)
    net.blobs["data"].data[...] = RNG.random((1, 3, 32, 48))
    found = net.forward()["detection_out"]
    assert found.shape[:2] == (1, 1) and found.shape[3] == 7 and found.shape[2] > 1
    assert (net.blobs["detection_out"].data == found).all()


def test_gradients_go_through_the_heads() -> None:
    graph = Graph(parse_net(ssd()), TRAIN)
    graph.run(torch.rand(1, 3, 32, 48))["mbox_loc"].square().sum().backward()
    grads = {name: blobs[0].grad for name, blobs in graph.params.items() if "conf" not in name}
    assert all(g is not None and float(g.abs().sum()) > 0 for g in grads.values())


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    """What the compiler learns about Graph.forward here (that it has a break) is nothing for other tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_it_compiles_and_exports(_fresh_compiler: None, tmp_path: Path) -> None:
    """torch.compile and torch.export take the whole net, ONNX all of it but DetectionOutput, which says why."""
    graph = Graph(parse_net(ssd() + OUTPUT, "ssd.prototxt"), TEST).eval()
    x = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        want = graph(x)["detection_out"]
        got = torch.compile(graph, backend="eager")(x)["detection_out"]
        torch.testing.assert_close(got, want)
        torch._dynamo.reset()
        with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):  # one graph, if that is wanted
            got = torch.compile(graph, backend="eager", fullgraph=True)(x)["detection_out"]
        torch.testing.assert_close(got, want)
        exported = torch.export.export(Deployed(graph), (x,), strict=False).module()
        torch.testing.assert_close(exported(x)[0], want)
    with pytest.raises(NetError, match=r'layer "detection_out" \(DetectionOutput\): has no form in ONNX: it thins out'):
        export_onnx(Deployed(graph), tmp_path / "net.onnx")
    model = Deployed(Graph(parse_net(ssd()), TEST))
    export_onnx(model, tmp_path / "net.onnx")
    assert verify_onnx(model, tmp_path / "net.onnx", [[RNG.random((3, 3, 32, 48)).astype(np.float32)]]) < 1e-5
