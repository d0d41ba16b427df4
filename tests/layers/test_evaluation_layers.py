"""DetectionEvaluate against plain loops, and what average precision makes of it, against its definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pycaffe_compat import DataError, SolverError, log
from pycaffe_compat.detection_scores import average_precisions
from pycaffe_compat.proto.text import parse_solver
from pycaffe_compat.solver import Solver
from tests.layers.harness import Row, build, check_error, error_test, forward_test, op


def evaluate(settings: str) -> str:
    return op("DetectionEvaluate", f"detection_evaluate_param {{ {settings} }}", 2)


def jaccard(a: Any, b: Any, border: float = 0) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w < 0 or h < 0:
        return 0.0
    common = (w + border) * (h + border)
    return common / (sum((x[2] - x[0] + border) * (x[3] - x[1] + border) for x in (a, b)) - common)


def slow_scores(
    found: np.ndarray, truth: np.ndarray, classes: int, background: int = 0, threshold: float = 0.5, difficult: bool = True,
    sizes: list[tuple[int, int]] | None = None, padded: tuple[int, int] | None = None,
) -> np.ndarray:  # fmt: skip
    rows = [r for r in truth.reshape(-1, 8).tolist() if r[0] != -1]
    table: list[list[float]] = []
    for c in range(classes):
        if c != background:
            table.append([-1, c, sum(r[1] == c and (difficult or not r[7]) for r in rows), -1, -1])
    detections = [d for d in found.reshape(-1, 7).tolist() if d[0] != -1]
    for turn, image in enumerate(sorted({d[0] for d in detections})):

        def pixels(b: list[float], turn: int = turn) -> list[float]:
            if sizes is None:
                return b
            h, w = sizes[turn % len(sizes)]
            if padded:  # the image was fitted into padded, in the middle
                ph, pw = padded
                scale = min(ph / h, pw / w)
                mx, my = (pw - w * scale) / 2 / pw, (ph - h * scale) / 2 / ph
                b = [(b[0] - mx) / (1 - 2 * mx), (b[1] - my) / (1 - 2 * my), (b[2] - mx) / (1 - 2 * mx), (b[3] - my) / (1 - 2 * my)]
            b = [min(max(v, 0), 1) for v in b]
            return [b[0] * w, b[1] * h, b[2] * w, b[3] * h]

        for c in sorted({d[1] for d in detections if d[0] == image} - {-1}):
            things = [r for r in rows if r[0] == image and r[1] == c]
            mine = [d for d in detections if d[:2] == [image, c]]
            hit: set[int] = set()
            for d in sorted(mine, key=lambda d: -d[2]) if things else mine:
                values = [jaccard(pixels(d[3:]), pixels(r[3:7]), float(sizes is not None)) for r in things]
                best = values.index(max(values)) if values else -1
                if best < 0 or values[best] < threshold:
                    verdict = [0, 1]
                elif things[best][7] and not difficult:
                    verdict = [0, 0]
                else:
                    verdict = [0, 1] if best in hit else [1, 0]
                    hit.add(best)
                table.append([image, c, d[2], *verdict])
    return np.array(table)[None, None]


def case(seed: int, images: int = 3, objects: int = 14, detections: int = 40) -> list[np.ndarray]:
    """Objects, and detections near some of them; image 1 has no objects, and one row of both is none."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.5, (objects, 2))
    rows = np.zeros((objects + 1, 8))
    rows[1:, 0] = rng.choice([n for n in range(images) if n != 1], objects)
    rows[1:, 1] = rng.integers(1, 4, objects)
    rows[1:, 3:7] = np.concatenate([low, low + rng.uniform(0.2, 0.5, (objects, 2))], 1)
    rows[1:, 7] = rng.integers(0, 2, objects)
    rows[0] = -1
    of = rng.integers(1, objects + 1, detections)
    found = np.zeros((detections + 1, 7))
    found[:-1, 0], found[:-1, 1] = rows[of, 0], rows[of, 1]
    found[:4, 0] = 1
    found[4:8, 1] = rng.integers(1, 4, 4)
    found[:-1, 2] = rng.random(detections)
    found[:-1, 3:] = rows[of, 3:7] + rng.normal(0, 0.06, (detections, 4))
    found[-1] = [2, *[-1] * 6]
    return [found[None, None], rows[None, None]]


def row_of(settings: str, bottoms: list[np.ndarray], **rule: Any) -> Row:
    return evaluate(settings), bottoms, lambda x, p: [slow_scores(*x, **rule)]


FORWARD_ONLY: list[Row] = [
    row_of("num_classes: 4", case(0), classes=4),
    row_of("num_classes: 4 overlap_threshold: 0.7", case(1), classes=4, threshold=0.7),
    row_of("num_classes: 4 evaluate_difficult_gt: false", case(2), classes=4, difficult=False),
    row_of("num_classes: 6 background_label_id: 5 overlap_threshold: 0.3", case(3), classes=6, background=5, threshold=0.3),
    row_of("num_classes: 4", [np.array([[n, *[-1] * 6] for n in range(2)], float)[None, None], case(4)[1]], classes=4),
    row_of("num_classes: 4", [case(5)[0], np.full((1, 1, 1, 8), -1.0)], classes=4),
]  # fmt: skip

FOUND, TRUTH = (1, 1, 5, 7), (1, 1, 3, 8)
BAD = [
    (evaluate(""), [FOUND, TRUTH], "num_classes is missing, background included"),
    (evaluate("num_classes: 3 background_label_id: 3"), [FOUND, TRUTH], "background_label_id 3 is not in 0..2"),
    (evaluate("num_classes: 3 overlap_threshold: 0"), [FOUND, TRUTH], "overlap_threshold 0 is not positive"),
    (evaluate("num_classes: 3"), [(1, 1, 5, 8), TRUTH], 'bottom "a" must be 1 x 1 x rows x 7, not 1x1x5x8'),
    (evaluate("num_classes: 3"), [FOUND, (2, 1, 3, 8)], 'bottom "b" must be 1 x 1 x rows x 8, not 2x1x3x8'),
    (evaluate("num_classes: 3 name_size_file: 'nowhere'"), [FOUND, TRUTH], "nowhere: the file of names and sizes cannot be read"),
    (evaluate("num_classes: 3 resize_param { height: 3 }"), [FOUND, TRUTH], "resize_param: height and width must be given"),
]  # fmt: skip


test_scores_are_those_of_the_loops = forward_test(FORWARD_ONLY)
test_bad_settings = error_test(BAD)


@pytest.mark.parametrize(
    ("resize", "padded"),
    [
        ("", None),
        ("resize_param { height: 300 width: 300 }", None),
        ("resize_param { height: 300 width: 500 resize_mode: FIT_LARGE_SIZE_AND_PAD }", (300, 500)),
    ],
)
def test_boxes_in_pixels_of_the_images_in_turn(tmp_path: Path, resize: str, padded: Any) -> None:
    sizes = [(20, 90), (60, 30), (40, 40), (35, 70)]
    (tmp_path / "sizes.txt").write_text("".join(f"name{i} {h} {w}\n" for i, (h, w) in enumerate(sizes)) + "\n")
    bottoms = case(6)
    text = evaluate(f"num_classes: 4 overlap_threshold: 0.6 name_size_file: '{tmp_path}/sizes.txt' {resize}")
    graph = build(text, bottoms)
    for first in (0, 3, 2):  # 3 images a batch
        got = graph.run(*(torch.from_numpy(b).float() for b in bottoms))["y"].numpy()
        turn = sizes[first:] + sizes[:first]
        want = slow_scores(*bottoms, classes=4, threshold=0.6, sizes=turn, padded=padded)
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert graph.nodes[-1].layer.reads == [f"{tmp_path}/sizes.txt"]


@pytest.mark.parametrize(
    ("line", "message"),
    [("a 3", ":2: 'a 3' is no name, height and width"), ("a 3 -4", ":2: 'a 3 -4' is no name"), ("a 0 4", "is no name")],
)
def test_bad_files_of_sizes(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "sizes.txt").write_text(f"ok 1 2\n{line}\n")
    check_error(evaluate(f"num_classes: 3 name_size_file: '{tmp_path}/sizes.txt'"), [FOUND, TRUTH], message)
    (tmp_path / "sizes.txt").write_text("\n")
    check_error(evaluate(f"num_classes: 3 name_size_file: '{tmp_path}/sizes.txt'"), [FOUND, TRUTH], "holds no names and sizes")


def test_labels_of_the_background_are_named() -> None:
    found, truth = (torch.from_numpy(b).float() for b in case(0))
    graph = build(evaluate("num_classes: 4"), [tuple(found.shape), tuple(truth.shape)])
    wrong = truth.clone()
    wrong[0, 0, 3, 1] = 0
    with pytest.raises(DataError, match=r'^test.prototxt:3: layer "op" \(DetectionEvaluate\): ground truth 2: label 0 is the'):
        graph.run(found, wrong)
    wrong = found.clone()
    wrong[0, 0, 3, 1] = 0
    with pytest.raises(DataError, match="detection 3: label 0 is the background's"):
        graph.run(wrong, truth)


# ---------------------------------------------------------------------------------------------- average precision


def slow_precision(hits: list[int], objects: int, version: str) -> float:
    """From the definitions, hits best first."""
    points = [(sum(hits[: i + 1]) / objects, sum(hits[: i + 1]) / (i + 1)) for i in range(len(hits))]
    if version == "11point":
        return sum(max([p for r, p in points if float(np.float32(r)) >= j / 10], default=0) for j in range(11)) / 11
    area, last = 0.0, 0.0
    for i, (recall, precision) in enumerate(points):
        if version == "MaxIntegral":
            best = max(p for _, p in points[max(i - 1, 0) :])  # from the step's beginning on
            area += (recall - last) * best
        else:
            area += (recall - last) * precision
        last = recall
    return area


@pytest.mark.parametrize("version", ["11point", "MaxIntegral", "Integral"])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_its_definition(version: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, want = [], {}
    for label in (1, 2, 7):
        hits = rng.integers(0, 2, 30)
        scores = np.sort(rng.random(30))[::-1]
        objects = int(hits.sum()) + int(rng.integers(0, 6))
        rows += [[n % 4, label, s, h, 1 - h] for n, (s, h) in enumerate(zip(scores, hits, strict=True))]
        rows += [[3, label, 2, 0, 0], [-1, label, objects - 2, -1, -1], [-1, label, 2, -1, -1]]  # ignored; two batches
        want[label] = slow_precision(hits.tolist(), objects, version)
    rows += [[-1, 3, 5, -1, -1], [-1, 4, 0, -1, -1], [0, 4, 0.5, 0, 1]]  # no detections; no objects
    got = average_precisions(rng.permutation(np.array(rows, np.float32)).astype(np.float64), version)
    assert got == pytest.approx(want | {3: 0, 4: 0}, rel=1e-5)


@pytest.mark.parametrize(
    ("hits", "objects", "values"),
    [
        ([1], 1, (1, 1, 1)),
        ([0, 1], 1, (0.5, 0.5, 0.5)),
        ([1, 0, 1], 2, ((6 + 5 * 2 / 3) / 11, 0.5 + 0.5 * 2 / 3, 0.5 + 0.5 * 2 / 3)),
        ([0, 0], 1, (0, 0, 0)),
        ([1] * 7, 10, (7 / 11, 0.7, 0.7)),  # 7 of 10, as a float of 32 bits, is less than 0.7
    ],
)
def test_average_precision_by_hand(hits: list[int], objects: int, values: tuple[float, ...]) -> None:
    rows = [[0, 1, 1 - i / 10, h, 1 - h] for i, h in enumerate(hits)] + [[-1, 1, objects, -1, -1]]
    for version, value in zip(("11point", "MaxIntegral", "Integral"), values, strict=True):
        assert average_precisions(np.array(rows, float), version)[1] == pytest.approx(value)
    with pytest.raises(ValueError, match="'mean' is none of 11point"):
        average_precisions(np.array(rows, float), "mean")


# ------------------------------------------------------------------------------------------------------- the solver

TRAINED = """
layer { name: "x" type: "DummyData" top: "x" top: "z" dummy_data_param { shape { dim: 2 dim: 3 } } include { phase: TRAIN } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 3 } include { phase: TRAIN } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "z" top: "loss" include { phase: TRAIN } }
"""
TESTED = """
layer { name: "in" type: "HDF5Data" top: "found" top: "truth" hdf5_data_param { source: "%s" batch_size: 1 } include { phase: TEST } }
layer { name: "eval" type: "DetectionEvaluate" bottom: "found" bottom: "truth" top: "detection_eval" include { phase: TEST }
  detection_evaluate_param { num_classes: 4 } }
"""  # fmt: skip


def solver(folder: Path, net: str, settings: str) -> Solver:
    (folder / "net.prototxt").write_text(net)
    text = f'net: "{folder}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 test_iter: 2 test_interval: 1 {settings}'
    return Solver(parse_solver(text))


@pytest.mark.parametrize("version", ["11point", "MaxIntegral", "Integral"])
def test_a_solver_ranks_the_detections_of_all_test_batches(tmp_path: Path, version: str) -> None:
    batches = [case(seed) for seed in (7, 8)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["found"] = np.concatenate([b[0][0] for b in batches])[:, None].astype(np.float32)
        file["truth"] = np.concatenate([b[1][0] for b in batches])[:, None].astype(np.float32)
    (tmp_path / "a.txt").write_text(f"{tmp_path}/a.h5")
    lines: list[str] = []
    settings = f'eval_type: "detection" ap_version: "{version}" show_per_class_result: true'
    with log.console(lines.append):
        means = solver(tmp_path, TRAINED + TESTED % f"{tmp_path}/a.txt", settings).test(0)
    rows = np.concatenate([slow_scores(*b, classes=4)[0, 0] for b in batches])
    want = []
    for c in (1, 2, 3):
        mine = sorted(rows[(rows[:, 0] != -1) & (rows[:, 1] == c)].tolist(), key=lambda r: -r[2])
        want.append(slow_precision([int(r[3]) for r in mine], int(rows[(rows[:, 0] == -1) & (rows[:, 1] == c), 2].sum()), version))
    assert means == {"detection_eval": [pytest.approx(np.mean(want), rel=1e-5)]} and 0.1 < np.mean(want) < 1
    text = "\n".join(lines)
    assert f"Test net output #0: detection_eval = {log.number(means['detection_eval'][0])}" in text
    assert "class1: " in text and "class3: " in text


@pytest.mark.parametrize(
    ("net", "settings", "message"),
    [
        (TRAINED, 'eval_type: "segmentation"', 'solver: eval_type is "segmentation"; it is one of classification, detection'),
        (TRAINED, 'eval_type: "detection" ap_version: "mean"', 'solver: ap_version is "mean"; it is one of 11point, MaxIntegral, Integral'),
        (
            TRAINED + 'layer { name: "y" type: "DummyData" top: "y" dummy_data_param { shape { dim: 2 dim: 3 } } include { phase: TEST } }',
            'eval_type: "detection"',
            'solver: eval_type "detection" is for test nets whose outputs are DetectionEvaluate\'s tops: "y" is none, end it in a Silence layer',
        ),
    ],
)  # fmt: skip
def test_solvers_that_cannot_score(tmp_path: Path, net: str, settings: str, message: str) -> None:
    with pytest.raises(SolverError) as error:
        solver(tmp_path, net, settings).test(0)
    assert str(error.value) == message


def test_an_infinite_score_is_first() -> None:
    rows = [[0, 1, math.inf, 1, 0], [0, 1, 0.5, 0, 1], [-1, 1, 1, -1, -1]]
    assert average_precisions(np.array(rows), "Integral") == {1: 1.0}
