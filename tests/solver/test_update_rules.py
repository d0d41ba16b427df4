"""The update rules against Caffe's formulas, written out again, a number at a time, in doubles."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from pycaffe_compat.errors import SolverError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.solver import RULES
from pycaffe_compat.solver.update_rules import make_rule


@dataclass
class Entry:
    parameter: torch.nn.Parameter
    lr_mult: float = 1.0
    decay_mult: float = 1.0


def reference(p: Any, w: float, g: float, h: list[float], rate: float, t: int) -> tuple[float, list[float]]:
    """One number's update and new history, from the formulas of Caffe's solvers."""
    mu, delta = p.momentum, p.delta
    if p.type == "SGD":
        v = mu * h[0] + rate * g
        return v, [v]
    if p.type == "Nesterov":
        v = mu * h[0] + rate * g
        return (1 + mu) * v - mu * h[0], [v]
    if p.type == "AdaGrad":
        s = h[0] + g * g
        return rate * g / (math.sqrt(s) + delta), [s]
    if p.type == "RMSProp":
        s = p.rms_decay * h[0] + (1 - p.rms_decay) * g * g
        return rate * g / (math.sqrt(s) + delta), [s]
    if p.type == "AdaDelta":
        s = mu * h[0] + (1 - mu) * g * g
        u = g * math.sqrt((delta + h[1]) / (delta + s))
        return rate * u, [s, mu * h[1] + (1 - mu) * u * u]
    m = mu * h[0] + (1 - mu) * g
    v = p.momentum2 * h[1] + (1 - p.momentum2) * g * g
    correction = math.sqrt(1 - p.momentum2**t) / (1 - mu**t)
    return rate * correction * m / (math.sqrt(v) + delta), [m, v]


def settings(rule: str, **fields: Any) -> Any:
    momentum = {} if rule in ("AdaGrad", "RMSProp") else {"momentum": 0.9}
    # delta large enough to matter: a misplaced one shows
    return caffe_pb2.SolverParameter(type=rule, **({"delta": 1e-2, "weight_decay": 0.1} | momentum | fields))


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("regularization", ["L1", "L2"])
@pytest.mark.parametrize("iter_size", [1, 3])
@pytest.mark.parametrize("clip", [-1.0, 2.0])
def test_against_the_formulas(rule: str, regularization: str, iter_size: int, clip: float) -> None:
    random = np.random.default_rng(0)
    param = settings(rule, regularization_type=regularization, iter_size=iter_size, clip_gradients=clip)
    shapes, mults = [(3, 2, 2, 2), (3,), (4,)], [(1.0, 1.0), (2.0, 0.0), (0.5, 3.0)]
    starts = [random.standard_normal(shape) for shape in shapes]
    entries = [
        Entry(torch.nn.Parameter(torch.tensor(start, dtype=torch.float64)), *mult)
        for start, mult in zip(starts, mults, strict=True)
    ]
    made = make_rule(param, entries)
    expected = [start.ravel().tolist() for start in starts]
    slots = 2 if rule in ("AdaDelta", "Adam") else 1
    history = [[[0.0] * slots for _ in values] for values in expected]
    for iteration, rate in enumerate([0.1, 0.1, 0.03, 0.2]):
        grads = [random.standard_normal(shape) for shape in shapes]
        norm = math.sqrt(sum(float((g * g).sum()) for g in grads))
        scale = clip / norm if 0 <= clip < norm else 1.0
        updates: list[list[float]] = []
        for k, (values, grad, (lr_mult, decay_mult)) in enumerate(zip(expected, grads, mults, strict=True)):
            updates.append([])
            for j, g in enumerate(grad.ravel().tolist()):
                g = g * scale / iter_size
                penalty = math.copysign(1, values[j]) if regularization == "L1" else values[j]
                g += param.weight_decay * decay_mult * penalty
                update, history[k][j] = reference(
                    param, values[j], g, history[k][j], rate * lr_mult, iteration + 1
                )
                values[j] -= update
                updates[k].append(update)
        made.clear()
        for entry, grad in zip(entries, grads, strict=True):
            entry.parameter.grad = torch.tensor(grad)
        made.apply(rate, iteration)
        for k, entry in enumerate(entries):
            assert entry.parameter.grad is not None
            np.testing.assert_allclose(entry.parameter.detach().flatten(), expected[k], rtol=1e-9, atol=1e-12)
            # what the diff holds after a step is the update itself
            np.testing.assert_allclose(entry.parameter.grad.flatten(), updates[k], rtol=1e-9, atol=1e-12)
            for slot in range(slots):  # all first moments, then all second ones
                stored = made.history[slot * len(entries) + k].flatten()
                np.testing.assert_allclose(stored, [h[slot] for h in history[k]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", list(RULES))
def test_a_parameter_that_does_not_learn_keeps_its_place_in_the_history(rule: str) -> None:
    frozen, moving = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    made = make_rule(settings(rule), [Entry(frozen, lr_mult=0.0), Entry(moving)])
    moving.grad = torch.ones(2)
    made.apply(0.1, 0)
    assert frozen.tolist() == [1, 1]
    assert all(value < 1 for value in moving.tolist())
    assert len(made.history) == 2 * made.slots
    assert made.history[0].tolist() == [0, 0]


def test_a_parameter_without_gradient_still_decays() -> None:
    parameter = torch.nn.Parameter(torch.full((2,), 4.0))
    made = make_rule(caffe_pb2.SolverParameter(type="SGD", weight_decay=0.5), [Entry(parameter)])
    made.apply(0.5, 0)
    assert parameter.tolist() == [3, 3]


def test_clipping_at_zero_leaves_only_the_decay() -> None:
    parameter = torch.nn.Parameter(torch.full((2,), 4.0))
    param = caffe_pb2.SolverParameter(type="SGD", weight_decay=0.5, clip_gradients=0)
    made = make_rule(param, [Entry(parameter)])
    parameter.grad = torch.full((2,), 100.0)
    made.apply(0.5, 0)
    assert parameter.tolist() == [3, 3]


def test_clipping_counts_the_gradients_of_what_does_not_learn() -> None:
    frozen, moving = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    param = caffe_pb2.SolverParameter(type="SGD", clip_gradients=1)
    made = make_rule(param, [Entry(frozen, lr_mult=0.0), Entry(moving)])
    frozen.grad, moving.grad = torch.tensor([3.0]), torch.tensor([4.0])  # of norm 5; force_backward computes the first
    shown = frozen.grad
    made.apply(1, 0)
    assert moving.item() == pytest.approx(-0.8)
    assert frozen.item() == 0 and frozen.grad is shown and shown.item() == 0  # the update that it got


def test_clear_drops_gradients_that_nothing_updates_too() -> None:
    frozen = torch.nn.Parameter(torch.ones(2))  # force_backward computes them
    made = make_rule(settings("SGD"), [Entry(frozen, lr_mult=0.0)])
    frozen.grad = torch.ones(2)
    made.clear()
    assert frozen.grad is None
    made.apply(0.1, 0)


def test_it_follows_a_module_that_is_moved_to_another_memory_format() -> None:
    layer = torch.nn.Conv2d(3, 4, 3, bias=False)
    made = make_rule(caffe_pb2.SolverParameter(type="SGD"), [Entry(layer.weight)])
    layer.to(memory_format=torch.channels_last)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones_like(layer.weight)
    made.apply(0.5, 0)
    torch.testing.assert_close(layer.weight.detach(), before - 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"type": "Adamm"},
            's: unknown solver type "Adamm"; did you mean "Adam"? '
            "(known: SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam)",
        ),
        ({"type": "AdaGrad", "momentum": 0.5}, "s: momentum is 0.5; AdaGrad has none: remove it"),
        ({"type": "RMSProp", "momentum": 0.5}, "s: momentum is 0.5; RMSProp has none: remove it"),
        ({"type": "RMSProp", "rms_decay": 1}, "s: rms_decay is 1; it must be in [0, 1)"),
        ({"type": "Adam", "momentum": 1}, "s: momentum is 1; Adam needs it in [0, 1)"),
        ({"type": "SGD", "iter_size": 0}, "s: iter_size is 0; it must be at least 1"),
        (
            {"type": "SGD", "regularization_type": "l1", "weight_decay": 1},
            's: unknown regularization_type "l1"; did you mean "L1"? (known: L1, L2)',
        ),
    ],
)
def test_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError) as caught:
        make_rule(caffe_pb2.SolverParameter(**fields), [Entry(torch.nn.Parameter(torch.ones(1)))], "s")
    assert str(caught.value) == message


def test_the_kind_of_regularisation_does_not_matter_where_there_is_none() -> None:
    param = caffe_pb2.SolverParameter(type="SGD", regularization_type="none")
    make_rule(param, [Entry(torch.nn.Parameter(torch.ones(1)))])
