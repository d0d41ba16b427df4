"""tools/convert_to_onnx.py as a user runs it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from pycaffe_compat import cli
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.weights import write_weights
from tools import convert_to_onnx


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    root = Path(__file__).resolve().parents[2]
    graph = Graph(root / "prototxt/l4.prototxt", TEST, stages=["deploy"])
    write_weights(tmp_path / "w.caffemodel", graph.param, graph.weights())
    return tmp_path / "w.caffemodel"


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda argv: convert_to_onnx.main([str(a) for a in args]))
    return int(end.value.code or 0)


def test_it_converts_proves_and_says_so(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.onnx"
    assert call("--model", "l4.prototxt", "--weights", weights, "--output", out, "--image-in-out") == 0
    text = capsys.readouterr().out
    assert "largest difference between ONNX Runtime and PyTorch" in text
    meta = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"]).get_modelmeta()
    assert meta.custom_metadata_map["net_file"] == "l4.prototxt"
    assert meta.custom_metadata_map["weights_file"] == "w.caffemodel"
    assert len(meta.custom_metadata_map["weights_sha256"]) == 64


def test_a_difference_above_the_tolerance_fails_and_writes_nothing(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.onnx"
    assert call("--model", "l4.prototxt", "--weights", weights, "--output", out, "--tolerance", 1e-12) == 1
    assert "exceeds 1e-12" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("l9.prototxt", "w.caffemodel", "l9.prototxt"),
        ("l4.prototxt", "none.caffemodel", "none.caffemodel"),
        ("l8.prototxt", "w.caffemodel", "conv1"),
        ("arcnn.prototxt", "w.caffemodel", "conv1"),
    ],
)
def test_bad_input_gives_one_line(
    weights: Path, tmp_path: Path, model: str, given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.onnx"
    assert call("--model", model, "--weights", tmp_path / given, "--output", out) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()
