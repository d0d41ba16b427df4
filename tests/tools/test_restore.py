"""tools/restore.py: which network, which output, and that nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pycaffe_compat import resources
from pycaffe_compat.errors import CaffeError
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.weights import write_weights
from tools import restore as tool

SHIFT = """
name: "shift"
layer { name: "data" type: "Input" top: "data" include { stage: "deploy" }
        input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "restored"
        convolution_param { num_output: 1 kernel_size: 3 } }
"""


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library with two models, for qualities 10 and 20, that add 10 and 20 to every pixel."""
    root = tmp_path / "library"
    (root / "prototxt").mkdir(parents=True)
    (root / "prototxt" / "shift.prototxt").write_text(SHIFT)
    graph = Graph(root / "prototxt" / "shift.prototxt", phase=TEST, stages=["deploy"])
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, 1, 1] = 1
    for quality in (10, 20):
        folder = root / "models" / f"shift_q{quality}"
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps({"model": "shift.prototxt"}))
        blobs = {"conv": [kernel, np.array([quality], np.float32)]}
        write_weights(folder / "weights.caffemodel", graph.param, blobs)
    monkeypatch.setattr(resources, "_root", lambda: str(root))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    return root


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with gray ramps: JPEGs of quality 5, 12, 25 and 90, and a PNG."""
    folder = tmp_path / "work"
    (folder / "in").mkdir(parents=True)
    monkeypatch.chdir(folder)
    ramp = Image.fromarray(np.tile(np.linspace(40, 200, 48).astype(np.uint8), (32, 1)))
    for quality in (5, 12, 25, 90):
        ramp.save(f"in/q{quality}.jpg", quality=quality)
    ramp.save("in/plain.png")
    return folder


def added(source: str, target: str) -> int:
    with Image.open(source) as before, Image.open(target) as after:
        return int(np.median(np.asarray(after).astype(int) - np.asarray(before).astype(int)))


@pytest.mark.parametrize(("quality", "expected"), [(5, 10), (12, 10), (25, 20)])
def test_the_nearest_network_is_taken(work: Path, quality: int, expected: int) -> None:
    assert tool.main([f"in/q{quality}.jpg", "out.png"]) == 0
    assert added(f"in/q{quality}.jpg", "out.png") == expected


def test_a_much_better_file_is_left_alone_unless_named(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["in/q90.jpg", "out.png"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: in/q90.jpg: left alone") and "--model shift_q20" in error
    assert not os.path.exists("out.png")
    assert tool.main(["--model", "shift_q20", "in/q90.jpg", "out.png"]) == 0
    assert tool.main(["--quality", "10", "in/q90.jpg", "other.png"]) == 0
    assert (added("in/q90.jpg", "out.png"), added("in/q90.jpg", "other.png")) == (20, 10)


def test_a_png_needs_a_quality(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["in/plain.png", "out.png"]) == 1
    assert "--quality" in capsys.readouterr().err
    assert tool.main(["--quality", "11", "in/plain.png", "out.png"]) == 0
    assert added("in/plain.png", "out.png") == 10


def test_net_and_weights(work: Path, library: Path) -> None:
    weights = library / "models" / "shift_q20" / "weights.caffemodel"
    assert tool.main(["--net", "shift.prototxt", "--weights", str(weights), "in/q12.jpg", "out.png"]) == 0
    assert added("in/q12.jpg", "out.png") == 20


def test_many_files_into_a_folder(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path("in/q12.jpg").read_bytes()
    Path("in/broken.jpg").write_bytes(data[: len(data) // 2])
    assert tool.main(["in", "in/q1*.jpg", "new/folder", "--format", "tif"]) == 1
    streams = capsys.readouterr()
    assert sorted(os.listdir("new/folder")) == ["q12.tif", "q25.tif", "q5.tif"]
    errors = [line for line in streams.err.splitlines() if line.startswith("error: ")]
    assert [e.split(":")[1].strip() for e in errors[:-1]] == ["in/broken.jpg", "in/plain.png", "in/q90.jpg"]
    assert errors[-1] == "error: 3 of 6 files were not restored"
    assert "in/q12.jpg -> new/folder/q12.tif (48x32, quality 12, shift_q10" in streams.out


def test_inputs_and_existing_files_are_not_overwritten(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in Path("in").iterdir()}
    os.symlink("in/q12.jpg", "link.jpg")
    os.link("in/q12.jpg", "hard.jpg")
    for target in ("in/q12.jpg", "./in/../in/q12.jpg", "link.jpg", "hard.jpg"):
        assert tool.main(["in/q12.jpg", target, "--overwrite"]) == 1
        assert "input" in capsys.readouterr().err
    # in/q12.jpg -> in/q12.jpg and so on: every output would be an input, also another one than its own
    assert tool.main(["in/q5.jpg", "in/q12.jpg", "in", "--format", "jpg", "--overwrite"]) == 1
    Path("out.png").write_text("mine")
    assert tool.main(["in/q12.jpg", "out.png"]) == 1
    assert Path("out.png").read_text() == "mine"
    assert tool.main(["in/q12.jpg", "out.png", "--overwrite"]) == 0
    assert {path: path.read_bytes() for path in Path("in").iterdir()} == before


def test_two_inputs_for_one_output(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkdir("more")
    with Image.open("in/q25.jpg") as image:
        image.save("more/q12.jpg", quality=25)
    for options in ([], ["--overwrite"]):
        assert tool.main(["in/q12.jpg", "more/q12.jpg", "out", *options]) == 1
        assert "error: out/q12.png: " in capsys.readouterr().err
        assert added("in/q12.jpg", "out/q12.png") == 10


@pytest.mark.parametrize(
    "arguments",
    [
        ["in/q5.jpg"],
        ["in/q5.jpg", "out.xyz"],
        ["in/q5.jpg", "in/q12.jpg", "out.png"],
        ["in", "out.png"],
        ["in/*.jpg", "in/plain.png"],
        ["--net", "shift.prototxt", "in/q5.jpg", "out.png"],
        ["--model", "a", "--net", "b", "--weights", "c", "in/q5.jpg", "out.png"],
        ["--quality", "101", "in/q5.jpg", "out.png"],
        ["--quality", "10", "--model", "l4_residual_q10", "in/q5.jpg", "out.png"],
        ["--tile", "8", "in/q5.jpg", "out.png"],
    ],
)
def test_wrong_usage(work: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        tool.main(arguments)
    assert caught.value.code == 2
    assert sorted(os.listdir()) == ["in"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg", "out.png"], "missing.jpg"),
        (["--model", "nothing", "in/q5.jpg", "out.png"], "shift_q10, shift_q20"),
        (["--net", "nothing.prototxt", "--weights", "w", "in/q5.jpg", "out.png"], "nothing.prototxt"),
    ],
)
def test_bad_input_is_named(work: Path, arguments: list[str], message: str) -> None:
    with pytest.raises((CaffeError, OSError), match=message):
        tool.main(arguments)
    assert sorted(os.listdir()) == ["in"]


def test_the_tile_changes_nothing(work: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 200, (150, 230, 3), dtype=np.uint8)
    Image.fromarray(rgb).save("a.jpg", quality=10)
    assert tool.main(["a.jpg", "one.png"]) == 0
    assert tool.main(["a.jpg", "two.png", "--tile", "64"]) == 0
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert np.array_equal(np.asarray(one), np.asarray(two)) and one.size == (230, 150)


def test_from_a_clone(repo_root: Path, work: Path) -> None:
    command = [sys.executable, str(repo_root / "tools" / "restore.py")]
    text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "holiday/" in text and "left alone" in text
    run = subprocess.run([*command, "nowhere.jpg", "out.png"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "error: nowhere.jpg: no such file or folder\n"
