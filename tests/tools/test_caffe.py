"""tools/caffe.py: Caffe's commands and ours, as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pycaffe_compat import cli, log
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.io import Transformer
from pycaffe_compat.layers import REGISTRY
from pycaffe_compat.weights import write_weights
from tools import caffe

NET = """
name: "n"
layer { name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "list.txt" batch_size: 2 } }
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 1 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "loss" type: "EuclideanLoss" bottom: "conv" bottom: "label" top: "loss" loss_weight: 0.5 }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 3 random_seed: 1 snapshot_prefix: "out/s"'
DEPLOY = """
name: "d"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } bias_filler { type: "uniform" } }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "left" type: "Power" bottom: "conv" top: "left" power_param { scale: 0.5 } }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "left" top: "sum" }
layer { name: "fc" type: "InnerProduct" bottom: "sum" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@dataclass
class Done:
    returncode: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with nets, a solver, data and weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    (tmp_path / "deploy.prototxt").write_text(DEPLOY)
    random = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = random.random((5, 1, 8, 8), np.float32)
        file["label"] = random.random((5, 1, 6, 6), np.float32)
    (tmp_path / "list.txt").write_text("a.h5\n")
    for name in ("net", "deploy"):
        graph = Graph(tmp_path / f"{name}.prototxt", TEST)
        write_weights(tmp_path / f"{name}.caffemodel", graph.param, graph.weights())
    return tmp_path


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def start(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["caffe.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.run(caffe.main)
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return start


def messages(log: str) -> list[str]:
    """The lines of Caffe's program itself, without time and thread."""
    return re.findall(r"^I\d+ \S+ +\d+ (caffe\.cpp:\d+\] .*)$", log, re.MULTILINE)


# -------------------------------------------------------------------------------------------------- Caffe's commands


def test_test_prints_what_the_original_printed(golden: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden / "solvers")
    done = run("test", "-model", "cls_net.prototxt", "--weights=snap/cls_iter_20.caffemodel", "-iterations=4")
    assert (done.returncode, done.out) == (0, "")
    ours, theirs = messages(done.err), messages((golden / "test_cls.log").read_text())
    number = r"(?<== )[-\d.e]+|(?<=Loss: )[-\d.e]+"
    assert [re.sub(number, "#", line) for line in ours] == [re.sub(number, "#", line) for line in theirs]
    values = [[float(v) for line in lines for v in re.findall(number, line)] for lines in (ours, theirs)]
    assert len(values[0]) > 200
    np.testing.assert_allclose(values[0], values[1], rtol=3e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        "test -model net.prototxt -weights net.caffemodel -iterations 2",
        "test --model net.prototxt --weights net.caffemodel --iterations 2",
        "test --model=net.prototxt -weights=net.caffemodel -iterations=2",
        "-model net.prototxt -weights=net.caffemodel test --iterations 2",
        "-model net.prototxt -weights net.caffemodel -iterations 2 test",
    ],
)
def test_flags_in_every_spelling_of_gflags(arguments: str, run: Run) -> None:
    done = run(*arguments.split())
    assert done.returncode == 0, done.err
    lines = messages(done.err)
    texts = [line.split("] ")[1] for line in lines]
    heads = ["Use CPU.", "Running for 2 iterations.", "Batch 0, loss", "Batch 1, loss"]
    assert [text.split(" = ")[0] for text in texts[:4]] == heads
    mean = np.mean([float(text.split(" = ")[1]) for text in texts[2:4]])
    assert float(texts[4].removeprefix("Loss: ")) == pytest.approx(mean / 2, rel=1e-5)
    assert re.fullmatch(r"caffe\.cpp:321\] loss = \S+ \(\* 0\.5 = \S+ loss\)", lines[5])


@pytest.mark.parametrize(
    "arguments",
    [
        "test -model net.prototxt -weights net.caffemodel -iterations 1 -phase TEST -solver=s -logtostderr",
        "-v 1 -noalsologtostderr test -model net.prototxt -weights net.caffemodel -iterations 1 -log_dir /nowhere",
        "-log_dir=/nowhere time -model net.prototxt -weights w -iterations 1 -logtostderr=1 --v=2 -snapshot s",
        "train -solver solver.prototxt -iterations 9 -model m -phase TRAIN -alsologtostderr=false",
        "-model m device_query -stderrthreshold 1 -iterations 3",
    ],
)
def test_every_flag_of_caffe_and_glog_goes_with_every_command(
    arguments: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_level", None)
    assert "caffe.cpp" in run(*arguments.split()).err
    done = run("-minloglevel", "2", *arguments.split())
    assert done.returncode != 2 and "caffe.cpp" not in done.err  # 1: there is no GPU to be told of
    assert done.returncode == 0 or "device_query" in arguments, done.err


def test_minloglevel_is_a_number(run: Run) -> None:
    done = run("test", "-model", "net.prototxt", "-weights", "net.caffemodel", "-minloglevel", "info")
    assert done.returncode == 2 and "'info' is not a whole number" in done.err


def test_stages_and_levels_reach_the_nets_of_test_and_time(run: Run, place: Path) -> None:
    extra = 'layer { name: "more" type: "Power" bottom: "data" top: "more" include { stage: "b" min_level: 2 } }'
    (place / "net.prototxt").write_text(NET + extra)
    flags = ["-model", "net.prototxt", "-iterations", "1"]
    state = ["-level", "2", "-stage", "a,b"]
    assert "Batch 0, more = " in run("test", *flags, "-weights", "net.caffemodel", *state).err
    assert "Batch 0, more = " not in run("test", *flags, "-weights", "net.caffemodel").err
    assert "      more\tforward" in run("time", *flags, *state).err
    assert "      more\tforward" not in run("time", *flags).err


def test_time_prints_every_layer_forward_and_backward(run: Run) -> None:
    done = run("time", "-model", "net.prototxt", "-iterations", "3")
    assert done.returncode == 0, done.err
    text = "\n".join(line.split("] ", 1)[1] for line in messages(done.err))
    number = r"[-+\d.e]+"
    layers = "".join(rf" *{n}\tforward: {number} ms\.\n *{n}\tbackward: {number} ms\.\n" for n in ("data", "conv", "relu", "loss"))
    assert re.fullmatch(
        rf"Use CPU\.\nPerforming Forward\nInitial loss: {number}\nPerforming Backward\n\*\*\* Benchmark begins \*\*\*\n"
        rf"Testing for 3 iterations\.\n(Iteration: \d forward-backward time: {number} ms\.\n){{3}}Average time per layer: \n"
        rf"{layers}Average Forward pass: {number} ms\.\nAverage Backward pass: {number} ms\.\n"
        rf"Average Forward-Backward: {number} ms\.\nTotal Time: {number} ms\.\n\*\*\* Benchmark ends \*\*\*",
        text,
    ), text
    parts = [float(v) for v in re.findall(rf"\tforward: ({number})", text)]
    assert 0 < sum(parts) <= float(re.findall(rf"Forward pass: ({number})", text)[0])
    assert float(re.findall(rf"conv\tbackward: ({number})", text)[0]) > 0


def test_time_runs_nets_with_sharing_and_in_place_layers(run: Run, place: Path) -> None:
    share = 'param { name: "w" share_mode: PERMISSIVE }'
    (place / "shared.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 6 } } }'
        'layer { name: "l" type: "Input" top: "l" input_param { shape { dim: 2 } } }'
        f'layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "a" {share} inner_product_param {{ num_output: 6 bias_term: false }} }}'
        'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }'
        'layer { name: "e" type: "ELU" bottom: "a" top: "a" }'
        f'layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" {share} inner_product_param {{ num_output: 6 bias_term: false transpose: true }} }}'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "l" top: "loss" }'
    )
    text = (place / "shared.prototxt").read_text()
    (place / "shared.prototxt").write_text(text.replace('name: "e"', 'name: "r"'))  # as two layers without a name
    done = run("time", "-model", "shared.prototxt", "-iterations", "2")
    assert done.returncode == 0, done.err
    assert f"Initial loss: {np.log(6):.6g}" in done.err


def test_train_is_train_net(run: Run, place: Path) -> None:
    done = run("train", "-solver=solver.prototxt", "-sigint_effect", "none")
    assert done.returncode == 0, done.err
    assert "Optimization Done." in done.err
    assert sorted(p.name for p in (place / "out").iterdir()) == ["s_iter_3.caffemodel", "s_iter_3.solverstate"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_query_without_a_gpu(run: Run) -> None:
    done = run("device_query", "-gpu=all")
    assert done.returncode == 1
    assert done.err.splitlines()[-1] == "error: --gpu all: PyTorch sees no GPU here"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "the following arguments are required: COMMAND"),
        (["tain"], 2, "invalid choice: 'tain'"),
        (["test", "-model", "net.prototxt"], 2, "the following arguments are required: --weights"),
        (["test", "-weights", "net.caffemodel"], 2, "the following arguments are required: --model"),
        (["test", "-model", "no", "-weights", "net.caffemodel"], 1, "error: no: no such file"),
        (["test", "-model", "net.prototxt", "-weights", "no"], 1, "error: no: no such file"),
        (["test", "-model", "net.prototxt", "-weights", "deploy.caffemodel"], 1, 'layer "conv" (Convolution) parameter 0 has shape 1x1x3x3'),
        (["test", "-model", "net.prototxt", "-weights", "net.caffemodel", "-iterations", "0"], 2, "'0' is less than 1"),
        (["test", "-model", "net.prototxt", "-weights", "net.caffemodel", "-gpu", "x"], 1, "error: --gpu x: give the number of a GPU"),
        (["test", "-model", "net.prototxt", "-weights", "net.caffemodel", "-gpu", "97"], 1, "error: --gpu 97: PyTorch sees"),
        (["time", "-model", "net.prototxt", "-phase", "train"], 2, "invalid choice: 'train'"),
        (["time", "-model", "solver.prototxt"], 1, 'error: solver.prototxt:1:1: NetParameter has no field "net"'),
        (["train"], 2, "the following arguments are required: --solver"),
        (["train", "-solver", "no"], 1, "error: no: no such file"),
        (["time", "-model", "net.prototxt", "--import", "no_such"], 1, "error: --import no_such: no such module"),
        (["time", "-model", "net.prototxt", "--import", "bad_layers"], 1, "error: --import bad_layers: ZeroDivisionError: division by zero"),
        (["time", "-model", "net.prototxt", "--import", "twice.py"], 1, 'error: --import twice.py: layer type "ReLU" is registered already'),
        (["time", "-model", "net.prototxt", "--import", "needs"], 1, "error: --import needs: No module named 'absent_package'"),
        (["diff", "net.prototxt", "net.caffemodel"], 1, "one is a net, the other are weights"),
        (["diff", "net.prototxt", "no"], 1, "error: no: No such file"),
        (["diff", "net.prototxt"], 2, "the following arguments are required: B"),
        (["summary", "no"], 1, "error: no: no such file"),
        (["summary", "net.prototxt", "--shape", "data"], 2, "'data' is no shape of a blob: write data=1,3,224,224"),
        (["summary", "net.prototxt", "--shape", "data=99999999999999999999"], 2, "is no shape of a blob"),
        (["summary", "net.prototxt", "--level", "3000000000"], 2, "'3000000000' is too large"),
        (["summary", "net.prototxt", "--shape", "dota=1,1,8,8"], 1, 'net.prototxt: no data layer writes "dota"; did you mean "data"?'),
        (["summary", "net.prototxt", "--shape", "data=1,1,8,8"], 1, 'layer "data" (HDF5Data): give "label" a shape too'),
        (["summary", "net.prototxt", "extra"], 2, "unrecognized arguments: extra"),
        (["doctor", "net.prototxt", "a", "b"], 2, "unrecognized arguments: b"),
        (["upgrade", "no", "new"], 1, "error: no: no such file"),
        (["convert", "net.prototxt", "net.caffemodel", "x.onnx"], 1, "no Input layer in this state"),
        (["convert", "deploy.prototxt", "net.caffemodel", "x.onnx"], 1, "error: deploy.prototxt:4: layer"),
        (["convert", "deploy.prototxt", "a.h5", "x.onnx"], 1, "is HDF5 but not Caffe weights"),
        (["convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--mean", "1,2"], 1, "has 3 channels, the mean 2"),
        (["convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--mean", "a"], 2, "'a' are no numbers"),
        (["convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--mean", "no.npy"], 1, "no.npy: "),
        (["convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--mean", "no.binaryproto"], 1, "no.binaryproto"),
        (["convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--inputs", "no.npz"], 1, "error: --inputs no.npz: "),
        (["convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--inputs", "other.npz"], 1, "has no array 'data', only other"),
        (["convert", "deploy.prototxt", "deploy.caffemodel", "no/x.onnx"], 1, "no/x.onnx"),
        (["convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--tolerance", "1e-12"], 1, "x.onnx is not written: the difference"),
        (["convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--tolerance", "0"], 2, "'0' is not above 0"),
    ],
)
def test_refused(arguments: list[str], code: int, message: str, run: Run, place: Path) -> None:
    (place / "bad_layers.py").write_text("1 / 0")
    (place / "needs.py").write_text("import absent_package")
    (place / "twice.py").write_text(
        "from pycaffe_compat.layers import register, Layer\n@register('ReLU')\nclass Mine(Layer): ..."
    )
    np.savez(place / "other.npz", other=np.zeros(3))
    done = run(*arguments)
    assert done.returncode == code, done.err
    assert message in done.err
    assert "Traceback" not in done.err
    if code == 1:
        (error,) = [line for line in done.err.splitlines() if line.startswith("error")]
        assert message in error
    assert not (place / "x.onnx").exists()
    assert not (place / "out").exists()


# ------------------------------------------------------------------------------------------------ users' own modules

OWN = """
import caffe
from pycaffe_compat.layers import Layer, register

@register("TestTripled", inplace=True)
class Tripled(Layer):
    def forward(self, x):
        return 3 * x

class Doubled(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data
    def backward(self, top, propagate_down, bottom): bottom[0].diff[...] = 2 * top[0].diff
"""
OWN_NET = (
    NET
    + 'layer { name: "three" type: "TestTripled" bottom: "data" top: "three" }'
    + 'layer { name: "two" type: "Python" bottom: "data" top: "two" python_param { module: "own_layers" layer: "Doubled" } }'
)


@pytest.mark.parametrize("program", ["caffe.py test -model net.prototxt -weights net.caffemodel -iterations 1", "train_net.py --solver solver.prototxt"])
def test_users_modules_and_python_layers_that_import_caffe(program: str, place: Path, repo_root: Path) -> None:
    """In a process of its own, started as a file: tools/caffe.py must not be what `import caffe` finds."""
    (place / "net.prototxt").write_text(OWN_NET)
    (place / "own_layers.py").write_text(OWN)
    words = program.split()
    command = [sys.executable, str(repo_root / "tools" / words[0]), *words[1:], "--import", "own_layers"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if words[0] == "caffe.py":
        values = {
            name: [float(v) for v in re.findall(rf"Batch 0, {name} = (\S+)", done.stderr)] for name in ("two", "three")
        }
        with h5py.File(place / "a.h5") as file:
            rows = np.asarray(file["data"])[:2].ravel()
        np.testing.assert_allclose(values["two"], 2 * rows, rtol=1e-5)
        np.testing.assert_allclose(values["three"], 3 * rows, rtol=1e-5)
    else:
        assert "Optimization Done." in done.stderr


def test_a_file_whose_name_python_knows_otherwise(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (place / "code.py").write_text("raise SystemExit('not reached')")
    done = run("doctor", "net.prototxt", "--import", "code.py")
    assert done.returncode == 1
    assert re.fullmatch(r"error: --import code\.py: Python knows another module code \(.*\): rename the file\n", done.err)
    done = run("doctor", "net.prototxt", "--import", "absent.py")
    assert (done.returncode, done.err) == (1, "error: --import absent.py: no such file\n")


def test_a_module_of_another_folder(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "lib").mkdir()
    (place / "lib" / "module_far_away.py").write_text(
        "from pycaffe_compat.layers import Layer, register\n"
        "@register('TestFarAway')\nclass FarAway(Layer):\n    def forward(self, x):\n        return x + 1\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    (place / "net.prototxt").write_text(
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 } } }'
        'layer { name: "far" type: "TestFarAway" bottom: "x" top: "y" }'
    )
    try:
        assert run("doctor", "net.prototxt").returncode == 1
        assert run("doctor", "net.prototxt", "--import", "lib/module_far_away.py").returncode == 0
    finally:
        REGISTRY.pop("TestFarAway", None)
        sys.modules.pop("module_far_away", None)


# ------------------------------------------------------------------------------------------------------------ convert


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_convert_proves_every_layer_and_writes_the_nets_own_outputs(run: Run, place: Path) -> None:
    done = run("convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--layers")
    assert done.returncode == 0, done.err
    named = re.findall(r"^ *\d\S+  (\S+)$", done.out, re.MULTILINE)
    assert named == ["conv/conv", "relu/conv", "left/left", "sum/sum", "fc/fc", "prob"]
    assert "6 blobs compared in ONNX Runtime and PyTorch\nlargest difference: " in done.out
    assert re.search(r"^x\.onnx: [\d,]+ bytes, \['data'\] to \['prob'\]$", done.out, re.MULTILINE)
    proto = onnx.load(place / "x.onnx")
    assert [value.name for value in proto.graph.output] == ["prob"]
    data = np.random.default_rng(1).random((3, 3, 8, 8), np.float32)
    graph = Graph(place / "deploy.prototxt", TEST)
    weights = caffe.read_weights(place / "deploy.caffemodel")
    graph.load_weights(weights)
    with torch.no_grad():
        want = graph(torch.from_numpy(data))["prob"].numpy()
    np.testing.assert_allclose(session(place / "x.onnx").run(None, {"data": data})[0], want, atol=1e-6)


def damaged(path: Path, kind: str) -> None:
    """A file of NumPy's that cannot be read."""
    if kind == "no archive":
        path.write_bytes(b"PK\x03\x04 no archive")
    elif kind == "one array":
        path.with_suffix(".npy").unlink(missing_ok=True)
        np.save(path.with_suffix(".npy"), np.zeros((1, 3, 8, 8)))
        path.with_suffix(".npy").rename(path)
    elif kind == "damaged":
        np.savez_compressed(path, data=np.arange(192.0).reshape(1, 3, 8, 8))
        content = bytearray(path.read_bytes())
        content[60:90] = bytes(30)
        path.write_bytes(content)
    elif kind == "too large":
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("in.npz", "empty"),
        ("in.npz", "no archive"),
        ("in.npz", "damaged"),
        ("in.npz", "one array"),
        ("mean.npy", "empty"),
        ("mean.npy", "too large"),
        ("mean.npy", "no archive"),
        ("mean.binaryproto", "empty"),
    ],
)
def test_files_that_cannot_be_read_are_told_in_a_line(name: str, kind: str, run: Run, place: Path) -> None:
    damaged(place / name, kind)
    option = "--inputs" if name == "in.npz" else "--mean"
    done = run("convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", option, name)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: .*{name}: .+", done.err.strip().splitlines()[-1]), done.err
    assert "Traceback" not in done.err


def test_the_file_names_no_folder_and_any_name(run: Run, place: Path) -> None:
    (place / "means").mkdir()
    np.save(place / "means/mean.npy", np.full(3, 50.0))
    weights = os.fsdecode(b"w\xff.caffemodel")
    (place / "deploy.caffemodel").rename(place / weights)
    done = run("convert", "deploy.prototxt", weights, "x.onnx", "--mean", place / "means/mean.npy")
    assert done.returncode == 0, done.err
    metadata = {entry.key: entry.value for entry in onnx.load(place / "x.onnx").metadata_props}
    assert metadata["preprocessing"] == "mean mean.npy, scale 1, channels bgr"
    assert metadata["weights_file"] == "w\\udcff.caffemodel"


@pytest.mark.parametrize("kind", ["numbers", "image", "one"])
def test_preprocessing_is_what_pycaffes_transformer_does(kind: str, run: Run, place: Path) -> None:
    random = np.random.default_rng(2)
    image = random.integers(0, 256, (8, 8, 3)).astype(np.float32)  # height x width x RGB
    mean = {"numbers": np.array([104.0, 117.0, 123.0]), "image": random.random((3, 8, 8)) * 100, "one": np.full(3, 50.0)}[kind]
    np.save(place / "mean.npy", mean)
    word = {"numbers": "104,117,123", "image": "mean.npy", "one": "50"}[kind]
    done = run("convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx", "--mean", word, "--scale", "0.017", "--channel_order", "rgb")
    assert done.returncode == 0, done.err
    transformer = Transformer({"data": (1, 3, 8, 8)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_mean("data", mean)
    transformer.set_input_scale("data", 0.017)
    graph = Graph(place / "deploy.prototxt", TEST)
    graph.load_weights(caffe.read_weights(place / "deploy.caffemodel"))
    with torch.no_grad():
        want = graph(torch.from_numpy(transformer.preprocess("data", image)[None].astype(np.float32)))["prob"].numpy()
    got = session(place / "x.onnx").run(None, {"data": image.transpose(2, 0, 1)[None].copy()})[0]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert session(place / "x.onnx").get_modelmeta().custom_metadata_map["preprocessing"].endswith("scale 0.017, channels rgb")


def test_convert_refuses_a_layer_that_computes_something_else(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose exported form is wrong is found and named, though the outputs forgive it."""

    def wrong(self: object, x: torch.Tensor) -> torch.Tensor:
        return x * (2.0 if torch.compiler.is_exporting() else 1.0)

    monkeypatch.setattr(REGISTRY["AbsVal"].cls, "forward", wrong)
    net = DEPLOY.replace('type: "Power" bottom: "conv" top: "left" power_param { scale: 0.5 }', 'type: "AbsVal" bottom: "conv" top: "left"')
    net = net.replace('bottom: "left" top: "sum"', 'bottom: "left" top: "sum" eltwise_param { coeff: 1 coeff: 0 }')
    (place / "deploy.prototxt").write_text(net)
    done = run("convert", "deploy.prototxt", "deploy.caffemodel", "x.onnx")
    assert done.returncode == 1
    assert re.search(r"error: x\.onnx is not written: the difference \S+ exceeds 0\.0001, in left/left$", done.err.strip())
    assert not (place / "x.onnx").exists()


def test_inputs_of_ones_own(run: Run, place: Path) -> None:
    (place / "e.prototxt").write_text(
        'layer { name: "ids" type: "Input" top: "ids" input_param { shape { dim: 4 } } }'
        'layer { name: "e" type: "Embed" bottom: "ids" top: "e" embed_param { input_dim: 3 num_output: 2 weight_filler { type: "xavier" } } }'
    )
    graph = Graph(place / "e.prototxt", TEST)
    write_weights(place / "e.caffemodel", graph.param, graph.weights())
    np.savez(place / "in.npz", ids=np.array([0, 2, 1, 1]))
    done = run("convert", "e.prototxt", "e.caffemodel", "e.onnx", "--inputs", "in.npz")
    assert done.returncode == 0, done.err
    got = session(place / "e.onnx").run(None, {"ids": np.array([2, 0, 1, 2], np.float32)})[0]
    np.testing.assert_allclose(got, graph(torch.tensor([2.0, 0, 1, 2]))["e"].detach().numpy(), atol=1e-6)


# --------------------------------------------------------------------------------------------- upgrade, diff, summary


def test_upgrade_is_upgrade_net(run: Run, place: Path) -> None:
    (place / "old").write_text('layers { name: "r" type: RELU bottom: "a" top: "b" }')
    done = run("upgrade", "old", "new")
    assert (done.returncode, done.out) == (0, "new: a net of 1 layer, text\n")
    assert 'type: "ReLU"' in (place / "new").read_text()


def test_diff_says_by_its_exit_status_whether_two_files_are_the_same(run: Run, place: Path) -> None:
    (place / "other.prototxt").write_text(NET.replace("num_output: 1", "num_output: 2"))
    assert run("diff", "net.prototxt", "net.prototxt") == Done(0, "the nets are the same\n", "")
    done = run("diff", "net.prototxt", "other.prototxt")
    assert (done.returncode, done.out) == (1, '~ layer "conv" (Convolution): convolution_param.num_output: 1 -> 2\n')
    assert run("diff", "net.caffemodel", "net.caffemodel") == Done(0, "the weights are the same: 2 arrays\n", "")
    done = run("diff", "net.caffemodel", "deploy.caffemodel")
    assert done.returncode == 1
    assert done.out == '+ layer "fc": 5x144, 5\n~ layer "conv": 1x1x3x3, 1 -> 4x3x3x3, 4\n'
    weights = caffe.read_weights(place / "net.caffemodel")
    weights["conv"][1] += 0.25
    write_weights(place / "moved.h5", Graph(place / "net.prototxt", TEST).param, weights)
    done = run("diff", "net.caffemodel", "moved.h5")
    assert done.returncode == 1
    assert done.out == '~ layer "conv" parameter 1 (1): differs by up to 0.25, 1 of its largest value\n'
    assert run("diff", "net.caffemodel", "moved.h5", "--tolerance", "1").returncode == 0
    weights["conv"][1][:] = np.inf
    write_weights(place / "moved.h5", Graph(place / "net.prototxt", TEST).param, weights)
    assert run("diff", "net.caffemodel", "moved.h5", "--tolerance", "1").returncode == 1


def test_summary_prints_a_table_with_totals(run: Run) -> None:
    done = run("summary", "l4.prototxt", "--stage", "deploy")
    assert done.returncode == 0, done.err
    rows = {line.split()[0]: line.split() for line in done.out.splitlines() if not line.startswith("-")}
    assert rows["conv1"] == ["conv1", "Convolution", "1x48x54x54", "5,856", f"{48 * 54 * 54 * 121:,}", "11x11"]
    assert rows["restored"][-1] == "19x19"
    assert rows["total"][:4] == ["total", "11", "layers", "72,097"]
    small = run("summary", "net.prototxt", "--shape", "data=1,1,20,30", "--shape", "label=1,1,18,28")
    assert "1x1x18x28" in small.out


def test_doctor_says_by_its_exit_status_whether_a_net_runs(run: Run, place: Path) -> None:
    done = run("doctor", "deploy.prototxt", "deploy.caffemodel")
    assert done == Done(0, "deploy.prototxt: 8 layers in phase TEST, nothing to report: it runs, and has a form in ONNX\n", "")
    done = run("doctor", "deploy.prototxt", "--stage", "x", "net.caffemodel")
    assert done.returncode == 1
    *findings, last = done.out.splitlines()
    assert findings[0].startswith('error: deploy.prototxt:4: layer "conv" (Convolution): parameter 0 has shape 4x3x3x3, net.caffemodel holds')
    assert last == "deploy.prototxt: 8 layers in phase TEST, 1 error, 1 warning: it does not run"
    assert run("doctor", "nowhere.prototxt").out.startswith("error: nowhere.prototxt: no such file")
