"""What scripts of the years around 2016 rely on beyond pycaffe's documentation: names of the compiled module, names of
forks that many scripts were written for, and what pycaffe's own wrapper left on its objects."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pycaffe_compat as caffe
from pycaffe_compat import NetError, _caffe

WriteNet = Callable[[str], str]

TINY = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""
SHOWS = """
layer { name: "shows" type: "Python" bottom: "x" top: "y" python_param { module: "script_layers" layer: "Shows" param_str: "{'a': 3}" } }
"""
INPUT = TINY.strip().splitlines()[0]


class Shows(caffe.Layer):
    seen: list[Any] = []

    def setup(self, bottom: Any, top: Any) -> None:
        self.seen[:] = [self.param_str, self.param_str_, self.phase, str(self.phase), type(bottom), type(top)]
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Any, top: Any) -> None:
        self.seen += [type(bottom), type(top)]
        top[0].data[...] = bottom[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        pass


@pytest.fixture
def script_layers() -> Iterator[None]:
    module: Any = ModuleType("script_layers")
    module.Shows = Shows
    sys.modules["script_layers"] = module
    yield
    del sys.modules["script_layers"]


# ---- caffe._caffe


@pytest.mark.parametrize(
    "name",
    """Net Blob BlobVec RawBlobVec Layer SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver
    get_solver layer_type_list set_mode_cpu set_mode_gpu set_device set_random_seed log init_log Timer NCCL has_nccl
    solver_count set_solver_count solver_rank set_solver_rank set_multiprocess __version__""".split(),
)
def test_the_compiled_modules_names(name: str) -> None:
    assert getattr(_caffe, name) is getattr(caffe, name, getattr(_caffe, name))


def test_parameters_are_a_blob_vector(write_net: WriteNet) -> None:
    # How scripts that merge BatchNorm into convolutions tell layers with parameters.
    net = caffe.Net(write_net(TINY), caffe.TEST)
    assert type(net.params["ip"]) is type(net.layers[1].blobs) is type(net.layers[0].blobs) is _caffe.BlobVec
    weight, bias = net.params["ip"]
    assert [type(blob) for blob in net.params["ip"][:1]] == [type(weight)]
    assert net.params["ip"][-1] is bias
    with pytest.raises(NetError, match="add_blob"):
        net.params["ip"].add_blob(3)


# ---- names of the forks


@pytest.mark.parametrize(("phase", "name"), [(caffe.TRAIN, "TRAIN"), (caffe.TEST, "TEST")])
def test_what_a_python_layer_is_told(script_layers: None, write_net: WriteNet, phase: int, name: str) -> None:
    net = caffe.Net(write_net(INPUT + SHOWS), phase)
    net.blobs["x"].data[...] = 5
    assert (net.forward()["y"] == 5).all()
    param_str, old_name, told, text, *vectors = Shows.seen
    assert eval(param_str) == eval(old_name) == {"a": 3}
    assert told == phase
    assert {0: "first", 1: "second"}[told] == ("first", "second")[phase]
    assert text == name
    assert vectors == [_caffe.RawBlobVec] * 4


# ---- what pycaffe's wrapper leaves on a net


def test_lists_that_the_wrapper_keeps(write_net: WriteNet) -> None:
    net = caffe.Net(write_net(TINY), caffe.TEST)
    assert (net._input_list, net._output_list) == (["x"], ["y"])
    assert net.forward()[net._output_list[-1]].shape == (2, 2)


# ---- training on several devices, as Caffe's own script does it


def test_a_link_between_devices_may_follow_each_layer(write_net: WriteNet, tmp_path: Path) -> None:
    net = write_net(TINY + 'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "y" top: "loss" }')
    (tmp_path / "solver.prototxt").write_text(f'net: "{net}" base_lr: 0.1 lr_policy: "fixed" max_iter: 3')
    solver = caffe.SGDSolver(str(tmp_path / "solver.prototxt"))
    link = caffe.NCCL(solver, caffe.NCCL.new_uid())
    solver.add_callback(link)
    solver.net.after_backward(link)
    solver.step(2)
    assert solver.iter == 2
