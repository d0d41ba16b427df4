"""tools/plot_log.py from its command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from pycaffe_compat.errors import CaffeError, DataError
from tools import plot_log


def test_curves_tables_and_list(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, tables = tmp_path / "c.svg", tmp_path / "tables"
    logs = [str(golden / "train.log"), str(golden / "train_cls.log")]
    options = [
        "--label",
        "L4 net",
        "--label",
        "classifier",
        "--test",
        "loss",
        "--lr",
        "--smooth",
        "3",
        "--xlim",
        "0",
        "20",
    ]
    assert plot_log.main([*logs, "-o", str(picture), "--csv", str(tables), "--list", *options]) == 0
    assert picture.read_bytes().startswith(b"<?xml")
    for name in ("train.log.train", "train.log.test", "train_cls.log.train", "train_cls.log.test"):
        assert (tables / name).read_bytes() == (golden / "parse_log" / name).read_bytes()
    out = capsys.readouterr().out
    assert "net 'cls', 5 displays up to iteration 20" in out
    assert "test: acc, acc5, aux, loss, prob (40 values)" in out
    assert str(picture) in out


def test_quantities_keep_their_order() -> None:
    args = plot_log.parser().parse_args(["a", "--lr", "--test", "psnr", "--loss", "--train", "x", "--psnr"])
    assert [(q.kind, q.name) for q in args.quantities] == [
        ("lr", ""),
        ("test", "psnr"),
        ("loss", ""),
        ("train", "x"),
    ]
    assert args.psnr == 0.0
    assert plot_log.parser().parse_args(["a", "--psnr", "2/2116"]).psnr == 2 / 2116


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-o", "x.png", "--label", "a", "--label", "b"],
        ["-o", "x.png", "--psnr", "0"],
        ["-o", "x.png", "--psnr", "1/0"],
        ["-o", "x.png", "--smooth", "0"],
        ["-o", "x.png", "--unheard"],
    ],
)
def test_wrong_usage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        plot_log.main(["train.log", *options])
    assert stop.value.code == 2
    assert "plot_log.py: error: " in capsys.readouterr().err


def test_bad_input_leaves_the_old_picture(golden: Path, tmp_path: Path) -> None:
    picture = tmp_path / "c.png"
    picture.write_bytes(b"old")
    with pytest.raises(DataError, match="no test net output 'psnr'"):
        plot_log.main([str(golden / "train.log"), "-o", str(picture), "--test", "psnr"])
    with pytest.raises(CaffeError, match="must end in"):
        plot_log.main([str(golden / "train.log"), "-o", str(tmp_path / "c.txt")])
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("c.png", b"old")]


def test_as_a_program(repo_root: Path, tmp_path: Path) -> None:
    """Started as a file, from elsewhere: one line on standard error and exit code 1, never a traceback."""
    command = [sys.executable, str(repo_root / "tools" / "plot_log.py"), "nowhere.log", "-o", "c.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: nowhere.log: No such file or directory\n"
