"""The solvers as Caffe's test_solver.py has them, then what it does not test; see conftest.py."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pycaffe_compat as caffe
from pycaffe_compat import SolverError
from pycaffe_compat.solver import Solver as TrainingLoop

SOLVER = """
net: "net.prototxt" test_iter: 2 test_interval: 10 base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005
lr_policy: "inv" gamma: 0.0001 power: 0.75 display: 100 max_iter: 20 snapshot_after_train: false
snapshot_prefix: "model" random_seed: 3
"""
REGRESSION = """
name: "regression"
layer { name: "in" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 4 dim: 2 dim: 6 dim: 6 } shape { dim: 4 dim: 1 dim: 4 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "out" type: "Convolution" bottom: "conv" top: "out"
  convolution_param { num_output: 1 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "out" bottom: "y" top: "loss" }
"""


def write_solver(text: str = "", **changes: object) -> str:
    words = SOLVER
    for name, value in changes.items():
        words += f" {name}: {value}"
    Path("solver.prototxt").write_text(words + text)
    return "solver.prototxt"


@pytest.fixture
def solver(classifying_net: str, monkeypatch: pytest.MonkeyPatch) -> caffe.Solver:
    monkeypatch.chdir(Path(classifying_net).parent)
    solver = caffe.SGDSolver(write_solver())
    for net in (solver.net, *solver.test_nets):
        net.blobs["label"].data[...] = np.random.default_rng(0).integers(13, size=net.blobs["label"].data.shape)
    return solver


@pytest.fixture
def regression(write_net: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> caffe.Solver:
    monkeypatch.chdir(Path(write_net(REGRESSION)).parent)
    solver = caffe.get_solver(write_solver())
    fill(solver.net)
    fill(solver.test_nets[0])
    return solver


def fill(net: caffe.Net) -> None:
    random = np.random.default_rng(1)
    net.blobs["x"].data[...] = random.standard_normal(net.blobs["x"].shape)
    net.blobs["y"].data[...] = random.standard_normal(net.blobs["y"].shape)


# ---- solve apply_update net_memory snapshot


def test_solve(solver: caffe.Solver) -> None:
    assert solver.iter == 0
    solver.solve()
    assert solver.iter == 20
    assert len(set(solver.net.blobs["label"].data.ravel())) > 1


def test_apply_update(solver: caffe.Solver) -> None:
    weight = solver.net.layers[1].blobs[0]
    weight.data[...] = 0
    weight.diff[...] = 1
    solver.apply_update()
    np.testing.assert_allclose(weight.data, -0.01, atol=1e-7)
    np.testing.assert_allclose(weight.diff, 0.01, atol=1e-7)
    assert solver.iter == 1


def test_an_iteration_by_hand_is_a_step(regression: caffe.Solver) -> None:
    Path("exp.prototxt").write_text(SOLVER.replace('"inv" gamma: 0.0001 power: 0.75', '"exp" gamma: 0.5'))
    by_hand, stepped = caffe.get_solver("exp.prototxt"), caffe.get_solver("exp.prototxt")
    for solver in (by_hand, stepped):
        fill(solver.net)
        fill(solver.test_nets[0])
    stepped.step(3)
    for _ in range(3):
        by_hand.net.clear_param_diffs()
        by_hand.net.forward()
        by_hand.net.backward()
        by_hand.apply_update()
    assert (by_hand.iter, by_hand.last_lr) == (stepped.iter, stepped.last_lr) == (3, stepped.base_lr / 4)
    for mine, theirs in zip(by_hand.net.params["conv"], stepped.net.params["conv"], strict=True):
        np.testing.assert_array_equal(mine.data, theirs.data)


def test_net_memory(solver: caffe.Solver) -> None:
    nets = [solver.net, *solver.test_nets]
    assert len(nets) == 2
    del solver
    for net in nets:
        blobs = [blob for group in net.params.values() for blob in group] + list(net.blobs.values())
        assert np.isfinite(sum(blob.data.sum() + blob.diff.sum() for blob in blobs))


def test_snapshot(solver: caffe.Solver) -> None:
    solver.snapshot()
    assert sorted(path.name for path in Path().glob("model*")) == ["model_iter_0.caffemodel", "model_iter_0.solverstate"]


# ---- further


def test_a_step_trains_on_what_the_script_writes(regression: caffe.Solver) -> None:
    net = regression.net
    losses = []
    for _ in range(15):
        fill(net)
        regression.step(1)
        losses.append(float(net.blobs["loss"].data))
    assert losses[-1] < 0.7 * losses[0]


def test_after_a_step_the_nets_blobs_and_diffs_are_those_of_the_pass(regression: caffe.Solver) -> None:
    net = regression.net
    weight = net.params["out"][0]
    held, before = weight.diff, weight.data.copy()
    regression.step(1)
    error = net.blobs["out"].data - net.blobs["y"].data
    np.testing.assert_allclose(net.blobs["out"].diff, error / 4, rtol=1e-5)
    np.testing.assert_allclose(net.blobs["loss"].data, (error**2).sum() / 8, rtol=1e-5)
    gradient = np.einsum("nohw,nchw->oc", net.blobs["out"].diff, net.blobs["conv"].data).reshape(weight.shape)
    update = 0.01 * (gradient + 0.0005 * before)  # SGD's first
    np.testing.assert_allclose(weight.diff, update, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(weight.data, before - update, rtol=1e-5, atol=1e-8)
    assert np.shares_memory(held, weight.diff)


def test_the_face_computes_what_the_loop_does(regression: caffe.Solver) -> None:
    class OnGraphs(TrainingLoop):
        def _forward(self, graph):  # type: ignore[no-untyped-def]
            blobs = graph.run(x=graph.x, y=graph.y)
            return blobs, graph.loss(blobs)

    loop = OnGraphs("solver.prototxt")
    for graph in (loop.graph, *loop.test_graphs):
        graph.x, graph.y = (torch.from_numpy(regression.net.blobs[name].data.copy()) for name in "xy")
    loop.step(12)
    regression.step(12)
    for name, arrays in loop.graph.weights().items():
        for array, blob in zip(arrays, regression.net.params[name], strict=True):
            np.testing.assert_allclose(blob.data, array, rtol=1e-4, atol=1e-6)


def test_test_nets_use_the_training_nets_parameters(regression: caffe.Solver) -> None:
    (test_net,) = regression.test_nets
    regression.step(3)
    for name, blobs in regression.net.params.items():
        for mine, theirs in zip(blobs, test_net.params[name], strict=True):
            assert np.shares_memory(mine.data, theirs.data)
    assert test_net.forward()["loss"] == pytest.approx(regression.net.forward()["loss"], rel=1e-5)
    test_net.share_with(regression.net)  # as scripts say, to no effect


def test_a_loss_is_what_its_layer_computed(regression: caffe.Solver, capsys: pytest.CaptureFixture[str]) -> None:
    scale = 'layer { name: "scale" type: "Power" bottom: "loss" top: "loss" power_param { scale: 10 } }'
    Path("net.prototxt").write_text("debug_info: true " + REGRESSION + scale)
    solver = caffe.get_solver(write_solver())
    fill(solver.net)
    capsys.readouterr()
    solver.test_nets.clear()
    solver.param.test_interval = 0
    solver.step(1)
    text = capsys.readouterr().err
    shown = re.findall(r"Iteration 0 \(.*loss = (\S+)|net output #0: loss = (\S+)", text)
    assert float(shown[1][1]) == pytest.approx(10 * float(shown[0][0]), rel=1e-4)
    assert "[Forward]" not in text  # the solver file's debug_info counts


def test_share_weights_and_callbacks(regression: caffe.Solver) -> None:
    other = caffe.Net("net.prototxt", caffe.TEST)
    regression.share_weights(other)
    calls: list[object] = []
    regression.add_callback(lambda: calls.append("start"), lambda: calls.append(regression.net.params["out"][1].diff.copy()))
    regression.net.after_forward(lambda layer: calls.append(layer))
    regression.step(1)
    layers = len(regression.net.layers)
    assert calls[-layers - 2 : -1] == ["start", *range(layers)]
    assert np.abs(calls[-1]).sum() > 0  # type: ignore[arg-type]
    np.testing.assert_array_equal(other.params["conv"][0].data, regression.net.params["conv"][0].data)
    regression.add_callback(caffe.NCCL(regression, b""))
    with pytest.raises(TypeError, match="two functions"):
        regression.add_callback(lambda: None)


def test_rates(regression: caffe.Solver) -> None:
    assert regression.lr == pytest.approx(0.01)
    assert regression.base_lr == pytest.approx(0.01)
    regression.base_lr = 0.5
    assert regression.lr == pytest.approx(0.5)
    before = regression.net.params["out"][1].data.copy()
    regression.step(1)
    assert regression.last_lr == pytest.approx(0.5)
    np.testing.assert_allclose(before - regression.net.params["out"][1].data, regression.net.params["out"][1].diff, rtol=1e-4)
    assert regression.lr == pytest.approx(0.5 * 1.0001**-0.75)


def test_asking_for_the_rate_is_one_of_multisteps_steps(regression: caffe.Solver) -> None:
    path = write_solver("stepvalue: 1 stepvalue: 2").replace("inv", "multistep")
    Path(path).write_text(Path(path).read_text().replace('"inv"', '"multistep"').replace("gamma: 0.0001", "gamma: 0.1"))
    solver = caffe.get_solver(path)
    fill(solver.net)
    fill(solver.test_nets[0])
    solver.step(2)
    rates = [solver.lr for _ in range(3)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-4])
    assert solver.last_lr == pytest.approx(1e-3)


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_classes_by_name(kind: str, regression: caffe.Solver) -> None:
    momentum = "" if kind in ("SGD", "Nesterov", "Adam", "AdaDelta") else "momentum: 0 "
    text = SOLVER.replace("momentum: 0.9 ", momentum or "momentum: 0.9 ")
    rms = " rms_decay: 0.9" if kind == "RMSProp" else ""
    Path("typed.prototxt").write_text(f'{text} type: "{kind}"{rms}')
    Path("untyped.prototxt").write_text(text + rms)
    cls = getattr(caffe, f"{kind}Solver")
    assert type(caffe.get_solver("typed.prototxt")) is cls
    solver = cls("untyped.prototxt")
    assert solver.param.type == kind
    fill(solver.net)
    fill(solver.test_nets[0])
    solver.step(1)
    assert solver.iter == 1


def test_an_unknown_type(regression: caffe.Solver) -> None:
    with pytest.raises(SolverError, match='solver.prototxt: unknown solver type "Adan"; did you mean "Adam"'):
        caffe.get_solver(write_solver(type='"Adan"'))


def test_a_restored_solver_goes_on_as_if_nothing_had_happened(regression: caffe.Solver) -> None:
    regression.step(4)
    state = regression.snapshot()
    regression.step(3)
    again = caffe.get_solver("solver.prototxt")
    fill(again.net)
    fill(again.test_nets[0])
    again.restore(state)
    assert again.iter == 4
    again.step(3)
    for name, blobs in regression.net.params.items():
        for mine, theirs in zip(blobs, again.net.params[name], strict=True):
            np.testing.assert_array_equal(mine.data, theirs.data)


@pytest.mark.parametrize("run", ["sgd_fixed_itersize2_l2", "nesterov_inv_clip_itersize2", "rmsprop_multistep_l2", "adadelta_fixed_l2"])
def test_trajectory(run: str, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden / "solvers")
    rates = json.loads(Path("summary.json").read_text())[run]["lr"]
    solver = caffe.get_solver(f"{run}_solver.prototxt")
    solver.net.copy_from("L4_init.caffemodel")
    with np.load(f"{run}_traj.npz") as trajectory:
        for iteration in range(1, 21):
            solver.step(1)
            assert solver.last_lr == pytest.approx(rates[iteration - 1], rel=1e-5)
            keys = [key for key in trajectory.files if key.startswith(f"iter{iteration}/")]
            if keys:
                names = [key.split("/")[1].rsplit(":", 1) for key in keys]
                ours = np.concatenate([solver.net.params[layer][int(i)].data.ravel() for layer, i in names])
                theirs = np.concatenate([trajectory[key].ravel() for key in keys])
                assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs), iteration
