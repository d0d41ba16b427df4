"""MultiBoxLoss against plain loops: matching, mining, both losses and their gradients in closed form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pycaffe_compat import DataError, NetError
from pycaffe_compat.export import Deployed, export_onnx
from pycaffe_compat.graph import TRAIN, Graph
from pycaffe_compat.layers import boxes as box
from pycaffe_compat.proto.text import parse_net
from tests.layers.harness import Row, build, check_forward, error_test, gradient_test, op

CODES = ("CORNER", "CENTER_SIZE", "CORNER_SIZE")


def multibox(settings: str, more: str = "") -> str:
    return op("MultiBoxLoss", f"multibox_loss_param {{ {settings} }} {more}", 4)


# --------------------------------------------------------------------------------------------------- the plain loops


def area(a: Any) -> float:
    return 0 if a[2] < a[0] or a[3] < a[1] else (a[2] - a[0]) * (a[3] - a[1])


def jaccard(a: Any, b: Any) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return w * h / (area(a) + area(b) - w * h) if w > 0 and h > 0 else 0.0


def encoded(b: Any, p: Any, v: Any, code: str, in_target: bool) -> list[float]:
    w, h = p[2] - p[0], p[3] - p[1]
    if code == "CORNER":
        values = [b[k] - p[k] for k in range(4)]
    elif code == "CORNER_SIZE":
        values = [(b[0] - p[0]) / w, (b[1] - p[1]) / h, (b[2] - p[2]) / w, (b[3] - p[3]) / h]
    else:
        values = [
            ((b[0] + b[2]) / 2 - (p[0] + p[2]) / 2) / w, ((b[1] + b[3]) / 2 - (p[1] + p[3]) / 2) / h,
            math.log((b[2] - b[0]) / w), math.log((b[3] - b[1]) / h),
        ]  # fmt: skip
    return values if in_target else [x / y for x, y in zip(values, v, strict=True)]


def decoded(t: Any, p: Any, v: Any, code: str, in_target: bool) -> list[float]:
    t = t if in_target else [x * y for x, y in zip(t, v, strict=True)]
    w, h = p[2] - p[0], p[3] - p[1]
    if code == "CORNER":
        return [p[k] + t[k] for k in range(4)]
    if code == "CORNER_SIZE":
        return [p[0] + t[0] * w, p[1] + t[1] * h, p[2] + t[2] * w, p[3] + t[3] * h]
    cx, cy = t[0] * w + (p[0] + p[2]) / 2, t[1] * h + (p[1] + p[3]) / 2
    bw, bh = math.exp(t[2]) * w, math.exp(t[3]) * h
    return [cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2]


def matched(places: Any, objects: Any, threshold: float | None, within: bool) -> tuple[list[int], list[float]]:
    """For each place the object that it is matched with (-1: none, -2: left out), and the overlap."""
    index, largest = [-1] * len(places), [0.0] * len(places)
    table = {}
    for i, place in enumerate(places):
        if within and any(x < 0 or x > 1 for x in place):
            index[i] = -2
            continue
        for j, thing in enumerate(objects):
            if jaccard(place, thing) > 1e-6:
                table[i, j] = jaccard(place, thing)
                largest[i] = max(largest[i], table[i, j])
    pool = set(range(len(objects)))
    while pool:
        free = [(-table[i, j], i, j) for i, j in table if index[i] == -1 and j in pool]
        if not free:
            break
        value, i, j = min(free)
        index[i], largest[i] = j, -value
        pool.remove(j)
    for i in range(len(places)):
        mine = [(-table[i, j], j) for j in range(len(objects)) if (i, j) in table]
        if threshold is not None and index[i] == -1 and mine and -min(mine)[0] >= threshold:
            largest[i], index[i] = -min(mine)[0], min(mine)[1]
    return index, largest


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_multibox(
    loc: np.ndarray, conf: np.ndarray, prior: np.ndarray, truth: np.ndarray, classes: int, share: bool = True,
    code: str = "CORNER", in_target: bool = False, threshold: float | None = 0.5, by_prior: bool = True,
    background: int = 0, difficult: bool = True, mining: str = "MAX_NEGATIVE", ratio: float = 3, neg_overlap: float = 0.5,
    logistic: bool = False, l2: bool = False, weight: float = 1, agnostic: bool = False, within: bool = False,
    inside: bool = False, nms: float = 0, top_k: int = -1, prior_nms: bool = False, sample: int = 64,
    divide: str = "VALID", down: tuple[bool, bool] = (True, True),
) -> tuple[float, np.ndarray, np.ndarray]:  # fmt: skip
    """The loss and its gradients, image by image and box by box."""
    priors, variances = prior.reshape(2, -1, 4)
    images, count, kinds = len(loc), len(priors), 1 if share else classes
    loc, conf = loc.reshape(images, count, kinds, 4), conf.reshape(images, count, classes)
    d_loc, d_conf = np.zeros_like(loc), np.zeros_like(conf)
    loc_loss, conf_loss, matches = 0.0, 0.0, 0

    def cost_of_location(n: int, p: int, c: int, thing: Any) -> tuple[float, list[float]]:
        want = encoded(thing, priors[p], variances[p], code, in_target)
        place = priors[p] if by_prior else decoded(loc[n, p, c], priors[p], variances[p], code, in_target)
        cost, slopes = 0.0, []
        for k in range(4):
            unit = variances[p][k] if in_target else 1
            d = (loc[n, p, c, k] - want[k]) / unit
            if inside and not 0 <= place[k] <= 1:
                d = 0.0
            square = l2 or abs(d) < 1
            cost += d * d / 2 if square else abs(d) - 0.5
            slopes.append((d if square else math.copysign(1, d)) / unit)
        return cost, slopes

    def cost_of_confidence(x: Any, labels: list[int]) -> tuple[float, list[float]]:
        """``labels``: the classes whose target is 1; of a softmax the last one."""
        if logistic:
            hot = [float(c in labels) for c in range(classes)]
            cost = sum(-math.log(sigmoid(v) if t else sigmoid(-v)) for v, t in zip(x, hot, strict=True))
            return cost, [sigmoid(v) - t for v, t in zip(x, hot, strict=True)]
        e = [math.exp(v) for v in x]
        hot = [float(c == labels[-1]) for c in range(classes)]
        return -math.log(e[labels[-1]] / sum(e)), [a / sum(e) - t for a, t in zip(e, hot, strict=True)]

    for n in range(images):
        rows = [r for r in truth.reshape(-1, 8) if int(r[0]) == n and (difficult or not r[7])]
        pairs: dict[tuple[int, int], Any] = {}  # (prior box, location class) -> object
        state: dict[int, tuple[list[int], list[float]]] = {}
        for c in range(kinds):
            if not rows or (not share and c == background):
                continue
            if by_prior:
                index, largest = matched(priors, [r[3:7] for r in rows], threshold, within)
                if not share:
                    index = [i if i >= 0 and int(rows[i][1]) == c else -1 for i in index]
                mine = rows
            else:
                mine = [r for r in rows if share or int(r[1]) == c]
                guesses = [decoded(loc[n, p, c], priors[p], variances[p], code, in_target) for p in range(count)]
                index, largest = matched(guesses, [r[3:7] for r in mine], threshold, within)
            state[c] = index, largest
            pairs |= {(p, c): mine[i] for p, i in enumerate(index) if i >= 0}

        def labels_of(p: int, pairs: Any = pairs) -> list[int]:
            return [background + 1 if agnostic else int(pairs[p, c][1]) for c in range(kinds) if (p, c) in pairs]

        negatives = list(range(count)) if mining == "NONE" else []
        if mining != "NONE" and rows:
            index, largest = state[0]
            costs = []
            for p in range(count):
                cost = cost_of_confidence(conf[n, p], labels_of(p) or [background])[0]
                if mining == "HARD_EXAMPLE" and index[p] >= 0:
                    cost += cost_of_location(n, p, 0, pairs[p, 0][3:7])[0]
                costs.append(cost)
            if mining == "HARD_EXAMPLE":
                eligible, take = list(range(count)), sample
            else:
                eligible = [p for p in range(count) if index[p] == -1 and largest[p] < neg_overlap]
                take = int(len(pairs) * ratio)
            eligible.sort(key=lambda p: (-costs[p], p))
            if nms > 0:
                eligible = eligible[:top_k] if top_k >= 0 else eligible
                kept: list[tuple[int, Any]] = []
                for p in eligible:
                    place = priors[p] if prior_nms else decoded(loc[n, p, 0], priors[p], variances[p], code, in_target)
                    if area(place) >= 1e-5 and all(jaccard(place, other) <= nms for _, other in kept):
                        kept.append((p, place))
                eligible = [p for p, _ in kept]
            chosen = eligible[:take]
            negatives = [p for p in chosen if index[p] == -1]
            if mining == "HARD_EXAMPLE":
                pairs = {(p, c): thing for (p, c), thing in pairs.items() if p in chosen}
        for (p, c), thing in pairs.items():
            cost, slopes = cost_of_location(n, p, c, thing[3:7])
            loc_loss += weight * cost
            d_loc[n, p, c] = np.multiply(weight, slopes)
            matches += 1
        for p in range(count):
            labels = labels_of(p, pairs)
            if not labels and p not in negatives:
                continue
            if not labels and not (logistic and mining == "NONE"):
                labels = [background]
            cost, slopes = cost_of_confidence(conf[n, p], labels)
            conf_loss += cost
            d_conf[n, p] = slopes
    total = max(1, {"VALID": matches, "FULL": images * count, "BATCH_SIZE": images, "NONE": 1}[divide])
    loss = (loc_loss * down[0] + conf_loss * down[1]) / total
    return loss, d_loc.reshape(images, -1) / total * down[0], d_conf.reshape(images, -1) / total * down[1]


# ---------------------------------------------------------------------------------------------------------- the cases


def case(seed: int, images: int = 3, classes: int = 4, share: bool = True, objects: int = 6) -> list[Any]:
    """Shapes of predictions, prior boxes (a grid of two sizes, some leave the image) and objects, none in the last image."""
    rng = np.random.default_rng(seed)
    centre = np.stack(np.meshgrid([0.12, 0.37, 0.62, 0.87], [0.12, 0.37, 0.62, 0.87]), -1).reshape(-1, 1, 2)
    half = np.array([[0.15, 0.15], [0.3, 0.2]])
    priors = np.concatenate([centre - half, centre + half], -1).reshape(-1, 4) + rng.uniform(-0.01, 0.01, (32, 4))
    variances = np.broadcast_to([0.1, 0.1, 0.2, 0.25], priors.shape)
    low, size = rng.uniform(0, 0.6, (objects, 2)), rng.uniform(0.15, 0.5, (objects, 2))
    rows = np.zeros((objects + 1, 8))
    rows[:-1, 0] = np.sort(rng.integers(0, max(1, images - 1), objects))
    rows[:-1, 1] = rng.integers(1, classes, objects)
    rows[:-1, 3:7] = np.concatenate([low, low + size], 1)
    rows[:-1, 7] = rng.integers(0, 2, objects)
    rows[-1] = -1
    prior = np.stack([priors.ravel(), variances.ravel()])[None]
    count = len(priors)
    return [(images, count * 4 * (1 if share else classes)), (images, count * classes), prior, rows[None, None]]


def row_of(settings: str, bottoms: list[Any], more: str = "", **rule: Any) -> Row:
    return multibox(settings, more), bottoms, lambda x, p: [np.array(slow_multibox(*x, **rule)[0])]


RULES: list[tuple[str, str, list[Any], dict[str, Any]]] = [
    ("num_classes: 4", "", case(0), {"classes": 4}),
    *(
        (f"num_classes: 4 code_type: {code} encode_variance_in_target: {str(v).lower()} loc_weight: 2 neg_pos_ratio: 1.5", "", case(1), {"classes": 4, "code": code, "in_target": v, "weight": 2, "ratio": 1.5})
        for code in CODES
        for v in (False, True)
    ),
    ("num_classes: 4 loc_loss_type: L2 code_type: CENTER_SIZE", "", case(2), {"classes": 4, "l2": True, "code": "CENTER_SIZE"}),
    ("num_classes: 4 conf_loss_type: LOGISTIC neg_overlap: 0.2", "", case(3), {"classes": 4, "logistic": True, "neg_overlap": 0.2}),
    ("num_classes: 4 conf_loss_type: LOGISTIC mining_type: NONE", "", case(4), {"classes": 4, "logistic": True, "mining": "NONE"}),
    ("num_classes: 4 mining_type: NONE do_neg_mining: false", "", case(5), {"classes": 4, "mining": "NONE"}),
    ("num_classes: 4 match_type: BIPARTITE do_neg_mining: true", "", case(6), {"classes": 4, "threshold": None}),
    ("num_classes: 4 match_type: PER_PREDICTION overlap_threshold: 0.3", "", case(7), {"classes": 4, "threshold": 0.3}),
    ("num_classes: 4 overlap_threshold: 0", "", case(7), {"classes": 4, "threshold": 0}),
    ("num_classes: 4 use_difficult_gt: false", "", case(8), {"classes": 4, "difficult": False}),
    ("num_classes: 4 background_label_id: 0 ignore_cross_boundary_bbox: true neg_pos_ratio: 2", "", case(9, objects=12), {"classes": 4, "within": True, "ratio": 2}),
    ("num_classes: 4 bp_inside: true code_type: CORNER_SIZE", "", case(10, objects=12), {"classes": 4, "inside": True, "code": "CORNER_SIZE"}),
    ("num_classes: 4 bp_inside: true use_prior_for_matching: false overlap_threshold: 0.2", "", case(11, objects=12), {"classes": 4, "inside": True, "by_prior": False, "threshold": 0.2}),
    ("num_classes: 4 use_prior_for_matching: false code_type: CENTER_SIZE ignore_cross_boundary_bbox: true", "", case(12), {"classes": 4, "by_prior": False, "code": "CENTER_SIZE", "within": True}),
    ("num_classes: 3 share_location: false mining_type: NONE", "", case(13, classes=3, share=False), {"classes": 3, "share": False, "mining": "NONE"}),
    *(
        (f"num_classes: 3 share_location: false mining_type: NONE use_prior_for_matching: false overlap_threshold: 0.1 conf_loss_type: {kind}", "", case(14, classes=3, share=False, objects=9), {"classes": 3, "share": False, "mining": "NONE", "by_prior": False, "threshold": 0.1, "logistic": kind == "LOGISTIC"})
        for kind in ("SOFTMAX", "LOGISTIC")
    ),
    *(
        (f"num_classes: 2 map_object_to_agnostic: true mining_type: {mining} conf_loss_type: {kind}", "", [(3, 128), (3, 64), *case(15)[2:]], {"classes": 2, "agnostic": True, "mining": mining, "logistic": kind == "LOGISTIC"})
        for mining in ("NONE", "MAX_NEGATIVE")
        for kind in ("SOFTMAX", "LOGISTIC")
    ),
    *(
        (f"num_classes: 4 mining_type: HARD_EXAMPLE sample_size: {n} code_type: CENTER_SIZE {more}", "", case(16 + n, objects=12), {"classes": 4, "mining": "HARD_EXAMPLE", "sample": n, "code": "CENTER_SIZE", **rule})
        for n in (1, 7, 64)
        for more, rule in (("", {}), ("ignore_cross_boundary_bbox: true", {"within": True}), ("nms_param { nms_threshold: 0.4 top_k: 20 }", {"nms": 0.4, "top_k": 20}))
    ),
    ("num_classes: 4 nms_param { nms_threshold: 0.3 top_k: -1 } use_prior_for_nms: true neg_pos_ratio: 9", "", case(18), {"classes": 4, "nms": 0.3, "prior_nms": True, "ratio": 9}),
    ("num_classes: 4 nms_param { nms_threshold: 0.1 top_k: 12 }", "", case(19), {"classes": 4, "nms": 0.1, "top_k": 12}),
    ("num_classes: 4 nms_param { nms_threshold: 0 }", "", case(19), {"classes": 4}),
    ("num_classes: 4 neg_pos_ratio: 0", "", case(20), {"classes": 4, "ratio": 0}),
    ("num_classes: 4 background_label_id: 3", "", [*case(21)[:3], case(21, classes=3)[3]], {"classes": 4, "background": 3}),
    *(("num_classes: 4", f"loss_param {{ normalization: {mode} }}", case(22), {"classes": 4, "divide": mode}) for mode in ("FULL", "VALID", "BATCH_SIZE", "NONE")),
    ("num_classes: 4", "loss_param { normalize: false }", case(23), {"classes": 4, "divide": "BATCH_SIZE"}),
    ("num_classes: 4", "propagate_down: true propagate_down: false propagate_down: false propagate_down: false", case(24), {"classes": 4, "down": (True, False)}),
    ("num_classes: 4", "propagate_down: false propagate_down: true propagate_down: false propagate_down: false", case(24), {"classes": 4, "down": (False, True)}),
    ("num_classes: 4", "", [*case(25)[:3], np.full((1, 1, 1, 8), -1.0)], {"classes": 4}),
    ("num_classes: 4 mining_type: NONE", "", [*case(25)[:3], np.full((1, 1, 1, 8), -1.0)], {"classes": 4, "mining": "NONE"}),
]  # fmt: skip
TABLE = [row_of(settings, bottoms, more, **rule) for settings, more, bottoms, rule in RULES]

PRIORS = (1, 2, 8)
TRUTH = (1, 1, 3, 8)
GOOD = [(1, 8), (1, 6), PRIORS, TRUTH]
BAD: list[tuple[str, list[tuple[int, ...]], str]] = [
    (multibox(""), GOOD, "num_classes is missing"),
    (multibox("num_classes: 3"), [(1, 8), (1, 7), PRIORS, TRUTH], "confidences of shape 1x7 must be N x 6, 3 for each of 2 prior boxes"),
    (multibox("num_classes: 3"), [(2, 8), (1, 6), PRIORS, TRUTH], "confidences of shape 1x6 must be N x 6"),
    (multibox("num_classes: 3 share_location: false mining_type: NONE"), GOOD, "locations of shape 1x8 must be N x 24"),
    (multibox("num_classes: 3"), [(1, 8), (1, 6), (1, 8), TRUTH], "the third bottom is PriorBox's, 1 x 2 x 4 P, not 1x8"),
    (multibox("num_classes: 3"), [(1, 8), (1, 6), PRIORS, (1, 1, 3, 7)], "the fourth bottom is AnnotatedData's, 1 x 1 x G x 8, not 1x1x3x7"),
    (multibox("num_classes: 3"), [(1, 8), (1, 6), PRIORS, (2, 1, 3, 8)], "1 x 1 x G x 8, not 2x1x3x8"),
    (multibox("num_classes: 3 share_location: false"), [(1, 24), (1, 6), PRIORS, TRUTH], "mining_type MAX_NEGATIVE needs share_location: true; write mining_type: NONE"),
    (multibox("num_classes: 3 do_neg_mining: false"), GOOD, "do_neg_mining: false contradicts mining_type MAX_NEGATIVE: write mining_type: NONE"),
    (multibox("num_classes: 3 do_neg_mining: true mining_type: NONE"), GOOD, "do_neg_mining: true contradicts mining_type NONE: write mining_type: MAX_NEGATIVE"),
    (multibox("num_classes: 3 background_label_id: 3"), GOOD, "background_label_id 3 is not in 0..2"),
    (multibox("num_classes: 3 background_label_id: 3 conf_loss_type: LOGISTIC"), GOOD, "background_label_id 3 is not in 0..2"),
    (multibox("num_classes: 3 map_object_to_agnostic: true"), GOOD, "map_object_to_agnostic is for num_classes: 2 and background_label_id: 0, not 3 and 0"),
    (multibox("num_classes: 3 mining_type: HARD_EXAMPLE sample_size: 0"), GOOD, "sample_size 0 is not positive"),
    (multibox("num_classes: 3 neg_pos_ratio: -1"), GOOD, "neg_pos_ratio -1 is negative"),
    (multibox("num_classes: 3 nms_param { }"), GOOD, "nms_param needs a top_k (-1: all)"),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0].split("_param { ")[1][:90])
def test_the_loss_is_that_of_the_loops(row: Row) -> None:
    check_forward(row)


@pytest.mark.parametrize(("settings", "more", "bottoms", "rule"), RULES, ids=[r[0][:90] for r in RULES])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_the_closed_form(settings: str, more: str, bottoms: list[Any], rule: Any, seed: int) -> None:
    """In double precision, for predictions of several sizes (large ones are on smooth L1's slope)."""
    rng = np.random.default_rng(seed)
    graph = build(multibox(settings, f"{more} loss_weight: 3"), bottoms).double()
    loc, conf = (rng.standard_normal(shape) * 2.0**seed / 2 for shape in bottoms[:2])
    want, d_loc, d_conf = slow_multibox(loc, conf, *bottoms[2:], **rule)
    leaves = [torch.from_numpy(x).requires_grad_() for x in (loc, conf)]
    loss = graph.run(*leaves, *map(torch.from_numpy, bottoms[2:]))["y"]
    assert loss.shape == () and float(loss.detach()) == pytest.approx(want, rel=1e-9)
    if loss.requires_grad:
        loss.backward()
    for leaf, slope in zip(leaves, (d_loc, d_conf), strict=True):
        got = np.zeros_like(slope) if leaf.grad is None else leaf.grad.numpy()
        np.testing.assert_allclose(got, slope, rtol=1e-7, atol=1e-12)


test_gradient_is_the_finite_difference = gradient_test(TABLE[:4])
test_bad_settings = error_test(BAD)


# ------------------------------------------------------------------------------------------------------------ by hand

QUARTERS = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]


def prior_blob(boxes: Any, variance: float = 1) -> torch.Tensor:
    return torch.tensor([np.ravel(boxes).tolist(), [variance] * (4 * len(boxes))])[None]


@pytest.mark.parametrize(
    ("truth", "threshold", "index", "overlap"),
    [
        # a half of the first quarter, and the whole of the last
        ([[0, 0, 0.25, 0.5], [0.5, 0.5, 1, 1]], 0.5, [0, -1, -1, 1], [0.5, 0, 0, 1]),
        # the threshold may be met; of equal overlaps the first quarter gets the object, the second by its overlap
        ([[0, 0, 1, 0.5]], 0.5, [0, 0, -1, -1], [0.5, 0.5, 0, 0]),
        ([[0, 0, 1, 0.5]], 0.51, [0, -1, -1, -1], [0.5, 0.5, 0, 0]),
        ([[0, 0, 1, 0.5]], None, [0, -1, -1, -1], [0.5, 0.5, 0, 0]),
        # the first object alone would get the first quarter, which the second has
        ([[0, 0, 1, 0.5], [0, 0, 0.5, 0.5]], None, [1, 0, -1, -1], [1, 0.5, 0, 0]),
        ([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]], None, [0, -1, -1, -1], [1, 0, 0, 0]),
        # touching and empty objects overlap nothing
        ([[0.25, 0.25, 0.25, 0.4], [1, 0, 2, 1], [0.4, 0.4, 0.1, 0.1]], 0, [-1] * 4, [0] * 4),
        ([], 0.5, [-1] * 4, [0] * 4),
    ],
)  # fmt: skip
def test_matches_by_hand(truth: Any, threshold: float | None, index: list[int], overlap: list[float]) -> None:
    got = box.match(np.array(QUARTERS, np.float32), np.array(truth, np.float32).reshape(-1, 4), threshold, False)
    assert got[0].tolist() == index and got[1].tolist() == overlap


def test_boxes_that_leave_the_image_can_be_left_out() -> None:
    boxes = np.array([[-0.1, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1.01]], np.float32)
    assert box.match(boxes, boxes, 0.5, False)[0].tolist() == [0, 1, 2]
    assert box.match(boxes, boxes, 0.5, True)[0].tolist() == [-2, 1, -2]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("variances", [None, torch.tensor([[0.1, 0.1, 0.2, 0.3]])])
def test_what_is_encoded_decodes(code: str, variances: torch.Tensor | None) -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((2, 5, 2, 2)), 2).reshape(2, 5, 4)  # xmin, ymin, xmax, ymax
    priors, boxes = torch.from_numpy(corners)
    got = box.decode(box.encode(boxes, priors, variances, code), priors, variances, code)
    torch.testing.assert_close(got, boxes)


def run(settings: str, truth: Any, conf: Any, loc: Any = None, priors: Any = QUARTERS, variance: float = 1) -> float:
    conf = torch.tensor(conf, dtype=torch.float32).reshape(1, -1)
    count = len(priors)
    loc = torch.zeros(1, 4 * count) if loc is None else torch.tensor(loc, dtype=torch.float32).reshape(1, -1)
    rows = torch.tensor(truth, dtype=torch.float32).reshape(1, 1, -1, 8)
    bottoms = [loc, conf, prior_blob(priors, variance), rows]
    graph = build(multibox(settings), [tuple(b.shape) for b in bottoms])
    return float(graph.run(*bottoms)["y"])


def test_one_object_by_hand() -> None:
    """The object is the first quarter; of three negatives two are taken (ratio 2), those least sure of the background."""
    conf = np.log([[0.2, 0.8], [0.9, 0.1], [0.5, 0.5], [0.6, 0.4]])
    truth = [0, 1, 0, 0, 0, 0.5, 0.5, 0]
    assert run("num_classes: 2 neg_pos_ratio: 2", truth, conf) == pytest.approx(-math.log(0.8 * 0.5 * 0.6), rel=1e-5)
    shifted = [[0.5, 0, 0, 3]] + [[9] * 4] * 3  # of the matched box alone: 0.5^2 / 2 and 3 - 1/2
    assert run("num_classes: 2 neg_pos_ratio: 0 loc_weight: 2", truth, conf, shifted) == pytest.approx(2 * 2.625 - math.log(0.8), rel=1e-5)


def test_flat_prior_boxes_match_nothing_and_cost_no_gradient() -> None:
    """PriorBox's clip makes such boxes; only where predictions are decoded do they need a size."""
    flat = [*QUARTERS[:3], [1, 0.5, 1, 1]]
    truth, conf = [0, 1, 0, 0, 0, 0.5, 0.5, 0], np.zeros((4, 2))
    value = run("num_classes: 2 code_type: CENTER_SIZE", truth, conf, priors=flat)
    assert value == pytest.approx(4 * math.log(2))
    with pytest.raises(DataError, match=r'^test.prototxt:5: layer "op" \(MultiBoxLoss\): prior box 3 has no size: CENTER_SIZE'):
        run("num_classes: 2 code_type: CENTER_SIZE use_prior_for_matching: false", truth, conf, priors=flat)
    bottoms = [torch.zeros(1, 16, requires_grad=True), torch.zeros(1, 8), prior_blob(flat), torch.tensor(truth).reshape(1, 1, 1, 8)]
    build(multibox("num_classes: 2 code_type: CENTER_SIZE"), [tuple(b.shape) for b in bottoms]).run(*bottoms)["y"].backward()
    assert bottoms[0].grad is not None and bool(bottoms[0].grad.isfinite().all())


@pytest.mark.parametrize(
    ("settings", "truth", "variance", "message"),
    [
        ("", [0, 0, 0, 0, 0, 1, 1, 0], 1, "ground truth 0: label 0 is the background's"),
        ("", [0, 2, 0, 0, 0, 1, 1, 0], 1, "ground truth 0: label 2 is not in 0..1"),
        ("", [0, -1, 0, 0, 0, 1, 1, 0], 1, "ground truth 0: label -1 is not in 0..1"),
        ("", [0, math.nan, 0, 0, 0, 1, 1, 0], 1, "ground truth 0: label nan is not in 0..1"),
        ("map_object_to_agnostic: true", [0, 0, 0, 0, 0, 1, 1, 0], 1, "ground truth 0: label 0 is the background's"),
        ("", [0, 1, 0, 0, 0, 1, 1, 0], 0, "prior box 0 has a variance that is not positive"),
    ],
)  # fmt: skip
def test_bad_data(settings: str, truth: list[float], variance: float, message: str) -> None:
    with pytest.raises(DataError) as error:
        run(f"num_classes: 2 {settings}", truth, np.zeros((4, 2)), variance=variance)
    assert str(error.value) == f'test.prototxt:5: layer "op" (MultiBoxLoss): {message}'


def test_rows_of_no_image_are_not_read() -> None:
    conf = np.zeros((4, 2))
    known = [[0, 1, 0, 0, 0, 0.5, 0.5, 0]]
    more = [[-1, -1, 0, 0, 0, 1, 1, 0], [1, 7, 0, 0, 0, 1, 1, 0], *known]
    assert run("num_classes: 2", more, conf) == run("num_classes: 2", known, conf)
    assert run("num_classes: 2", np.zeros((0, 8)), conf) == 0


def test_nvidias_flag_is_not_ignored_in_silence() -> None:
    text = multibox("num_classes: 3 ignore_difficult_gt: true")
    net = "".join(f'layer {{ name: "{n}" type: "Input" top: "{n}" input_param {{ shape {{ {d} }} }} }}\n' for n, d in (
        ("a", "dim: 1 dim: 8"), ("b", "dim: 1 dim: 6"), ("c", "dim: 1 dim: 2 dim: 8"), ("d", "dim: 1 dim: 1 dim: 3 dim: 8")))  # fmt: skip
    with pytest.raises(NetError, match=r"ignore_difficult_gt \(NVIDIA's\) is not supported"):
        Graph(parse_net(net + text, "test.prototxt", dialect="nvidia"), TRAIN)


# What PyTorch's compiler does with an autograd.Function, PyTorch itself warns of.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_with_its_gradients_and_has_no_form_in_onnx(tmp_path: Path) -> None:
    settings, _, bottoms, _ = RULES[1]
    rng = np.random.default_rng(0)
    given = [rng.standard_normal(b) if isinstance(b, tuple) else b for b in bottoms]
    tensors = [torch.from_numpy(x).float() for x in given]
    grads = []
    torch._dynamo.reset()
    for compiled in (False, True):
        graph = build(multibox(settings), bottoms)
        function = torch.compile(graph, fullgraph=True, backend="aot_eager") if compiled else graph
        leaves = [tensors[0].clone().requires_grad_(), tensors[1].clone().requires_grad_()]
        function(*leaves, *tensors[2:])["y"].backward()
        grads.append([leaf.grad for leaf in leaves])
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want)
    with pytest.raises(NetError, match=r'layer "op" \(MultiBoxLoss\): has no form in ONNX: it matches boxes with objects'):
        export_onnx(Deployed(build(multibox(settings), bottoms)), tmp_path / "net.onnx")
