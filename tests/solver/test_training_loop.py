"""The loop: order of events, tests, the log against the original's, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pycaffe_compat.errors import NetError, PrototxtError, SolverError, WeightsError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import read_solver
from pycaffe_compat.solver import Action, Solver
from pycaffe_compat.weights import read_weights, write_weights

SolverFile = Callable[..., str]


def messages(text: str) -> list[str]:
    """A log without its prefixes, from "Solving" on."""
    lines = [line.split("] ", 1)[1] for line in text.splitlines() if re.match(r"[IWE]\d{4} ", line)]
    begin = next((i for i, line in enumerate(lines) if line.startswith("Solving")), 0)
    return lines[begin:]


def weights_of(solver: Solver) -> np.ndarray:
    return np.concatenate([b.ravel() for blobs in solver.graph.weights().values() for b in blobs])


# --------------------------------------------------------------------------------- against the original's log

TIMES = re.compile(r"\([-+.\de]+ iter/s, [.\de+-]+s/(\d+) iters\)")


def comparable(text: str) -> list[tuple[str, list[float]]]:
    """Each line's words, and its numbers; times are left out."""
    lines = [
        TIMES.sub(r"(\1 iters)", line) for line in messages(text) if not line.startswith("Optimization Done")
    ]
    number = re.compile(r"(?<![\w#])-?\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w.])")
    return [(number.sub("*", line), [float(n) for n in number.findall(line)]) for line in lines]


@pytest.mark.parametrize(
    ("log_name", "solver_name"),
    [
        ("train.log", "log_solver.prototxt"),
        ("train_average_loss.log", "log_average_loss_solver.prototxt"),
        ("train_debug_info.log", "log_debug_info_solver.prototxt"),
    ],
)
def test_log_is_the_originals(
    log_name: str,
    solver_name: str,
    golden: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(golden / "solvers")
    param = read_solver(solver_name)
    param.weights.append("L4_init.caffemodel")
    param.snapshot_prefix = str(tmp_path / "l")
    Solver(param).solve()
    ours = comparable(capsys.readouterr().err.replace(f"{tmp_path}/", "snap/"))
    theirs = comparable((golden / log_name).read_text())
    assert [words for words, _ in ours] == [words for words, _ in theirs]
    for (words, mine), (_, original) in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(original, rel=2e-5), words


def parse_log(text: str) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Rows of a log's training and testing, by the rules of Caffe's own parser.

    It knows three kinds of lines; a row gets the iteration and the rate read last, and where there was no
    rate yet (the first test) that of the row after it.
    """
    iteration_line = re.compile(r"Iteration (\d+)")
    rate_line = re.compile(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)")
    output_line = re.compile(r"(Train|Test) net output #(\d+): (\S+) = ([.\deE+-]+)")
    rows: dict[str, list[dict[str, float]]] = {"Train": [], "Test": []}
    iteration, rate = -1.0, float("nan")
    for line in text.splitlines():
        if match := iteration_line.search(line):
            iteration = float(match[1])
        if iteration == -1:
            continue
        if match := rate_line.search(line):
            rate = float(match[1])
        if match := output_line.search(line):
            table = rows[match[1]]
            if not table or table[-1]["NumIters"] != iteration:
                table.append({"NumIters": iteration, "LearningRate": rate})
            table[-1][match[3]] = float(match[4])
    for table in rows.values():
        if len(table) > 1 and np.isnan(table[0]["LearningRate"]):
            table[0]["LearningRate"] = table[1]["LearningRate"]
    return rows["Train"], rows["Test"]


def test_caffes_log_parser_would_read_the_same(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(golden / "solvers")
    param = read_solver("log_solver.prototxt")
    param.weights.append("L4_init.caffemodel")
    param.snapshot_prefix = str(tmp_path / "l")
    Solver(param).solve()
    parsed = parse_log(capsys.readouterr().err)
    for kind, rows in zip(("train", "test"), parsed, strict=True):
        table = np.genfromtxt(golden / "parse_log" / f"train.log.{kind}", delimiter=",", names=True)
        assert [row["NumIters"] for row in rows] == table["NumIters"].tolist()
        assert [row["loss"] for row in rows] == pytest.approx(table["loss"].tolist(), rel=1e-4)
        if kind == "train":
            assert [row["LearningRate"] for row in rows[1:]] == pytest.approx(
                table["LearningRate"][1:].tolist()
            )


# -------------------------------------------------------------------------------------- order and bookkeeping


def test_events_of_an_iteration(solver_file: SolverFile, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"test_iter": 2, "test_interval": 2, "display": 1, "snapshot": 2, "max_iter": 2}
    solver = Solver(solver_file(**fields))
    solver.add_callback(lambda: print("start"), lambda: print("gradients"))
    capsys.readouterr()
    solver.solve()
    captured = capsys.readouterr()
    kinds = [re.sub(r"[=(].*", "", line).strip() for line in messages(captured.err)]
    assert kinds == [
        "Solving small",
        "Learning Rate Policy: fixed",
        "Iteration 0, Testing net",
        "Test net output #0: loss",
        "Iteration 0",
        "Train net output #0: loss",
        "Iteration 0, lr",
        "Iteration 1",
        "Train net output #0: loss",
        "Iteration 1, lr",
        "Snapshotting to binary proto file out/s_iter_2.caffemodel",
        "Snapshotting solver state to binary proto file out/s_iter_2.solverstate",
        "Iteration 2, loss",
        "Iteration 2, Testing net",
        "Test net output #0: loss",
        "Optimization Done.",
    ]
    assert captured.out.split() == ["start", "gradients"] * 2


def test_step_neither_tests_nor_snapshots_at_its_end(solver_file: SolverFile, workdir: Path) -> None:
    solver = Solver(solver_file())
    solver.step(3)
    assert solver.iter == 3
    assert not (workdir / "out").exists()
    solver.step(5)
    assert solver.iter == 8


def test_gradients_are_the_update_after_a_step(solver_file: SolverFile) -> None:
    solver = Solver(solver_file())
    before = [entry.parameter.detach().clone() for entry in solver.graph.learnable]
    solver.step(1)
    for old, entry in zip(before, solver.graph.learnable, strict=True):
        assert entry.parameter.grad is not None
        torch.testing.assert_close(entry.parameter.detach(), old - entry.parameter.grad, rtol=0, atol=0)


def test_average_loss_restarts_with_every_step_call(
    solver_file: SolverFile, capsys: pytest.CaptureFixture[str]
) -> None:
    solver = Solver(solver_file(display=1, average_loss=3))
    solver.step(5)
    solver.step(1)
    text = capsys.readouterr().err
    shown = [float(x) for x in re.findall(r"iters\), loss = (\S+)", text)]
    raw = [float(x) for x in re.findall(r"Train net output #0: loss = (\S+)", text)]
    expected = [
        np.mean(raw[:1]),
        np.mean(raw[:2]),
        np.mean(raw[:3]),
        np.mean(raw[1:4]),
        np.mean(raw[2:5]),
        raw[5],
    ]
    assert shown == pytest.approx(expected, rel=1e-4)


def test_iter_size_is_one_large_batch(solver_file: SolverFile, workdir: Path) -> None:
    (workdir / "net.prototxt").write_text((workdir / "net.prototxt").read_text().replace("shuffle: true", ""))
    twice = Solver(solver_file("a.prototxt", iter_size=2))
    twice.step(2)
    text = (workdir / "net.prototxt").read_text().replace("batch_size: 4", "batch_size: 8")
    (workdir / "net8.prototxt").write_text(text)
    once = Solver(solver_file("b.prototxt", net='"net8.prototxt"'))
    once.step(2)
    np.testing.assert_allclose(weights_of(twice), weights_of(once), rtol=1e-5, atol=1e-7)


def test_test_net_shares_the_parameters(solver_file: SolverFile) -> None:
    solver = Solver(solver_file(test_iter=1, test_interval=4))
    (test_net,) = solver.test_graphs
    for name, blobs in solver.graph.params.items():
        for train, test in zip(blobs, test_net.params[name], strict=True):
            assert train is test
    before = solver.test()
    solver.step(3)
    assert solver.test() != before


def test_test_results_are_means_over_its_batches(solver_file: SolverFile) -> None:
    solver = Solver(solver_file(test_iter=5, test_interval=4, test_compute_loss="true"))
    many = solver.test_all()[0]["loss"][0]
    single = Solver(solver_file("one.prototxt", test_iter=1, test_interval=4))
    assert many == pytest.approx(np.mean([single.test()["loss"][0] for _ in range(5)]), rel=1e-6)


def test_test_outputs_are_added_up_in_float32(solver_file: SolverFile, capsys: pytest.CaptureFixture[str]) -> None:
    solver = Solver(solver_file(test_iter=3, test_interval=4, test_compute_loss="true"))
    values = iter([1e8, 1, 1])  # in float32 the ones are lost
    solver._forward = lambda graph: ({"loss": (x := torch.tensor(next(values)))}, x)  # type: ignore[method-assign]
    assert solver.test()["loss"] == [float(np.float32(1e8) / np.float32(3))]
    assert "Test loss: 3.33333e+07" in capsys.readouterr().err
    shapes = iter([(1,), (2,), (1,)])
    solver._forward = lambda graph: ({"loss": torch.ones(next(shapes))}, torch.ones(()))  # type: ignore[method-assign]
    with pytest.raises(SolverError, match='output "loss" of test net #0 has 2 values, 1 in the batch before'):
        solver.test()


def test_train_net_and_test_net_without_a_net_of_both(solver_file: SolverFile, workdir: Path) -> None:
    (workdir / "other.prototxt").write_text((workdir / "net.prototxt").read_text())
    fields = {"net": None, "train_net": '"net.prototxt"', "test_net": '"other.prototxt"', "test_iter": 2, "test_interval": 4}
    solver = Solver(solver_file(**fields))
    assert len(solver.test_graphs) == 1
    solver.step(1)
    assert solver.test_all()[0]["loss"][0] > 0


def test_several_test_nets_with_states(solver_file: SolverFile, workdir: Path) -> None:
    text = (workdir / "net.prototxt").read_text()
    text += 'layer { name: "out" type: "Sigmoid" bottom: "conv2" top: "out" include { stage: "more" } }'
    (workdir / "net.prototxt").write_text(text)
    (workdir / "other.prototxt").write_text(text.replace('name: "small"', 'name: "other"'))
    fields = {"test_net": '"other.prototxt"', "test_interval": 4, "test_initialization": "false"}
    states = (
        'test_iter: 1 test_iter: 1 test_iter: 2\ntest_state {} test_state { stage: "more" } test_state {}\n'
    )
    solver = Solver(solver_file(text=states, **fields))
    assert [net.name for net in solver.test_graphs] == ["other", "small", "small"]
    assert [net.outputs for net in solver.test_graphs] == [["loss"], ["loss", "out"], ["loss"]]
    assert [list(result) for result in solver.test_all()] == [["loss"], ["loss", "out"], ["loss"]]
    assert len(solver.test_all()[1]["out"]) == 3 * 36


def test_level_and_stages_reach_the_training_net_only(solver_file: SolverFile, workdir: Path) -> None:
    extra = 'layer {{ name: "{0}" type: "Silence" bottom: "conv2" include {{ {1} }} }}\n'
    text = extra.format("staged", 'stage: "a"') + extra.format("levelled", "min_level: 2")
    with (workdir / "net.prototxt").open("a") as file:
        file.write(text)
    solver = Solver(solver_file(test_iter=1, test_interval=1), level=2, stages=["a"])
    assert {"staged", "levelled"} <= {node.name for node in solver.graph.nodes}
    assert not {"staged", "levelled"} & {node.name for node in solver.test_graphs[0].nodes}


def test_the_nets_own_state_goes_before_the_solvers_defaults(solver_file: SolverFile, workdir: Path) -> None:
    rule = 'layer {{ name: "level{0}" type: "Silence" bottom: "conv2" include {{ min_level: {0} stage: "own" }} }}\n'
    text = (workdir / "net.prototxt").read_text() + "".join(map(rule.format, range(1, 5)))
    (workdir / "net.prototxt").write_text('state { level: 2 stage: "own" }' + text)

    def levels(*texts: str, **options: Any) -> list[int]:
        solver = Solver(solver_file(test_iter=1, test_interval=1, text="\n".join(texts)), **options)
        return [
            max((int(node.name[5:]) for node in graph.nodes if node.name.startswith("level")), default=0)
            for graph in (solver.graph, *solver.test_graphs)
        ]

    assert levels() == [2, 2]
    assert levels("train_state { level: 3 }", 'test_state { stage: "more" }') == [3, 2]
    assert levels("train_state { level: 3 }", "test_state { level: 4 }") == [3, 4]
    assert levels("train_state { level: 3 }", level=0) == [0, 2]  # what a command line always gives


def test_what_only_solve_needs_may_be_missing(solver_file: SolverFile) -> None:
    solver = Solver(solver_file(base_lr=None, max_iter=None, weight_decay=None, momentum=None))
    before = weights_of(solver)
    solver.step(2)
    assert solver.iter == 2 and solver.last_lr == 0
    np.testing.assert_array_equal(weights_of(solver), before)
    Solver(solver_file(lr_policy=None, test_iter=1, test_interval=1)).test_all()


def test_weights_field_is_a_list_and_matches_by_name(solver_file: SolverFile, workdir: Path) -> None:
    first = Solver(solver_file("first.prototxt"))
    blobs = first.graph.weights()
    for path, name, value in (("a.caffemodel", "conv1", 1), ("b.caffemodel.h5", "conv2", 2)):
        part = caffe_pb2.NetParameter(layer=[layer for layer in first.graph.param.layer if layer.name == name])
        write_weights(path, part, {name: [np.full_like(b, value) for b in blobs[name]]})
    solver = Solver(solver_file(weights='"a.caffemodel, b.caffemodel.h5"', test_iter=1, test_interval=1))
    for net in (solver.graph, *solver.test_graphs):
        assert all((b == 1).all() for b in net.weights()["conv1"])
        assert all((b == 2).all() for b in net.weights()["conv2"])


def test_random_seed_repeats_a_run(solver_file: SolverFile) -> None:
    runs = []
    for _ in range(2):
        torch.rand(3)  # whatever was drawn before does not matter
        solver = Solver(solver_file())
        solver.step(4)
        runs.append(weights_of(solver))
    np.testing.assert_array_equal(*runs)


def test_bfloat16_trains_float32_weights(solver_file: SolverFile) -> None:
    exact = Solver(solver_file())
    rough = Solver(solver_file(), precision="bfloat16")
    for solver in (exact, rough):
        solver.step(5)
    assert {entry.parameter.dtype for entry in rough.graph.learnable} == {torch.float32}
    difference = np.linalg.norm(weights_of(rough) - weights_of(exact)) / np.linalg.norm(weights_of(exact))
    assert 0 < difference < 0.02


def test_the_files_type_must_be_known(solver_file: SolverFile) -> None:
    assert Solver(solver_file(type='"Nesterov"'))._rule.name == "Nesterov"
    with pytest.raises(SolverError, match='unknown solver type "Adan"; did you mean "Adam"'):
        Solver(solver_file(type='"Adan"'))


def test_max_iter_and_a_solver_param_in_memory(solver_file: SolverFile) -> None:
    param = read_solver(solver_file())
    solver = Solver(param, max_iter=3)
    solver.solve()
    assert (solver.iter, param.max_iter) == (3, 8)


# --------------------------------------------------------------------------------------------- stopping early


@pytest.mark.parametrize("in_test", [False, True])
def test_stop_makes_a_snapshot_and_ends(
    in_test: bool, solver_file: SolverFile, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solver = Solver(solver_file(test_iter=3, test_interval=3))
    # asked before each of the 3 batches of the first test, after each of 3 iterations, then by the next test
    requests = iter([Action.NONE] * 5 + [Action.NONE if in_test else Action.STOP, Action.NONE, Action.STOP])
    solver.action = lambda: next(requests, Action.NONE)
    solver.solve()
    text = capsys.readouterr().err
    assert solver.iter == 3
    assert "Optimization stopped early." in text
    assert ("Test interrupted." in text) == in_test
    assert (workdir / "out" / "s_iter_3.solverstate").exists()


def test_snapshot_on_request_goes_on(solver_file: SolverFile, workdir: Path) -> None:
    solver = Solver(solver_file(snapshot_after_train="false"))
    requests = iter([Action.NONE, Action.SNAPSHOT])
    solver.action = lambda: next(requests, Action.NONE)
    solver.solve()
    assert solver.iter == 8
    assert sorted(p.name for p in (workdir / "out").iterdir()) == [
        "s_iter_2.caffemodel",
        "s_iter_2.solverstate",
    ]


@pytest.mark.parametrize("snapshot", [0, 2])
def test_divergence_stops_before_the_update(snapshot: int, solver_file: SolverFile, workdir: Path) -> None:
    solver = Solver(solver_file(snapshot=snapshot))

    def spoil() -> None:
        if solver.iter == 3:
            with torch.no_grad():
                solver.graph.learnable[0].parameter[0, 0, 0, 0] = float("nan")

    solver.add_callback(spoil, lambda: None)
    kept = "the last snapshot is out/s_iter_2.solverstate" if snapshot else "there is no snapshot yet"
    message = (
        r"solver\.prototxt: iteration 3: the loss is nan: the training has diverged; "
        rf"lower base_lr or set clip_gradients \({kept}\)"
    )
    with pytest.raises(SolverError, match=message):
        solver.solve()
    assert solver.iter == 3
    written = sorted(p.name for p in (workdir / "out").iterdir())
    assert written == (["s_iter_2.caffemodel", "s_iter_2.solverstate"] if snapshot else [])


def test_a_snapshot_is_never_made_of_numbers_that_are_none(solver_file: SolverFile, workdir: Path) -> None:
    solver = Solver(solver_file(base_lr=1e38, clip_gradients=-1, snapshot=1, max_iter=3))
    with pytest.raises(SolverError, match="iteration [01]: the (parameters|loss)"):
        solver.solve()
    for path in (workdir / "out").glob("*.caffemodel"):
        assert all(np.isfinite(b).all() for blobs in read_weights(path).values() for b in blobs)


# ---------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"max_iter": None, "lr_policy": '"poly"'}, SolverError, 'bad.prototxt: lr_policy "poly" needs max_iter > 0'),
        ({"net": None}, SolverError, "bad.prototxt: no net is set: set `net`; it says what to train"),
        (
            {"train_net": '"net.prototxt"'},
            SolverError,
            "bad.prototxt: train_net and net are all set: keep one",
        ),
        ({"net": '"absent.prototxt"'}, PrototxtError, "absent.prototxt: no such file"),
        ({"weights": '"absent.caffemodel"'}, WeightsError, "absent.caffemodel"),
        ({"test_iter": 1}, SolverError, "bad.prototxt: there are test nets but no test_interval"),
        (
            {"test_net": '"net.prototxt"', "test_interval": 1},
            SolverError,
            "bad.prototxt: 0 test_iter for 1 test nets: give one each",
        ),
        ({"test_state": "{}"}, SolverError, "bad.prototxt: 1 test_state for 0 test nets: give one each"),
        ({"max_iter": -1}, SolverError, "bad.prototxt: max_iter is -1; it must not be negative"),
        ({"average_loss": 0}, SolverError, "bad.prototxt: average_loss is 0; it must be at least 1"),
        ({"type": '"AdaGrad"'}, SolverError, "bad.prototxt: momentum is 0.9; AdaGrad has none: remove it"),
        ({"base_rl": 1}, PrototxtError, 'SolverParameter has no field "base_rl"; did you mean "base_lr"?'),
    ],
)
def test_refused(
    fields: dict[str, Any], error: type[Exception], message: str, solver_file: SolverFile
) -> None:
    with pytest.raises(error) as caught:
        Solver(solver_file("bad.prototxt", **fields))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_precision(solver_file: SolverFile) -> None:
    with pytest.raises(SolverError, match='precision is "float16"; it is one of float32, bfloat16'):
        Solver(solver_file(), precision="float16")


def test_test_net_whose_layer_has_another_shape(solver_file: SolverFile, workdir: Path) -> None:
    text = (workdir / "net.prototxt").read_text().replace("num_output: 5", "num_output: 6")
    (workdir / "other.prototxt").write_text(text)
    with pytest.raises(
        NetError, match=r'other.prototxt:\d+: layer "conv1" \(Convolution\): its parameters have other'
    ):
        Solver(solver_file(test_net='"other.prototxt"', test_iter=1, test_interval=1))


def test_net_is_found_beside_the_solver_file(
    solver_file: SolverFile, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets = workdir / "nets"
    nets.mkdir()
    (workdir / "net.prototxt").rename(nets / "net.prototxt")
    (workdir / solver_file()).rename(nets / "solver.prototxt")
    solver = Solver("nets/solver.prototxt")
    assert solver.graph.path == "nets/net.prototxt"
