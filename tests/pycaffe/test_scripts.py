"""What scripts of the years around 2016 rely on beyond pycaffe's documentation: names of the compiled module, names of
forks that many scripts were written for, and what pycaffe's own wrapper left on its objects."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

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


class Writes(caffe.Layer):
    """Writes into its bottom, which is not its top."""

    def setup(self, bottom: Any, top: Any) -> None:
        pass

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = bottom[0].data
        bottom[0].data[bottom[0].data < 0] = 7

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        pass


class Shrinks(caffe.Layer):
    """Gives the blob in which it works in place another shape."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.shape = bottom[0].data.shape
        self.reshape(bottom, top)

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*eval(self.param_str_))

    def forward(self, bottom: Any, top: Any) -> None:
        pass

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        bottom[0].reshape(*self.shape)


@pytest.fixture
def script_layers() -> Iterator[None]:
    module: Any = ModuleType("script_layers")
    module.Shows, module.Writes, module.Shrinks = Shows, Writes, Shrinks
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


def python_layer(cls: str, bottom: str, top: str, param_str: str = "") -> str:
    settings = f'module: "script_layers" layer: "{cls}" param_str: "{param_str}"'
    return f'layer {{ name: "{cls}" type: "Python" bottom: "{bottom}" top: "{top}" python_param {{ {settings} }} }}\n'


def test_what_a_python_layer_writes_into_its_bottom_stays(script_layers: None, write_net: WriteNet) -> None:
    net = caffe.Net(write_net(TINY + python_layer("Writes", "y", "z")), caffe.TEST)
    for looked_at in (False, True):
        net.blobs["x"].data[...] = [[1, 2, 3], [-1, -2, -3]]
        out = net.forward(blobs=["y"] if looked_at else None)
        z, y = out["z"].copy(), net.blobs["y"].data
        assert (z < 0).any()
        np.testing.assert_array_equal(y, np.where(z < 0, 7, z))


def test_a_blob_may_change_its_shape_in_place(script_layers: None, write_net: WriteNet) -> None:
    net = caffe.Net(write_net("force_backward: true" + TINY + python_layer("Shrinks", "y", "y", "(4, 1)")), caffe.TRAIN)
    for _ in range(2):
        net.blobs["x"].data[...] = 1
        assert net.forward()["y"].shape == (4, 1)
        net.blobs["y"].diff[...] = 1
        assert net.backward()["x"].any()


# ---- what pycaffe's wrapper leaves on a net


def test_lists_that_the_wrapper_keeps(write_net: WriteNet) -> None:
    net = caffe.Net(write_net(TINY), caffe.TEST)
    assert (net._input_list, net._output_list) == (["x"], ["y"])
    assert net.forward()[net._output_list[-1]].shape == (2, 2)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda net: net.forward(end="ipp"), ValueError, 'has no layer "ipp"'),
        (lambda net: net.backward(start="ipp"), ValueError, 'has no layer "ipp"'),
        (lambda net: net.forward(blobs=["z"]), KeyError, '"z" is no blob of net'),
        (lambda net: net.blobs["z"], KeyError, "z"),
        (lambda net: net.blobs.__setitem__("x", np.zeros(6)), NetError, r'write net.blobs\["x"\].data\[...\] ='),
    ],
)
def test_names_that_there_are_not(call: Callable[[caffe.Net], object], kind: type[Exception], message: str, write_net: WriteNet) -> None:
    with pytest.raises(kind, match=message):
        call(caffe.Net(write_net(TINY), caffe.TEST))


def test_what_pycaffes_io_imports_is_found_there() -> None:
    skimage = pytest.importorskip("skimage")
    assert caffe.io.skimage is skimage
    assert caffe.io.skimage.io.imread
    assert caffe.io.resize(np.ones((4, 4, 3)), (2, 3, 3)).shape == (2, 3, 3)
    assert caffe.io.zoom(np.ones((4, 4)), 2).shape == (8, 8)
    with pytest.raises(AttributeError, match="no attribute 'imread'"):
        caffe.io.imread  # noqa: B018


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


# ---- scripts written for SSD's Caffe


def test_messages_that_only_a_fork_has() -> None:
    labels = text_format.Parse('item { name: "a" label: 1 display_name: "cat" }', caffe.proto.caffe_pb2.LabelMap())
    assert labels.item[0].display_name == "cat"
    assert (caffe.params.Resize.WARP, caffe.params.MultiBoxLoss.SMOOTH_L1, caffe.params.PriorBox.CENTER_SIZE) == (1, 1, 2)
    with pytest.raises(AttributeError, match="NoSuchMessage"):
        caffe.proto.caffe_pb2.NoSuchMessage  # noqa: B018


def test_nets_of_a_forks_layers_are_written_as_python(tmp_path: Path) -> None:
    n = caffe.NetSpec()
    n.data = caffe.layers.Input(shape=dict(dim=[1, 3, 32, 32]))
    n.conv = caffe.layers.Convolution(n.data, num_output=4, kernel_size=3, pad=1, stride=4)
    n.norm = caffe.layers.Normalize(n.conv, scale_filler=dict(type="constant", value=20), across_spatial=False)
    n.prior = caffe.layers.PriorBox(n.norm, n.data, min_size=[8.0], aspect_ratio=[2], prior_box_param=dict(clip=True))
    path = tmp_path / "net.prototxt"
    path.write_text(str(n.to_proto()))
    assert "norm_param" in path.read_text()
    net = caffe.Net(str(path), caffe.TEST)
    assert (net.params["norm"][0].data == 20).all()
    assert net.blobs["prior"].shape == (1, 2, 8 * 8 * 3 * 4)
    n.bad = caffe.layers.PriorBox(n.norm, n.data, min_sise=[8.0])
    with pytest.raises(NetError, match=r"L\.PriorBox: there is no setting 'min_sise'; did you mean \"min_size\""):
        n.to_proto()


def run(code: str, dialect: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYCAFFE_DIALECT": dialect, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def test_all_messages_of_a_fork(write_net: WriteNet) -> None:
    path = write_net(INPUT + 'layer { name: "p" type: "Permute" bottom: "x" top: "y" permute_param { order: 1 order: 0 } }')
    code = f"""
import pycaffe_compat
pycaffe_compat.install_as_caffe()
import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format
message = text_format.Merge(open({path!r}).read(), caffe_pb2.NetParameter())
assert list(message.layer[1].permute_param.order) == [1, 0]
spec = caffe.NetSpec()
spec.x = caffe.layers.Input()
spec.y = caffe.layers.Permute(spec.x, order=[1, 0])
net = spec.to_proto()
del net.layer[0]
net.input.append("x")
net.input_shape.extend([caffe_pb2.BlobShape(dim=[2, 3])])
open({path!r}, "w").write(str(net))
net = caffe.Net({path!r}, caffe.TEST)
net.save({path!r} + ".caffemodel")
net.copy_from({path!r} + ".caffemodel")
caffe_pb2.NetParameter().ParseFromString(open({path!r} + ".caffemodel", "rb").read())
print(net.forward()["y"].shape)
"""
    done = run(code, "ssd")
    assert (done.stdout.strip(), done.returncode) == ("(3, 2)", 0), done.stderr


def test_a_forks_own_modules_are_found_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "python" / "caffe").mkdir(parents=True)
    (tmp_path / "python" / "caffe" / "model_libs.py").write_text("from caffe import layers as L\nmade = L.Input()\n")
    (tmp_path / "python" / "caffe" / "io.py").write_text("raise ImportError('ours comes first')\n")
    code = f"""
import sys, pycaffe_compat
pycaffe_compat.install_as_caffe()
sys.path.insert(0, {str(tmp_path / "python")!r})
import caffe
from caffe.model_libs import *
import caffe.io
assert caffe.io is pycaffe_compat.io and sys.modules["caffe.model_libs"].made is made
print(made.fn.type_name)
"""
    done = run(code, "")
    assert (done.stdout.strip(), done.returncode) == ("Input", 0), done.stderr


def test_a_dialect_that_there_is_not() -> None:
    done = run("import pycaffe_compat", "sdd")
    assert done.returncode == 1
    assert 'PYCAFFE_DIALECT: unknown dialect "sdd"; did you mean "ssd"?' in done.stderr
