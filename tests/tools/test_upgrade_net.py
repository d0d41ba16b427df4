"""tools/upgrade_net.py as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycaffe_compat import cli
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary import array_to_blob
from pycaffe_compat.proto.text import parse_message
from pycaffe_compat.weights import read_weights
from tools import upgrade_net

OLD = '# a net\nname: "n"\nlayers { name: "c" type: CONVOLUTION bottom: "a" top: "b" blobs_lr: 2 }\n'
NEW = 'name: "n"\nlayer {\n  name: "c"\n  type: "Convolution"\n  bottom: "a"\n  top: "b"\n  param {\n    lr_mult: 2\n  }\n}\n'


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda argv: upgrade_net.main([str(a) for a in args]))
    return int(end.value.code or 0)


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text(OLD)
    assert call(old, new) == 0
    assert new.read_text() == NEW and old.read_text() == OLD
    assert capsys.readouterr().out == f"{new}: a net of 1 layer, text\n"
    assert call(old, old) == 0 and old.read_text() == NEW
    assert call(old, old) == 0 and old.read_text() == NEW
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.prototxt", "old.prototxt"]


def test_binary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = parse_message(OLD, caffe_pb2.NetParameter())
    net.layers[0].blobs.append(array_to_blob([[1, 2]]))
    old, new = tmp_path / "old.caffemodel", tmp_path / "new.caffemodel"
    old.write_bytes(net.SerializeToString())
    assert call(old, new) == 0
    upgraded = caffe_pb2.NetParameter.FromString(new.read_bytes())
    assert not upgraded.layers and upgraded.layer[0].param[0].lr_mult == 2
    assert read_weights(new)["c"][0].tolist() == [[1, 2]]
    assert capsys.readouterr().out == f"{new}: a net of 1 layer, binary\n"


def test_solver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text('net: "a.prototxt" base_lr: 0.1 solver_type: ADAM # x')
    assert call(old, new) == 0
    assert new.read_text() == 'base_lr: 0.1\nnet: "a.prototxt"\ntype: "Adam"\n'
    assert capsys.readouterr().out == f"{new}: a solver, text\n"


def test_notes_and_dialects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, schema = tmp_path / "old", tmp_path / "new", tmp_path / "my.proto"
    old.write_text('layers { layer { name: "r" type: "relu" kernelsize: 3 } }')
    assert call(old, new) == 0
    assert capsys.readouterr().err.startswith(f'note: {old}:1: layer "r" (relu): the setting "kernelsize" has no use')
    old.write_text('layer { type: "My" my_param { x: 3 } }')
    assert call(old, new) == 1
    assert "give the fork's own" in capsys.readouterr().err
    schema.write_text('import "caffe.proto"; extend LayerParameter { optional My my_param = 999; } message My { optional int32 x = 1; }')
    assert call("--dialect", schema, old, new) == 0
    assert "my_param" in new.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"layer { ", '1:8: Expected "}"'),
        (b"layers { } layer { }", "two formats"),
        (b'type: "SGD" solver_type: SGD base_lr: 1', "both `type` and `solver_type`"),
        (b"\x89HDF\r\n\x1a\n", "there is nothing to upgrade"),
        (b"\x0a\x05\x01", "is not a NetParameter"),
        (b"\x89PNG\r\n\x1a\n", "looks like a PNG image"),
    ],
)
def test_bad_input_gives_one_line_and_no_file(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    if content is not None:
        old.write_bytes(content)
    assert call(old, tmp_path / "new") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {old}") and message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()
