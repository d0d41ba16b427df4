"""Several ranks: they train as one with the larger batch, share rows, stop together, and end together when one dies.

The ranks are real processes that talk over 127.0.0.1. One pair of them does all that needs no death (``PROGRAM``).
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pycaffe_compat import gpu
from pycaffe_compat.errors import NetError, SolverError
from pycaffe_compat.proto.text import read_solver
from pycaffe_compat.solver import Solver, distributed
from pycaffe_compat.solver.snapshot import newest_state, read_state
from pycaffe_compat.weights import read_weights

SolverFile = Callable[..., str]
RULES = ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"]
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120  # what a run may take at most on a machine that has other things to do too

NET = """
name: "small"
layer {
  name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TRAIN }
  hdf5_data_param { source: "train.txt" batch_size: %d shuffle: true }
}
layer {
  name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TEST }
  hdf5_data_param { source: "test.txt" batch_size: 3 }
}
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "drop" type: "Dropout" bottom: "conv1" top: "conv1" include { stage: "drop" } }
layer {
  name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 1 kernel_size: 3 weight_filler { type: "gaussian" std: 0.1 } }
}
layer { name: "loss" type: "EuclideanLoss" bottom: "conv2" bottom: "label" top: "loss" }
"""

# iter_size, clipping and decay: where the mean is taken matters to each of them.
SOLVER = """
base_lr: 0.01 lr_policy: "multistep" gamma: 0.5 stepvalue: 3 weight_decay: 0.01 clip_gradients: 0.5 iter_size: 2
max_iter: 6 display: 2 test_iter: 2 test_interval: 3 random_seed: 7 solver_mode: CPU
"""


def write_solver(kind: str, prefix: str, batch: int = 4, **fields: object) -> str:
    """A solver file of its own, for the net with this batch; its path."""
    fields = {"net": f'"net{batch}.prototxt"', "type": f'"{kind}"', "snapshot_prefix": f'"{prefix}"'} | fields
    if kind not in ("AdaGrad", "RMSProp"):
        fields["momentum"] = 0.9
    if kind == "AdaDelta":
        fields["delta"] = 0.01  # with the default it hardly moves in a few iterations
    text = SOLVER
    for name, value in fields.items():
        text = re.sub(rf"\b{name}: \S+", "", text) + f"\n{name}: {value}"
    path = prefix.replace("/", "_") + ".prototxt"
    Path(path).write_text(text)
    return path


def fill(folder: Path) -> None:
    """Nets with batches of 4 and 8, and what they read: 7 + 6 rows to train on, 5 to test on."""
    for batch in (4, 8):
        (folder / f"net{batch}.prototxt").write_text(NET % batch)
    random = np.random.default_rng(0)
    for name, rows in (("a.h5", 7), ("b.h5", 6), ("t.h5", 5)):
        with h5py.File(folder / name, "w") as file:
            file["data"] = random.random((rows, 1, 10, 10), np.float32)
            file["label"] = random.random((rows, 1, 6, 6), np.float32)
    (folder / "train.txt").write_text("a.h5\nb.h5\n")
    (folder / "test.txt").write_text("t.h5\n")


def start(command: Sequence[str], folder: Path, ranks: int, *more: Sequence[str]) -> list[subprocess.Popen[str]]:
    """The command as so many ranks, which write to err0, err1, ...; ``more`` arguments for some, from rank 0 on."""
    meeting_place = folder / "meeting"
    meeting_place.unlink(missing_ok=True)
    running = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
        own["PYTHONPATH"] = str(ROOT)
        own["PYCAFFE_COMPAT_RANKS_MEET_AT"] = f"file://{meeting_place}"
        with open(folder / f"err{rank}", "w") as err:
            words = [*command, *(more[rank] if rank < len(more) else ())]
            running.append(subprocess.Popen(words, cwd=folder, env=os.environ | own, stderr=err, text=True))
    return running


def end(running: list[subprocess.Popen[str]], seconds: float = SECONDS) -> list[int]:
    """Exit codes; whatever has not ended by then is killed, and the test fails."""
    deadline = time.monotonic() + seconds
    try:
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()


def wait_for(text: str, path: Path, running: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists() or text not in path.read_text():
        if time.monotonic() > deadline or any(process.poll() is not None for process in running):
            pytest.fail(f"{path} never said {text!r}: {[process.poll() for process in running]}")
        time.sleep(0.02)


# --------------------------------------------------------------------------------------- two ranks that do well

PROGRAM = """
import json, os, signal, sys
import torch
import pycaffe_compat as caffe
from pycaffe_compat import log
from pycaffe_compat.solver import Action, SignalActions, Solver, distributed, handled

def say(name, value):
    with open(f"{name}.{distributed.rank()}.json", "w") as file:
        json.dump(value, file)

def weights(solver):
    return [entry.parameter.tolist() for entry in solver.graph.learnable]

with distributed.joined(timeout=60):
    for kind in sys.argv[1:]:
        solver = Solver(f"two_{kind}.prototxt")
        solver.solve()
        say(f"weights_{kind}", weights(solver))

    # Stopped and resumed, with random numbers of each rank's own (Dropout).
    whole = Solver("two_drop.prototxt", stages=["drop"])
    whole.solve()
    Solver("two_half.prototxt", stages=["drop"]).solve()
    drawn = torch.rand(2).tolist()
    resumed = Solver("two_again.prototxt", stages=["drop"])
    torch.rand(5)
    resumed.solve("two/half_iter_3.solverstate")
    say("resumed", [weights(whole), weights(resumed), drawn])

    # Asked to stop on rank 1 only, in the midst of an iteration, then in the midst of a test.
    for name, when in (("update", 3), ("test", None)):
        solver = Solver(f"two_signal_{name}.prototxt")
        actions = SignalActions(Action.STOP, Action.SNAPSHOT)
        with handled(actions):
            solver.action = actions
            def press(number, at):
                def on_start():
                    if distributed.rank() == 1 and solver.iter == at:
                        os.kill(os.getpid(), number)
                return on_start
            if when is None:
                asked = iter([Action.NONE] * 6 + [Action.STOP])  # iterations 0, 1, 2 and two test passes at 0; one at 3
                if distributed.rank() == 1:
                    solver.action = lambda: next(asked, Action.NONE)
            else:
                solver.add_callback(press(signal.SIGHUP, 1), lambda: None)
                solver.add_callback(press(signal.SIGINT, when), lambda: None)
            solver.solve()
        say(f"stopped_{name}", solver.iter)

    # Weights that differ before: rank 0's count.
    solver = Solver("two_SGD.prototxt")
    if distributed.rank():
        for entry in solver.graph.learnable:
            entry.parameter.data.fill_(9)
    solver.step(1)
    say("differing", weights(solver))

    pycaffe = caffe.get_solver("two_SGD.prototxt")
    nccl = caffe.NCCL(pycaffe, caffe.NCCL.new_uid())
    nccl.bcast()
    pycaffe.add_callback(nccl)
    pycaffe.step(6)
    say("pycaffe", [weights(pycaffe), caffe.solver_count(), caffe.solver_rank()])
    log.info("what rank says", "x")
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two ranks have done all of PROGRAM."""
    folder = tmp_path_factory.mktemp("ranks")
    fill(folder)
    before = os.getcwd()
    os.chdir(folder)
    try:
        for kind in RULES:
            write_solver(kind, f"two/{kind}")
        write_solver("SGD", "two/drop")
        write_solver("SGD", "two/half", max_iter=3)
        write_solver("SGD", "two/again")
        write_solver("SGD", "two/signal_update", max_iter=100)
        write_solver("SGD", "two/signal_test", max_iter=100)
    finally:
        os.chdir(before)
    (folder / "program.py").write_text(PROGRAM)
    codes = end(start([sys.executable, "program.py", *RULES], folder, 2))
    assert codes == [0, 0], (folder / "err0").read_text()[-2000:] + (folder / "err1").read_text()
    return folder


def said(folder: Path, name: str) -> list[Any]:
    return [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(2)]


def flat(weights: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.ravel(blob) for blob in weights])


def close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-5) -> None:
    assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


@pytest.mark.parametrize("kind", RULES)
def test_two_ranks_are_one_with_twice_the_batch(kind: str, together: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(together)
    alone = Solver(write_solver(kind, f"one/{kind}", batch=8))
    began = flat([entry.parameter.detach().numpy().copy() for entry in alone.graph.learnable])
    alone.solve()
    first, second = said(together, f"weights_{kind}")
    assert first == second  # bit for bit
    expected = flat([entry.parameter.detach().numpy() for entry in alone.graph.learnable])
    assert np.linalg.norm(expected - began) > 0.003 * np.linalg.norm(expected)
    close(flat(first), expected, 1e-4)
    # What rank 0 wrote is what the one would have written, the place in the data included.
    ours, theirs = (read_state(f"{name}/{kind}_iter_6.solverstate") for name in ("two", "one"))
    assert (ours.iteration, ours.current_step) == (6, theirs.current_step)
    assert ours.resume["train"] == theirs.resume["train"]
    assert ours.resume["test"] == theirs.resume["test"]
    for mine, other in zip(ours.history, theirs.history, strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-3, atol=1e-5)
    close(flat([b for blobs in read_weights(f"two/{kind}_iter_6.caffemodel").values() for b in blobs]), flat(first), 0)


def test_a_resumed_run_is_the_uninterrupted_one(together: Path) -> None:
    (whole, resumed, drawn), (whole1, resumed1, drawn1) = said(together, "resumed")
    assert whole == resumed == whole1 == resumed1
    assert drawn != drawn1  # each rank has random numbers of its own


def test_one_rank_goes_on_from_two(together: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(together)
    path = write_solver("SGD", "one/on", batch=8, max_iter=3)
    whole = Solver(path, max_iter=6)
    whole.solve()
    first = Solver(path, max_iter=3)
    first.solve()
    param = read_solver("two_half.prototxt")
    param.net, param.max_iter, param.snapshot_prefix = "net8.prototxt", 6, "one/from_two"
    alone = Solver(param)
    # The dropout of "half" makes other weights: what must agree is where the data stand.
    alone.restore("two/half_iter_3.solverstate")
    first.restore("one/on_iter_3.solverstate")
    for name, layer in alone.graph.data_layers.items():
        assert layer.source.state_dict() == first.graph.data_layers[name].source.state_dict()
        batches = [layer.source.next(), first.graph.data_layers[name].source.next()]
        np.testing.assert_array_equal(batches[0][0], batches[1][0])


def test_a_request_on_one_rank_stops_all_after_the_same_iteration(together: Path) -> None:
    assert said(together, "stopped_update") == [4, 4]
    assert said(together, "stopped_test") == [3, 3]
    states = sorted(path.name for path in (together / "two").glob("signal_*.solverstate"))
    assert states == ["signal_test_iter_3.solverstate", "signal_update_iter_2.solverstate", "signal_update_iter_4.solverstate"]


def test_rank_0s_weights_count(together: Path) -> None:
    first, second = said(together, "differing")
    assert first == second
    assert abs(flat(first)).max() < 2


def test_pycaffes_solvers_and_names(together: Path) -> None:
    (weights, count, rank), (weights1, count1, rank1) = said(together, "pycaffe")
    assert (count, rank, count1, rank1) == (2, 0, 2, 1)
    assert weights == weights1
    close(flat(weights), flat(said(together, "weights_SGD")[0]), 1e-4)


def test_rank_0_alone_logs_and_writes(together: Path) -> None:
    text = (together / "err0").read_text()
    assert (together / "err1").read_text() == ""
    assert text.count("what rank says") == 1
    assert len(re.findall("Snapshotting to binary proto file two/SGD_iter_6", text)) == 1
    assert len(re.findall("Iteration 3, Testing net", text)) >= len(RULES)
    assert not list(together.rglob("*.tmp*"))


# ------------------------------------------------------------------------------------- ranks that do not do well


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    write_solver("SGD", "out/s", max_iter=1_000_000, snapshot=4, test_interval=1000)
    return tmp_path


@pytest.fixture
def train(place: Path, repo_root: Path) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Starts train_net.py as ranks."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, ranks: int = 2, more: Sequence[Sequence[str]] = ()) -> list[subprocess.Popen[str]]:
        command = [sys.executable, str(repo_root / "tools" / "train_net.py"), "--solver", "out_s.prototxt", *arguments]
        started.extend(start(command, place, ranks, *more))
        return started[-ranks:]

    yield run
    for process in started:
        process.kill()
        process.wait()


def errors(folder: Path, ranks: int = 2) -> list[str]:
    """All that is no log line, of all ranks."""
    lines = [line for rank in range(ranks) for line in (folder / f"err{rank}").read_text().splitlines()]
    return [line for line in lines if line.startswith("error") or "Traceback" in line]


Train = Callable[..., list[subprocess.Popen[str]]]


def test_a_killed_rank_ends_the_job_and_leaves_a_good_snapshot(train: Train, place: Path) -> None:
    running = train()
    wait_for("Iteration 8, lr", place / "err0", running)
    running[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert end(running) == [1, -signal.SIGKILL]
    assert time.monotonic() - killed < 20
    (line,) = errors(place)
    assert line.startswith("error: rank 0: rank 1 of 2 ended or did not answer: out_s.prototxt: iteration ")
    kept = re.search(r"\(the last snapshot is (\S+)\)$", line)
    newest = newest_state("out/s")
    assert kept and newest
    state = read_state(newest)
    assert state.iteration - read_state(kept[1]).iteration in (0, 4)  # it may have died when the newest was just written
    assert read_weights(state.learned_net)


@pytest.mark.slow
def test_torchrun_restarts_from_the_newest_snapshot(place: Path, repo_root: Path) -> None:
    """A rank is killed; torchrun starts all of them again, and the end is that of a run without accident."""
    write_solver("SGD", "out/s", max_iter=400, snapshot=4, test_interval=1000)
    command = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node=2", "--max-restarts=1"]
    program = str(repo_root / "tools" / "train_net.py")
    command += ["--", program, "--solver", "out_s.prototxt", "--snapshot", "auto", "--log", "log"]
    with open("err", "w") as err:
        launcher = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=err, text=True)
    try:
        wait_for("Iteration 8, lr", place / "log", [launcher])
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        ranks = [pid for pid in map(int, children) if b"train_net" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(ranks[1], signal.SIGKILL)
        assert launcher.wait(2 * SECONDS) == 0, (place / "err").read_text()[-3000:]
    finally:
        launcher.terminate()
        launcher.wait()
    text = (place / "log").read_text()
    assert "Resuming from out/s_iter_" in text
    assert text.count("Solving small") == 2
    assert newest_state("out/s") == "out/s_iter_400.solverstate"
    running = start([sys.executable, program, "--solver", "out_s.prototxt", "--snapshot_prefix", "out/whole"], place, 2)
    assert end(running) == [0, 0]
    for ours, theirs in zip(
        read_weights("out/s_iter_400.caffemodel").values(), read_weights("out/whole_iter_400.caffemodel").values(), strict=True
    ):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("signal_name", "last"), [("SIGINT", "stopped early"), ("SIGHUP", "Snapshotting solver")])
@pytest.mark.slow
def test_signals_to_one_rank(signal_name: str, last: str, train: Train, place: Path) -> None:
    write_solver("SGD", "out/s", max_iter=1_000_000, test_interval=1000)
    running = train()
    wait_for("Iteration 8, lr", place / "err0", running)
    running[1].send_signal(getattr(signal, signal_name))
    if signal_name == "SIGINT":
        assert end(running) == [0, 0]
    else:
        wait_for(last, place / "err0", running)
        running[0].send_signal(signal.SIGINT)
        assert end(running) == [0, 0]
    assert last in (place / "err0").read_text()
    assert len(list((place / "out").glob("*.solverstate"))) == (1 if signal_name == "SIGINT" else 2)
    assert errors(place) == []


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_given_up(train: Train, place: Path) -> None:
    running = train("--timeout", "3", ranks=3)
    wait_for("Iteration 8, lr", place / "err0", running)
    running[2].send_signal(signal.SIGSTOP)
    assert end(running[:2], 60) == [1, 1]
    (line,) = errors(place, 3)
    assert line.startswith("error: rank 0: rank 2 of 3 ended or did not answer: ")


@pytest.mark.slow
def test_a_ranks_own_error_names_it(train: Train, place: Path) -> None:
    (place / "other.txt").write_text("a.h5\n")
    assert end(train(more=[[], ["--train_data", "other.txt"]])) == [1, 1]
    lines = sorted(errors(place))
    assert lines[0].startswith("error: rank 0: rank 1 of 2 ended or did not answer: ")
    assert lines[1].startswith('error: rank 1: net4.prototxt:3: layer "data" (HDF5Data): other.txt: ')
    assert lines[1].endswith("every rank must read the same database")
    assert len(lines) == 2
    # What one rank alone cannot read, before the training begins, is said by rank 0 alone.
    assert end(train(more=[[], ["--train_data", "absent.txt"]])) == [1, 1]
    (line,) = errors(place)
    assert line.startswith("error: rank 1: net4.prototxt:3: ") and "absent.txt" in line


def test_what_is_wrong_for_all_is_said_once(train: Train, place: Path) -> None:
    (place / "train.txt").write_text("a.h5\n")
    with h5py.File(place / "a.h5", "w") as file:
        file["data"], file["label"] = np.zeros((1, 1, 10, 10), np.float32), np.zeros((1, 1, 6, 6), np.float32)
    assert end(train()) == [1, 1]
    (line,) = errors(place)
    assert re.fullmatch(
        r'error: net4.prototxt:3: layer "data" \(HDF5Data\): train.txt: has 1 row for 2 processes: start fewer of them', line
    )


def test_a_net_that_writes_cannot_be_trained_by_ranks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("net4.prototxt", "a") as file:
        file.write('layer { name: "out" type: "HDF5Output" bottom: "data" bottom: "label" hdf5_output_param { file_name: "o" } }')
    graph = Solver("out_s.prototxt").graph
    with pytest.raises(NetError, match=r'net4.prototxt:\d+: layer "out" \(HDF5Output\): every rank would write to o: '):
        distributed.share_data(graph)


# ------------------------------------------------------------------------------------------------- the launcher

RECITE = "import os, sys; sys.stdout.write(' '.join(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')) + chr(10))"


def test_launch_starts_ranks(capfd: pytest.CaptureFixture[str]) -> None:
    assert distributed.launch([sys.executable, "-c", RECITE], 3) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["0 0 3", "1 1 3", "2 2 3"]


def test_launch_ends_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "GRACE_SECONDS", 0.1)
    fails = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)"
    began = time.monotonic()
    assert distributed.launch([sys.executable, "-c", fails], 2) == 3
    dies = "import os, time; os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else time.sleep(60)"
    with pytest.raises(SolverError, match="^rank 1 was ended by SIGKILL$"):
        distributed.launch([sys.executable, "-c", dies], 2)
    assert time.monotonic() - began < 30


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_ranks_end_with_a_launcher_that_is_killed() -> None:
    rank = (
        "import time; from pycaffe_compat.solver.distributed import _end_with_launcher; _end_with_launcher()\n"
        "print('there', flush=True); time.sleep(600)"
    )
    launcher = f"import sys; from pycaffe_compat.solver.distributed import launch; launch([sys.executable, '-c', {rank!r}], 1)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        process.kill()
        assert process.stdout.read() == b""  # the rank has closed it too


def test_launch_hands_signals_to_rank_0(tmp_path: Path) -> None:
    # Rank 0 asks the launcher, its parent, to be interrupted, and ends well when the signal comes back.
    program = (
        "import os, signal, sys, time\n"
        "if os.environ['RANK'] == '0':\n"
        "    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "    sys.exit(1)\n"
    )
    handler = signal.getsignal(signal.SIGINT)
    assert distributed.launch([sys.executable, "-c", program], 2) == 0
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(
    ("text", "gpus", "outcome"),
    [
        ("1", 2, [1]),
        ("0,1", 2, [0, 1]),
        ("2,0", 3, [2, 0]),
        ("all", 3, [0, 1, 2]),
        ("all", 0, "--gpu all: PyTorch sees no GPU here"),
        ("0", 0, "--gpu 0: PyTorch sees no GPU here"),
        ("0,7", 2, "--gpu 0,7: PyTorch sees 2 GPUs here"),
        ("1", 1, "--gpu 1: PyTorch sees 1 GPU here"),
        ("0,0", 2, "--gpu 0,0: names a GPU twice"),
        ("0,", 2, "--gpu 0,: give the number of a GPU, several as 0,1, or all"),
        ("", 2, "--gpu : give the number"),
        ("-1", 2, "--gpu -1: give the number"),
        ("cpu", 2, "--gpu cpu: give the number"),
    ],
)
def test_gpus_are_named_as_in_caffe(text: str, gpus: int, outcome: list[int] | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if isinstance(outcome, list):
        assert gpu.chosen(text) == outcome
    else:
        with pytest.raises(SolverError) as error:
            gpu.chosen(text)
        assert str(error.value).startswith(outcome)


def test_alone_nothing_is_connected(place: Path) -> None:
    with distributed.joined(), distributed.all_or_none():
        assert (distributed.ranks(), distributed.rank(), distributed.local_rank()) == (1, 0, None)
        solver = Solver("out_s.prototxt")
        assert solver.callbacks == []
        assert not torch.distributed.is_initialized()


def test_others_that_never_come(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SolverError, match="^rank 1 of 2: cannot meet the others at 127.0.0.1:9 "), distributed.joined(timeout=1):
        pytest.fail("there is nobody")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("PYCAFFE_COMPAT_RANKS_MEET_AT", f"file://{place}/meeting")
    message = r"^rank 0 of 2: cannot meet the others at file://\S+ \(rank 1 did not come within 1 seconds\)$"
    with pytest.raises(SolverError, match=message), distributed.joined(timeout=1):
        pytest.fail("there is nobody")


def test_a_start_reads_nothing_of_an_earlier_one() -> None:
    """torchrun's store outlives the ranks that it restarts."""
    store = torch.distributed.HashStore()
    names = []
    for _ in range(2):
        parts: list[Any] = [None] * 3

        def come(rank: int, parts: list[Any] = parts) -> None:
            parts[rank] = distributed._unused(store, rank, 3, 10)

        # Rank 0 comes last, or first: in the second start it finds, or might find, what the first has left.
        ranks = [threading.Thread(target=come, args=(rank,)) for rank in ((1, 2, 0), (0, 2, 1))[len(names) > 0]]
        for thread in ranks:
            thread.start()
            time.sleep(0.1)
        for thread in ranks:
            thread.join()
        parts[0].set("x", "of this start")
        assert all(part.get("x") == b"of this start" for part in parts)
        names.append(parts)
    names[1][0].set("y", "new")
    assert not any(part.check(["y"]) for part in names[0])


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        ([], None),
        (["s_iter_9.solverstate", "s_iter_10.solverstate", "s_iter_10.caffemodel"], "s_iter_10.solverstate"),
        (["s_iter_9.solverstate", "s_iter_10.solverstate.h5"], "s_iter_10.solverstate.h5"),
        (["s_iter_11.caffemodel", "other_s_iter_12.solverstate", "s_iter_13.solverstate.bak", "s_iter_x.solverstate"], None),
    ],
)
def test_the_newest_state_of_a_prefix(names: list[str], newest: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert newest_state(f"{tmp_path}/s") == (newest and f"{tmp_path}/{newest}")
    monkeypatch.chdir(tmp_path)
    assert newest_state("s") == newest
    assert newest_state("nowhere/s") is None
