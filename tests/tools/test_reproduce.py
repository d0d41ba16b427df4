"""tools/reproduce.py: its commands, its order, its refusals; and one network from photographs to a model's folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pycaffe_compat import CaffeError, DataError, resources
from pycaffe_compat.restoration.patches import Settings, read_settings
from pycaffe_compat.restoration.restore import find_model
from pycaffe_compat.restoration.results import NETWORKS
from tools import make_patches, reproduce, train_net


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Folders as they are asked for, each with a smooth gray picture or two."""
    y, x = np.mgrid[:80, :90]
    for i, folder in enumerate(("bsds500/train", "bsds500/test", "bsds500/val", "live1")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for k in range(2):
            wave = 128 + 60 * np.sin(x / (5 + i)) * np.cos(y / (7 + k))
            name = "parrots" if k else "other"
            Image.fromarray(wave.astype(np.uint8)).save(tmp_path / "photos" / folder / f"{name}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("name", NETWORKS)
def test_its_commands_are_those_of_the_programs(name: str) -> None:
    network = NETWORKS[name]
    commands = reproduce.databases(network, Path("photos"))
    made = [make_patches.parse(patches.words()) for patches in commands]
    assert [args.output for args in made[:2]] == [f"{network.database}_train", f"{network.database}_test"]
    assert made[0].images == ["photos/bsds500/train", "photos/bsds500/test"]
    assert made[1].images == ["photos/bsds500/val"]
    first, *then = reproduce.trainings(network, Path("models"), "float32")
    args = train_net.parser().parse_args(first.command)
    assert args.train_data == f"{made[0].output}.txt"
    assert args.snapshot_prefix.endswith(name)
    assert bool(args.weights) == bool(network.start)
    for training in then:
        args = train_net.parser().parse_args(training.command)
        assert args.weights == str(first.end)
        assert args.snapshot_prefix.endswith(f"{name}_then")
        assert args.train_data == f"{(made[2:] or made)[0].output}.txt"


def test_the_nets_own_databases_are_the_same(repo_root: Path) -> None:
    for name in ("l4_residual_q10", "l4_direct_q10", "l4_edge_q10", "l8_residual_q20", "arcnn_q10"):
        network = NETWORKS[name]
        lines = Path(resources.net_path(network.net)).read_text().splitlines()
        comments = {line.split("make_patches.py ")[1] for line in lines if line.startswith("# database:")}
        assert comments == {" ".join(patches.words()) for patches in reproduce.databases(network, Path("."))[:2]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9"], "there is no part 'table9'; there are table3"),
        (["train", "l9"], "there is no network 'l9'; there are l4_residual_q10"),
        ([], "the following arguments are required: PART"),
        (["all", "--precision", "float16"], "invalid choice: 'float16'"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        reproduce.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_photographs_that_are_missing_are_named(tmp_path: Path) -> None:
    output = ["--output", str(tmp_path / "results")]
    with pytest.raises(DataError, match=r"bsds500/train: no such folder: --data is the folder of bsds500/ and live1/"):
        reproduce.main(["--data", str(tmp_path), *output, "train"])
    with pytest.raises(DataError, match=r"live1: no such folder: --data is the folder of bsds500/ and live1/"):
        reproduce.main(["--data", str(tmp_path), *output, "table3"])


def test_figures_of_curves_and_filters_need_no_photographs(tmp_path: Path) -> None:
    """From the logs and weights that came with the library."""
    command = ["--data", str(tmp_path), "--output", str(tmp_path / "results")]
    assert reproduce.main([*command, "figure6", "figure7"]) == 0
    page = (tmp_path / "results" / "README.md").read_text()
    assert "figure6.png" in page and "figure7.png" in page and "figure8.png" not in page
    (tmp_path / "results" / "figure8.json").write_text("[{")
    with pytest.raises(DataError, match=r"figure8\.json: damaged .*: remove it to make it again"):
        reproduce.main([*command, "figure8"])


def test_a_network_that_starts_from_a_missing_one_says_so(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(CaffeError, match="l4_residual_q20 starts from l4_residual_q10, which is not in .*: train that first"):
        reproduce.train(NETWORKS["l4_residual_q20"], photographs, tmp_path, "float32")


def test_a_database_made_otherwise_is_not_trained_on(photographs: Path, tmp_path: Path) -> None:
    wanted = reproduce.Patches((str(photographs / "live1"),), Settings((10,), 16, 20, seed=1, grid=8, limit=1), str(tmp_path / "p"))
    wanted.make()
    assert read_settings(tmp_path / "p.txt") == wanted.settings
    wanted.make()
    other = replace(wanted, settings=replace(wanted.settings, count=21, limit=None))
    with pytest.raises(CaffeError, match=r"p\.txt: made with count 20 instead of 21, limit 1 instead of None: remove it"):
        other.make()


def test_ctrl_c_waits_for_the_program_it_reached_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a training: it needs longer to end than subprocess.run() would let it.
    (tmp_path / "slow.py").write_text(
        "import pathlib, signal, time\n"
        "def end(*_):\n"
        "    time.sleep(1)\n"
        "    pathlib.Path('snapshot').write_text('whole')\n"
        "    raise SystemExit(0)\n"
        "signal.signal(signal.SIGINT, end)\n"
        "pathlib.Path('started').touch()\n"
        "time.sleep(60)\n"
    )
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import pathlib\nfrom pycaffe_compat import cli\nfrom tools import reproduce\n"
        "reproduce.TOOLS = pathlib.Path('.').resolve()\n"
        "cli.run(lambda _: reproduce.run('slow'))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(parent)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, stderr=subprocess.PIPE)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert (tmp_path / "snapshot").read_text() == "whole"
    assert (process.returncode, errors) == (130, b"interrupted\n")


@pytest.mark.slow
def test_from_photographs_to_a_model_and_a_page(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stopped in the middle, gone on, and then not done again."""
    monkeypatch.chdir(tmp_path)
    text = Path(resources.net_path("solver_l4_quick.prototxt")).read_text()
    text = re.sub(r"(max_iter|test_interval|snapshot|test_iter|display): \d+", r"\1: 2", text)
    (tmp_path / "short.prototxt").write_text(text)
    (tmp_path / "then.prototxt").write_text(text)
    name = "l4_residual_q10"
    small = replace(NETWORKS[name], solver="short.prototxt", then="then.prototxt", patches=32)
    monkeypatch.setitem(reproduce.NETWORKS, name, small)
    command = ["--data", str(photographs), "--models", "models", "--output", "results"]

    monkeypatch.setattr(reproduce, "publish", lambda *a: pytest.fail("stopped before"))
    (tmp_path / "short.prototxt").write_text(text.replace("max_iter: 2", "max_iter: 4") + "\n")
    with pytest.MonkeyPatch.context() as stopped:
        ran = reproduce.run

        def stop(program: str, *arguments: object) -> None:
            more = ["--max_iter", "2"] if program == "train_net" else []
            ran(program, *arguments, *more)

        stopped.setattr(reproduce, "run", stop)
        with pytest.raises(CaffeError, match="l4_residual_q10: stopped before iteration 4; the same command goes on from there"):
            reproduce.main([*command, "train", name])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(reproduce.NETWORKS, name, small)
    capfd.readouterr()
    assert reproduce.main([*command, "train", name]) == 0
    assert "--snapshot snapshots/l4_residual_q10_iter_2.solverstate" in capfd.readouterr().out
    folder = tmp_path / "models" / name
    have = {path.name for path in folder.iterdir()}
    logs = {"train.log", "train_then.log"}
    assert have == {"weights.caffemodel", "model.onnx", "scores.json", "README.md", "filters"} | logs
    assert find_model(folder).qualities == (10,)
    assert json.loads((folder / "scores.json").read_text())["iterations"] == 4 + 2

    before = (folder / "weights.caffemodel").stat().st_mtime_ns
    assert reproduce.main([*command, "train", name]) == 0
    assert (folder / "weights.caffemodel").stat().st_mtime_ns == before

    assert reproduce.main([*command, "table5", "figure6", "figure7"]) == 0
    shown = capfd.readouterr().out
    assert "l4_direct_q10: not in models, left out (`train l4_direct_q10` makes it)" in shown
    page = (tmp_path / "results" / "README.md").read_text()
    assert "| L4 residual |" in page
    assert {"figure6.png", "figure7.png", "scores.json"} <= {p.name for p in (tmp_path / "results").iterdir()}
    assert "parrots, JPEG quality 10, l4_residual_q10" in (tmp_path / "results" / "local" / "index.html").read_text()
