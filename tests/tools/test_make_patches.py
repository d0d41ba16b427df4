"""The program: what it prints, its exit codes, and that it ends without leftovers."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tools import make_patches


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        gray = np.random.default_rng(i).integers(0, 256, (24, 32), dtype=np.uint8)
        Image.fromarray(gray).save(folder / f"{i}.png")
    return folder


def start(
    repo_root: Path, *arguments: object, prelude: str = "", cwd: Path | None = None
) -> subprocess.Popen[str]:
    """The program as typed in a clone, after ``prelude`` in the same process."""
    script = repo_root / "tools" / "make_patches.py"
    command = [sys.executable, str(script)]
    if prelude:
        run = f"import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, {str(script.parent)!r})"
        command = [
            sys.executable,
            "-c",
            f"{prelude}\n{run}; runpy.run_path({str(script)!r}, run_name='__main__')",
        ]
        command.append(str(script))
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    )


def test_from_the_command_line(repo_root: Path, images: Path, tmp_path: Path) -> None:
    Image.new("L", (40, 6)).save(images / "low.png")
    options = "--quality 10 30 --size 8 --count 50 --seed 4 --file_size 0.02 --workers 2".split()
    program = start(repo_root, "--images", "images", "--output", "data/train", *options, cwd=tmp_path)
    output, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors
    assert re.fullmatch(
        r"data/train\.txt: 50 patches of 3 images in 2 files, 0\.0 MB, \d+\.\d s\n", output
    ), output
    assert "warning: images/low.png: smaller than 8x8, left out\n" in errors
    assert "cutting: 50/50 patches (100 %)" in errors
    assert (tmp_path / "data/train.txt").read_text() == "data/train_000.h5\ndata/train_001.h5\n"
    with h5py.File(tmp_path / "data/train_001.h5") as h5:
        assert h5["label"].shape == (25, 1, 8, 8)
        assert h5.attrs["qualities"].tolist() == [10, 30] and h5.attrs["seed"] == 4


def test_every_option_reaches_the_database(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--size 8 --count 9 --no_augment --dtype float32 --compress --skip_images 1 --limit 1 --subset_seed 7 --grid 2"
    )
    assert (
        make_patches.main(["--images", f"{images}/*.png", "--output", f"{tmp_path}/db", *options.split()])
        == 0
    )
    assert "9 patches of 1 images in 1 files" in capsys.readouterr().out
    with h5py.File(tmp_path / "db_000.h5") as h5:
        assert h5["data"].dtype == np.float32 and h5["data"].compression == "gzip"
        attributes = {name: np.asarray(value).tolist() for name, value in h5.attrs.items()}
    assert attributes["augment"] is False and attributes["compress"] is True
    names = ("qualities", "seed", "skip_images", "limit", "subset_seed", "grid", "file_size", "images")
    assert [attributes[name] for name in names] == [[10], 0, 1, 1, 7, 2, 64.0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quality", "0"], "--quality"),
        (["--quality", "10", "10"], "--quality"),
        (["--quality", "high"], "--quality"),
        (["--size", "0"], "--size"),
        (["--count", "-3"], "--count"),
        (["--seed", "-1"], "--seed"),
        (["--dtype", "float64"], "--dtype"),
        (["--file_size", "0"], "--file_size"),
        (["--file_size", "nan"], "--file_size"),
        (["--limit", "0"], "--limit"),
        (["--skip_images", "-1"], "--skip_images"),
        (["--unknown"], "--unknown"),
    ],
)
def test_usage_errors(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make_patches.main(["--images", "x", "--output", "y", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_needs_images_and_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make_patches.main([])
    assert caught.value.code == 2
    assert "--images, --output" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make_patches.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(line in text for line in ("--images", "--subset_seed", "makes data/q10_64_train_000.h5"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere", "--output", "db"], "nowhere: no such file"),
        (["--images", "images", "--output", "images/0.png/db"], "images/0.png"),
        (["--images", "images", "--output", "a b"], "white space"),
        (["--images", "images", "--output", "db", "--size", "25"], "all 3 images are smaller"),
        (["--images", "images", "--output", "db", "--file_size", "0.00001"], "larger file_size"),
        (["--images", "images", "--output", "db", "--skip_images", "3"], "none is left"),
        (
            ["--images", "images", "--output", "db", "--count", "2000000000"],
            r"the database needs 16384000 MB and the disk has \d+ MB left",
        ),
    ],
)
def test_bad_input_is_one_line(
    repo_root: Path, images: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    program = start(repo_root, *arguments, cwd=tmp_path)
    output, errors = program.communicate(timeout=120)
    assert program.returncode == 1, errors
    assert re.fullmatch(rf"error: .*{message}.*\n", errors), errors
    assert output == "" and os.listdir(tmp_path) == ["images"]


def test_file_size_limit_of_the_system(repo_root: Path, images: Path, tmp_path: Path) -> None:
    """Stands for a full disk, which HDF5 reports in its own words."""
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))"
    program = start(
        repo_root,
        "--images",
        "images",
        "--output",
        "db",
        "--size",
        8,
        "--count",
        5000,
        prelude=prelude,
        cwd=tmp_path,
    )
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 1, errors
    assert re.fullmatch(r"error: .*db_000\.h5.*[Ff]ile too large.*\n", errors), errors
    assert os.listdir(tmp_path) == ["images"]


def test_interrupt_leaves_nothing(repo_root: Path, images: Path, tmp_path: Path) -> None:
    program = start(
        repo_root, "--images", "images", "--output", "db", "--size", 8, "--count", 3_000_000, cwd=tmp_path
    )
    while not (tmp_path / ".db.part" / "db_000.h5").exists():
        assert program.poll() is None, program.communicate()
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 130, errors
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == ["images"]
