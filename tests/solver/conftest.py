"""A small net with a shuffled database of two files, in a directory of its own that the test runs in."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

NET = """
name: "small"
layer {
  name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TRAIN }
  hdf5_data_param { source: "train.txt" batch_size: 4 shuffle: true }
}
layer {
  name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TEST }
  hdf5_data_param { source: "test.txt" batch_size: 3 }
}
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer {
  name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 1 kernel_size: 3 weight_filler { type: "gaussian" std: 0.1 } }
}
layer { name: "loss" type: "EuclideanLoss" bottom: "conv2" bottom: "label" top: "loss" }
"""

SOLVER = """
net: "net.prototxt"
type: "SGD"
base_lr: 0.01
lr_policy: "fixed"
momentum: 0.9
weight_decay: 0.001
max_iter: 8
random_seed: 7
solver_mode: CPU
snapshot_prefix: "out/s"
"""


def _database(path: Path, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file["data"] = random.random((rows, 1, 10, 10), np.float32)
        file["label"] = random.random((rows, 1, 6, 6), np.float32)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """net.prototxt, solver.prototxt and what they read; 7 + 6 training rows in batches of 4, 5 test rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    for name, rows, seed in (("a.h5", 7, 1), ("b.h5", 6, 2), ("t.h5", 5, 3)):
        _database(tmp_path / name, rows, seed)
    (tmp_path / "train.txt").write_text("a.h5\nb.h5\n")
    (tmp_path / "test.txt").write_text("t.h5\n")
    return tmp_path


@pytest.fixture
def solver_file(workdir: Path) -> Callable[..., str]:
    """Writes a solver file: the common settings with these instead; returns its path."""

    def write(name: str = "solver.prototxt", text: str = "", **fields: object) -> str:
        lines = [line for line in SOLVER.splitlines() if line.split(":")[0] not in fields]
        lines += [f"{key}: {value}" for key, value in fields.items() if value is not None]
        (workdir / name).write_text("\n".join(lines) + "\n" + text)
        return name

    return write
