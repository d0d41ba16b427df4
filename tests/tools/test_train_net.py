"""tools/train_net.py, from its command line to its exit code."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from pycaffe_compat import cli, cpu
from pycaffe_compat.errors import SolverError
from pycaffe_compat.proto import caffe_pb2
from tools import train_net

NET = """# A net as small as can be.
# database: tools/make_patches.py --images photos --output train
layer {
  name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TRAIN }
  hdf5_data_param { source: "train.txt" batch_size: 2 }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 1 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "extra" type: "Silence" bottom: "conv" include { stage: "b" min_level: 2 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "conv" bottom: "label" top: "loss" }
"""

SOLVER = """
net: "net.prototxt"
base_lr: 0.01
lr_policy: "fixed"
max_iter: 6
display: 2
snapshot: 4
snapshot_prefix: "out/s"
"""

Run = Callable[..., "Done"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a net, a solver and a database."""
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    random = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = random.random((5, 1, 8, 8), np.float32)
        file["label"] = random.random((5, 1, 6, 6), np.float32)
    (tmp_path / "train.txt").write_text("a.h5\n")
    return tmp_path


def command(repo_root: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(repo_root / "tools" / "train_net.py"), *arguments]


@dataclass
class Done:
    """How a run ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the program in ``place``, within this process: starting Python takes longer than its work."""
    monkeypatch.chdir(place)

    def start(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.run(train_net.main)
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return start


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_trains_logs_and_resumes(run: Run, place: Path) -> None:
    done = run("--solver", "solver.prototxt", "--log", "logs/a.log")
    assert (done.returncode, done.stdout) == (0, "")
    assert (place / "logs" / "a.log").read_text() == done.stderr
    assert re.search(
        r"^I\d{4} \S+ +\d+ solver\.cpp:239\] Iteration 4 \(\S+ iter/s, \S+s/2 iters\), loss = ",
        done.stderr,
        re.M,
    )
    assert re.search(
        r"^random_seed: \d+$", done.stderr, re.M
    )  # drawn, and shown so that the run can be repeated
    files = [f"s_iter_{n}.{kind}" for n in (4, 6) for kind in ("caffemodel", "solverstate")]
    assert names(place / "out") == files
    weights = (place / "out" / "s_iter_6.caffemodel").read_bytes()
    state = (place / "out" / "s_iter_6.solverstate").read_bytes()
    (place / "out" / "s_iter_6.caffemodel").unlink()
    again = run(
        "--solver", "solver.prototxt", "--snapshot", "out/s_iter_4.solverstate", "--log", "logs/a.log"
    )
    assert again.returncode == 0, again.stderr
    assert "Resuming from out/s_iter_4.solverstate" in again.stderr
    assert (place / "out" / "s_iter_6.caffemodel").read_bytes() == weights
    assert (place / "out" / "s_iter_6.solverstate").read_bytes() == state
    assert (place / "logs" / "a.log").read_text() == done.stderr + again.stderr


def test_auto_goes_on_from_the_newest_snapshot_if_there_is_one(run: Run, place: Path) -> None:
    begun = run("--solver", "solver.prototxt", "--snapshot", "auto", "--max_iter", "5")
    assert begun.returncode == 0, begun.stderr
    assert "No snapshot out/s_iter_N yet: starting at iteration 0" in begun.stderr
    done = run("--solver", "solver.prototxt", "--snapshot", "auto")
    assert "Resuming from out/s_iter_5.solverstate" in done.stderr
    assert names(place / "out")[-1] == "s_iter_6.solverstate"


def test_several_gpus_are_a_process_each(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    monkeypatch.setattr(train_net.gpu, "chosen", lambda text: [0, 2])
    monkeypatch.setattr(train_net.distributed, "launch", lambda command, ranks: launched.append((command[-4:], ranks)) or 7)
    arguments = ["--solver", "solver.prototxt", "--gpu", "0,2"]
    assert run(*arguments).returncode == 7
    assert launched == [(arguments, 2)]


@pytest.mark.parametrize(
    ("gpu", "local_rank", "device"),
    [
        ([], None, "cuda:1"),  # as the solver file says
        ([3], None, "cuda:3"),
        ([2, 3], 1, "cuda:3"),
        ([], 3, "cuda:3"),
        ([2, 3], 2, "more ranks on this machine than GPUs (2)"),
        ([], 4, "more ranks on this machine than GPUs (4)"),
    ],
)
def test_each_rank_has_a_gpu(
    gpu: list[int], local_rank: int | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []
    monkeypatch.setattr(train_net.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(train_net.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(train_net.torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(train_net.distributed, "local_rank", lambda: local_rank)
    param = caffe_pb2.SolverParameter(device_id=1)
    if device.startswith("cuda"):
        assert str(train_net.choose_device(param, gpu)) == device
        assert chosen == ([] if local_rank is None else [int(device[-1])])
    else:
        with pytest.raises(SolverError) as error:
            train_net.choose_device(param, gpu)
        assert device in str(error.value)


def test_flags_reach_the_solver(run: Run, place: Path) -> None:
    assert run("--solver", "solver.prototxt", "--max_iter", "2").returncode == 0
    arguments = [
        "--weights",
        "out/s_iter_2.caffemodel",
        "--level",
        "2",
        "--stage",
        "a,b",
        "--precision",
        "bfloat16",
    ]
    done = run("--solver", "solver.prototxt", "--max_iter", "1", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Finetuning from out/s_iter_2.caffemodel" in done.stderr
    assert "Setting up extra (Silence)" in done.stderr
    assert re.search(r'train_state \{\s+level: 2\s+stage: "a"\s+stage: "b"\s+\}', done.stderr)
    (place / "solver.prototxt").write_text(SOLVER + 'train_state { level: 2 stage: "b" }')
    done = run("--solver", "solver.prototxt", "--max_iter", "1")
    assert "Setting up loss" in done.stderr and "Setting up extra" not in done.stderr  # level 0 goes before the file's


def test_what_training_needs_is_asked_for(run: Run, place: Path) -> None:
    for name in ("base_lr", "lr_policy", "max_iter"):
        (place / "solver.prototxt").write_text("\n".join(x for x in SOLVER.split("\n") if not x.startswith(name)))
        done = run("--solver", "solver.prototxt")
        assert done.returncode == 1
        assert f"error: solver.prototxt: {name} is not set: training needs base_lr, lr_policy and max_iter" in done.stderr
    assert run("--solver", "solver.prototxt", "--max_iter", "1").returncode == 0


def test_a_snapshot_goes_before_the_files_weights(run: Run, place: Path) -> None:
    assert run("--solver", "solver.prototxt", "--max_iter", "2").returncode == 0
    (place / "solver.prototxt").write_text(SOLVER + 'weights: "gone.caffemodel"')
    assert "error: gone.caffemodel: no such file" in run("--solver", "solver.prototxt").stderr
    done = run("--solver", "solver.prototxt", "--max_iter", "3", "--snapshot", "out/s_iter_2.solverstate")
    assert done.returncode == 0, done.stderr
    assert "Finetuning" not in done.stderr


def test_other_databases_and_another_prefix(run: Run, place: Path) -> None:
    (place / "solver.prototxt").write_text(SOLVER + "test_iter: 1 test_interval: 3")
    net = (place / "net.prototxt").read_text()
    (place / "net.prototxt").write_text(net.replace(" include { phase: TRAIN }", ""))
    for name, size in (("big", 10), ("small", 9)):
        with h5py.File(place / f"{name}.h5", "w") as file:
            file["data"] = np.ones((2, 1, size, size), np.float32)
            file["label"] = np.ones((2, 1, size - 2, size - 2), np.float32)
        (place / f"{name}.txt").write_text(f"{name}.h5\n")
    databases = ["--train_data", "big.txt", "--test_data", "small.txt"]
    done = run("--solver", "solver.prototxt", *databases, "--snapshot_prefix", "elsewhere/t")
    assert done.returncode == 0, done.stderr
    shapes = re.findall(r"Setting up data \(HDF5Data\): data (\S+),", done.stderr)
    assert shapes == ["2x1x10x10", "2x1x9x9"]
    assert "t_iter_6.caffemodel" in names(place / "elsewhere")
    assert not (place / "out").exists()
    missing = run("--solver", "solver.prototxt", "--train_data", "absent.txt")
    assert missing.returncode == 1
    assert "absent.txt" in missing.stderr.splitlines()[-1]
    assert "make_patches" not in missing.stderr.splitlines()[-1]  # that would make another database


def test_interrupt_stops_with_a_snapshot(place: Path, repo_root: Path) -> None:
    arguments = command(repo_root, "--solver", "solver.prototxt", "--max_iter", "100000000")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    (place / "solver.prototxt").write_text(SOLVER.replace("snapshot: 4", ""))
    with subprocess.Popen(arguments, cwd=place, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if "Iteration 4, lr" in line:
                child.send_signal(signal.SIGINT)
                break
        rest = child.stderr.read()
    assert child.returncode == 0
    assert "Optimization stopped early." in rest
    assert len(names(place / "out")) == 2


def test_a_missing_database_names_the_command_that_makes_it(run: Run, place: Path) -> None:
    (place / "train.txt").unlink()
    net = (place / "net.prototxt").read_bytes()
    (place / "net.prototxt").write_bytes(net.rstrip(b"\n") + b"  # \xb2\xc4\n")  # a comment in GBK
    done = run("--solver", "solver.prototxt")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert error.startswith('error: net.prototxt:3: layer "data" (HDF5Data): train.txt: ')
    assert error.endswith("; make it with: tools/make_patches.py --images photos --output train")


def test_a_solver_of_the_library_is_found_by_its_name(run: Run, repo_root: Path) -> None:
    solver = next(path.name for path in sorted((repo_root / "prototxt").glob("solver_l*.prototxt")))
    done = run("--solver", solver)
    assert done.returncode == 1
    assert "the database" in done.stderr or "make it with: tools/make_patches.py" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "the following arguments are required: --solver"),
        (
            ["--solver", "absent.prototxt"],
            1,
            "error: absent.prototxt: no such file, and prototxt/ has none of that name",
        ),
        (
            ["--solver", "solver.prototxt", "--snapshot", "no.solverstate"],
            1,
            "error: no.solverstate: no such file",
        ),
        (
            ["--solver", "solver.prototxt", "--weights", "no.caffemodel"],
            1,
            "error: no.caffemodel: no such file",
        ),
        (
            ["--solver", "solver.prototxt", "--weights", "a", "--snapshot", "b"],
            2,
            "not allowed with argument",
        ),
        (["--solver", "solver.prototxt", "--gpu", "97"], 1, "error: --gpu 97: PyTorch sees"),
        (["--solver", "solver.prototxt", "--gpu", "0,97"], 1, "error: --gpu 0,97: PyTorch sees"),
        (["--solver", "solver.prototxt", "--gpu", "one"], 1, "error: --gpu one: give the number of a GPU, several as 0,1"),
        (["--solver", "solver.prototxt", "--timeout", "0"], 2, "'0' is not above 0"),
        (["--solver", "solver.prototxt", "--precision", "float16"], 2, "invalid choice: 'float16'"),
        (["--solver", "solver.prototxt", "--test_data", "train.txt"], 1, "there are no test nets to read train.txt"),
        (["--solver", "solver.prototxt", "--max_iter", "0"], 2, "'0' is less than 1"),
        (["--solver", "net.prototxt"], 1, 'error: net.prototxt:3:1: SolverParameter has no field "layer"'),
    ],
)
def test_refused(arguments: list[str], code: int, message: str, run: Run, place: Path) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "out").exists()


def test_divergence_is_one_line_and_exit_1(run: Run, place: Path) -> None:
    (place / "solver.prototxt").write_text(
        SOLVER.replace("0.01", "1e30").replace("snapshot: 4", "snapshot: 1")
    )
    done = run("--solver", "solver.prototxt")
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: solver\.prototxt: iteration \d+: the \w+ (is|are) .*: the training has diverged; lower .*",
        done.stderr.splitlines()[-1],
    )


def test_progress_bar_on_a_terminal(place: Path, repo_root: Path) -> None:
    termios = pytest.importorskip("termios")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(ours, (24, 100))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
    arguments = command(repo_root, "--solver", "solver.prototxt")
    with subprocess.Popen(arguments, cwd=place, env=environment, stderr=theirs) as child:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # how Linux reports the end
                break
            if not chunk:
                break
            shown += chunk
    os.close(ours)
    assert child.returncode == 0
    text = shown.decode()
    assert "6/6" in text
    # log lines stand on lines of their own, above the bar
    for line in re.findall(r"[^\r\n]*Iteration 4, lr[^\r\n]*", text):
        assert re.fullmatch(r"(\x1b\[\S)?I\d{4} .*lr = 0\.01(\x1b\[\S)?", line), line


@pytest.mark.parametrize(("fast", "warned"), [(True, False), (False, True), (None, False)])
def test_bfloat16_is_warned_of_where_it_is_slow(
    fast: bool | None, warned: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "fast_bfloat16", lambda: fast)
    done = run("--solver", "solver.prototxt", "--precision", "bfloat16", "--max_iter", "1")
    assert done.returncode == 0
    assert ("--precision bfloat16 is expected to be slower than float32" in done.stderr) == warned


@pytest.mark.parametrize(("name", "program"), [("tools.train_net", ["FILE"]), ("pycaffe_compat.tools.train_net", ["-m", "pycaffe_compat.tools.train_net"])])
def test_ranks_are_started_so_that_they_are_found_from_anywhere(name: str, program: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a module only where it is installed as one: a clone's tools/ can be imported by who runs a program in it alone."""
    started: list[tuple[list[str], int]] = []
    monkeypatch.setattr(train_net.gpu, "chosen", lambda text: [0, 1])
    monkeypatch.setattr(train_net.distributed, "launch", lambda command, count: started.append((command, count)) or 0)
    monkeypatch.setattr(train_net.__spec__, "name", name)
    assert train_net.main(["--solver", "s", "--gpu", "0,1"]) == 0
    command = [train_net.__file__ if word == "FILE" else word for word in program]
    assert started == [([sys.executable, *command, "--solver", "s", "--gpu", "0,1"], 2)]
