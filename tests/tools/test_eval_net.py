"""tools/eval_net.py: the table, its files, and what it says of bad input."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from pycaffe_compat.errors import CaffeError, DataError
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.restoration import evaluation, metrics
from pycaffe_compat.restoration.baselines import spp, spp_threshold
from pycaffe_compat.restoration.degradation import jpeg, quantisation_table, rgb_to_luma
from pycaffe_compat.restoration.sadct import sa_dct
from pycaffe_compat.weights import write_weights
from tools import eval_net

IDENTITY = """
name: "identity"
layer { name: "data" type: "Input" top: "data" include { stage: "deploy" }
        input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "restored"
        convolution_param { num_output: 1 kernel_size: 3 } }
"""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("astronaut", "chelsea"):
        Image.fromarray(getattr(skimage.data, name)()[40:140, 60:180]).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def net(tmp_path: Path) -> tuple[Path, Path]:
    """A network that gives back its input, its weights as a file."""

    path, weights = tmp_path / "identity.prototxt", tmp_path / "same.caffemodel"
    path.write_text(IDENTITY)
    graph = Graph(path, phase=TEST, stages=["deploy"])
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, 1, 1] = 1
    write_weights(weights, graph.param, {"conv": [kernel, np.zeros(1, np.float32)]})
    return path, weights


def test_table_and_files(
    photographs: Path, net: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--images", str(photographs), "--quality", "10", "20", "--per_image"]
    arguments += ["--model", str(net[0]), "--weights", str(net[1])]
    arguments += ["--csv", str(tmp_path / "s.csv"), "--json", str(tmp_path / "s.json")]
    assert eval_net.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "photographs: 2 images, JPEG quality 10"
    assert lines[1].split() == ["method", "PSNR", "PSNR-B", "SSIM", "8x8", "SSIM", "Gauss", "IPSNR"]
    assert len({len(line) for line in lines if line and ":" not in line}) == 1

    originals = [rgb_to_luma(np.asarray(Image.open(path))) for path in sorted(photographs.iterdir())]
    means = metrics.Scores.mean([metrics.score(jpeg(luma, 10), luma) for luma in originals])
    with open(tmp_path / "s.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * (1 + 2)
    by_method = {row["method"]: row for row in rows if row["quality"] == "10" and not row["image"]}
    assert list(by_method) == ["distorted", "spp", "same"]
    assert float(by_method["distorted"]["psnr"]) == pytest.approx(means.psnr, abs=1e-12)
    assert float(by_method["same"]["ssim"]) == pytest.approx(means.ssim, abs=1e-12)
    assert float(by_method["same"]["ipsnr"]) == 0
    assert float(by_method["spp"]["ipsnr"]) > 0.3

    written = json.loads((tmp_path / "s.json").read_text())
    assert written["model"] == "identity.prototxt" and written["weights"] == "same.caffemodel"
    assert [(r["quality"], r["method"]) for r in written["results"]] == [
        (q, m) for q in (10, 20) for m in ("distorted", "spp", "same")
    ]
    assert written["results"][0]["psnr_b"] == pytest.approx(means.psnr_b, abs=1e-12)
    assert len(written["results"][0]["image_scores"]) == 2


def test_without_a_network_and_with_other_rows(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = str(photographs / "chelsea.png")
    assert eval_net.main(["--images", one, "--quality", "30", "--baseline", "spp8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "images: 1 image, JPEG quality 30"
    assert [line.split()[0] for line in lines[3:]] == ["spp8"]


def test_every_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    luma = rgb_to_luma(skimage.data.astronaut())[100:164, 180:252]
    Image.fromarray(luma).save(tmp_path / "part.png")
    table = tmp_path / "s.csv"
    arguments = ["--images", str(tmp_path / "part.png"), "--quality", "20", "--csv", str(table), "--baseline"]
    assert eval_net.main([*arguments, *evaluation.BASELINES]) == 0
    degraded, steps = jpeg(luma, 20), quantisation_table(20)
    expected = {
        "distorted": degraded,
        "spp": spp(degraded, steps, 64),
        "spp8": spp(degraded, steps, 8),
        "spp_hard": spp_threshold(degraded, steps, 64, "hard"),
        "spp_hard8": spp_threshold(degraded, steps, 8, "hard"),
        "spp_soft": spp_threshold(degraded, steps, 64, "soft"),
        "spp_soft8": spp_threshold(degraded, steps, 8, "soft"),
        "sadct": sa_dct(degraded, steps),
    }
    with open(table, newline="") as file:
        scores = {row["method"]: float(row["psnr"]) for row in csv.DictReader(file)}
    assert scores == {
        name: metrics.psnr(np.clip(np.rint(image), 0, 255), luma) for name, image in expected.items()
    }
    with pytest.raises(SystemExit):
        eval_net.main(["--help"])
    described = capsys.readouterr().out
    assert all(name in described for name in expected)


def test_one_net_many_weights(
    photographs: Path, net: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "again.caffemodel").write_bytes(net[1].read_bytes())
    assert eval_net._row_name("models/x/weights.safetensors") == "x"
    common = [
        "--images",
        str(photographs),
        "--quality",
        "10",
        "--baseline",
        "--model",
        str(net[0]),
        "--weights",
    ]
    assert eval_net.main([*common, str(net[1]), str(tmp_path / "again.caffemodel")]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]] == ["same", "again"]
    assert eval_net.main([*common, str(net[1]), str(net[1]), "--names", "A", "B"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]] == ["A", "B"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--images", "x"],
        ["--images", "x", "--quality", "0"],
        ["--images", "x", "--quality", "ten"],
        ["--images", "x", "--quality", "10", "--baseline", "nothing"],
        ["--images", "x", "--quality", "10", "--model", "l4.prototxt"],
        ["--images", "x", "--quality", "10", "--model", "a", "b", "--weights", "c", "d", "e"],
        ["--images", "x", "--quality", "10", "--model", "a", "--weights", "c", "--names", "d", "e"],
        ["--images", "x", "--quality", "10", "--model", "a", "--weights", "c", "--names", "spp"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        eval_net.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_bad_input_is_named(photographs: Path, net: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        eval_net.main(["--images", str(tmp_path / "nowhere"), "--quality", "10"])
    with pytest.raises(CaffeError, match="no model"):
        eval_net.main(["--images", str(photographs), "--quality", "10", "--model", "no_such_model"])
    with pytest.raises(FileNotFoundError):
        eval_net.main(
            ["--images", str(photographs), "--quality", "10", "--csv", str(tmp_path / "no" / "s.csv")]
        )
    (photographs / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"broken\.png"):
        eval_net.main(["--images", str(photographs), "--quality", "10"])
    assert not (tmp_path / "s.csv").exists()


def test_from_a_clone(repo_root: Path, photographs: Path) -> None:
    command = [sys.executable, str(repo_root / "tools" / "eval_net.py")]
    good = [*command, "--images", str(photographs), "--quality", "10", "--baseline", "distorted"]
    run = subprocess.run(good, capture_output=True, text=True, check=True, cwd=photographs)
    assert "distorted" in run.stdout and "2/2" in run.stderr
    bad = subprocess.run([*command, "--images", "nowhere", "--quality", "10"], capture_output=True, text=True)
    assert bad.returncode == 1 and bad.stdout == ""
    assert bad.stderr == "error: nowhere: no such file or folder\n"


@pytest.mark.data
@pytest.mark.slow
def test_the_papers_distorted_scores(jpeg_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The twelve figures of tables 3 and 4, as the program prints them."""
    folders = [str(jpeg_data / "live1"), str(jpeg_data / "bsds500" / "val")]
    assert eval_net.main(["--images", *folders, "--quality", "10", "20", "--baseline", "distorted"]) == 0
    rows = [
        line.split()[1:4] for line in capsys.readouterr().out.splitlines() if line.startswith("distorted")
    ]
    assert rows == [
        ["27.77", "25.33", "0.791"],
        ["30.07", "27.57", "0.868"],
        ["27.58", "24.97", "0.769"],
        ["29.72", "26.97", "0.852"],
    ]


def test_every_folder_and_file_is_a_set_or_part_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("live1", "other/live1", "files"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (16, 16)).save(tmp_path / folder / "a.png")
    Image.new("L", (16, 16)).save("single.png")
    sets = evaluation.datasets(["other/live1", "live1", "live1", "files", "single.png"])
    assert list(sets) == ["live1", str(tmp_path / "live1"), "files", "single files"]
    assert [str(paths[0]) for paths in sets.values()] == ["other/live1/a.png", "live1/a.png", "files/a.png", "single.png"]
