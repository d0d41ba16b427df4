"""The demo: its photographs, its care with folders, and (slow) all of it with too short a training."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from pycaffe_compat.errors import CaffeError
from tools import demo

ROOT = Path(__file__).resolve().parent.parent


def test_photographs_come_with_scikit_image_and_are_not_shared() -> None:
    folder = Path(skimage.data.__file__).parent
    for name in (*demo.TRAINING, *demo.TESTING):
        with Image.open(folder / name) as image:
            assert min(image.size) >= demo.SIZE
    assert not set(demo.TRAINING) & set(demo.TESTING)
    assert {Path(name).stem for name in demo.TESTING} == set(demo.CROPS)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(CaffeError, match="not this demo's"):
        demo.clear(tmp_path)
    assert (tmp_path / "mine").exists()


def test_an_earlier_demo_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "demo"
    for _ in range(2):
        demo.clear(folder)
        assert [path.name for path in folder.iterdir()] == [demo.MARK]
        (folder / "old").write_text("")


def test_gains_are_over_the_jpeg(tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("method,psnr,image\ndistorted,30.5,\nspp,31.0,\nL8,31.75,\n")
    assert demo.psnr_gains(table) == {"spp": 0.5, "L8": 1.25}


@pytest.mark.slow
def test_whole_path_with_too_short_a_training(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--iterations", "2", "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    # Everything is made, and the demo does not call two iterations a success.
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: L8 gains only "), done.stderr
    names = "scores.json train.log curve.png network.png filters.png filters.gif before_after.png l8.onnx"
    for name in names.split():
        assert (folder / name).stat().st_size > 0
        assert name in done.stdout
    assert (folder / "snapshots" / "l8_demo_iter_2.caffemodel").is_file()
    with open(folder / "scores.csv", newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["distorted", "spp", "L8"]
    assert {path.stem for path in (folder / "restored").iterdir()} == set(demo.CROPS)
