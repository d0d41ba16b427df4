"""tools/draw_net.py from its command line."""

from pathlib import Path

import pytest

from pycaffe_compat.errors import CaffeError, NetError, PrototxtError
from tools import draw_net

L8 = "prototxt/l8.prototxt"


def dot(repo_root: Path, tmp_path: Path, *options: str) -> str:
    path = tmp_path / "net.dot"
    assert draw_net.main([str(repo_root / L8), "-o", str(path), *options]) == 0
    return path.read_text(encoding="utf-8")


def test_phases_and_stages(repo_root: Path, tmp_path: Path) -> None:
    everything = dot(repo_root, tmp_path)
    deploy = dot(repo_root, tmp_path, "--stage", "deploy", "--rankdir", "LR")
    train = dot(repo_root, tmp_path, "--phase", "TRAIN")
    assert everything.count("HDF5Data") == 2 and "only deploy" in everything
    assert "HDF5Data" not in deploy and "Input" in deploy and "rankdir=LR" in deploy
    assert train.count("HDF5Data") == 1 and "EuclideanLoss" in train and "Input" not in train
    for text in (everything, deploy, train):
        assert text.count("Convolution") == 8


def test_picture(repo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "l8.png"
    # As Caffe's program is called.
    assert draw_net.main([str(repo_root / L8), str(path), "--rankdir", "LR", "--phase", "TEST", "--display_lrm", "--dpi", "50"]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{path}\n"


@pytest.mark.parametrize(
    "options",
    [[], ["a.png", "-o", "a.png"], ["-o", "a.png", "--rankdir", "XY"], ["-o", "a.png", "--phase", "all", "--stage", "deploy"]],
)
def test_wrong_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        draw_net.main(["net.prototxt", *options])
    assert stop.value.code == 2


def test_bad_input(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    picture = str(tmp_path / "a.png")
    with pytest.raises(PrototxtError, match=r"net\.prototxt: no such file"):
        draw_net.main([str(net), "-o", picture])
    net.write_text("name: 'x'\nlayer { nmae: 'y' }")
    with pytest.raises(PrototxtError, match=r"net\.prototxt:2:"):
        draw_net.main([str(net), "-o", picture])
    net.write_text("name: 'x'")
    with pytest.raises(NetError, match="no layers"):
        draw_net.main([str(net), "-o", picture])
    with pytest.raises(CaffeError, match="must end in"):
        draw_net.main([str(net), "-o", str(tmp_path / "a.bmp")])
    assert [p.name for p in tmp_path.iterdir()] == ["net.prototxt"]
