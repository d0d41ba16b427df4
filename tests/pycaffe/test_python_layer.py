"""Layers written in Python as Caffe's test_python_layer.py has them, then what it does not test; see conftest.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import pycaffe_compat as caffe
from pycaffe_compat import NetError
from pycaffe_compat.graph import Graph

WriteNet = Callable[[str], str]


class TimesTen(caffe.Layer):
    def setup(self, bottom: Any, top: Any) -> None:
        pass

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = 10 * bottom[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        bottom[0].diff[...] = 10 * top[0].diff


class InPlace(TimesTen):
    def forward(self, bottom: Any, top: Any) -> None:
        bottom[0].data[bottom[0].data < 0] = 0  # and nothing is written into the top, which is the same blob

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        assert top[0] is bottom[0]
        bottom[0].diff[...] *= 3


class Raises(TimesTen):
    def setup(self, bottom: Any, top: Any) -> None:
        if self.param_str == "setup":
            raise RuntimeError

    def forward(self, bottom: Any, top: Any) -> None:
        raise KeyError("nothing like it")


class Learns(TimesTen):
    """Adds 1 to its parameter's diff at each backward pass."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = bottom[0].data + self.blobs[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        self.blobs[0].diff[0] += 1


class Phase(TimesTen):
    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape()

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[()] = self.phase


class Counter(TimesTen):
    """A data layer: 0 1 2 | 3 4 5 | ...; it knows the LayerParameter."""

    def __init__(self, param: Any, *args: Any) -> None:
        super().__init__(param, *args)
        self.name = param.name

    def setup(self, bottom: Any, top: Any) -> None:
        top[0].reshape(3)
        self.next = 0

    def reshape(self, bottom: Any, top: Any) -> None:
        pass

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = range(self.next, self.next + 3)
        self.next += 3


class Rows(TimesTen):
    """As many rows as the first value of its bottom says."""

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(int(bottom[0].data[0, 0]), bottom[0].channels)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = bottom[0].data[0, 1]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("users_layers")
    vars(module).update({name: cls for name, cls in globals().items() if isinstance(cls, type)})
    monkeypatch.setitem(sys.modules, "users_layers", module)
    yield


def layer(cls: str, name: str, bottoms: str = "", top: str = "", param_str: str = "", more: str = "") -> str:
    reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    settings = f'module: "users_layers" layer: "{cls}" param_str: "{param_str}" share_in_parallel: true'
    return f'layer {{ name: "{name}" type: "Python" {reads} top: "{top or name}" python_param {{ {settings} }} {more} }}\n'


HEAD = 'name: "pythonnet" force_backward: true input: "data" input_shape { dim: 10 dim: 9 dim: 8 }\n'


@pytest.fixture
def net(write_net: WriteNet) -> caffe.Net:
    text = HEAD + layer("TimesTen", "one", "data") + layer("TimesTen", "two", "one") + layer("TimesTen", "three", "two")
    return caffe.Net(write_net(text), caffe.TRAIN)


# ---- forward backward reshape exception parameter phase


def test_forward(net: caffe.Net) -> None:
    net.blobs["data"].data[...] = 8
    net.forward()
    assert (net.blobs["three"].data == 8000).all()


def test_backward(net: caffe.Net) -> None:
    net.blobs["three"].diff[...] = 7  # without a forward pass before
    net.backward()
    assert (net.blobs["data"].diff == 7000).all()


def test_reshape(net: caffe.Net) -> None:
    net.blobs["data"].reshape(4, 4, 4, 4)
    net.forward()
    assert {blob.data.shape for blob in net.blobs.values()} == {(4, 4, 4, 4)}


def test_exception(write_net: WriteNet) -> None:
    path = write_net(HEAD + layer("Raises", "bad", "data", param_str="setup"))
    with pytest.raises(RuntimeError) as error:
        caffe.Net(path, caffe.TEST)
    assert error.value.__notes__ == [f'{path}:2: layer "bad" (Python)']


def test_parameter(write_net: WriteNet, tmp_path: Path) -> None:
    path = write_net(HEAD + layer("Learns", "mine", "data"))
    net = caffe.Net(path, caffe.TRAIN)
    net.forward()
    net.backward()
    blob = net.layers[list(net._layer_names).index("mine")].blobs[0]
    assert (blob.data[0], blob.diff[0]) == (0, 1)
    blob.data[0] += blob.diff[0]
    net.save(str(tmp_path / "w.caffemodel"))
    blob.data[0] = -1
    assert net.params["mine"][0].data[0] == -1
    net.copy_from(str(tmp_path / "w.caffemodel"))
    assert blob.data[0] == 1
    other = caffe.Net(path, caffe.TRAIN)
    other.share_with(net)
    assert other.layer_dict["mine"].blobs[0].data[0] == 1
    net.backward()
    assert blob.diff[0] == 2


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_phase(phase: int, write_net: WriteNet) -> None:
    net = caffe.Net(write_net(layer("Phase", "phase")), phase)
    assert net.forward()["phase"] == phase


# ---- further


def test_what_is_raised_in_a_pass_is_the_users_own_with_the_layers_name(write_net: WriteNet) -> None:
    path = write_net(HEAD + layer("Raises", "bad", "data"))
    net = caffe.Net(path, caffe.TEST)
    for _ in range(2):
        with pytest.raises(KeyError, match="nothing like it") as error:
            net.forward()
        assert error.value.__notes__ == [f'{path}:2: layer "bad" (Python)']


@pytest.mark.parametrize(
    ("module", "cls", "message"),
    [
        ("users_layers", "Nothing", 'has no class "Nothing"'),
        ("no_such_module", "Mine", "is its folder on PYTHONPATH"),
    ],
)
def test_layers_that_are_not_there(module: str, cls: str, message: str, write_net: WriteNet) -> None:
    sys.modules["users_layers"].__file__ = "users_layers.py"
    text = layer(cls, "x", "data").replace("users_layers", module)
    with pytest.raises(NetError, match=message):
        caffe.Net(write_net(HEAD + text), caffe.TEST)


def test_a_module_that_imports_caffe_says_what_to_call(write_net: WriteNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "caffe", raising=False)
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if type(finder).__name__ != "_AliasFinder"])
    (tmp_path / "layers_of_mine.py").write_text("import caffe\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = layer("X", "x", "data").replace("users_layers", "layers_of_mine")
    with pytest.raises(NetError, match=r"call pycaffe_compat.install_as_caffe\(\)"):
        caffe.Net(write_net(HEAD + text), caffe.TEST)


def test_a_data_layer(write_net: WriteNet) -> None:
    net = caffe.Net(write_net(layer("Counter", "rows")), caffe.TRAIN)
    assert net.layers[0].name == "rows"
    assert net.layers[0].type == "Python"
    for start in (0, 3, 6):
        net.forward()
        assert net.blobs["rows"].data.tolist() == [start, start + 1, start + 2]
    net.layers[0].next = 100  # scripts reach into their layers so
    assert net.forward()["rows"].tolist() == [100, 101, 102]


def test_tops_are_reshaped_at_every_forward(write_net: WriteNet) -> None:
    net = caffe.Net(write_net('input: "data" input_shape { dim: 5 dim: 2 }\n' + layer("Rows", "rows", "data")), caffe.TEST)
    assert net.blobs["rows"].shape == (0, 2)
    for rows in (3, 1, 4):
        net.blobs["data"].data[...] = rows
        np.testing.assert_array_equal(net.forward()["rows"], np.full((rows, 2), rows))


def test_in_place_the_top_is_the_bottom(write_net: WriteNet) -> None:
    net = caffe.Net(write_net(HEAD + layer("TimesTen", "ten", "data") + layer("InPlace", "in_place", "ten", "ten")), caffe.TRAIN)
    x = np.linspace(-1, 1, 720).reshape(10, 9, 8)
    net.blobs["data"].data[...] = x
    net.forward()
    np.testing.assert_allclose(net.blobs["ten"].data, 10 * x.clip(0), rtol=1e-6)
    net.blobs["ten"].diff[...] = 1
    net.backward()
    assert (net.blobs["data"].diff == 30).all()


def test_the_graph_runs_them_too(write_net: WriteNet) -> None:
    graph = Graph(write_net(HEAD + layer("TimesTen", "ten", "data") + layer("Learns", "mine", "ten")), caffe.TRAIN)
    x = torch.randn(10, 9, 8, requires_grad=True)
    graph(x)["mine"].sum().backward()
    (parameter,) = graph.parameters()
    assert parameter.grad.tolist() == [1]
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros((10, 9, 8)))  # Learns sends nothing down


def test_a_parameters_update_by_a_solver(write_net: WriteNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_net(HEAD + layer("Learns", "mine", "data", more="loss_weight: 1"))
    monkeypatch.chdir(tmp_path)
    Path("solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.5 lr_policy: "fixed" max_iter: 3 snapshot_after_train: false')
    solver = caffe.SGDSolver("solver.prototxt")
    solver.solve()
    assert solver.net.params["mine"][0].data.tolist() == [-1.5]
