"""The rate of each iteration, and settings that are refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pycaffe_compat.errors import SolverError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import read_solver
from pycaffe_compat.solver import POLICIES, LearningRate


def rates(count: int, **fields: Any) -> list[float]:
    rate = LearningRate(caffe_pb2.SolverParameter(base_lr=0.5, **fields))
    return [rate(i) for i in range(count)]


# Computed by hand from the definitions in Caffe's schema; values that float32 holds exactly where possible.
CASES = {
    "fixed": ({}, [0.5, 0.5, 0.5, 0.5]),
    "step": ({"gamma": 0.5, "stepsize": 2}, [0.5, 0.5, 0.25, 0.25, 0.125]),
    "exp": ({"gamma": 0.5}, [0.5, 0.25, 0.125]),
    "inv": ({"gamma": 1, "power": 2}, [0.5, 0.5 / 4, 0.5 / 9]),
    "multistep": ({"gamma": 0.5, "stepvalue": [1, 3]}, [0.5, 0.25, 0.25, 0.125, 0.125]),
    "poly": ({"power": 2, "max_iter": 4}, [0.5, 0.5 * 9 / 16, 0.125, 0.5 / 16, 0, 0]),
    "sigmoid": ({"gamma": 2, "stepsize": 1}, [0.5 / (1 + math.e**2), 0.25, 0.5 / (1 + math.e**-2)]),
    "cosine": (
        {"stepsize": 2, "max_iter": 6},
        [0.25, 0.5, 0.5, 0.25 * (1 + math.sqrt(0.5)), 0.25, 0.25 * (1 - math.sqrt(0.5)), 0, 0],
    ),
}


def test_cases_cover_every_policy() -> None:
    assert set(CASES) == set(POLICIES)


@pytest.mark.parametrize("policy", CASES)
def test_rates(policy: str) -> None:
    fields, expected = CASES[policy]
    assert rates(len(expected), lr_policy=policy, **fields) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_multistep_takes_one_step_a_call_and_resumes_from_its_count(capsys: pytest.CaptureFixture[str]) -> None:
    param = caffe_pb2.SolverParameter(base_lr=1, lr_policy="multistep", gamma=0.5, stepvalue=[5, 5, 5])
    rate = LearningRate(param)
    assert [rate(10), rate(11), rate(12), rate(13)] == [0.5, 0.25, 0.125, 0.125]
    told = [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()]
    assert told == [f"MultiStep Status: Iteration {9 + step}, step = {step}" for step in (1, 2, 3)]
    resumed = LearningRate(param)
    resumed.current_step = 2
    assert resumed(3) == 0.25


def test_cosine_without_warm_up_starts_at_base_lr() -> None:
    assert rates(1, lr_policy="cosine", max_iter=10) == [0.5]


def test_sigmoid_far_below_its_step_is_zero_not_an_overflow() -> None:
    assert rates(1, lr_policy="sigmoid", gamma=1, stepsize=100_000) == [0]


def test_powers_are_those_of_c() -> None:
    """Where Python's raise an error."""
    assert rates(1100, lr_policy="exp", gamma=2)[-1] == math.inf
    assert rates(3, lr_policy="poly", power=-1, max_iter=2) == [0.5, 1, math.inf]


def test_rates_of_the_original(golden: Path) -> None:
    runs = json.loads((golden / "solvers" / "summary.json").read_text())
    for name, run in runs.items():
        rate = LearningRate(read_solver(golden / "solvers" / f"{name}_solver.prototxt"))
        assert [rate(i) for i in range(20)] == pytest.approx(run["lr"], rel=1e-5), name


def test_a_policy_is_missed_when_a_rate_is_asked_for() -> None:
    rate = LearningRate(caffe_pb2.SolverParameter(base_lr=1), "x.prototxt")
    with pytest.raises(SolverError, match="x.prototxt: lr_policy is not set: it is one of fixed, step"):
        rate(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"lr_policy": "stepp"},
            'x.prototxt: unknown lr_policy "stepp"; did you mean "step"? (known: fixed, step, exp, inv, '
            "multistep, poly, sigmoid, cosine)",
        ),
        ({"lr_policy": "exp", "gamma": -1}, 'x.prototxt: gamma is -1; lr_policy "exp" needs gamma >= 0'),
        ({"lr_policy": "step", "gamma": 1}, 'x.prototxt: lr_policy "step" needs a stepsize > 0'),
        ({"lr_policy": "poly"}, 'x.prototxt: lr_policy "poly" needs max_iter > 0'),
        (
            {"lr_policy": "cosine", "max_iter": 5, "stepsize": -1},
            'x.prototxt: stepsize is -1; with lr_policy "cosine" it is the length of the '
            "warm-up in iterations, >= 0",
        ),
    ],
)
def test_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError) as caught:
        LearningRate(caffe_pb2.SolverParameter(base_lr=0.5, **fields), "x.prototxt")
    assert str(caught.value) == message
