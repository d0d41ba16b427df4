"""tools/visualize_filters.py from its command line, on networks written here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pycaffe_compat.errors import CaffeError, WeightsError
from pycaffe_compat.proto.text import parse_net
from pycaffe_compat.weights import write_weights
from tools import visualize_filters

NET = """
name: "tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 9 dim: 9 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 5 } }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 2 kernel_size: 3 } }
"""


@pytest.fixture
def snapshots(tmp_path: Path) -> Path:
    """Two trainings: "a" at 0, 10, 20, 30 and "b" (HDF5) at 0 and 20."""
    net, rng = parse_net(NET).param, np.random.default_rng(0)
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for name, iterations, suffix in (("a", (0, 10, 20, 30), ""), ("b", (0, 20), ".h5")):
        for iteration in iterations:
            blobs = {
                "conv1": [rng.normal(size=(6, 1, 5, 5)).astype(np.float32), np.zeros(6, np.float32)],
                "conv2": [rng.normal(size=(2, 6, 3, 3)).astype(np.float32), np.zeros(2, np.float32)],
            }
            write_weights(folder / f"{name}_iter_{iteration}.caffemodel{suffix}", net, blobs)
    return folder


def test_picture_and_film(snapshots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, film = tmp_path / "f.png", tmp_path / "f.gif"
    names = [str(snapshots / "a"), str(snapshots / "b")]
    options = ["--label", "A", "--label", "B", "--scale", "network", "--colours", "diverging"]
    assert visualize_filters.main([*names, "-o", str(picture), "--animation", str(film), *options]) == 0
    with Image.open(picture) as image:
        image.load()
        assert image.width > image.height  # two columns (the common iterations), two flat rows
    with Image.open(film) as image:
        assert getattr(image, "n_frames", 1) == 4
    printed = capsys.readouterr()
    assert printed.out == f"{picture}\n{film}\n"
    assert "4/4" in printed.err


def test_same_bytes_again(snapshots: Path, tmp_path: Path) -> None:
    for suffix in ("png", "svg", "pdf"):
        files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
        for file in files:
            visualize_filters.main([str(snapshots / "a"), "-o", str(file), "--layer", "conv2", "--cell", "1"])
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "conv9"], r"layer 'conv9' is not in it; layers with filters: conv1, conv2"),
        (
            ["--iterations", "15", "--exact"],
            r"snapshots/a: no snapshot of iteration 15; there are: 0, 10, 20, 30",
        ),
    ],
)
def test_bad_input(snapshots: Path, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        visualize_filters.main([str(snapshots / "a"), "-o", str(tmp_path / "f.png"), *options])
    assert not (tmp_path / "f.png").exists()


def test_bad_files(snapshots: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "f.png")
    with pytest.raises(WeightsError, match="no snapshots"):
        visualize_filters.main([str(snapshots / "c"), "-o", out])
    broken = snapshots / "a_iter_40.caffemodel"
    broken.write_bytes((snapshots / "a_iter_30.caffemodel").read_bytes()[:500])
    with pytest.raises(WeightsError, match="a_iter_40"):
        visualize_filters.main([str(snapshots / "a"), "-o", out])
    with pytest.raises(CaffeError, match="must end in"):
        visualize_filters.main([str(snapshots / "b"), "--animation", str(tmp_path / "f.avi")])


@pytest.mark.parametrize(
    "options", [[], ["-o", "f.png", "--label", "a", "--label", "b"], ["-o", "f.png", "--scale", "none"]]
)
def test_wrong_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        visualize_filters.main(["snapshots/a", *options])
    assert stop.value.code == 2
