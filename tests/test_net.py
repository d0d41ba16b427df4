"""pycaffe's Net: live arrays, steps in the middle, and agreement with autograd over the whole graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pycaffe_compat as caffe
from pycaffe_compat import NetError
from pycaffe_compat.graph import Graph
from pycaffe_compat.proto.text import parse_net

NET = """
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 2 dim: 1 dim: 9 dim: 9 } shape { dim: 2 dim: 2 dim: 5 dim: 5 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "sig" type: "Sigmoid" bottom: "conv1" top: "conv1" }
layer { name: "relu" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "side" type: "TanH" bottom: "conv1" top: "side" }
layer { name: "loss" type: "EuclideanLoss" bottom: "conv2" bottom: "label" top: "loss" }
"""


@pytest.fixture
def net() -> caffe.Net:
    net = caffe.Net(Graph(parse_net(NET)))
    rng = np.random.default_rng(0)
    net.blobs["data"].data[...] = rng.standard_normal((2, 1, 9, 9))
    net.blobs["label"].data[...] = rng.standard_normal((2, 2, 5, 5))
    return net


def test_layer_by_layer_agrees_with_autograd_over_the_whole_graph(net: caffe.Net) -> None:
    net.forward()
    net.clear_param_diffs()
    net.backward()
    stepwise = {name: [b.diff.copy() for b in blobs] for name, blobs in net.params.items()}
    graph = net.graph
    for p in graph.parameters():
        p.grad = None
    blobs = graph.run(torch.from_numpy(net.blobs["data"].data), torch.from_numpy(net.blobs["label"].data))
    graph.loss(blobs).backward()
    assert float(net.blobs["loss"].data) == pytest.approx(blobs["loss"].item(), rel=1e-6)
    for name, tensors in graph.params.items():
        for got, tensor in zip(stepwise[name], tensors, strict=True):
            np.testing.assert_allclose(got, tensor.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_an_array_held_from_before_shows_the_new_values(net: caffe.Net) -> None:
    held = net.blobs["conv2"].data
    out = net.forward()
    assert sorted(out) == ["loss", "side"]
    assert held.any()
    assert np.shares_memory(held, net.blobs["conv2"].data)
    assert out["loss"].shape == ()


def test_parameters_are_live_and_writable(net: caffe.Net) -> None:
    net.params["conv2"][0].data[...] = 0
    net.params["conv2"][1].data[...] = [1, 2]
    net.forward()
    assert (net.blobs["conv2"].data[:, 0] == 1).all()
    assert (net.blobs["conv2"].data[:, 1] == 2).all()


def test_forward_in_the_middle_takes_what_the_blob_holds(net: caffe.Net) -> None:
    net.forward()
    net.blobs["conv1_relu_0_split_0"].data[...] = 0
    out = net.forward(start="conv2", end="conv2")
    assert list(out) == ["conv2"]
    bias = net.params["conv2"][1].data.reshape(1, 2, 1, 1)
    np.testing.assert_array_equal(out["conv2"], np.broadcast_to(bias, (2, 2, 5, 5)))


def test_backward_from_the_middle_starts_at_the_given_diff(net: caffe.Net) -> None:
    net.forward()
    net.clear_param_diffs()
    net.blobs["conv2"].diff[...] = 1
    net.backward(start="conv2", end="conv2")
    np.testing.assert_allclose(net.params["conv2"][1].diff, [50, 50])
    assert not net.params["conv1"][0].diff.any()


def test_backward_adds_to_parameter_diffs_and_overwrites_blob_diffs(net: caffe.Net) -> None:
    net.forward()
    net.clear_param_diffs()
    net.backward()
    once, blob = net.params["conv1"][0].diff.copy(), net.blobs["conv2"].diff.copy()
    net.backward()
    np.testing.assert_allclose(net.params["conv1"][0].diff, 2 * once, rtol=1e-5)
    np.testing.assert_array_equal(net.blobs["conv2"].diff, blob)


def test_inputs_by_name_and_other_batch_sizes(net: caffe.Net) -> None:
    data = np.ones((2, 1, 9, 9), np.float32)
    net.forward(data=data, label=net.blobs["label"].data)
    np.testing.assert_array_equal(net.blobs["data"].data, data)
    with pytest.raises(NetError, match='input "data" has batch size'):
        net.forward(data=data[:1], label=net.blobs["label"].data)
    with pytest.raises(NetError, match="input blobs are"):
        net.forward(image=data)
    net.blobs["data"].reshape(3, 1, 12, 9)
    net.blobs["label"].reshape(3, 2, 8, 5)
    net.reshape()
    assert net.blobs["conv2"].shape == (3, 2, 8, 5)
    net.forward()
    assert net.blobs["side"].data.shape == (3, 4, 10, 7)


@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
def test_saved_weights_come_back(net: caffe.Net, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    (net.save_hdf5 if suffix.endswith("h5") else net.save)(path)
    want = [b.data.copy() for blobs in net.params.values() for b in blobs]
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = 7
    net.copy_from(path)
    for got, expected in zip((b.data for blobs in net.params.values() for b in blobs), want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_names_and_legacy_shapes(net: caffe.Net) -> None:
    assert net.layer_dict["conv1"] is net.layers[1]
    assert net.bottom_names["loss"] == ["conv2", "label"]
    assert net.top_names["in"] == ["data", "label"]
    assert net.blob_loss_weights["loss"] == 1
    blob = net.params["conv1"][0]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (4, 1, 3, 3, 36)
    with pytest.raises(NetError, match='has no layer "conv9"'):
        net.forward(start="conv9")


def test_both_orders_of_arguments(tmp_path: Path, net: caffe.Net) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    net.save(tmp_path / "w.caffemodel")
    path, weights = str(tmp_path / "net.prototxt"), str(tmp_path / "w.caffemodel")
    for other in (caffe.Net(path, weights, caffe.TEST), caffe.Net(path, caffe.TEST, weights=weights)):
        np.testing.assert_array_equal(other.params["conv1"][0].data, net.params["conv1"][0].data)
        assert other.graph.phase == caffe.TEST


def test_load_gives_the_module(tmp_path: Path, net: caffe.Net) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    net.save(tmp_path / "w.caffemodel")
    module = caffe.load(tmp_path / "net.prototxt", tmp_path / "w.caffemodel")
    assert isinstance(module, torch.nn.Module)
    assert not module.training
    np.testing.assert_array_equal(module.weights()["conv1"][0], net.params["conv1"][0].data)


def test_layers_of_one_name_have_gradients_of_their_own(tmp_path: Path) -> None:
    """Names need not differ, in Caffe either."""
    text = NET.replace('name: "relu" type: "ReLU"', 'name: "sig" type: "TanH"').replace('name: "side"', 'name: "sig"')
    net = caffe.Net(Graph(parse_net(text)))
    net.blobs["data"].data[...] = np.random.default_rng(0).standard_normal((2, 1, 9, 9))
    other = caffe.Net(Graph(parse_net(text.replace('name: "sig" type: "TanH"', 'name: "tanh" type: "TanH"'))))
    other.blobs["data"].data[...] = net.blobs["data"].data
    for blobs, others in zip(net.params.values(), other.params.values(), strict=True):
        for blob, same in zip(blobs, others, strict=True):
            same.data[...] = blob.data
    for n in (net, other):
        n.forward()
        n.backward()
    assert other.params["conv1"][0].diff.any()
    np.testing.assert_array_equal(net.params["conv1"][0].diff, other.params["conv1"][0].diff)


def test_two_layers_of_one_name_that_learn_cannot_be_saved(tmp_path: Path) -> None:
    net = caffe.Net(Graph(parse_net(NET.replace('name: "conv2"', 'name: "conv1"'))))
    net.forward()
    with pytest.raises(NetError, match='layer "conv1" .*: .*layer "conv1" .* has parameters too, and a file of weights'):
        net.save(str(tmp_path / "w.caffemodel"))
    assert not list(tmp_path.iterdir())
