"""Losses and scores against loops in numpy, their gradients against finite differences, and bad settings and labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pycaffe_compat import CaffeError, DataError, Net
from pycaffe_compat.graph import TRAIN, Graph
from pycaffe_compat.proto.binary import array_to_blob, write_message
from pycaffe_compat.proto.text import parse_net

Shape = tuple[int, ...]
Rule = Callable[[list[np.ndarray]], list[np.ndarray | float]]


def build(layer: str, *shapes: Shape) -> Graph:
    """A net of Input layers a, b, c and the layer "op" on line 4, 3 or 2."""
    dims = [" ".join(f"dim: {n}" for n in shape) for shape in shapes]
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dim} }} }} }}\n'
        for name, dim in zip("abc", dims, strict=False)
    )
    return Graph(parse_net(inputs + layer, "test.prototxt"), TRAIN)


def op(kind: str, settings: str = "", bottoms: int = 2, tops: int = 1) -> str:
    names = " ".join(f'bottom: "{n}"' for n in "abc"[:bottoms]) + "".join(f' top: "{n}"' for n in "yz"[:tops])
    if tops == 2 and "Loss" in kind:
        names += " loss_weight: 1 loss_weight: 0"
    return f'layer {{ name: "op" type: "{kind}" {names} {settings} }}'


# ------------------------------------------------------------------------------------ what the layers should compute


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def divisor(mode: str, total: int, batch: int, valid: int) -> int:
    return max(1, {"FULL": total, "VALID": valid, "BATCH_SIZE": batch, "NONE": 1}[mode])


def cross_entropy(
    axis: int = 1, mode: str = "VALID", ignore: int | None = None, h: np.ndarray | None = None, probs: bool = False
) -> Rule:
    """A loop over positions, with -log p[label], or the row h[label] against -log p."""

    def rule(x: list[np.ndarray]) -> list[np.ndarray | float]:
        p = softmax(x[0], axis)
        rows = np.moveaxis(p, axis, -1)
        matrix = x[2] if len(x) == 3 else np.eye(rows.shape[-1]) if h is None else h
        labels = x[1].astype(int).reshape(rows.shape[:-1])
        loss, valid = 0.0, 0
        for at in np.ndindex(labels.shape):
            if labels[at] != ignore:
                loss -= matrix[labels[at]] @ np.log(rows[at])
                valid += 1
        total = loss / divisor(mode, labels.size, math.prod(p.shape[: axis % p.ndim]), valid)
        return [total, p] if probs else [total]

    return rule


def binary(mode: str = "BATCH_SIZE", ignore: int | None = None) -> Rule:
    def rule(x: list[np.ndarray]) -> list[np.ndarray | float]:
        p = 1 / (1 + np.exp(-x[0]))
        t = x[1].reshape(p.shape)
        valid = np.ones(p.shape, bool) if ignore is None else t.astype(int) != ignore
        loss = -(t * np.log(p) + (1 - t) * np.log(1 - p))[valid].sum()
        return [loss / divisor(mode, p.size, len(p), int(valid.sum()))]

    return rule


def hinge(power: int) -> Rule:
    def rule(x: list[np.ndarray]) -> list[np.ndarray | float]:
        scores = x[0].reshape(len(x[0]), -1).copy()
        for row, label in zip(scores, x[1].astype(int).reshape(-1), strict=True):
            row[label] *= -1
        return [(np.maximum(0, 1 + scores) ** power).sum() / len(scores)]

    return rule


def contrastive(margin: float = 1, legacy: bool = False) -> Rule:
    def rule(x: list[np.ndarray]) -> list[np.ndarray | float]:
        loss = 0.0
        for a, b, alike in zip(x[0].reshape(len(x[0]), -1), x[1].reshape(len(x[0]), -1), x[2].reshape(-1), strict=True):
            d = np.linalg.norm(a - b)
            far = max(margin - d * d, 0) if legacy else max(margin - d, 0) ** 2
            loss += d * d if int(alike) else far
        return [loss / len(x[0]) / 2]

    return rule


def accuracy(axis: int = 1, k: int = 1, ignore: int | None = None, classes: bool = False) -> Rule:
    def rule(x: list[np.ndarray]) -> list[np.ndarray | float]:
        rows = np.moveaxis(x[0], axis, -1)
        labels = x[1].astype(int).reshape(rows.shape[:-1])
        right, total = np.zeros(rows.shape[-1]), np.zeros(rows.shape[-1])
        for at in np.ndindex(labels.shape):
            label = labels[at]
            if label != ignore:
                total[label] += 1
                right[label] += sum(rows[at][other] >= rows[at][label] for other in range(len(total)) if other != label) < k
        share = [right.sum() / max(1, total.sum())]
        return [*share, right / np.maximum(total, 1)] if classes else share

    return rule


# Layer, shapes of its bottoms, how the second and third are filled (classes of the labels, or what it takes), the rule.
H = np.array([[1, 0.2, 0], [0.5, 2, -0.25], [0, 0.1, 1]])
Row = tuple[str, list[Shape], str, Rule]
IGNORE = "loss_param {{ ignore_label: 1 normalization: {} }}"
LOSSES: list[Row] = [
    (op("SoftmaxWithLoss"), [(4, 3), (4,)], "labels", cross_entropy()),
    (op("SoftmaxWithLoss"), [(2, 3, 2, 4), (2, 1, 2, 4)], "labels", cross_entropy()),
    (op("SoftmaxWithLoss", tops=2), [(2, 3, 2, 4), (2, 2, 4)], "labels", cross_entropy(probs=True)),
    (op("SoftmaxWithLoss", "softmax_param { axis: -1 }"), [(2, 5, 3), (2, 5)], "labels", cross_entropy(axis=-1)),
    (op("SoftmaxWithLoss", "softmax_param { axis: 0 }"), [(3, 3), (3,)], "labels", cross_entropy(axis=0)),
    *((op("SoftmaxWithLoss", IGNORE.format(m)), [(2, 3, 4), (2, 4)], "labels", cross_entropy(mode=m, ignore=1)) for m in ("FULL", "VALID", "BATCH_SIZE", "NONE")),
    (op("SoftmaxWithLoss", "softmax_param { axis: 2 } loss_param { normalization: BATCH_SIZE }"), [(2, 5, 3), (2, 5)], "labels", cross_entropy(axis=2, mode="BATCH_SIZE")),
    (op("SoftmaxWithLoss", "loss_param { normalize: false }"), [(2, 3, 4), (2, 4)], "labels", cross_entropy(mode="BATCH_SIZE")),
    (op("SoftmaxWithLoss", "loss_param { normalize: true ignore_label: 0 }"), [(2, 3, 4), (2, 4)], "labels", cross_entropy(ignore=0)),
    (op("SoftmaxWithLoss", "loss_param { normalize: false normalization: FULL ignore_label: 0 }"), [(2, 3, 4), (2, 4)], "labels", cross_entropy(mode="FULL", ignore=0)),
    (op("InfogainLoss", "infogain_loss_param { source: 'h.binaryproto' }"), [(4, 3), (4,)], "labels", cross_entropy(h=H)),
    (op("InfogainLoss", "infogain_loss_param { source: 'h.binaryproto' }", tops=2), [(2, 3, 2, 2), (2, 2, 2)], "labels", cross_entropy(h=H, probs=True)),
    (op("InfogainLoss", "infogain_loss_param { source: 'h.binaryproto' axis: -1 }"), [(2, 5, 3), (2, 5)], "labels", cross_entropy(h=H, axis=-1)),
    *((op("InfogainLoss", "infogain_loss_param { source: 'h.binaryproto' }" + IGNORE.format(m)), [(2, 3, 4), (2, 4)], "labels", cross_entropy(h=H, mode=m, ignore=1)) for m in ("FULL", "VALID", "BATCH_SIZE", "NONE")),
    (op("InfogainLoss", bottoms=3), [(4, 3), (4,), (1, 1, 3, 3)], "labels", lambda x: cross_entropy()([x[0], x[1], x[2].reshape(3, 3)])),
    (op("MultinomialLogisticLoss"), [(4, 3), (4,)], "probabilities", lambda x: [-np.log(x[0][range(4), x[1].astype(int)]).mean()]),
    (op("MultinomialLogisticLoss"), [(4, 3, 1, 1), (4, 1, 1, 1)], "probabilities", lambda x: [-np.log(x[0][range(4), x[1].astype(int).flat, 0, 0]).mean()]),
    (op("HingeLoss"), [(4, 3), (4,)], "labels", hinge(1)),
    (op("HingeLoss"), [(4, 3), (4, 2)], "labels", lambda x: hinge(1)([x[0], x[1].reshape(-1)[:4]])),
    (op("HingeLoss"), [(4,), (4,)], "zeros", hinge(1)),
    (op("MultinomialLogisticLoss"), [(4,), (4,)], "zeros", lambda x: [-np.log(x[0]).mean()]),
    (op("HingeLoss", "hinge_loss_param { norm: L1 }"), [(4, 3, 1, 1), (4, 1)], "labels", hinge(1)),
    (op("HingeLoss", "hinge_loss_param { norm: L2 }"), [(2, 3, 2, 2), (2,)], "labels", hinge(2)),
    (op("SigmoidCrossEntropyLoss"), [(4, 3), (4, 3)], "targets", binary()),
    (op("SigmoidCrossEntropyLoss"), [(4, 3, 1), (4, 3)], "targets", binary()),
    *((op("SigmoidCrossEntropyLoss", IGNORE.format(m)), [(4, 6), (4, 6)], "targets", binary(m, 1)) for m in ("FULL", "VALID", "BATCH_SIZE", "NONE")),
    (op("SigmoidCrossEntropyLoss", "loss_param { normalize: true }"), [(4, 3), (4, 3)], "targets", binary("VALID")),
    (op("SigmoidCrossEntropyLoss", "loss_param { normalize: true ignore_label: 0 }"), [(4, 3), (4, 3)], "targets", binary("VALID", 0)),
    (op("ContrastiveLoss", bottoms=3), [(6, 4), (6, 4), (6,)], "pairs", contrastive()),
    (op("ContrastiveLoss", bottoms=3), [(6,), (6, 1), (6,)], "pairs", contrastive()),
    (op("ContrastiveLoss", "contrastive_loss_param { margin: 3 }", 3), [(6, 4), (6, 4), (6, 1, 1, 1)], "pairs", contrastive(3)),
    (op("ContrastiveLoss", "contrastive_loss_param { margin: 3 legacy_version: true }", 3), [(6, 4, 1, 1), (6, 4, 1, 1), (6,)], "pairs", contrastive(3, True)),
]  # fmt: skip
ACCURACIES: list[Row] = [
    (op("Accuracy"), [(8, 5), (8,)], "labels", accuracy()),
    (op("Accuracy", "accuracy_param { top_k: 0 }"), [(8, 5), (8,)], "labels", accuracy(k=0)),
    (op("Accuracy", "accuracy_param { top_k: 3 }"), [(8, 5), (8, 1, 1, 1)], "labels", accuracy(k=3)),
    (op("Accuracy", "accuracy_param { axis: -1 }", tops=2), [(2, 4, 5), (2, 4)], "labels", accuracy(axis=-1, classes=True)),
    (op("Accuracy", "accuracy_param { ignore_label: 1 top_k: 2 }", tops=2), [(2, 4, 3, 3), (2, 3, 3)], "labels", accuracy(k=2, ignore=1, classes=True)),
]  # fmt: skip


def ids(row: object) -> str | None:
    return row.split('type: "')[1].split('"')[0] if isinstance(row, str) and "type" in row else None


def arrays(text: str, shapes: list[Shape], kind: str) -> list[np.ndarray]:
    """Bottoms whose scores are spread, and labels that hold class 0 and 1 at least once."""
    rng = np.random.default_rng(5)
    bottoms = [rng.standard_normal(shape) for shape in shapes]
    if kind == "probabilities":
        bottoms[0] = softmax(bottoms[0], 1)
    if kind == "zeros":  # one class
        bottoms = [np.abs(bottoms[0]) + 0.1, np.zeros(shapes[1])]
    elif kind == "targets":
        bottoms[1] = rng.choice([0, 0.3, 1.0, 1.5, 0.9], shapes[1])
    elif kind == "pairs":
        bottoms[2] = rng.choice([0, 0.9, 1, 1.2], shapes[2])
    else:
        classes = 3 if "Accuracy" not in text else {(8, 5): 5, (2, 4, 5): 5, (2, 4, 3, 3): 4}[shapes[0]]
        labels = rng.integers(0, classes, shapes[1])
        labels.flat[:2] = (0, 1)
        bottoms[1] = labels + rng.choice([0, 0.5], shapes[1])  # cut to integers as C does
    return bottoms


@pytest.fixture(autouse=True)
def _matrix_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_message("h.binaryproto", array_to_blob(H.reshape(1, 1, 3, 3)))


@pytest.mark.parametrize(("text", "shapes", "kind", "rule"), LOSSES + ACCURACIES, ids=ids)
def test_forward_is_the_formula(text: str, shapes: list[Shape], kind: str, rule: Rule) -> None:
    graph = build(text, *shapes)
    bottoms = arrays(text, shapes, kind)
    got = graph.run(*(torch.from_numpy(b).float() for b in bottoms))
    want = rule(bottoms)
    assert len(want) == len(graph.nodes[-1].tops)
    for name, value in zip(graph.nodes[-1].tops, want, strict=True):
        assert got[name].dtype == torch.float32
        assert graph.shapes[name] == np.shape(value)
        np.testing.assert_allclose(got[name].numpy(), value, rtol=1e-5, atol=1e-6)
    weight = 0 if "Accuracy" in text else 1
    assert graph.nodes[-1].loss_weights == [weight, 0][: len(want)]


@pytest.mark.parametrize(("text", "shapes", "kind", "rule"), LOSSES, ids=ids)
def test_gradient_is_the_finite_difference(text: str, shapes: list[Shape], kind: str, rule: Rule) -> None:
    graph = build(text, *shapes).double()
    bottoms = [torch.from_numpy(b).double() for b in arrays(text, shapes, kind)]
    learned = 2 if kind == "pairs" else 1

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = graph(*values, *bottoms[learned:])
        return tuple(outputs[name] for name in graph.outputs)

    # Contrastive: the slope is 1 / (d + 1e-4) in place of 1 / d.
    given = [b.requires_grad_() for b in bottoms[:learned]]
    assert torch.autograd.gradcheck(function, given, atol=3e-4 if kind == "pairs" else 1e-5)


@pytest.mark.parametrize(("text", "shapes", "kind", "rule"), LOSSES, ids=ids)
def test_half_precision_scores_give_a_float32_loss(text: str, shapes: list[Shape], kind: str, rule: Rule) -> None:
    bottoms = [torch.from_numpy(b).float() for b in arrays(text, shapes, kind)]
    bottoms[0] = bottoms[0].bfloat16()
    (loss,) = rule([b.float().double().numpy() for b in bottoms])[:1]
    got = build(text, *shapes).run(*bottoms)["y"]
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), loss, rtol=1e-4, atol=1e-6)


def test_no_gradient_reaches_labels_targets_and_h() -> None:
    for text, shapes, kind, _ in LOSSES:
        bottoms = [torch.from_numpy(b).float().requires_grad_() for b in arrays(text, shapes, kind)]
        build(text, *shapes).run(*bottoms)["y"].backward()
        assert bottoms[0].grad is not None
        assert [b.grad is None for b in bottoms[2 if kind == "pairs" else 1 :]].count(False) == 0


def test_a_net_in_double_has_its_loss_in_double() -> None:
    x, y = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    assert build(op("EuclideanLoss"), (2, 3), (2, 3)).double().run(x, y)["y"].item() == (x - y).square().sum().item() / 4


@pytest.mark.parametrize(("kind", "bottoms"), [("SoftmaxWithLoss", 2), ("InfogainLoss", 3)])
def test_no_gradient_comes_back_through_the_probabilities(kind: str, bottoms: int) -> None:
    """The original's backward reads the diff of the first top alone."""
    shapes: list[Shape] = [(2, 3), (2,), (3, 3)][:bottoms]
    net = Net(build("force_backward: true " + op(kind, bottoms=bottoms, tops=2), *shapes))
    net.blobs["a"].data[...] = [[1, 2, 0], [0, 1, 0]]
    if bottoms == 3:
        net.blobs["c"].data[...] = np.eye(3)
    net.forward()
    net.backward()
    alone = net.blobs["a"].diff.copy()
    assert alone.any()
    net.blobs["z"].diff[...] = [[1, 0, 0], [0, 5, 0]]
    net.backward()
    np.testing.assert_array_equal(net.blobs["a"].diff, alone)


# ----------------------------------------------------------------------------------------------------- the edges of it


def test_softmax_clamps_the_probability_and_keeps_the_gradient() -> None:
    x = torch.tensor([[0.0, 200.0]], requires_grad=True)
    loss = build(op("SoftmaxWithLoss"), (1, 2), (1,)).run(x, torch.zeros(1))["y"]
    assert loss.item() == pytest.approx(-math.log(np.finfo(np.float32).tiny))
    loss.backward()
    torch.testing.assert_close(x.grad, torch.tensor([[-1.0, 1.0]]))


def test_infogain_clamps_the_probability() -> None:
    text = op("InfogainLoss", bottoms=3)
    x = torch.tensor([[0.0, 200.0]], requires_grad=True)
    loss = build(text, (1, 2), (1,), (2, 2)).run(x, torch.zeros(1), torch.eye(2))["y"]
    assert loss.item() == pytest.approx(-math.log(1e-20))
    loss.backward()
    torch.testing.assert_close(x.grad, torch.tensor([[-1.0, 1.0]]))


def test_multinomial_clamps_the_probability_in_the_gradient_too() -> None:
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    loss = build(op("MultinomialLogisticLoss"), (2, 2), (2,)).run(x, torch.tensor([0.0, 1.0]))["y"]
    assert loss.item() == pytest.approx(-math.log(1e-20) / 2)
    loss.backward()
    torch.testing.assert_close(x.grad, torch.tensor([[-0.5e20, 0.0], [0.0, -0.5]]))


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "Accuracy", "InfogainLoss"])
def test_when_everything_is_ignored_the_result_is_zero(kind: str) -> None:
    settings = "accuracy_param { ignore_label: 255 }" if kind == "Accuracy" else "loss_param { ignore_label: 255 normalization: VALID }"
    settings += " infogain_loss_param { source: 'h.binaryproto' }" if kind == "InfogainLoss" else ""
    shapes = [(2, 3), (2, 3) if "Sigmoid" in kind else (2,)]
    x = torch.randn(2, 3, requires_grad=True)
    got = build(op(kind, settings), *shapes).run(x, torch.full(shapes[1], 255.0))["y"]
    assert got.item() == 0
    if got.requires_grad:
        got.backward()
        assert (x.grad == 0).all()


def test_large_logits_stay_finite() -> None:
    x = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = build(op("SigmoidCrossEntropyLoss"), (1, 2), (1, 2)).run(x, torch.tensor([[0.0, 1.0]]))["y"]
    assert loss.item() == 2e4
    loss.backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1.0, -1.0]]))


def test_an_unlike_pair_at_distance_zero_has_a_finite_gradient() -> None:
    a, b = torch.ones(1, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    build(op("ContrastiveLoss", bottoms=3), (1, 3), (1, 3), (1,)).run(a, b, torch.zeros(1))["y"].backward()
    assert (a.grad == 0).all()
    assert (b.grad == 0).all()


def test_ties_count_as_wrong() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0]])
    for k, expected in ((1, 0.0), (2, 1.0)):
        graph = build(op("Accuracy", f"accuracy_param {{ top_k: {k} }}"), (1, 3), (1,))
        assert graph.run(scores, torch.zeros(1))["y"].item() == expected


def test_the_gradient_of_the_hinge_at_its_corner_is_zero() -> None:
    x = torch.tensor([[1.0, -1.0]], requires_grad=True)
    build(op("HingeLoss"), (1, 2), (1,)).run(x, torch.zeros(1))["y"].backward()
    assert (x.grad == 0).all()


# ------------------------------------------------------------------------------------------------------------ bad input

SCORES = [(2, 3), (2,)]


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "InfogainLoss", "MultinomialLogisticLoss", "HingeLoss", "Accuracy"])
@pytest.mark.parametrize(("label", "shown"), [(3.0, "3"), (-1.0, "-1"), (255.0, "255"), (math.nan, "nan"), (3e9, "3e+09")])
def test_a_label_out_of_range_names_layer_and_value(kind: str, label: float, shown: str) -> None:
    settings = "infogain_loss_param { source: 'h.binaryproto' }" if kind == "InfogainLoss" else ""
    graph = build(op(kind, settings), *SCORES)
    with pytest.raises(DataError) as error:
        graph.run(torch.randn(2, 3), torch.tensor([2.0, label]))
    assert str(error.value).startswith(f'test.prototxt:3: layer "op" ({kind}): label {shown} at position 1 is not in 0..2')
    assert "\n" not in str(error.value)


def test_the_ignored_label_may_lie_outside_and_others_not() -> None:
    graph = build(op("SoftmaxWithLoss", "loss_param { ignore_label: 255 }"), *SCORES)
    assert graph.run(torch.zeros(2, 3), torch.tensor([2.0, 255.0]))["y"].item() == pytest.approx(math.log(3))
    with pytest.raises(DataError, match=r"label 254 at position 0 is not in 0\.\.2, nor ignore_label 255"):
        graph.run(torch.zeros(2, 3), torch.tensor([254.0, 255.0]))


BAD: list[tuple[str, list[Shape], str]] = [
    (op("SoftmaxWithLoss"), [(2, 3, 4), (2,)], "2 labels for scores of shape 2x3x4: with the classes on axis 1 there must be 8"),
    (op("SoftmaxWithLoss", "softmax_param { axis: 2 }"), [(2, 3), (2,)], "axis 2 does not exist in a blob of 2 dimensions"),
    (op("SoftmaxWithLoss", bottoms=1), [(2, 3)], "has 1 bottoms: SoftmaxWithLoss takes 2"),
    (op("SoftmaxWithLoss", "loss_weight: 1 loss_weight: 0"), SCORES, "2 loss_weight for 1 tops"),
    *((op(kind, bottoms=n, tops=2).replace("loss_weight: 1 loss_weight: 0", ""), [(2, 3), (2,), (3, 3)][:n], "2 tops and no loss_weight") for kind, n in (("SoftmaxWithLoss", 2), ("InfogainLoss", 3))),
    (op("SoftmaxWithLoss", "loss_param { label_smoothing: 0.5 }"), SCORES, "loss_param: label_smoothing 0.5 is a fork's"),
    (op("SoftmaxWithLoss", "loss_param { normalization: PRE_FIXED }"), SCORES, "normalization PRE_FIXED is a fork's, and not"),
    (op("InfogainLoss"), SCORES, "has no matrix H"),
    (op("InfogainLoss", "infogain_loss_param { source: 'none.binaryproto' }"), SCORES, "the matrix H: none.binaryproto: no such file"),
    (op("InfogainLoss", "infogain_loss_param { source: 'text' }"), SCORES, "text: is not a binary BlobProto but looks like"),
    (op("InfogainLoss", "infogain_loss_param { source: 'h.binaryproto' }"), [(2, 4), (2,)], "h.binaryproto: a matrix of shape 1x1x3x3 for 4 classes"),
    (op("InfogainLoss", bottoms=3), [(2, 4), (2,), (3, 4)], 'bottom "c": a matrix of shape 3x4 for 4 classes'),
    (op("MultinomialLogisticLoss"), [(2, 3), (2, 3)], "6 labels for a batch of 2"),
    *((op(kind), [(6, 2), (2, 6)], "bottoms of shapes 6x2 and 2x6 differ in their first axis") for kind in ("HingeLoss", "SigmoidCrossEntropyLoss", "MultinomialLogisticLoss", "EuclideanLoss")),
    (op("SoftmaxWithLoss", "softmax_param { axis: 0 }"), [(3, 4), (4,)], "bottoms of shapes 3x4 and 4 differ in their first axis"),
    (op("InfogainLoss", bottoms=3), [(2, 3, 4), (4, 2), (3, 3)], "bottoms of shapes 2x3x4 and 4x2 differ in their first axis"),
    (op("SigmoidCrossEntropyLoss"), [(2, 3), (2, 4)], "bottoms of shapes 2x3 and 2x4 must hold as many values"),
    (op("ContrastiveLoss", bottoms=3), [(2, 3, 2, 2), (2, 3, 2, 2), (2,)], 'bottom "a" of shape 2x3x2x2 must be N, N x C'),
    (op("ContrastiveLoss", bottoms=3), [(2, 3), (2, 4), (2,)], "bottoms of shapes 2x3 and 2x4 are no pairs"),
    (op("ContrastiveLoss", bottoms=3), [(2, 3), (2, 3), (3,)], "3 labels for 2 pairs"),
    (op("Accuracy", "accuracy_param { top_k: 4 }"), SCORES, "top_k 4 must be within 0..3"),
    (op("Accuracy"), [(2, 3), (3,)], "3 labels for scores of shape 2x3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shapes", "message"), BAD)
def test_what_cannot_be_built_says_where_and_why(text: str, shapes: list[Shape], message: str) -> None:
    Path("text").write_text("a matrix?\n")
    with pytest.raises(CaffeError) as error:
        build(text, *shapes)
    assert message in str(error.value)
    assert f'test.prototxt:{len(shapes) + 1}: layer "op"' in str(error.value)
    assert "\n" not in str(error.value)


def test_the_matrix_of_a_file_is_no_parameter() -> None:
    graph = build(op("InfogainLoss", "infogain_loss_param { source: 'h.binaryproto' }"), *SCORES)
    assert not graph.params
    assert not list(graph.parameters())
    assert not graph.state_dict()
