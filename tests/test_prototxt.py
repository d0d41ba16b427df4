"""The paper's networks and solvers as they stand in prototxt/."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format

from pycaffe_compat.graph import TEST, TRAIN, Graph
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import read_net, read_solver
from pycaffe_compat.solver import LearningRate

FOLDER = Path(__file__).resolve().parents[1] / "prototxt"
NETS = sorted(p.name for p in FOLDER.glob("*.prototxt") if not p.name.startswith("solver"))
SOLVERS = sorted(p.name for p in FOLDER.glob("solver_*.prototxt"))
PARAMETERS = {"l4": 72_097, "l8": 220_545, "arcnn": 106_561}
BORDER = {"l4": 9, "l8": 12, "arcnn": 9}


def deployed(name: str) -> Graph:
    return Graph(FOLDER / name, TEST, stages=["deploy"])


def test_all_of_the_papers_networks_are_there() -> None:
    wanted = {f"{net}{objective}.prototxt" for net in ("l4", "l8") for objective in ("", "_direct", "_edge")}
    assert wanted | {"arcnn.prototxt"} <= set(NETS)
    assert {f"solver_{name}" for name in NETS} <= set(SOLVERS)


@pytest.mark.parametrize("name", NETS)
def test_parameters_border_and_contract(name: str) -> None:
    net = deployed(name)
    kind = re.match("l4|l8|arcnn", name)[0]  # type: ignore[index]
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[kind]
    assert (net.inputs, net.outputs) == (["data"], ["restored"])
    border = BORDER[kind]
    assert net(torch.zeros(2, 1, 60, 50))["restored"].shape == (2, 1, 60 - 2 * border, 50 - 2 * border)


@pytest.mark.parametrize("name", NETS)
def test_initialisation_is_symmetric(name: str) -> None:
    for layer, (weight, bias) in deployed(name).weights().items():
        means = weight.astype(np.float64).reshape(len(weight), -1).mean(1)
        assert np.abs(means).max() < 1e-8, layer
        assert not bias.any()
        last = weight.shape[0] == 1
        assert weight.std() == pytest.approx(0.001, rel=0.1) if last else weight.std() > 0.01


@pytest.mark.parametrize("name", NETS)
def test_the_last_layer_learns_at_a_tenth_of_the_rate(name: str) -> None:
    mults = {p.layer: p.lr_mult for p in deployed(name).learnable}
    *others, last = mults.values()
    assert set(others) == {1.0}
    assert last == pytest.approx(0.1)


@pytest.mark.parametrize("name", NETS + SOLVERS)
def test_the_files_are_stock_caffe_schema(name: str) -> None:
    """Google's own parser on the stock schema: new names are allowed, new fields are not."""
    message = caffe_pb2.SolverParameter() if name in SOLVERS else caffe_pb2.NetParameter()
    text_format.Parse((FOLDER / name).read_text(), message)


def reduced(name: str, monkeypatch: pytest.MonkeyPatch, phase: int) -> tuple[Graph, torch.Tensor, torch.Tensor]:
    """The training net with its database replaced by an Input of two patches."""
    source = read_net(FOLDER / name)
    for layer in source.param.layer:
        if layer.type == "HDF5Data":
            size = 128 if name.startswith("l8") else 64
            layer.type = "Input"
            layer.ClearField("hdf5_data_param")
            layer.input_param.shape.add(dim=[2, 1, size, size])
    net = Graph(source, phase)
    size = net.shapes["data"][2]
    rng = np.random.default_rng(0)
    data, label = (torch.from_numpy(rng.integers(0, 256, (2, 1, size, size)).astype(np.float32)) for _ in "ab")
    return net, data, label


@pytest.mark.parametrize("name", NETS)
def test_the_loss_is_the_papers_objective(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equations 2 and 3 written out in numpy from what the deployed network gives."""
    net, data, label = reduced(name, monkeypatch, TRAIN)
    twin = deployed(name)
    twin.load_weights(net.weights())
    loss = net.loss(net.run(data, label)).item()
    restored = twin(data)["restored"].detach().double().numpy()[:, 0] / 255
    border = BORDER[re.match("l4|l8|arcnn", name)[0]]  # type: ignore[index]
    target = label[:, 0, border:-border, border:-border].double().numpy() / 255
    want = ((restored - target) ** 2).mean()
    if "edge" in name:
        d = restored - target
        gx = d[:, :-2, 2:] - d[:, :-2, :-2] + 2 * (d[:, 1:-1, 2:] - d[:, 1:-1, :-2]) + d[:, 2:, 2:] - d[:, 2:, :-2]
        gy = d[:, 2:, :-2] - d[:, :-2, :-2] + 2 * (d[:, 2:, 1:-1] - d[:, :-2, 1:-1]) + d[:, 2:, 2:] - d[:, :-2, 2:]
        want += (gx**2 + gy**2).mean()
    assert loss == pytest.approx(want, rel=1e-4)


def test_the_stage_deblock_adds_the_jumps_across_blocks() -> None:
    source = read_net(FOLDER / "arcnn.prototxt")
    for layer in source.param.layer:
        if layer.type == "HDF5Data":
            layer.type = "Input"
            layer.ClearField("hdf5_data_param")
            layer.input_param.shape.add(dim=[16, 1, 64, 64])
    net = Graph(source, TRAIN, stages=["quick", "deblock"])
    rng = np.random.default_rng(0)
    data, label = (torch.from_numpy(rng.integers(0, 256, (16, 1, 64, 64)).astype(np.float32)) for _ in "ab")
    weights = net.weights()
    net.load_weights(weights | {"conv4": [300 * weights["conv4"][0], weights["conv4"][1]]})  # it starts near zero
    loss = net.loss(net.run(data, label)).item()
    twin = deployed("arcnn.prototxt")
    twin.load_weights(net.weights())
    whole = np.zeros((16, 64, 64))  # a patch begins where a block does
    whole[:, 9:-9, 9:-9] = twin(data)["restored"].detach().double().numpy()[:, 0] / 255
    inside = whole[:, 9:-9, 9:-9] - label[:, 0, 9:-9, 9:-9].double().numpy() / 255
    first = np.arange(16, 55, 8)  # of a block, with its neighbour in the one before
    jumps = whole[:, 9:-9, first] - whole[:, 9:-9, first - 1], whole[:, first, 9:-9] - whole[:, first - 1, 9:-9]
    want = (inside**2).mean() + 0.05 * sum((jump**2).sum() for jump in jumps) / inside.size
    assert loss == pytest.approx(want, rel=1e-4)
    fixed = {p.layer for p in net.learnable if p.lr_mult == 0}
    assert fixed == {"jumps_x", "jumps_y"}


def test_the_sobel_filters_are_shared_and_stay_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data, label = reduced("l4_edge.prototxt", monkeypatch, TRAIN)
    assert net.params["sobel"][0] is net.params["sobel_label"][0]
    net.loss(net.run(data, label)).backward()
    assert net.params["sobel"][0].grad is None


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_name_a_net_that_is_there_and_a_policy_that_works(name: str) -> None:
    param = read_solver(FOLDER / name)
    assert (FOLDER.parent / param.net).is_file()
    rate = LearningRate(param, name)
    assert rate is not None


@pytest.mark.parametrize("name", ["solver_l4.prototxt", "solver_l8.prototxt"])
def test_the_papers_recipe_is_the_papers(name: str) -> None:
    param = read_solver(FOLDER / name)
    assert (param.base_lr, param.gamma, param.stepsize, param.max_iter) == (8, 0.5, 50_000, 250_000)
    assert param.weight_decay == pytest.approx(5e-7)
    assert param.type == "SGD"
    batch = read_net(FOLDER / name.removeprefix("solver_")).param.layer[0].hdf5_data_param.batch_size
    assert batch == {"solver_l4.prototxt": 64, "solver_l8.prototxt": 4}[name]
