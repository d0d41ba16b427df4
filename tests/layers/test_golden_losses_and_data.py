"""Losses, scores and data layers against the numbers of the original program, from the copies in tests/data/golden.

A case runs once all of its layer types are registered. Keys of the numbers: in/ is written, fwd/ comes out, seed/ and bdiff/ are gradients of blobs, pdiff/ of parameters.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import pycaffe_compat as caffe

ROOT = Path(__file__).resolve().parents[1] / "data" / "golden" / "layers"
TYPES = set(caffe.layer_type_list())
CASES = json.loads((ROOT / "index_loss_data.json").read_text())["cases"]
READY = [pytest.param(case, id=case["stem"]) for case in CASES if set(case["layer_types"]) <= TYPES]


@pytest.fixture(autouse=True)
def _workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in the nets are relative, and one net writes."""
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)


def close(got: np.ndarray, want: np.ndarray, tolerance: list[float]) -> None:
    assert got.shape == want.shape
    bound = tolerance[1] * max(1, np.abs(want).max(initial=0)) + tolerance[0] * np.abs(want)
    assert (np.abs(got.astype(np.float64) - want) <= bound).all()


@pytest.mark.parametrize("case", READY)
def test_the_layer_computes_what_the_original_did(case: dict[str, Any]) -> None:
    arrays = np.load(ROOT / case["data"])

    def part(prefix: str) -> list[tuple[str, np.ndarray]]:
        return [(key[len(prefix) :], arrays[key]) for key in arrays.files if key.startswith(prefix)]

    def param(key: str) -> caffe.Blob:
        name, index = key.rsplit(":", 1)
        return net.params[name][int(index)]

    net = caffe.Net(ROOT / case["net"], {"TRAIN": caffe.TRAIN, "TEST": caffe.TEST}[case["phase"]])
    for key, value in part("param/"):
        param(key).data[...] = value
    if "mem/data" in arrays.files:
        net.set_input_arrays(arrays["mem/data"], arrays["mem/label"])
    for n in range(1, case["forwards"] + 1):
        k = "" if n == 1 else str(n)
        for name, value in part(f"in{k}/"):
            net.blobs[name].data[...] = value
        net.forward()
        for name, value in part(f"fwd{k}/"):
            close(net.blobs[name].data, value, case["tolerance"]["fwd"])
    for name, value in part("h5/"):
        with h5py.File("out_tmp.h5") as h5:
            close(h5[name][:], value, [0, 0])
    if not case["backward"]:
        return
    for name, value in part("seed/"):
        net.blobs[name].diff[...] = value
    net.clear_param_diffs()
    net.backward()
    for key, value in part("pdiff/"):
        close(param(key).diff, value, case["tolerance"]["bwd"])
    for name in case["diff_written"]:
        if name not in case["diff_partly"] and f"bdiff/{name}" in arrays.files:
            close(net.blobs[name].diff, arrays[f"bdiff/{name}"], case["tolerance"]["bwd"])


def test_no_type_of_this_file_is_left_without_a_case() -> None:
    covered = {kind for case in CASES for kind in case["layer_types"]}
    assert covered >= {
        "Accuracy",
        "ContrastiveLoss",
        "Data",
        "DummyData",
        "HDF5Output",
        "HingeLoss",
        "InfogainLoss",
        "MemoryData",
        "MultinomialLogisticLoss",
        "SigmoidCrossEntropyLoss",
        "SoftmaxWithLoss",
    }
    assert len(READY) >= 65
