"""Snapshots: the original's are read, ours read back equal, and a resumed run is the uninterrupted one."""

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pycaffe_compat.errors import NetError, WeightsError
from pycaffe_compat.proto import binary, caffe_pb2
from pycaffe_compat.proto.text import read_solver
from pycaffe_compat.solver import Action, Solver
from pycaffe_compat.solver.snapshot import State, probe_prefix, read_state, resolve_prefix, write_state
from pycaffe_compat.weights import read_weights

SolverFile = Callable[..., str]


def same(ours: Solver, theirs: Solver) -> None:
    """Everything that a run consists of is equal, bit for bit."""
    for a, b in zip(ours.graph.learnable, theirs.graph.learnable, strict=True):
        assert torch.equal(a.parameter, b.parameter)
    for x, y in zip(ours._rule.history, theirs._rule.history, strict=True):
        assert torch.equal(x, y)
    assert (ours.iter, ours.last_lr, ours._rate.current_step) == (
        theirs.iter,
        theirs.last_lr,
        theirs._rate.current_step,
    )
    for mine, other in zip((ours.graph, *ours.test_graphs), (theirs.graph, *theirs.test_graphs), strict=True):
        for name, layer in mine.data_layers.items():
            assert layer.source.state_dict() == other.data_layers[name].source.state_dict()


# -------------------------------------------------------------------------------------- files of the original


@pytest.mark.parametrize("name", ["sgd_iter_10.solverstate", "adambin_iter_10.solverstate"])
def test_binary_state_of_the_original_reads_back_equal(name: str, golden: Path, tmp_path: Path) -> None:
    path = golden / "solvers" / "snap" / name
    message = caffe_pb2.SolverState.FromString(path.read_bytes())
    state = read_state(str(path))
    assert (state.iteration, state.current_step, state.resume) == (10, message.current_step, {})
    assert state.learned_net == message.learned_net == f"snap/{name.replace('solverstate', 'caffemodel')}"
    assert len(state.history) == len(message.history) == (8 if name.startswith("sgd") else 16)
    state.resume = {"version": 1}
    copy = str(tmp_path / "copy.solverstate")
    write_state(copy, state)
    again = caffe_pb2.SolverState.FromString(Path(copy).read_bytes())  # as any reader of the schema does
    assert (again.iter, again.learned_net) == (message.iter, message.learned_net)
    assert [list(b.shape.dim) for b in again.history] == [list(b.shape.dim) for b in message.history]
    assert all(list(a.data) == list(b.data) for a, b in zip(again.history, message.history, strict=True))
    back = read_state(copy)
    assert back.resume == {"version": 1}
    assert all(np.array_equal(a, b) for a, b in zip(back.history, state.history, strict=True))


def test_hdf5_state_of_the_original_reads_back_equal(golden: Path, tmp_path: Path) -> None:
    path = golden / "solvers" / "snap" / "adam_iter_20.solverstate.h5"
    state = read_state(str(path))
    assert (state.iteration, state.current_step) == (20, 1)
    copy = str(tmp_path / "copy.solverstate.h5")
    write_state(
        copy, State(state.iteration, state.learned_net, state.history, state.current_step, {"version": 1})
    )
    with h5py.File(path) as theirs, h5py.File(copy) as ours:
        assert set(ours) == set(theirs) | {"pycaffe_compat_resume"}
        for name in ("iter", "current_step", "learned_net", *(f"history/{i}" for i in range(16))):
            assert ours[name].shape == theirs[name].shape
            assert ours[name].id.get_type() == theirs[name].id.get_type()
            assert np.array_equal(ours[name][()], theirs[name][()])
        assert len(ours["history"]) == len(theirs["history"])
    assert read_state(copy).resume == {"version": 1}


@pytest.mark.parametrize(
    ("solver_name", "state", "expected"),
    [
        ("snap_sgd_resume", "snap/sgd_iter_10.solverstate", "snap/sgd_resumed_iter_20.caffemodel"),
        (
            "snap_adam_h5_resume",
            "snap/adam_iter_10.solverstate.h5",
            "snap/adam_resumed_iter_20.caffemodel.h5",
        ),
    ],
)
def test_resumed_from_the_original(
    solver_name: str, state: str, expected: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(golden / "solvers")
    param = read_solver(f"{solver_name}_solver.prototxt")
    param.snapshot_prefix = str(tmp_path / "new" / "resumed")
    solver = Solver(param)
    solver.solve(state)
    assert solver.iter == 20
    suffix = ".h5" if expected.endswith(".h5") else ""
    ours = read_weights(tmp_path / "new" / f"resumed_iter_20.caffemodel{suffix}")
    theirs = read_weights(expected)
    assert list(ours) == list(theirs)
    a, b = (np.concatenate([x.ravel() for blobs in w.values() for x in blobs]) for w in (ours, theirs))
    assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)
    original = read_state(expected.replace("caffemodel", "solverstate"))
    mine = read_state(str(tmp_path / "new" / f"resumed_iter_20.solverstate{suffix}"))
    assert mine.current_step == original.current_step
    assert [h.shape for h in mine.history] == [h.shape for h in original.history]


# ------------------------------------------------------------------------------------------------ bit for bit


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
def test_resumed_run_is_the_uninterrupted_one(
    kind: str, snapshot_format: str, solver_file: SolverFile, workdir: Path
) -> None:
    momentum = None if kind in ("AdaGrad", "RMSProp") else 0.9
    fields = {
        "type": f'"{kind}"',
        "momentum": momentum,
        "snapshot_format": snapshot_format,
        "lr_policy": '"multistep"',
        "gamma": 0.5,
        "test_iter": 2,
        "test_interval": 3,
        "iter_size": 2,
        "max_iter": 14,
    }
    steps = "stepvalue: 3 stepvalue: 9\n"
    path = solver_file(text=steps, **fields)
    whole = Solver(path)
    whole.solve()
    first = Solver(path, max_iter=7)
    first.solve()
    second = Solver(solver_file("other.prototxt", text=steps, random_seed=99, **fields))
    suffix = ".h5" if snapshot_format == "HDF5" else ""
    second.solve(f"out/s_iter_7.solverstate{suffix}")
    same(second, whole)


def test_the_random_generators_go_on(solver_file: SolverFile) -> None:
    solver = Solver(solver_file())
    solver.step(2)
    state = solver.snapshot()
    drawn = [torch.rand(3).tolist(), np.random.rand(3).tolist()]
    Solver(solver_file("other.prototxt", random_seed=5)).restore(state)
    assert [torch.rand(3).tolist(), np.random.rand(3).tolist()] == drawn


def test_a_snapshot_within_a_test_resumes_before_it(solver_file: SolverFile) -> None:
    path = solver_file(test_iter=3, test_interval=3)
    whole = Solver(path)
    whole.solve()
    stopped = Solver(path)
    # the first test asks 3 times, each of 3 iterations once, and the second test stops after its first batch
    requests = iter([Action.NONE] * 7 + [Action.STOP])
    stopped.action = lambda: next(requests, Action.NONE)
    stopped.solve()
    assert stopped.iter == 3
    resumed = Solver(path)
    resumed.solve("out/s_iter_3.solverstate")
    same(resumed, whole)


def test_another_database_starts_at_its_beginning_and_says_so(
    solver_file: SolverFile, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = solver_file()
    Solver(path, max_iter=3).solve()
    (workdir / "train.txt").write_text("a.h5\n")
    solver = Solver(path)
    capsys.readouterr()
    solver.restore("out/s_iter_3.solverstate")
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("W")]
    assert "train.txt" in warning and "it is read from its beginning" in warning
    solver.step(1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
def test_kill_at_any_moment_leaves_a_good_pair(
    solver_file: SolverFile, workdir: Path, repo_root: Path
) -> None:
    path = solver_file(snapshot=1, max_iter=100_000, snapshot_prefix='"killed/s"')
    # The child reports each replacement of a file before it is made: every stage of a snapshot can be hit.
    program = (
        "import os, sys\n"
        "from pycaffe_compat.solver import Solver\n"
        "replace = os.replace\n"
        "def told(*args):\n"
        "    print(args[1], flush=True)\n"
        "    sys.stdin.readline()\n"
        "    replace(*args)\n"
        "os.replace = told\n"
        f"Solver({path!r}).solve()\n"
    )
    threads = str(torch.get_num_threads())  # sums rounded as here
    environment = os.environ | {"PYTHONPATH": str(repo_root), "GLOG_minloglevel": "2", "OMP_NUM_THREADS": threads}
    for stages in (2, 3, 4):
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None and child.stdout is not None
        with child:
            for done in range(stages):
                assert child.stdout.readline()
                if done < stages - 1:
                    child.stdin.write("\n")
                    child.stdin.flush()
            child.kill()
        states = sorted((workdir / "killed").glob("s_iter_*.solverstate"))
        assert len(states) == (stages - 1) // 2
        for state in states:
            resumed = Solver(path)
            resumed.restore(state)
            whole = Solver(path, max_iter=resumed.iter)
            whole.param.snapshot = 0
            whole.step(resumed.iter)
            for a, b in zip(resumed.graph.learnable, whole.graph.learnable, strict=True):
                assert torch.equal(a.parameter, b.parameter)
        for file in (workdir / "killed").iterdir():
            file.unlink()


# ---------------------------------------------------------------------------------------------- what is in it


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_diffs_are_saved_on_request(suffix: str, solver_file: SolverFile) -> None:
    fields = {"snapshot_diff": "true", "snapshot_format": "HDF5" if suffix else "BINARYPROTO"}
    solver = Solver(solver_file(**fields))
    solver.step(1)
    solver.snapshot()
    update = solver.graph.params["conv1"][0].grad
    assert update is not None
    path = f"out/s_iter_1.caffemodel{suffix}"
    if suffix:
        with h5py.File(path) as file:
            stored = np.asarray(file["diff/conv1/0"])
    else:
        net = caffe_pb2.NetParameter.FromString(Path(path).read_bytes())
        (layer,) = [layer for layer in net.layer if layer.name == "conv1"]
        stored = np.array(layer.blobs[0].diff, np.float32).reshape(update.shape)
    np.testing.assert_array_equal(stored, update.numpy())


def test_memory_format_does_not_show_in_files(solver_file: SolverFile, workdir: Path) -> None:
    solver = Solver(solver_file())
    assert solver.graph.params["conv2"][0].is_contiguous(memory_format=torch.channels_last)
    solver.step(1)
    solver.snapshot()
    stored = read_weights("out/s_iter_1.caffemodel")["conv2"][0]
    np.testing.assert_array_equal(stored, solver.graph.params["conv2"][0].detach().numpy())


def test_a_moved_folder_finds_its_weights(solver_file: SolverFile, workdir: Path) -> None:
    solver = Solver(solver_file())
    solver.step(1)
    solver.snapshot()
    (workdir / "out").rename(workdir / "moved")
    again = Solver(solver_file("other.prototxt", random_seed=3))
    again.restore("moved/s_iter_1.solverstate")
    same_weights = zip(again.graph.learnable, solver.graph.learnable, strict=True)
    assert all(torch.equal(a.parameter, b.parameter) for a, b in same_weights)
    (workdir / "moved" / "s_iter_1.caffemodel").unlink()
    with pytest.raises(
        WeightsError, match=r"its weights out/s_iter_1\.caffemodel are not there, nor beside it as"
    ):
        again.restore("moved/s_iter_1.solverstate")


def test_history_of_four_dimensions_fits(solver_file: SolverFile) -> None:
    solver = Solver(solver_file())
    solver.step(2)
    path = solver.snapshot()
    message = caffe_pb2.SolverState.FromString(Path(path).read_bytes())
    for blob in message.history:
        dims = [1] * (4 - len(blob.shape.dim)) + list(blob.shape.dim)
        blob.ClearField("shape")
        blob.num, blob.channels, blob.height, blob.width = dims
    Path("old.solverstate").write_bytes(message.SerializeToString())
    again = Solver(solver_file())
    again.restore("old.solverstate")
    assert all(torch.equal(a, b) for a, b in zip(again._rule.history, solver._rule.history, strict=True))


# ---------------------------------------------------------------------------------------------------- refused


def test_state_of_another_solver_type_or_net(solver_file: SolverFile, workdir: Path) -> None:
    solver = Solver(solver_file())
    solver.step(1)
    state = solver.snapshot()
    adam = Solver(solver_file("adam.prototxt", type='"Adam"'))
    before = [e.parameter.detach().clone() for e in adam.graph.learnable]
    message = (
        "out/s_iter_1.solverstate: holds 4 history blobs; Adam needs 8 for the 4 parameters of this net: "
        "was it written by another solver type or net?"
    )
    with pytest.raises(WeightsError) as caught:
        adam.restore(state)
    assert str(caught.value) == message
    assert all(torch.equal(a, e.parameter) for a, e in zip(before, adam.graph.learnable, strict=True))
    text = (workdir / "net.prototxt").read_text().replace("num_output: 5", "num_output: 6")
    (workdir / "wide.prototxt").write_text(text)
    with pytest.raises(WeightsError, match="history blob 0 has shape 5x1x3x3, the net's parameter 6x1x3x3"):
        Solver(solver_file("wide_solver.prototxt", net='"wide.prototxt"')).restore(state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "x.solverstate"),
        (b"name: 'text'", "x.solverstate"),
        (b"\x89HDF\r\n\x1a\n broken", "x.solverstate: broken or truncated HDF5"),
    ],
)
def test_broken_states(content: bytes | None, message: str, solver_file: SolverFile) -> None:
    solver = Solver(solver_file())
    if content is not None:
        Path("x.solverstate").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        solver.restore("x.solverstate")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_truncated_states(suffix: str, solver_file: SolverFile) -> None:
    solver = Solver(solver_file(snapshot_format="HDF5" if suffix else "BINARYPROTO"))
    solver.step(1)
    content = Path(solver.snapshot()).read_bytes()
    path = f"cut.solverstate{suffix}"
    for length in (len(content) // 4, len(content) // 2, len(content) - 1):
        Path(path).write_bytes(content[:length])
        with pytest.raises(WeightsError, match=path.replace(".", r"\.")):
            solver.restore(path)


def test_a_caffemodel_is_no_state(solver_file: SolverFile) -> None:
    for snapshot_format, suffix in (("BINARYPROTO", ""), ("HDF5", ".h5")):
        solver = Solver(solver_file(snapshot_format=snapshot_format))
        solver.step(1)
        solver.snapshot()
        with pytest.raises(WeightsError, match="(?i)solver_?state"):
            solver.restore(f"out/s_iter_1.caffemodel{suffix}")


def test_resume_data_of_a_newer_version(solver_file: SolverFile) -> None:
    solver = Solver(solver_file())
    solver.step(1)
    state = read_state(solver.snapshot())
    state.resume["version"] = 2
    write_state("new.solverstate", state)
    with pytest.raises(
        WeightsError, match=r"new\.solverstate: was written by a newer version of this library"
    ):
        solver.restore("new.solverstate")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("train", 7),
        ("train", {"data": 7}),
        ("test", 7),
        ("test", [7]),
        ("other_ranks", "x"),
        ("random", [7]),
        ("random", {"torch": "!"}),
        ("random", {"torch": "AAAA"}),
        ("random", {"torch": 7}),
        ("random", {"numpy": "MT"}),
        ("random", {"numpy": ["MT19937", "AAAA", 0, 0, 0.0]}),
        ("random", {"numpy": ["MT19937", base64.b64encode(bytes(4 * 624)).decode(), 625, 0, 0.0]}),
        ("random", {"python": [3, "AAAA", None]}),
        ("random", {"python": [3, "AAA", None]}),
    ],
)
def test_resume_data_of_another_form_change_nothing(part: str, value: object, solver_file: SolverFile) -> None:
    solver = Solver(solver_file())
    solver.step(1)
    state = read_state(solver.snapshot())
    solver.step(1)
    before = [entry.parameter.clone() for entry in solver.graph.learnable]
    state.resume[part] = value
    write_state("bad.solverstate", state)
    with pytest.raises(WeightsError, match=r"^bad\.solverstate: is damaged: what resumes the training: .") as error:
        solver.restore("bad.solverstate")
    assert "\n" not in str(error.value) and solver.iter == 2
    assert all(map(torch.equal, before, [entry.parameter for entry in solver.graph.learnable]))


# ----------------------------------------------------------------------------------------------------- prefix


def test_prefix_rules(tmp_path: Path) -> None:
    assert resolve_prefix("a/b", "x/solver_l8.prototxt") == "a/b"
    assert resolve_prefix("", "x/solver_l8.prototxt") == "x/solver_l8"
    assert resolve_prefix(str(tmp_path), "x/solver_l8.prototxt") == f"{tmp_path}/solver_l8"
    assert resolve_prefix("new/", "x/solver_l8.prototxt") == "new/solver_l8"
    assert resolve_prefix("", "") == "snapshot"


def test_probe(tmp_path: Path) -> None:
    probe_prefix(str(tmp_path / "a" / "b" / "s"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        probe_prefix(str(tmp_path / "file" / "s"))


def test_a_prefix_that_cannot_be_written_is_found_before_training(
    solver_file: SolverFile, workdir: Path
) -> None:
    (workdir / "out").write_text("a file, not a directory")
    solver = Solver(solver_file())
    with pytest.raises(OSError, match="out"):
        solver.solve()
    assert solver.iter == 0


def test_layers_that_a_snapshot_cannot_tell_apart_are_found_before_training(solver_file: SolverFile) -> None:
    solver = Solver(solver_file())
    first, second = [node for node in solver.graph.nodes if node.layer.blob_names][:2]
    second.name = first.name
    with pytest.raises(NetError, match="has parameters too, and a file of weights tells layers apart by the name"):
        solver.solve()
    assert solver.iter == 0


@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
def test_shared_parameters_resume_and_reach_the_test_net(
    snapshot_format: str, solver_file: SolverFile, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # conv0 and conv1 share all of theirs; conv2's weight is conv3's in another shape
    data = (workdir / "net.prototxt").read_text().split('layer {\n  name: "conv1"')[0]
    conv = """
      layer {{ name: "conv{0}" type: "Convolution" bottom: "{1}" top: "conv{0}" {2}
        convolution_param {{ num_output: 1 {3} weight_filler {{ type: "xavier" }} }} }}"""
    both = 'param { name: "w" } param { name: "b" }'
    loosely = 'param { name: "v" share_mode: PERMISSIVE }'
    layers = [
        conv.format(0, "data", both, "kernel_size: 3 pad: 1"),
        conv.format(1, "conv0", both, "kernel_size: 3 pad: 1"),
        conv.format(2, "conv1", loosely, "kernel_h: 5 kernel_w: 1"),
        conv.format(3, "conv2", loosely, "kernel_h: 1 kernel_w: 5"),
        'layer { name: "loss" type: "EuclideanLoss" bottom: "conv3" bottom: "label" top: "loss" }',
    ]
    (workdir / "net.prototxt").write_text(data + "\n".join(layers))
    path = solver_file(snapshot_format=snapshot_format, test_iter=2, test_interval=3, base_lr=1e-4)
    whole = Solver(path)
    params = whole.graph.params
    assert params["conv0"][0] is params["conv1"][0]
    assert params["conv2"][0].data_ptr() == params["conv3"][0].data_ptr()
    assert len(whole.graph.learnable) == 5  # w, b, v, and the biases of conv2 and conv3
    whole.solve()
    (test_net,) = whole.test_graphs
    for name, blobs in whole.graph.params.items():
        assert [b.data_ptr() for b in blobs] == [b.data_ptr() for b in test_net.params[name]]
    Solver(path, max_iter=4).solve()
    second = Solver(path)
    state = "out/s_iter_4.solverstate" + (".h5" if snapshot_format == "HDF5" else "")
    capsys.readouterr()
    second.solve(state)
    assert f"] Restoring previous solver status from {state}" in capsys.readouterr().err
    same(second, whole)
    assert second.test() == whole.test()
    # A sharer's diff is its owner's, in HDF5 too, where its data are with the owner only.
    second.param.snapshot_diff = True
    second.snapshot()
    path = f"out/s_iter_8.caffemodel{'.h5' if snapshot_format == 'HDF5' else ''}"
    if snapshot_format == "HDF5":
        with h5py.File(path) as file:
            diffs = [np.ravel(file[f"diff/conv{i}/0"]) for i in range(4)]
            assert "data/conv1/0" not in file
    else:
        layers = caffe_pb2.NetParameter.FromString(Path(path).read_bytes()).layer
        diffs = [np.array(layer.blobs[0].diff, np.float32) for layer in layers if layer.name.startswith("conv")]
    for i in (0, 2):
        assert diffs[i].any()
        np.testing.assert_array_equal(diffs[i], diffs[i + 1])


def test_a_state_that_is_larger_than_a_message_may_be_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "MAX_MESSAGE", 100)
    state = State(1, "w", [np.zeros(26, np.float32)], 0, {})
    with pytest.raises(WeightsError, match=r"^s\.solverstate: .* a protobuf message ends at 2 GiB: use \.h5"):
        write_state(str(tmp_path / "hidden"), state, "s.solverstate")
    assert not (tmp_path / "hidden").exists()
    write_state(str(tmp_path / "s.h5"), state)
