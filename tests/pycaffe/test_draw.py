"""draw as Caffe's test_draw.py has it: every net at hand becomes a picture; see conftest.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

from pycaffe_compat import draw
from pycaffe_compat.proto import caffe_pb2

NETS = sorted(path for path in Path(__file__).parents[2].glob("prototxt/*.prototxt") if "solver" not in path.name)


def read(path: Path) -> caffe_pb2.NetParameter:
    return text_format.Merge(path.read_text(), caffe_pb2.NetParameter())


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_draw_net(path: Path) -> None:
    assert draw.draw_net(read(path), "LR").startswith(b"\x89PNG")


def test_a_graph_by_pydots_names(tmp_path: Path) -> None:
    net = read(NETS[0])
    graph = draw.get_pydot_graph(net, "TB", label_edges=False, phase=caffe_pb2.TEST, display_lrm=True)
    assert graph.to_string().startswith("digraph")
    assert graph.create(format="svg").lstrip().startswith(b"<?xml")
    graph.write(tmp_path / "net.dot")
    assert (tmp_path / "net.dot").read_text() == graph.to_string()
    graph.write_png(tmp_path / "net.png")
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    for name, begin in (("file.png", b"\x89PNG"), ("file.jpg", b"\xff\xd8"), ("file.raw", b"digraph")):
        draw.draw_net_to_file(net, str(tmp_path / name), "BT", display_lrm=True)
        assert (tmp_path / name).read_bytes().startswith(begin)
