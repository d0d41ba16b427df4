"""All six update rules and seven lr policies against 20 iterations of the original program."""

import json
from pathlib import Path

import numpy as np
import pytest

from pycaffe_compat.solver import Solver
from pycaffe_compat.weights import read_weights

RUNS = [
    "sgd_fixed_l2",
    "sgd_step_l1",
    "sgd_nomomentum_exp",
    "sgd_fixed_itersize2_l2",
    "sgd_poly_clip",
    "nesterov_exp_l2",
    "nesterov_inv_clip_itersize2",
    "adagrad_inv_l2",
    "rmsprop_multistep_l2",
    "adadelta_fixed_l2",
    "adam_sigmoid_l2",
    "adam_multistep_l1_itersize2",
    "L8_sgd_poly_l2",
    "L8_adam_fixed",
]
NOISY = {"adam_sigmoid_l2", "L8_adam_fixed"}  # the original differs from itself by this much on other kernels


def losses_of(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list to which each iteration adds its loss."""
    losses: list[float] = []
    smooth = solver._smooth

    def record(loss: float, start: int) -> None:
        losses.append(loss)
        smooth(loss, start)

    monkeypatch.setattr(solver, "_smooth", record)
    return losses


@pytest.mark.parametrize("run", RUNS)
def test_trajectory(run: str, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden / "solvers")
    expected = json.loads(Path("summary.json").read_text())[run]
    solver = Solver(f"{run}_solver.prototxt")
    solver.graph.load_weights(read_weights(f"{'L8' if run.startswith('L8') else 'L4'}_init.caffemodel"))
    losses = losses_of(solver, monkeypatch)
    tolerance = 1e-3 if run in NOISY else 1e-5
    with np.load(f"{run}_traj.npz") as trajectory:
        for iteration in range(1, 21):
            solver.step(1)
            assert solver.iter == iteration
            assert solver.last_lr == pytest.approx(expected["lr"][iteration - 1], rel=1e-5)
            keys = [key for key in trajectory.files if key.startswith(f"iter{iteration}/")]
            if keys:
                weights = solver.graph.weights()
                names = [key.split("/")[1].rsplit(":", 1) for key in keys]
                ours = np.concatenate([weights[layer][int(i)].ravel() for layer, i in names])
                theirs = np.concatenate([trajectory[key].ravel() for key in keys])
                assert len(names) == len(solver.graph.learnable)
                assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs), iteration
    np.testing.assert_allclose(losses, expected["losses"], rtol=10 * tolerance)
