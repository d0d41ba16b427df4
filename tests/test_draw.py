"""The network's picture: what becomes a box, what an arrow, and that the layout is one that can be read."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycaffe_compat import draw
from pycaffe_compat.errors import CaffeError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import parse_net, read_net


def conv(name: str, bottom: str, settings: str = "num_output: 4 kernel_size: 3") -> str:
    top = f'name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"'
    return f"layer {{ {top} convolution_param {{ {settings} }} }}"


INPUT = (
    'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }'
)


def relu(name: str, blob: str) -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{blob}" top: "{blob}" }}'


def names(diagram: draw.Diagram) -> list[tuple[str, str, str]]:
    return [(diagram.boxes[a.source].name, diagram.boxes[a.target].name, a.label) for a in diagram.arrows]


def test_in_place_layers_are_folded() -> None:
    net = parse_net(INPUT + conv("c1", "data") + relu("r1", "c1") + conv("c2", "c1")).param
    diagram = draw.build_diagram(net)
    assert [box.lines for box in diagram.boxes] == [
        ["data", "Input 1×3×8×8"],
        ["c1", "Convolution", "3×3, 4 channels", "+ ReLU"],
        ["c2", "Convolution", "3×3, 4 channels"],
    ]
    assert names(diagram) == [("data", "c1", ""), ("c1", "c2", "")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_output: 1 kernel_size: 5", ["5×5", "1 channel"]),
        (
            "num_output: 8 kernel_h: 3 kernel_w: 5 pad: 1 stride: 2",
            ["3×5", "8 channels", "stride 2", "pad 1"],
        ),
        ("num_output: 8 kernel_size: 3 stride_h: 2", ["3×3", "8 channels", "stride 2×1"]),
        ("num_output: 8 kernel_size: 3 pad_h: 1 group: 2", ["3×3", "8 channels", "pad 1×0", "2 groups"]),
        ("num_output: 8 kernel_size: 3 dilation: 2", ["3×3", "8 channels", "dilation 2"]),
    ],
)
def test_convolution_settings(text: str, words: list[str]) -> None:
    layer = parse_net(conv("c", "data", text)).param.layer[0]
    assert draw.layer_settings(layer) == words
    assert draw.get_layer_label(layer) == "\n".join(["c", "(Convolution)", *words])
    assert draw.get_layer_label(layer, "TB") == " ".join(["c", "(Convolution)", *words])
    assert draw.get_edge_label(layer) == words[1].split()[0]


def test_more_of_pycaffes_names() -> None:
    layer = parse_net(conv("c", "data", "num_output: 1")).param.layer[0]
    assert draw.get_layer_lr_mult(layer) == (1, 1)
    layer.param.add(lr_mult=3)
    assert draw.get_layer_lr_mult(layer) == (3, 1)
    assert draw.get_layer_label(layer, display_lrm=True).endswith("lr_mult 3, decay_mult 1")
    pooling = parse_net('layer { name: "p" type: "Pooling" bottom: "data" top: "p" }').param.layer[0]
    assert draw.get_edge_label(pooling) == '""'
    with pytest.raises(ValueError, match="Pooling layers have no weights"):
        draw.get_layer_lr_mult(pooling)
    assert draw.get_pooling_types_dict() == {0: "MAX", 1: "AVE", 2: "STOCHASTIC"}
    assert draw.BLOB_STYLE["shape"] == "octagon"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('type: "Eltwise" eltwise_param { coeff: 1 coeff: -1 }', ["SUM", "coeff 1, -1"]),
        ('type: "Power" power_param { scale: 2 shift: -0.5 }', ["2·x − 0.5"]),
        ('type: "Power" power_param { power: 2 }', ["(x)^2"]),
        ('type: "Crop" crop_param { offset: 3 offset: 3 }', ["offset 3"]),
        ('type: "Pooling" pooling_param { pool: AVE kernel_size: 2 stride: 2 }', ["AVE", "2×2", "stride 2"]),
        ('type: "Pooling" pooling_param { global_pooling: true }', ["MAX", "global"]),
        ('type: "EuclideanLoss" loss_weight: 0.5', ["weight 0.5"]),
        ('type: "EuclideanLoss" loss_weight: 1', []),
        ('type: "InnerProduct" inner_product_param { num_output: 10 }', ["10 outputs"]),
        ('type: "Python" python_param { module: "m" layer: "L" }', ["m.L"]),
        ('type: "Unheard"', []),
    ],
)
def test_layer_settings(text: str, words: list[str]) -> None:
    assert draw.layer_settings(parse_net(f'layer {{ name: "x" {text} }}').param.layer[0]) == words


def test_l8_has_its_skips(golden: Path) -> None:
    """The paper's L8: 8 convolutions, and the first one's activations reach both concatenations."""
    diagram = draw.build_diagram(read_net(golden / "solvers" / "L8_net.prototxt").param)
    assert [b.name for b in diagram.boxes if b.type == "Convolution"] == [f"conv{i}" for i in range(1, 9)]
    arrows = names(diagram)
    assert {
        ("conv1", "crop1", ""),
        ("conv1", "crop2", ""),
        ("crop1", "cat1", ""),
        ("crop2", "cat2", ""),
    } <= set(arrows)
    assert ("data", "conv1", "data") in arrows and ("data", "loss", "label") in arrows


def test_layers_of_two_phases() -> None:
    """Train and test data both feed the net; a layer of one phase has no arrow from the other's."""
    text = "".join(
        f'layer {{ name: "data" type: "HDF5Data" top: "data" top: "label" include {{ phase: {phase} }} }}'
        for phase in ("TRAIN", "TEST")
    )
    text += conv("c", "data")
    text += 'layer { name: "acc" type: "Accuracy" bottom: "c" bottom: "label" include { phase: TEST } }'
    net = parse_net(text).param
    diagram = draw.build_diagram(net)
    assert [(a.source, a.target) for a in diagram.arrows] == [(0, 2), (1, 2), (2, 3), (1, 3)]
    assert [box.lines[-1] for box in diagram.boxes] == [
        "only TRAIN",
        "only TEST",
        "3×3, 4 channels",
        "only TEST",
    ]
    train = draw.draw_net(net, ext="dot", phase=caffe_pb2.TRAIN).decode()
    assert train.count("fillcolor=") == 2 and "TRAIN" not in train  # chosen by phase: no need to say so
    assert len(net.layer) == 4  # the caller's message is left alone


def test_stages() -> None:
    text = 'layer { name: "s" type: "Silence" bottom: "data" exclude { stage: "deploy" } }'
    rule = 'include { not_stage: "deploy" min_level: 2 }'
    text += f'layer {{ name: "t" type: "TanH" bottom: "data" top: "t" {rule} }}'
    diagram = draw.build_diagram(parse_net(INPUT + text).param)
    assert [box.lines[-1] for box in diagram.boxes[1:]] == ["not deploy", "not deploy, level ≥ 2"]


def test_nothing_to_draw() -> None:
    with pytest.raises(CaffeError, match="net 'x' has no layers to draw"):
        draw.build_diagram(caffe_pb2.NetParameter(name="x"))


def test_legacy_inputs() -> None:
    net = caffe_pb2.NetParameter(input=["data"], input_dim=[1, 3, 8, 8])
    net.layer.add(name="t", type="TanH", bottom=["data"], top=["t"])
    diagram = draw.build_diagram(net)
    assert diagram.boxes[0].lines == ["data", "Input 1×3×8×8"]
    assert names(diagram) == [("data", "t", "")]


NETS = ["solvers/L8_net", "solvers/cls_net", "nets/googlenet_d/net", "nets/resnet_d/net", "nets/fcn_d/net"]


def check_layout(diagram: draw.Diagram, rankdir: str) -> None:
    """Boxes neither overlap nor leave the picture, arrows lead forward, from border to border."""
    layout = draw.lay_out(diagram, rankdir)
    low, high = layout.centres - layout.sizes / 2, layout.centres + layout.sizes / 2
    assert (low > -1e-6).all() and (high <= np.array([layout.width, layout.height]) + 1e-6).all()
    for i, j in itertools.combinations(range(len(diagram.boxes)), 2):
        apart = (low[i] - high[j] > 0.05) | (low[j] - high[i] > 0.05)
        assert apart.any(), (diagram.boxes[i].name, diagram.boxes[j].name)
    axis, sign = {"TB": (1, 1), "BT": (1, -1), "LR": (0, 1), "RL": (0, -1)}[rankdir]
    for path, arrow in zip(layout.paths, diagram.arrows, strict=True):
        assert (sign * np.diff(path[:, axis]) > -1e-9).all()
        for point, box in ((path[0], arrow.source), (path[-1], arrow.target)):
            assert (point >= low[box] - 1e-6).all() and (point <= high[box] + 1e-6).all()
        # Points in between stay clear of the boxes it passes.
        for point in path[2:-2]:
            inside = ((point > low + 1e-6) & (point < high - 1e-6)).all(axis=1)
            assert not inside.any()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rankdir", ["TB", "LR"])
def test_layout_of_known_nets(golden: Path, name: str, rankdir: str) -> None:
    check_layout(draw.build_diagram(read_net(golden / f"{name}.prototxt").param), rankdir)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=0, max_size=3), min_size=1, max_size=14),
    st.sampled_from(["TB", "BT", "LR", "RL"]),
)
def test_layout_of_any_net(bottoms: list[list[int]], rankdir: str) -> None:
    """Whatever the wiring (layer i reads any earlier ones), the layout holds."""
    net = caffe_pb2.NetParameter()
    for i, wanted in enumerate(bottoms):
        sources = [f"b{b % i}" for b in wanted] if i else []
        net.layer.add(name=f"b{i}", type="Concat" if sources else "DummyData", bottom=sources, top=[f"b{i}"])
    check_layout(draw.build_diagram(net), rankdir)


def test_no_needless_crossings(golden: Path) -> None:
    """GoogLeNet's and ResNet's graphs are planar, and so are their pictures."""
    for name in ("nets/googlenet_d/net", "nets/resnet_d/net", "solvers/L8_net"):
        diagram = draw.build_diagram(read_net(golden / f"{name}.prototxt").param)
        ranks = draw._ranks(len(diagram.boxes), diagram.arrows)
        graph = draw._Layered(ranks, diagram.arrows, np.ones(len(diagram.boxes)))
        graph.reduce_crossings()
        assert graph.crossings(graph.order) == 0, name


def test_chain_is_a_straight_line() -> None:
    text = INPUT + "".join(conv(f"c{i}", f"c{i - 1}" if i else "data") for i in range(6))
    layout = draw.lay_out(draw.build_diagram(parse_net(text).param))
    assert np.ptp(layout.centres[:, 0]) < 1e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0.1, 5)), min_size=1, max_size=8))
def test_isotonic_is_the_nearest(pairs: list[tuple[float, float]]) -> None:
    """No sorted sequence near the answer is nearer: the optimum of a convex problem."""
    wanted, weights = (np.array(column) for column in zip(*pairs, strict=True))
    found = draw._isotonic(wanted, weights)
    assert (np.diff(found) >= -1e-12).all()
    cost = float(np.sum(weights * (found - wanted) ** 2))
    rng = np.random.default_rng(0)
    for size in (1e-3, 0.1, 1.0):
        other = np.sort(found + rng.normal(0, size, len(found)))
        assert float(np.sum(weights * (other - wanted) ** 2)) >= cost - 1e-9


def test_files(golden: Path, tmp_path: Path) -> None:
    """Every format, by pycaffe's function; the same net gives the same bytes."""
    net = read_net(golden / "solvers" / "L4_net.prototxt").param
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "dot": b"digraph", "gv": b"digraph"}
    for suffix, start in starts.items():
        path = tmp_path / f"net.{suffix}"
        draw.draw_net_to_file(net, path)
        first = path.read_bytes()
        assert first.startswith(start)
        draw.draw_net_to_file(net, path)
        assert path.read_bytes() == first
    assert draw.draw_net(net, ext="png").startswith(starts["png"])
    for bad in ("net.bmp", "net"):
        with pytest.raises(CaffeError, match="must end in"):
            draw.draw_net_to_file(net, tmp_path / bad)


def test_dot_quotes() -> None:
    net = caffe_pb2.NetParameter(name='a "b" \\')
    net.layer.add(name='l "x"', type="Input", top=["data"])
    text = draw.to_dot(draw.build_diagram(net), "LR")
    assert (
        'digraph "a \\"b\\" \\\\" {' in text and 'label="l \\"x\\"\\nInput"' in text and "rankdir=LR" in text
    )


def test_names_with_dollars_are_not_formulas(tmp_path: Path) -> None:
    net = caffe_pb2.NetParameter(name="n")
    net.layer.add(name="a$b_c$", type="Input", top=["x$^"])
    net.layer.add(name="t", type="TanH", bottom=["x$^"], top=["t"])
    draw.draw_net_to_file(net, tmp_path / "net.png")
    assert (tmp_path / "net.png").stat().st_size > 1000
