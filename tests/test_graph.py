"""The builder: filtering, splits, sharing, where gradients go, and that the result is an ordinary module."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from pycaffe_compat import NetError, WeightsError
from pycaffe_compat.graph import TEST, TRAIN, Graph, share_parameters
from pycaffe_compat.proto.text import parse_net
from pycaffe_compat.weights import read_weights, write_weights

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n'


def conv(name: str, bottom: str, extra: str = "", n: int = 3) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {extra} convolution_param {{ '
        f'num_output: {n} kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}\n'
    )


def loss(a: str, b: str, extra: str = "") -> str:
    return f'layer {{ name: "loss" type: "EuclideanLoss" bottom: "{a}" bottom: "{b}" top: "loss" {extra} }}\n'


def graph(text: str, phase: int | None = None, **state: object) -> Graph:
    return Graph(parse_net(text, "net.prototxt"), phase, **state)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize(
    ("rule", "phase", "level", "stages", "there"),
    [
        ("include { phase: TRAIN }", TRAIN, 0, [], True),
        ("include { phase: TRAIN }", TEST, 0, [], False),
        ("exclude { phase: TRAIN }", TEST, 0, [], True),
        ("include { phase: TRAIN } include { phase: TEST }", TEST, 0, [], True),
        ("include { min_level: 2 }", TEST, 2, [], True),
        ("include { min_level: 2 }", TEST, 1, [], False),
        ("include { max_level: 2 }", TEST, 3, [], False),
        ('include { stage: "a" stage: "b" }', TEST, 0, ["a"], False),
        ('include { stage: "a" stage: "b" }', TEST, 0, ["b", "a"], True),
        ('include { not_stage: "a" }', TEST, 0, ["a"], False),
        ('exclude { stage: "a" phase: TRAIN }', TEST, 0, ["a"], True),
        ('exclude { stage: "a" phase: TEST }', TEST, 0, ["a"], False),
        ("", TEST, 0, [], True),
    ],
)
def test_a_layer_stays_as_its_rules_say(rule: str, phase: int, level: int, stages: list[str], there: bool) -> None:
    net = graph(
        INPUT + f'layer {{ name: "op" type: "ReLU" bottom: "x" top: "y" {rule} }}', phase, level=level, stages=stages
    )
    assert ("op" in [node.name for node in net.nodes]) == there


def test_include_and_exclude_together_are_an_error() -> None:
    with pytest.raises(NetError, match='net.prototxt:2: layer "op" has both include and exclude'):
        graph(INPUT + 'layer { name: "op" type: "ReLU" bottom: "x" top: "y" include { } exclude { } }', TEST)


# --------------------------------------------------------------------------------------------------------- splits


def test_a_blob_with_two_readers_is_split_under_caffes_names() -> None:
    net = graph(
        INPUT + conv("conv", "x") + 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }'
        'layer { name: "a" type: "ReLU" bottom: "conv" top: "a" } layer { name: "b" type: "TanH" bottom: "conv" top: "b" }'
    )
    assert [node.name for node in net.nodes] == ["in", "conv", "relu", "conv_relu_0_split", "a", "b"]
    assert net.nodes[3].tops == ["conv_relu_0_split_0", "conv_relu_0_split_1"]
    assert net.nodes[4].bottoms == ["conv_relu_0_split_0"]
    assert net.outputs == ["a", "b"]


def test_a_loss_weight_on_a_blob_that_is_read_moves_to_the_splits_first_top() -> None:
    net = graph(
        INPUT + 'layer { name: "a" type: "Sigmoid" bottom: "x" top: "a" loss_weight: 2 }'
        'layer { name: "b" type: "TanH" bottom: "a" top: "b" }'
    )
    assert net.loss_weights == {"a_a_0_split_0": 2.0}
    assert net.nodes[-1].bottoms == ["a_a_0_split_1"]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net.loss(net.run(x)), 2 * torch.sigmoid(x).sum())


def test_in_place_rebinds_the_name_for_later_readers() -> None:
    net = graph(
        INPUT + conv("conv", "x") + 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }'
        'layer { name: "id" type: "Power" bottom: "conv" top: "y" }'
    )
    blobs = net.run(torch.randn(2, 3, 8, 8))
    assert (blobs["y"] >= 0).all()
    assert blobs["conv"].data_ptr() == blobs["y"].data_ptr()


def test_a_blob_changed_in_place_last_is_an_output() -> None:
    net = graph(INPUT + conv("conv", "x") + 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }')
    assert net.outputs == ["conv"]
    assert (net(torch.randn(2, 3, 8, 8))["conv"] >= 0).all()


def test_a_layers_own_phase_goes_before_the_nets() -> None:
    drop = 'layer {{ name: "{0}" type: "Dropout" bottom: "x" top: "{0}" {1} }}'
    net = graph(INPUT + drop.format("net", "") + drop.format("own", "phase: TEST"), TRAIN)
    out = net(torch.ones(2, 3, 8, 8))
    assert (out["own"] == 1).all() and not (out["net"] == 1).any()


# -------------------------------------------------------------------------------------------------------- sharing

A = 'param { name: "w" lr_mult: 3 } param { name: "b" }'


def test_the_first_layer_owns_a_shared_parameter() -> None:
    net = graph(INPUT + conv("c1", "x", A) + conv("c2", "c1", 'param { name: "w" } param { name: "b" }'))
    assert net.params["c1"][0] is net.params["c2"][0]
    assert [(p.layer, p.index, p.lr_mult) for p in net.learnable] == [("c1", 0, 3.0), ("c1", 1, 1.0)]
    x = torch.randn(2, 3, 8, 8)
    net(x)["c2"].sum().backward()
    w, b = net.params["c1"]
    want = torch.autograd.grad(torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, w, b), w, b).sum(), [w, b])
    torch.testing.assert_close(w.grad, want[0])
    torch.testing.assert_close(b.grad, want[1])


def test_permissive_sharing_asks_for_the_count_only() -> None:
    one = 'param { name: "w" } convolution_param { bias_term: false }'
    text = (
        INPUT
        + conv("c1", "x", one, n=6)
        + (
            'layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" param { name: "w" share_mode: PERMISSIVE } '
            "convolution_param { num_output: 3 kernel_size: 3 bias_term: false } }"
        )
    )
    net = graph(
        text.replace("kernel_size: 3 weight", "kernel_size: 3 bias_term: false weight").replace(
            "convolution_param { bias_term: false }", ""
        )
    )
    assert len(net.learnable) == 1
    x = torch.randn(2, 3, 8, 8)
    w = net.learnable[0].parameter
    want = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, w), w.view(3, 6, 3, 3))
    torch.testing.assert_close(net(x)["c2"], want)
    want.sum().backward()
    grad = w.grad.clone()
    w.grad = None
    net(x)["c2"].sum().backward()
    torch.testing.assert_close(w.grad, grad)


@pytest.mark.parametrize(
    ("second", "n", "message"),
    [
        ('param { name: "w" }', 4, 'param "w": shape 4x3x3x3 does not fit 3x3x3x3 of its owner, layer "c1"'),
        ('param { name: "w" lr_mult: 2 }', 3, 'param "w": lr_mult 2 differs from 3 of its owner, layer "c1"'),
        ("param { } param { } param { }", 3, "has 3 param blocks for 2 parameter blobs"),
    ],
)
def test_sharing_that_cannot_work_says_why(second: str, n: int, message: str) -> None:
    with pytest.raises(NetError) as error:
        graph(INPUT + conv("c1", "x", A) + conv("c2", "c1", second, n))
    assert message in str(error.value)
    assert 'net.prototxt:3: layer "c2" (Convolution)' in str(error.value)


# ------------------------------------------------------------------------------------------------------- gradients


def test_lr_mult_zero_stops_a_parameters_gradient_and_what_leads_only_there() -> None:
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    net = graph(
        INPUT
        + conv("c1", "x", frozen)
        + conv("c2", "c1")
        + conv("t", "x", frozen)
        + conv("t2", "t", frozen)
        + loss("c2", "t2")
    )
    net.loss(net.run(torch.randn(2, 3, 8, 8))).backward()
    got = {name: [b.grad is not None for b in blobs] for name, blobs in net.params.items()}
    assert got == {"c1": [False] * 2, "c2": [True] * 2, "t": [False] * 2, "t2": [False] * 2}
    assert [n.name for n in net.nodes if n.need_backward] == ["c2", "loss"]


def test_a_negative_lr_mult_is_gradient_ascent() -> None:
    net = graph(INPUT + conv("c1", "x", "param { lr_mult: -1 decay_mult: -2 }"))
    assert [(p.lr_mult, p.decay_mult) for p in net.learnable] == [(-1, -2), (1, 1)]


def test_propagate_down_false_cuts_the_gradient() -> None:
    cut = 'layer { name: "id" type: "Power" bottom: "c1" top: "id" propagate_down: false }'
    net = graph(INPUT + conv("c1", "x") + cut + conv("c2", "id") + conv("t", "x") + conv("t2", "t") + loss("c2", "t2"))
    net.loss(net.run(torch.randn(2, 3, 8, 8))).backward()
    assert net.params["c1"][0].grad is None
    assert net.params["c2"][0].grad is not None


def test_a_branch_without_a_loss_needs_no_backward() -> None:
    net = graph(INPUT + conv("c1", "x") + conv("side", "x") + conv("t", "x") + loss("c1", "t"))
    assert not next(n for n in net.nodes if n.name == "side").need_backward


def test_a_loss_whose_top_the_file_leaves_out_counts_and_is_no_output() -> None:
    """As nets of 2014 write it: the top is made, under Caffe's name for it."""
    two = loss("c1", "t") + loss("c1", "t").replace('"loss"', '"loss2"')
    named = graph(INPUT + conv("c1", "x") + conv("t", "x") + two)
    net = graph(INPUT + conv("c1", "x") + conv("t", "x") + two.replace('top: "loss"', "").replace('top: "loss2"', ""))
    net.load_weights(named.weights())
    assert net.loss_weights == {"(automatic)": 1.0, "(automatic)_": 1.0}
    assert net.outputs == [] and named.outputs == ["loss", "loss2"]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net.loss(net.run(x)), named.loss(named.run(x)))
    assert all(node.need_backward for node in net.nodes if node.type == "EuclideanLoss")


LEARNED = """layer { name: "in" type: "Input" top: "x" top: "y" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "s" type: "InnerProduct" bottom: "x" top: "s" inner_product_param { num_output: 3 } }
layer { name: "c" type: "InnerProduct" bottom: "x" top: "c" inner_product_param { num_output: 3 } }
layer { name: "l" type: "Parameter" top: "l" parameter_param { shape { dim: 2 } } }
layer { name: "h" type: "Parameter" top: "h" parameter_param { shape { dim: 3 dim: 3 } } }
"""
"""Learned blobs of all shapes that the layers below want, and data x and y."""


def on(kind: str, bottoms: str, settings: str = "", reader: str = "") -> str:
    """A layer on line 6, its top part of the loss through a reader."""
    names = " ".join(f'bottom: "{name}"' for name in bottoms)
    return (
        f'{LEARNED}layer {{ name: "op" type: "{kind}" {names} top: "z" {settings} }}'
        f'layer {{ name: "sum" type: "Reduction" bottom: "z" top: "sum" loss_weight: 1 {reader} }}'
    )


REFUSED = [
    ("SoftmaxWithLoss", "sl", "", "l"),
    ("SoftmaxWithLoss", "sy", "propagate_down: true propagate_down: true", "y"),  # asked for in so many words
    ("HingeLoss", "sl", "", "l"),
    ("MultinomialLogisticLoss", "sl", "", "l"),
    ("SigmoidCrossEntropyLoss", "sc", "", "c"),
    ("InfogainLoss", "syh", "", "h"),
    ("BatchReindex", "sl", "", "l"),
    ("Filter", "sl", "", "l"),
    ("LSTM", "xc", "recurrent_param { num_output: 1 }", "c"),
    ("RNN", "xc", "recurrent_param { num_output: 1 }", "c"),
    ("Embed", "s", "embed_param { input_dim: 9 num_output: 1 }", "s"),
    ("Threshold", "s", "", "s"),
    ("ArgMax", "s", "", "s"),
    ("Accuracy", "sy", "", "s"),
]


@pytest.mark.parametrize(("kind", "bottoms", "settings", "which"), REFUSED)
def test_training_through_what_gives_no_gradient_is_refused(kind: str, bottoms: str, settings: str, which: str) -> None:
    """Where the original stops in backward. What is learned below would never change."""
    text = on(kind, bottoms, settings)
    with pytest.raises(NetError) as error:
        graph(text, TRAIN)
    advice = "for it" if kind not in ("Threshold", "ArgMax", "Accuracy") else 'where "z" is read'
    assert str(error.value) == (
        f'net.prototxt:6: layer "op" ({kind}): training needs a gradient for bottom "{which}", and {kind} gives it none: '
        f"say propagate_down: false {advice}"
    )
    assert graph(text, TEST).nodes
    if advice == "for it":
        flags = " ".join(f"propagate_down: {str(b not in (which, 'y')).lower()}" for b in bottoms)
        text = on(kind, bottoms, settings.replace("propagate_down: true", "") + flags)
    else:
        text = on(kind, bottoms, settings, "propagate_down: false")
    graph(text, TRAIN)


@pytest.mark.parametrize(
    ("kind", "bottoms"),
    [("EuclideanLoss", "sc"), ("SoftmaxWithLoss", "sy"), ("Crop", "sc"), ("Threshold", "x"), ("BatchReindex", "sy")],
)
def test_what_trains_in_the_original_is_not_refused(kind: str, bottoms: str) -> None:
    settings = "crop_param { axis: 0 }" if kind == "Crop" else ""
    for force in ("", "force_backward: true "):
        graph(on(kind, bottoms, settings).rstrip() + force, TRAIN)


READ = 'layer {{ name: "r" type: "{}" bottom: "loss" top: "r" {} }}'


@pytest.mark.parametrize(
    ("weight", "reader", "value", "gradient"),
    [
        ("", "", 1, 1),
        ("loss_weight: 3", "", 3, 3),
        # The weight moves to the Split, whose gradient takes the place of the loss's own, of weight 1.
        ("loss_weight: 3", READ.format("Power", ""), 4, 3),
        ("", READ.format("Power", "power_param { scale: 2 } loss_weight: 1"), 3, 2),
        ("", READ.format("Power", "power_param { scale: 2 } loss_weight: 1 propagate_down: false"), 3, 1),
        # Readers that lead to no loss (Caffe trains nothing then).
        ("", 'layer { name: "r" type: "Silence" bottom: "loss" }', 1, 1),
        ("", READ.format("Power", "power_param { scale: 2 }"), 1, 1),
    ],
)
def test_a_loss_that_is_read_counts_with_its_weight_and_trains_with_its_readers(
    weight: str, reader: str, value: float, gradient: float
) -> None:
    text = INPUT + conv("c1", "x") + loss("c1", "x2").replace('bottom: "x2"', 'bottom: "t"')
    text = text.replace('top: "x" ', 'top: "x" top: "t" ').replace("} } }\n", "} shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }\n", 1)
    plain, read = graph(text), graph(text.replace('top: "loss"', f'top: "loss" {weight}') + reader)
    read.load_weights(plain.weights())
    x, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 6, 6)
    objectives = [net.loss(net.run(x, t)) for net in (plain, read)]
    torch.testing.assert_close(objectives[1], objectives[0] * value)
    for objective in objectives:
        objective.backward()
    w, v = (net.params["c1"][0].grad for net in (plain, read))
    torch.testing.assert_close(v, w * gradient)


# -------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (conv("c1", "y"), 'net.prototxt:2: layer "c1" (Convolution): bottom "y" is produced by no layer above'),
        (
            conv("conv1", "x") + conv("c2", "conv11"),
            'bottom "conv11" is produced by no layer above; did you mean "conv1"?',
        ),
        (conv("x", "x"), 'top "x" is also its bottom: Convolution does not work in place'),
        (conv("c", "x") + conv("c", "x"), 'top "c" is produced by a layer above already'),
        ('layer { name: "s" type: "Split" bottom: "x" top: "a" top: "a" }', 'names the top "a" twice'),
        (conv("c", "x", "propagate_down: true propagate_down: true"), "2 propagate_down for 1 bottoms"),
        (conv("c", "x", "loss_weight: 1 loss_weight: 1"), "2 loss_weight for 1 tops"),
        (
            'layer { name: "a" type: "TanH" bottom: "x" top: "a" } layer { name: "b" type: "ReLU" bottom: "a" top: "a" }'
            'layer { name: "c" type: "ReLU" bottom: "x" top: "x" }',
            "a blob with several readers cannot be changed in place",
        ),
    ],
)
def test_a_net_that_cannot_be_built_says_where_and_why(text: str, message: str) -> None:
    with pytest.raises(NetError) as error:
        graph(INPUT + text)
    assert message in str(error.value)
    assert str(error.value).startswith("net.prototxt:")


def test_inputs_are_checked_by_name() -> None:
    net = graph(INPUT + conv("c1", "x"))
    with pytest.raises(NetError, match='input blob "x" is not given'):
        net()
    with pytest.raises(NetError, match='"z" is no input blob'):
        net(torch.zeros(2, 3, 8, 8), z=torch.zeros(1))
    with pytest.raises(NetError, match="2 are given"):
        net(torch.zeros(1), torch.zeros(1))


# --------------------------------------------------------------------------------------------------------- weights


def test_weights_go_by_layer_name_and_must_fit() -> None:
    net = graph(INPUT + conv("c1", "x") + conv("c2", "c1"))
    saved = net.weights()
    other = graph(INPUT + conv("c1", "x") + conv("new", "c1"))
    assert other.load_weights(saved) == ["c1"]
    np.testing.assert_array_equal(other.weights()["c1"][0], saved["c1"][0])
    before = net.weights()
    wrong = {"c1": saved["c1"], "c2": [np.zeros((4, 3, 3, 3), np.float32), saved["c2"][1]]}
    with pytest.raises(
        WeightsError, match=r'layer "c2" .* parameter 0 has shape 3x3x3x3, old.caffemodel holds 4x3x3x3'
    ):
        net.load_weights(wrong, "old.caffemodel")
    np.testing.assert_array_equal(net.weights()["c1"][0], before["c1"][0])
    with pytest.raises(WeightsError, match="has 2 parameter blobs, the weights holds 1"):
        net.load_weights({"c1": saved["c1"][:1]})
    net.load_weights({"c1": [saved["c1"][0], saved["c1"][1].reshape(1, 1, 1, 3)]})  # the old 4-d form of a bias


@pytest.mark.parametrize("suffix", ["caffemodel", "h5"])
def test_a_layer_with_blobs_on_one_side_only_is_an_error(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relu = 'layer { name: "c2" type: "ReLU" bottom: "c1" top: "c2" }'
    learned, fixed = graph(INPUT + conv("c1", "x") + conv("c2", "c1")), graph(INPUT + conv("c1", "x") + relu)
    for net, other, message in ((learned, fixed, "has 0 parameter blobs, .* holds 2"), (fixed, learned, "has 2 .* holds 0")):
        path = tmp_path / f"w.{suffix}"
        write_weights(path, net.param, net.weights())
        with pytest.raises(WeightsError, match=f'layer "c2" .* {message}'):
            other.copy_from(path)
        with pytest.raises(NetError, match='layer "c2" .* other shapes'):
            share_parameters(net, other)
        assert net.copy_from(path) == list(net.params)
    assert graph(INPUT + conv("new", "x")).copy_from(path) == []
    told = [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()]
    assert sorted(told) == ["Ignoring source layer c1", "Ignoring source layer c2"]


def test_blobs_within_a_net_take_the_fillers_place(tmp_path: Path) -> None:
    bias = "blobs { shape { dim: 3 } data: 1 data: 2 data: 3 }"
    weight = f"blobs {{ num: 3 channels: 3 height: 3 width: 3 {'data: 0.5 ' * 81} }}"
    net = graph(INPUT + conv("c1", "x", weight + bias))
    assert (net.weights()["c1"][0] == 0.5).all() and net.weights()["c1"][1].tolist() == [1, 2, 3]
    assert not net.param.layer[1].blobs  # not kept twice
    for blobs, message in (
        (weight, "has 2 parameter blobs, the net file holds 1"),
        (weight + weight, "parameter 1 has shape 3, the net file holds 3x3x3x3"),
        (weight + "blobs { shape { dim: 3 } data: 1 }", "1 value"),
    ):
        with pytest.raises(WeightsError) as error:
            graph(INPUT + conv("c1", "x", blobs))
        assert message in str(error.value)
        assert str(error.value).startswith('net.prototxt:2: layer "c1" (Convolution)')


def test_a_shared_parameter_may_be_missing_under_its_sharers_name(tmp_path: Path) -> None:
    """As HDF5 snapshots hold it: with its owner only."""
    net = graph(INPUT + conv("c1", "x", A) + conv("c2", "c1", 'param { } param { name: "b" }'))
    path = tmp_path / "w.caffemodel.h5"
    write_weights(path, net.param, net.weights())
    saved = net.weights()
    for p in net.parameters():
        p.data.zero_()
    assert net.load_weights(read_weights(path)) == ["c1", "c2"]
    for layer, arrays in net.weights().items():
        for got, want in zip(arrays, saved[layer], strict=True):
            np.testing.assert_array_equal(got, want)


# ------------------------------------------------------------------------------------------- an ordinary nn.Module


@pytest.fixture
def skipped() -> Graph:
    """A small net with all that the paper's networks have: scale, in-place ReLU, skip, one-filter last layer, Eltwise."""
    return graph(
        INPUT + 'layer { name: "s" type: "Power" bottom: "x" top: "s" power_param { scale: 0.5 shift: -0.5 } }'
        + conv("c.1", "s", n=16) + 'layer { name: "r" type: "ReLU" bottom: "c.1" top: "c.1" }' + conv("c2", "c.1", n=8)
        + 'layer { name: "crop" type: "Crop" bottom: "c.1" bottom: "c2" top: "crop" crop_param { offset: 1 } }'
        + 'layer { name: "cat" type: "Concat" bottom: "c2" bottom: "crop" top: "cat" }' + conv("c3", "cat", n=1)
        + 'layer { name: "y" type: "Power" bottom: "c3" top: "y" power_param { scale: 255 } }'
    )  # fmt: skip


def test_state_dict_round_trip_and_to(skipped: Graph) -> None:
    state = {k: v.clone() for k, v in skipped.state_dict().items()}
    assert len(state) == 6
    twin = copy.deepcopy(skipped)
    for p in twin.parameters():
        p.data.zero_()
    twin.load_state_dict(state)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(twin(x)["y"], skipped(x)["y"])
    assert twin.params["c.1"][0] is not skipped.params["c.1"][0]
    wide = twin.to(torch.float64)
    assert wide(x.double())["y"].dtype == torch.float64
    assert wide.learnable[0].parameter is wide.params["c.1"][0]


def test_channels_last_changes_nothing_but_the_memory(skipped: Graph) -> None:
    x = torch.randn(2, 3, 8, 8)
    want, weights = skipped(x)["y"], skipped.weights()
    net = skipped.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x.contiguous(memory_format=torch.channels_last))["y"], want)
    for name, arrays in net.weights().items():
        for got, array in zip(arrays, weights[name], strict=True):
            np.testing.assert_array_equal(got, array)
            assert got.flags.c_contiguous


def test_sizes_other_than_the_built_ones_work(skipped: Graph) -> None:
    assert skipped(torch.randn(1, 3, 20, 11))["y"].shape == (1, 1, 14, 5)


def test_torch_export_computes_the_same(skipped: Graph) -> None:
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(skipped, (x,), strict=False)
        torch.testing.assert_close(program.module()(x)["y"], skipped(x)["y"], rtol=1e-5, atol=1e-3)


def test_torch_compile_computes_the_same(skipped: Graph) -> None:
    compiled = torch.compile(skipped, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(compiled(x)["y"], skipped(x)["y"], rtol=1e-5, atol=1e-3)
    compiled(x)["y"].sum().backward()
    got = [p.grad.clone() for p in skipped.parameters()]
    skipped.zero_grad()
    skipped(x)["y"].sum().backward()
    for a, p in zip(got, skipped.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-4)


def test_autocast_keeps_the_loss_in_float32() -> None:
    net = graph(INPUT + conv("c1", "x") + conv("t", "x") + loss("c1", "t"))
    with torch.autocast("cpu", torch.bfloat16):
        blobs = net.run(torch.randn(2, 3, 8, 8))
        total = net.loss(blobs)
    assert blobs["c1"].dtype == torch.bfloat16
    assert total.dtype == torch.float32


# ---------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            INPUT.replace("dim: 2 dim: 3", "dim: 4000000 dim: 3000000"),
            r'net\.prototxt:1: layer "in" \(Input\): top "x" of shape 4000000x3000000x8x8 takes 2\.7 PiB of memory, there are',
        ),
        (
            INPUT + conv("c", "x", n=2_000_000_000),
            r'net\.prototxt:2: layer "c" \(Convolution\): top "c" of shape 2x2000000000x6x6 takes 536\.4 GiB of memory',
        ),
        (
            INPUT + conv("c", "x", n=2_000_000_000).replace("kernel_size: 3", "kernel_size: 8 dilation: 1"),
            r'layer "c" \(Convolution\): parameter 0 of shape 2000000000x3x8x8 takes 1\.4 TiB of memory',
        ),
        (
            INPUT.replace("dim: 2 dim: 3", "dim: 9000000000000 dim: 9000000000000"),
            r'layer "in" \(Input\): cannot be built: asks for more memory than there can be',
        ),
    ],
)
def test_what_no_machine_has_is_refused_before_it_is_allocated(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pycaffe_compat.graph.physical_memory", lambda: 100 << 30)
    with pytest.raises(NetError, match=message):
        graph(text)


def test_parameters_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pycaffe_compat.graph.physical_memory", lambda: 4000)
    text = INPUT + conv("a", "x") + conv("b", "a", n=2) + conv("c", "b")
    small = text.replace("dim: 2 dim: 3 dim: 8 dim: 8", "dim: 1 dim: 3 dim: 7 dim: 7")
    assert graph(small).learnable
    monkeypatch.setattr("pycaffe_compat.graph.physical_memory", lambda: 600)
    with pytest.raises(NetError, match='layer "b" .*: the parameters up to this layer take 560 bytes|layer "c" .*: the parameters up to this'):
        graph(small)


def test_of_layers_with_one_name_the_first_gets_the_weights() -> None:
    """Names need not differ: each layer has its own parameters, and a file's go to the first of the name."""
    g = graph(INPUT + conv("c", "x").replace('top: "c"', 'top: "y"') + conv("c", "y"))
    first, second = (node.layer.blobs[0] for node in g.nodes[1:])
    before = second.detach().clone()
    g.load_weights({"c": [np.full((3, 3, 3, 3), 2, np.float32), np.zeros(3, np.float32)]})
    assert (first == 2).all() and torch.equal(second, before)


def test_a_loss_whose_top_the_file_leaves_out_is_no_output() -> None:
    text = (
        'layer { name: "in" type: "Input" top: "x" top: "y" input_param { shape { dim: 2 dim: 3 } } } '
        'layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "y" }'
    )
    graph = Graph(parse_net(text), TRAIN)
    assert graph.outputs == []
    assert graph(torch.ones(2, 3), torch.ones(2, 3)) == {}
