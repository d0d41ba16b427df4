"""L4 and L8 of the original program: every blob and every gradient, split copies too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pycaffe_compat.graph import TEST, TRAIN
from pycaffe_compat.net import Net


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """Relative L2 distance."""
    assert got.shape == want.shape
    return float(np.linalg.norm(got.astype(np.float64) - want) / max(np.linalg.norm(want), 1e-30))


@pytest.fixture(params=["L4", "L8"])
def case(request: pytest.FixtureRequest, golden: Path) -> Path:
    folder = golden / request.param
    if not folder.exists():
        pytest.skip(f"the golden set has no {folder}")
    return folder


@pytest.mark.parametrize("weights", ["weights.caffemodel", "weights.caffemodel.h5"])
def test_forward_and_gradients_are_the_originals(case: Path, weights: str) -> None:
    net = Net(str(case / "net.prototxt"), str(case / weights), TRAIN)
    net.blobs["data"].data[...] = np.load(case / "input.npy")
    net.blobs["label"].data[...] = np.load(case / "label.npy")
    net.forward()
    for name, want in np.load(case / "forward.npz").items():
        assert relative(net.blobs[name].data, want) < 1e-5, name
    net.clear_param_diffs()
    net.backward()
    checked = 0
    for key, want in np.load(case / "backward.npz").items():
        kind, _, name = key.partition(":")
        if kind == "param":
            layer, _, index = name.rpartition(":")
            got = net.params[layer][int(index)].diff
        else:
            got = net.blobs[name].diff
        assert relative(got, want) < 1e-4, key
        checked += 1
    assert checked > 10


def test_whole_graph_autograd_agrees_with_the_layer_by_layer_net(case: Path) -> None:
    net = Net(str(case / "net.prototxt"), str(case / "weights.caffemodel"), TEST)
    import torch

    data = torch.from_numpy(np.load(case / "input.npy"))
    label = torch.from_numpy(np.load(case / "label.npy"))
    blobs = net.graph.run(data, label)
    net.graph.loss(blobs).backward()
    for key, want in np.load(case / "backward.npz").items():
        if key.startswith("param:"):
            layer, _, index = key[6:].rpartition(":")
            grad = net.graph.params[layer][int(index)].grad
            assert grad is not None
            assert relative(grad.numpy(), want) < 1e-4, key
