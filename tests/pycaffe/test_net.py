"""Net as Caffe's test_net.py has it, then what it does not test; see conftest.py."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pycaffe_compat as caffe
from pycaffe_compat import NetError
from pycaffe_compat.graph import Graph
from pycaffe_compat.proto.text import parse_net

WriteNet = Callable[[str], str]


@pytest.fixture
def net(classifying_net: str) -> caffe.Net:
    net = caffe.Net(classifying_net, caffe.TRAIN)
    net.blobs["label"].data[...] = np.random.default_rng(0).integers(13, size=net.blobs["label"].data.shape)
    return net


# ---- memory layer_dict forward_backward ... save_hdf5


def test_memory(net: caffe.Net) -> None:
    params = [blob for blobs in net.params.values() for blob in blobs]
    blobs = list(net.blobs.values())
    net.forward()
    arrays = [array for blob in params + blobs for array in (blob.data, blob.diff)]
    sums = [array.sum() for array in arrays]
    del net, params, blobs
    assert [array.sum() for array in arrays] == sums


def test_layer_dict(net: caffe.Net) -> None:
    assert list(net.layer_dict) == list(net._layer_names) == ["data", "conv", "ip", "loss"]
    for name, layer, kind in zip(net._layer_names, net.layers, "DummyData Convolution InnerProduct SoftmaxWithLoss".split(), strict=True):
        assert net.layer_dict[name] is layer
        assert layer.type == kind


def test_forward_backward(net: caffe.Net) -> None:
    net.forward()
    net.backward()
    logits = net.blobs["ip_blob"].data.astype(np.float64)
    label = net.blobs["label"].data.astype(int).ravel()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(np.maximum(p[range(5), label], np.finfo(np.float32).tiny)).mean()
    np.testing.assert_allclose(net.blobs["loss"].data, loss, rtol=1e-5)
    assert label.any(), "what the script wrote into the labels must stay"
    p[range(5), label] -= 1
    np.testing.assert_allclose(net.blobs["ip_blob"].diff, p / 5, rtol=1e-4, atol=1e-6)


def test_forward_start_end(net: caffe.Net) -> None:
    conv = net.blobs["conv"]
    conv.data[...] = np.random.default_rng(1).random(conv.data.shape)
    out = net.forward(start="ip", end="ip")
    assert list(out) == ["ip_blob"]
    weight, bias = (blob.data for blob in net.params["ip"])
    np.testing.assert_allclose(net.blobs["ip_blob"].data, conv.data.reshape(5, -1) @ weight.T + bias, rtol=1e-3, atol=1e-5)


def test_backward_start_end(net: caffe.Net) -> None:
    # No forward before: the gradient by the bottom needs the weights alone.
    ip = net.blobs["ip_blob"]
    ip.diff[...] = np.random.default_rng(2).random(ip.data.shape)
    out = net.backward(start="ip", end="ip")
    assert list(out) == ["conv"]
    want = (ip.diff @ net.params["ip"][0].data).reshape(net.blobs["conv"].data.shape)
    np.testing.assert_allclose(net.blobs["conv"].diff, want, rtol=1e-3, atol=1e-5)


def test_clear_param_diffs(net: caffe.Net) -> None:
    net.forward()
    net.backward()
    diff = net.params["conv"][0].diff
    assert diff.max() > 0
    net.clear_param_diffs()
    assert (diff == 0).all()


def test_inputs_outputs(net: caffe.Net) -> None:
    assert net.inputs == []
    assert net.outputs == ["loss"]


def test_top_bottom_names(net: caffe.Net) -> None:
    assert net.top_names == OrderedDict(data=["data", "label"], conv=["conv"], ip=["ip_blob"], loss=["loss"])
    assert net.bottom_names == OrderedDict(data=[], conv=["data"], ip=["conv"], loss=["ip_blob", "label"])


def test_save_and_read(net: caffe.Net, classifying_net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(tmp_path / "weights")
    net.save(weights)
    assert not Path(weights).read_bytes().startswith(b"\x89HDF")
    capsys.readouterr()
    old = caffe.Net(classifying_net, weights, caffe.TRAIN)
    assert "is the old order" in capsys.readouterr().err
    new = caffe.Net(classifying_net, caffe.TRAIN, weights=weights)
    assert_same_parameters(net, old, new)


def test_save_hdf5(net: caffe.Net, classifying_net: str, tmp_path: Path) -> None:
    weights = str(tmp_path / "weights")  # no suffix
    net.save_hdf5(weights)
    assert Path(weights).read_bytes().startswith(b"\x89HDF")
    other = caffe.Net(classifying_net, caffe.TRAIN)
    other.load_hdf5(weights)
    assert_same_parameters(net, other)


def assert_same_parameters(net: caffe.Net, *others: caffe.Net) -> None:
    for other, name in itertools.product(others, net.params):
        for mine, theirs in zip(net.params[name], other.params[name], strict=True):
            np.testing.assert_array_equal(mine.data, theirs.data)


# ---- levels, stages, all in one


def data(name: str, top: str, rule: str = "") -> str:
    return f'layer {{ name: "{name}" type: "Input" top: "{top}" input_param {{ shape {{ dim: 1 dim: 1 dim: 10 dim: 10 }} }} {rule} }}\n'


def op(name: str, rule: str = "", kind: str = "TanH", bottom: str = "data") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {rule} }}\n'


LEVELS = data("in", "data") + op("any") + op("0", "include { min_level: 0 max_level: 0 }")
LEVELS += op("1", "include { min_level: 1 max_level: 1 }") + op(">=0", "include { min_level: 0 }")
LEVELS += op(">=1", "include { min_level: 1 }")
STAGES = data("in", "data") + op("A", 'include { stage: "A" }') + op("B", 'include { stage: "B" }')
STAGES += op("AorB", 'include { stage: "A" } include { stage: "B" }')
STAGES += op("AandB", 'include { stage: "A" stage: "B" }')


def made(net: caffe.Net) -> list[str]:
    return [name for name in net.blobs if "data" not in name]


@pytest.mark.parametrize(
    ("level", "want"),
    [pytest.param(0, ["any", "0", ">=0"], id="test_0"), pytest.param(1, ["any", "1", ">=0", ">=1"], id="test_1")],
)
def test_levels(level: int, want: list[str], write_net: WriteNet) -> None:
    path = write_net(LEVELS)
    assert made(caffe.Net(path, caffe.TEST, level=level)) == want
    if not level:
        assert made(caffe.Net(path, caffe.TEST)) == want


@pytest.mark.parametrize(
    ("stages", "want"),
    [
        pytest.param(["A"], ["A", "AorB"], id="test_A"),
        pytest.param(["B"], ["B", "AorB"], id="test_B"),
        pytest.param(["A", "B"], ["A", "B", "AorB", "AandB"], id="test_AandB"),
    ],
)
def test_stages(stages: list[str], want: list[str], write_net: WriteNet) -> None:
    assert made(caffe.Net(write_net(STAGES), caffe.TEST, stages=stages)) == want


ALL_IN_ONE = data("t", "data", 'include { phase: TRAIN stage: "train" }') + data("v", "data", 'include { phase: TEST stage: "val" }')
ALL_IN_ONE += data("d", "data", 'include { phase: TEST stage: "deploy" }') + op("ip")
ALL_IN_ONE += 'layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "data" top: "loss" '
ALL_IN_ONE += 'include { phase: TRAIN stage: "train" } include { phase: TEST stage: "val" } }'
ALL_IN_ONE += op("pred", 'include { phase: TEST stage: "deploy" }', "Sigmoid", "ip")


@pytest.mark.parametrize(
    ("phase", "stage", "outputs"),
    [
        pytest.param(caffe.TRAIN, "train", ["loss"], id="test_train"),
        pytest.param(caffe.TEST, "val", ["loss"], id="test_val"),
        pytest.param(caffe.TEST, "deploy", ["pred"], id="test_deploy"),
    ],
)
def test_all_in_one(phase: int, stage: str, outputs: list[str], write_net: WriteNet) -> None:
    net = caffe.Net(write_net(ALL_IN_ONE), phase, stages=[stage])
    assert list(net.blobs["data"].shape) == [1, 1, 10, 10]
    assert net.outputs == outputs


# ---- further: blobs

SMALL = data("in", "data") + """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "sig" type: "Sigmoid" bottom: "conv" top: "conv" }
layer { name: "a" type: "TanH" bottom: "conv" top: "a" }
layer { name: "b" type: "Power" bottom: "conv" top: "b" power_param { scale: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" loss_weight: 3 }
"""


@pytest.fixture
def small(write_net: WriteNet) -> caffe.Net:
    net = caffe.Net(write_net("force_backward: true\n" + SMALL), caffe.TRAIN)
    net.blobs["data"].data[...] = np.random.default_rng(3).standard_normal((1, 1, 10, 10))
    return net


def test_arrays_are_float32_c_ordered_and_stay_the_blobs_memory(small: caffe.Net) -> None:
    held = {name: (blob.data, blob.diff) for name, blob in small.blobs.items()}
    params = [(blob.data, blob.diff) for blobs in small.params.values() for blob in blobs]
    for _ in range(2):
        small.forward()
        small.backward()
    for name, arrays in held.items():
        for array, now in zip(arrays, (small.blobs[name].data, small.blobs[name].diff), strict=True):
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            assert array.flags.writeable
            assert np.shares_memory(array, now)
            assert array.any(), name
    for (data_, diff), blob in zip(params, (b for blobs in small.params.values() for b in blobs), strict=True):
        assert np.shares_memory(data_, blob.data)
        assert np.shares_memory(diff, blob.diff)
    with pytest.raises(AttributeError):
        small.blobs["data"].data = np.zeros(100)  # type: ignore[misc]


def test_looking_at_blobs_does_not_change_what_is_computed(write_net: WriteNet) -> None:
    path = write_net("force_backward: true\n" + SMALL)
    seen, unseen = caffe.Net(path, caffe.TRAIN), caffe.Net(path, caffe.TRAIN)
    unseen.share_with(seen)
    for net in (seen, unseen):
        net.blobs["data"].data[...] = np.linspace(-1, 1, 100).reshape(1, 1, 10, 10)
    for blob in seen.blobs.values():
        blob.data, blob.diff  # noqa: B018
    for _ in range(2):
        results = []
        for net in (seen, unseen):
            net.clear_param_diffs()
            net.forward()
            results.append((net.backward()["data"].copy(), net.params["conv"][0].diff.copy()))
        for mine, other in zip(*results, strict=True):
            np.testing.assert_array_equal(mine, other)
    for name in seen.blobs:
        np.testing.assert_array_equal(seen.blobs[name].data, unseen.blobs[name].data, err_msg=name)


def test_a_loss_blobs_diff_is_its_weight_from_the_start(small: caffe.Net) -> None:
    assert (small.blobs["sum"].diff == 3).all()
    assert small.blob_loss_weights["sum"] == 3
    assert small.blob_loss_weights["a"] == 0
    small.forward()
    loss = small._forward(0, len(small.layers) - 1)
    assert loss == pytest.approx(3 * small.blobs["sum"].data.sum(), rel=1e-5)


def test_a_second_pass_through_the_middle_is_what_backward_sees(small: caffe.Net) -> None:
    small.forward()
    x = np.full_like(small.blobs["conv_sig_0_split_0"].data, 0.25)
    small.blobs["conv_sig_0_split_0"].data[...] = x
    small.forward(start="a", end="a")
    small.blobs["a"].diff[...] = 1
    small.backward(start="a", end="a")
    np.testing.assert_allclose(small.blobs["conv_sig_0_split_0"].diff, 1 - np.tanh(x) ** 2, rtol=1e-5)


def test_backward_after_part_of_the_net_was_run_again(small: caffe.Net) -> None:
    small.forward()
    small.blobs["conv"].data  # noqa: B018  # its memory is now handed out, and will be overwritten
    small.forward(start="conv", end="sig")
    assert np.isfinite(small.backward()["data"]).all()


TRAINED = """force_backward: true
layer { name: "data" type: "Input" top: "data" top: "label" input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "h" inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "h" top: "h" }
layer { name: "drop" type: "Dropout" bottom: "h" top: "d" }
layer { name: "ip2" type: "InnerProduct" bottom: "d" top: "y" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }
"""


@pytest.fixture
def trained(write_net: WriteNet) -> caffe.Net:
    net = caffe.Net(write_net(TRAINED), caffe.TRAIN)
    net.blobs["data"].data[...] = np.random.default_rng(0).random((4, 3))
    net.params["ip1"][0].data[...] = 1
    return net


@pytest.mark.parametrize("passes", [1, 2])  # in the second pass the arrays are handed out already
def test_backward_goes_by_what_a_script_wrote_after_forward(passes: int, trained: caffe.Net) -> None:
    actions = np.array([0, 1, 1, 0])
    for _ in range(passes):
        trained.clear_param_diffs()
        trained.blobs["label"].data[...] = 0
        trained.forward()
        y, d, loss = (trained.blobs[name].data.copy() for name in ("y", "d", "loss"))
        trained.blobs["label"].data[...] = actions
        trained.blobs["d"].data[...] = 0
        trained.backward()
        p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        p[range(4), actions] -= 1
        np.testing.assert_allclose(trained.blobs["y"].diff, p / 4, rtol=1e-4, atol=1e-6)
        assert not trained.params["ip2"][0].diff.any()
        assert trained.params["ip2"][1].diff.any()
        assert trained.blobs["loss"].data == loss, "backward must not change what forward computed"
        # Dropout's mask and the ReLU in place are those of forward.
        kept = np.where(d > 0, 2, 0)
        np.testing.assert_allclose(trained.blobs["h"].diff, trained.blobs["d"].diff * kept, rtol=1e-5)
        np.testing.assert_allclose(trained.params["ip1"][1].diff, trained.blobs["h"].diff.sum(0), rtol=1e-4, atol=1e-6)


def test_what_nobody_wrote_is_not_computed_again(trained: caffe.Net, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        trained.forward()
        for blob in trained.blobs.values():
            blob.data, blob.diff  # noqa: B018
        with monkeypatch.context() as patch:
            patch.setattr(trained, "_compute", lambda node: pytest.fail(f"{node.name} was computed again"))
            trained.backward()


def test_callbacks_are_told_each_layers_number(small: caffe.Net) -> None:
    calls: list[tuple[str, int]] = []
    for name in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(small, name)(lambda i, name=name: calls.append((name, i)))
    small.forward(start="conv", end="sig")
    small.backward(start="sig", end="conv")
    forward = [(f"{when}_forward", i) for i in (1, 2) for when in ("before", "after")]
    assert calls == forward + [(f"{when}_backward", i) for i in (2, 1) for when in ("before", "after")]


def test_a_callback_may_change_a_blob_before_the_next_layer_reads_it(small: caffe.Net) -> None:
    index = list(small._layer_names).index("b")
    small.before_forward(lambda i: small.blobs["conv_sig_0_split_1"].data.fill(7) if i == index else None)
    small.forward()
    assert (small.blobs["b"].data == 14).all()


def test_what_pycaffes_wrapper_is_made_of(small: caffe.Net) -> None:
    names = small._blob_names
    assert [names[i] for i in small._inputs] == small.inputs == ["data"]
    assert [names[i] for i in small._outputs] == small.outputs == ["sum"]
    last = len(small.layers) - 1
    assert [names[i] for i in small._bottom_ids(last)] == ["a", "b"]
    assert [names[i] for i in small._top_ids(last)] == ["sum"]
    assert small._blobs == list(small.blobs.values())
    assert small._blob_loss_weights == [3 if name == "sum" else 0 for name in names]


def test_parameters_reshape_for_net_surgery(small: caffe.Net) -> None:
    weight = small.params["conv"][0]
    before = weight.data.ravel().copy()
    weight.reshape(2, 1, 1, 9)
    assert weight.shape == (2, 1, 1, 9)
    np.testing.assert_array_equal(weight.data.ravel(), before)
    assert small.layers[1].blobs[0].shape == (2, 1, 1, 9)
    weight.reshape(2, 1, 1, 1)
    np.testing.assert_array_equal(weight.data.ravel(), before[:2])
    weight.data[...] = 1
    small.params["conv"][1].data[...] = 0
    out = small.forward(end="conv")["conv"]
    np.testing.assert_allclose(out, np.repeat(small.blobs["data"].data, 2, 1), rtol=1e-6)


def test_shared_parameters_are_the_same_memory(small: caffe.Net, write_net: WriteNet) -> None:
    other = caffe.Net(write_net(SMALL), caffe.TEST)
    held = other.params["conv"][0]
    other.share_with(small)
    small.params["conv"][0].data[...] = 5
    assert (held.data == 5).all()
    assert np.shares_memory(other.params["conv"][0].data, small.params["conv"][0].data)


def test_shared_parameters_have_diffs_of_their_own(small: caffe.Net, write_net: WriteNet) -> None:
    other = caffe.Net(write_net("force_backward: true\n" + SMALL), caffe.TEST)
    other.share_with(small)
    small.forward()
    small.backward()
    diff = small.params["conv"][0].diff
    before = diff.copy()
    assert before.any() and not other.params["conv"][0].diff.any()
    other.clear_param_diffs()
    np.testing.assert_array_equal(diff, before)


def test_shared_parameters_under_another_shape_stay_the_same_memory(write_net: WriteNet) -> None:
    conv = 'layer {{ name: "{0}" type: "Convolution" bottom: "data" top: "{0}" param {{ name: "w" share_mode: PERMISSIVE }} '
    conv += 'convolution_param {{ num_output: 2 bias_term: false {1} weight_filler {{ type: "gaussian" }} }} }}\n'
    text = data("in", "data") + conv.format("p", "kernel_h: 1 kernel_w: 4") + conv.format("q", "kernel_size: 2")
    one, other = (caffe.Net(write_net(text), caffe.TEST) for _ in range(2))
    other.share_with(one)
    one.params["q"][0].data[...] = 2
    assert (other.params["p"][0].data == 2).all()
    other.blobs["data"].data[...] = 1
    assert (other.forward()["q"] == 8).all()


def test_a_batch_norm_without_param_counts_as_one_that_learns(write_net: WriteNet) -> None:
    text = data("in", "data") + """
        layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" %s }
        layer { name: "ip" type: "InnerProduct" bottom: "bn" top: "ip"
          inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
        layer { name: "sum" type: "Reduction" bottom: "ip" top: "sum" loss_weight: 1 }"""
    for specs, there in (("", True), ("param { lr_mult: 0 } " * 3, False)):
        net = caffe.Net(write_net(text % specs), caffe.TRAIN)
        net.forward()
        net.backward()
        assert net.blobs["bn"].diff.any() == there


def test_debug_info_of_a_net_file(write_net: WriteNet, capsys: pytest.CaptureFixture[str]) -> None:
    named = SMALL.replace('top: "conv"\n', 'top: "conv" param { name: "w" }\n', 1)
    net = caffe.Net(write_net("debug_info: true\n" + named), caffe.TRAIN)
    net.params["conv"][0].data[...] = 0.5
    net.blobs["data"].data[...] = 2
    capsys.readouterr()
    net.forward(end="conv")
    net.forward()
    net.backward(end="b")

    def told() -> list[str]:
        return [line.split("]     ")[1] for line in capsys.readouterr().err.splitlines()]

    forward = [
        "[Forward] Layer in, top blob data data: 2",
        "[Forward] Layer conv, top blob conv data: 9",
        "[Forward] Layer conv, param blob w data: 0.5",
        "[Forward] Layer conv, param blob 1 data: 0",
        "[Forward] Layer sig, top blob conv data: 0.999877",
    ]
    lines = told()
    assert lines[:4] == forward[:4] and lines[4:9] == forward
    assert lines[-3:] == [
        "[Backward] Layer sum, bottom blob a diff: 3",
        "[Backward] Layer sum, bottom blob b diff: 3",
        "[Backward] Layer b, bottom blob conv_sig_0_split_1 diff: 6",
    ]
    net.backward()
    assert [line.split(" diff")[0] for line in told()[-2:]] == [
        "[Backward] Layer conv, param blob 0",
        "[Backward] Layer conv, param blob 1",
    ]


def test_a_parameter_that_is_shared_under_another_shape(write_net: WriteNet) -> None:
    def conv(name: str, kernel: str) -> str:
        shared = 'param { name: "w" share_mode: PERMISSIVE }'
        settings = f'num_output: 2 bias_term: false {kernel} weight_filler {{ type: "gaussian" }}'
        return f'layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}" {shared} convolution_param {{ {settings} }} }}\n'

    net = caffe.Net(write_net("force_backward: true\n" + data("in", "data") + conv("p", "kernel_h: 1 kernel_w: 4") + conv("q", "kernel_size: 2")), caffe.TRAIN)
    owner, sharer = net.params["p"][0], net.params["q"][0]
    assert (owner.shape, sharer.shape) == ((2, 1, 1, 4), (2, 1, 2, 2))
    sharer.data[...] = 2
    assert (owner.data == 2).all()
    net.blobs["data"].data[...] = 1
    net.forward()
    net.blobs["p"].diff[...] = 1
    net.blobs["q"].diff[...] = 1
    net.backward()
    assert (sharer.diff == 10 * 7 + 9 * 9).all()
    assert (owner.diff.ravel() == sharer.diff.ravel()).all()
    with pytest.raises(NetError, match="shared under another shape"):
        sharer.reshape(8)


def test_a_blobs_shape_by_all_its_names() -> None:
    blob = caffe.Blob((2, 3, 4))
    blob.data[...] = np.arange(24).reshape(2, 3, 4)
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 3, 4, 1, 24)
    held = blob.data
    blob.reshape(6, 4)
    np.testing.assert_array_equal(blob.data.ravel(), np.arange(24))
    assert np.shares_memory(held, blob.data)
    assert blob.diff.shape == (6, 4)
    blob.reshape()
    assert blob.data.shape == ()
    blob.reshape(1, 1, 1, 1, 1)
    with pytest.raises(NetError, match="use shape"):
        blob.num  # noqa: B018


@pytest.mark.parametrize(
    ("shape", "message"), [(((2, 3),), r"reshape\(\*\(2, 3\)\)"), ((2, -1), "-1 is negative")]
)
def test_shapes_that_no_blob_has(shape: tuple[object, ...], message: str) -> None:
    with pytest.raises(NetError, match=message):
        caffe.Blob((2, 3)).reshape(*shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net.forward(start="conv9"), 'has no layer "conv9"'),
        (lambda net: net.forward(image=0), "input blobs are"),
        (lambda net: net.forward(["nothing"]), '"nothing" is no blob'),
        (lambda net: net.forward(data=np.zeros((2, 1, 10, 10))), 'input "data" has batch size'),
        (lambda net: net.backward(sum=np.zeros((2, 2, 8, 8))), 'diff of "sum" has batch size'),
        (lambda net: net.backward(a=np.zeros((1, 2, 8, 8))), r"output blobs are \['sum'\], \['a'\] are given"),
        (lambda net: net.forward_backward_all(datum=np.zeros((1, 1, 10, 10))), "arrays of one length"),
        (lambda net: net.forward_all(), "arrays of one length"),
        (lambda net: net.set_input_arrays(np.zeros((1, 1, 10, 10)), np.zeros(1)), "begin with a MemoryData layer"),
    ],
)
def test_bad_calls_say_what_is_wrong(call: Callable[[caffe.Net], object], message: str, small: caffe.Net) -> None:
    with pytest.raises(NetError, match=message):
        call(small)


def test_shapes_that_a_layer_cannot_work_on_name_the_layer(small: caffe.Net) -> None:
    small.blobs["data"].reshape(1, 2, 10, 10)
    with pytest.raises(NetError, match=r'net.prototxt:\d+: layer "conv" \(Convolution\): cannot compute on .* 1x2x10x10'):
        small.forward()


def test_too_many_arguments() -> None:
    with pytest.raises(TypeError, match="6 arguments are given"):
        caffe.Net("net.prototxt", 0, 0, [], None, "more")


def test_no_phase() -> None:
    with pytest.raises(TypeError, match="not None"):
        caffe.Net("net.prototxt", None, caffe.TEST)


def test_a_shape_of_whole_numbers() -> None:
    with pytest.raises(TypeError):
        caffe.Blob((2, 3)).reshape(1, 10.5)  # type: ignore[arg-type]


def test_all_of_no_rows(small: caffe.Net) -> None:
    nothing = np.zeros((0, 1, 10, 10), np.float32)
    assert {name: array.size for name, array in small.forward_all(["a"], data=nothing).items()} == {"sum": 0, "a": 0}
    outputs, diffs = small.forward_backward_all(data=nothing)
    assert (list(outputs), list(diffs)) == (["sum"], ["data"])


def test_names_that_nobody_reads_are_told(small: caffe.Net, capsys: pytest.CaptureFixture[str]) -> None:
    outputs, _ = small.forward_backward_all(data=np.zeros((1, 1, 10, 10), np.float32), datum=np.zeros(3))
    assert outputs["sum"].shape == (1, 2, 8, 8)
    assert '"datum" is neither an input' in capsys.readouterr().err


# ---- what a Net could be told before October 2014


def test_images_as_the_nets_of_2014_took_them(small: caffe.Net, capsys: pytest.CaptureFixture[str]) -> None:
    small.set_phase_train()
    small.set_mode_cpu()
    with pytest.raises(NetError, match=r"caffe\.Net\(file, caffe\.TEST"):
        small.set_phase_test()
    small.set_mode_gpu()
    small.set_device(0)
    assert capsys.readouterr().err.count("does nothing") == 2
    image = np.random.default_rng(0).random((10, 10, 1)).astype(np.float32)
    mean = np.random.default_rng(1).random((1, 10, 10)).astype(np.float32)
    small.set_mean("data", mean)
    small.set_raw_scale("data", 255)
    small.set_input_scale("data", 0.5)
    small.set_channel_swap("data", (0,))
    blob = small.preprocess("data", image)
    np.testing.assert_allclose(blob, (image.transpose(2, 0, 1) * 255 - mean) / 2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(small.deprocess("data", blob), image, rtol=1e-5, atol=1e-5)
    small.set_mean("data", mean, mode="channel")
    np.testing.assert_allclose(small.transformer.mean["data"].ravel(), mean.mean(), rtol=1e-6)
    with pytest.raises(NetError, match='mode "pixel"'):
        small.set_mean("data", mean, mode="pixel")
    small.blobs["data"].reshape(1, 1, 12, 10)
    assert small.preprocess("data", image).shape == (1, 12, 10)


def test_a_mean_by_its_path_is_subtracted_after_the_scale(small: caffe.Net, tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", np.full((1, 10, 10), 100.0))
    small.set_input_scale("data", 255)
    small.set_mean("data", str(tmp_path / "mean.npy"))
    assert (small.preprocess("data", np.ones((10, 10, 1))) == 155).all()


def test_net_takes_a_graph() -> None:
    graph = Graph(parse_net(SMALL), phase=caffe.TEST)
    assert caffe.Net(graph).graph is graph


def test_what_pycaffe_raises_is_a_runtime_error(classifying_net: str, tmp_path: Path) -> None:
    for net, weights in ((tmp_path / "no.prototxt", None), (classifying_net, tmp_path / "no.caffemodel")):
        with pytest.raises(RuntimeError, match="no such file"):
            caffe.Net(net, caffe.TEST, weights=weights)
