"""The names: both ways to import them, those that mean two things, logging and the timer."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import pycaffe_compat as caffe
from pycaffe_compat import CaffeError, log

NAMES = """
Net SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver get_solver Layer layer_type_list
set_mode_cpu set_mode_gpu set_device set_random_seed init_log log solver_count set_solver_count solver_rank set_solver_rank
set_multiprocess has_nccl NCCL Timer TRAIN TEST __version__ Classifier Detector io layers params NetSpec to_proto proto
""".split()


def run(code: str, cwd: Path | None = None) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120,
                          env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "", "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_pycaffes_names_are_there(name: str) -> None:
    assert getattr(caffe, name) is not None


def test_names_of_the_compiled_module() -> None:
    vectors = "BoolVec DtypeVec IntVec LayerVec NetVec StringVec".split()
    assert all(isinstance([], getattr(caffe._caffe, name)) for name in vectors)
    assert caffe._caffe.SolverParameter is caffe.proto.caffe_pb2.SolverParameter
    assert caffe._caffe.LayerParameter is caffe.proto.caffe_pb2.LayerParameter
    for name in "Nesterov AdaGrad RMSProp AdaDelta Adam".split():
        assert issubclass(getattr(caffe, f"{name}Solver"), caffe.SGDSolver)


def test_scripts_that_import_caffe_run(tmp_path: Path) -> None:
    code = """
import sys, pycaffe_compat
pycaffe_compat.install_as_caffe()
pycaffe_compat.install_as_caffe()
import caffe
import caffe.io, caffe.draw, caffe.proto.caffe_pb2, caffe.coord_map, caffe.net_spec, caffe.classifier, caffe.detector, caffe.pycaffe
from caffe import layers as L, params as P
from caffe.proto import caffe_pb2
from caffe.coord_map import crop
from caffe.net_spec import NetSpec, Function, Top
assert caffe is pycaffe_compat
for name in "io draw coord_map net_spec classifier detector pycaffe proto proto.caffe_pb2".split():
    assert sys.modules["caffe." + name] is sys.modules["pycaffe_compat." + name], name
    assert sys.modules["caffe." + name].__spec__.name == "pycaffe_compat." + name
assert (caffe_pb2.TRAIN, caffe_pb2.TEST) == (caffe.TRAIN, caffe.TEST) == (0, 1)
assert isinstance(L.Convolution(L.Input(), num_output=1).to_proto(), caffe_pb2.NetParameter)
try:
    import caffe.nothing
except ModuleNotFoundError as error:
    print(error)
"""
    assert run(code, tmp_path) == "No module named 'caffe.nothing' (pycaffe_compat has none)"


def test_importing_does_not_take_the_name_caffe() -> None:
    assert run("import sys, pycaffe_compat; print('caffe' in sys.modules, 'matplotlib' in sys.modules)") == "False False"


def test_another_caffe_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("caffe")
    other.__file__ = "/somewhere/caffe/__init__.py"
    monkeypatch.setitem(sys.modules, "caffe", other)
    with pytest.raises(CaffeError, match="imported already, from /somewhere/caffe"):
        caffe.install_as_caffe()
    assert sys.modules["caffe"] is other


def test_layers_are_types_and_what_writes_nets() -> None:
    from pycaffe_compat.layers import REGISTRY, base, data

    assert caffe.layers.REGISTRY is REGISTRY
    assert issubclass(data.Input, base.Layer)
    top = caffe.layers.Convolution(caffe.layers.Input(), num_output=3)
    assert top.fn.type_name == "Convolution"
    with pytest.raises(AttributeError, match="has no attribute 'no_such_family'"):
        caffe.layers.no_such_family  # noqa: B018


@pytest.fixture
def level() -> Iterator[None]:
    yield
    log.set_level(None)


def test_log_lines(level: None, capsys: pytest.CaptureFixture[str]) -> None:
    caffe.init_log()
    caffe.log("hello")  # type: ignore[operator]  # a module that can be called
    line = capsys.readouterr().err
    assert re.fullmatch(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ _caffe\.cpp:\d+\] hello\n", line)
    caffe.init_log(1)
    caffe.log("not shown")  # type: ignore[operator]
    log.warning("shown", "x.cpp:1")
    assert capsys.readouterr().err.endswith("x.cpp:1] shown\n")
    caffe.init_log(2, True)
    log.warning("not shown", "x.cpp:1")
    assert capsys.readouterr().err == ""


def test_timer() -> None:
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.stop()
    timer.start()
    time.sleep(0.01)
    timer.stop()
    took = timer.ms
    assert took > 9
    time.sleep(0.002)
    assert timer.ms == took


def test_the_seed_makes_fillers_repeat(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        'input: "x" input_shape { dim: 1 dim: 1 dim: 5 dim: 5 }\nlayer { name: "c" type: "Convolution" bottom: "x" top: "y" '
        'convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "gaussian" } } }'
    )
    made = []
    for seed in (1, 1, 2):
        caffe.set_random_seed(seed)
        made.append(caffe.Net(str(path), caffe.TEST).params["c"][0].data.tolist())
    assert made[0] == made[1] != made[2]
