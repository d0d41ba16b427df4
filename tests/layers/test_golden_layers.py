"""Every layer case of the original program whose layer types are registered: forward, state and gradients.

The cases of types that are still to come are not collected; they join by themselves when their types are registered.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pycaffe_compat as caffe

ROOT = Path(os.environ.get("CAFFE_GOLDEN") or Path(__file__).resolve().parents[2] / "../shared/caffe/golden") / "layers"
TYPES = set(caffe.layer_type_list())
# What SEMANTICS of the original calls a quirk: its gradient is not the true one; autograd's is. In place, power 1: the
# original overwrites the gradient by the squared scale. In place with a negative slope: it masks by the sign of its output.
QUIRKS = {"power_inplace_lin_d", "state_in_file_d", "relu_inplace_negslope_lt0_d"}


def cases() -> list[Any]:
    index = ROOT / "index.json"
    if not index.exists():
        return [pytest.param(None, id="golden", marks=pytest.mark.skip(reason=f"no golden numbers at {ROOT}"))]
    rows = json.loads(index.read_text())["cases"]
    # Formats of before 2014 are another matter than layers; these two types are fed and checked in their own way, in
    # test_golden_losses_and_data.py.
    rows = [row for row in rows if not set(row["layer_types"]) & {"HDF5Output", "MemoryData"}]
    return [
        pytest.param(row, id=row["stem"])
        for row in rows
        if set(row["layer_types"]) <= TYPES and not row["stem"].startswith(("v0_", "v1_")) and row["stem"] not in QUIRKS
    ]


def close(got: np.ndarray, want: np.ndarray, tolerance: list[float]) -> None:
    assert got.shape == want.shape
    finite = np.isfinite(want)
    assert (np.isfinite(got) == finite).all()
    if finite.any():
        bound = tolerance[1] * max(1, np.abs(want[finite]).max()) + tolerance[0] * np.abs(want[finite])
        assert (np.abs(got[finite].astype(np.float64) - want[finite]) <= bound).all()


@pytest.mark.parametrize("case", cases())
def test_the_layer_computes_what_the_original_did(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setitem(sys.modules, "caffe", caffe)  # what the Python layers import
    arrays = np.load(case["stem"] + ".npz")

    def part(prefix: str) -> list[tuple[str, np.ndarray]]:
        return [(key[len(prefix) :], arrays[key]) for key in arrays.files if key.startswith(prefix)]

    def param(key: str) -> caffe.Blob:
        layer, index = key.rsplit(":", 1)
        return net.params[layer][int(index)]

    phase = {"TRAIN": caffe.TRAIN, "TEST": caffe.TEST}[case["phase"]]
    net = caffe.Net(case["net"], phase, level=case["level"] or 0, stages=case["stages"] or [])
    if case.get("weights_file"):
        net.copy_from(case["weights_file"])
    for key, value in part("param/"):
        param(key).data[...] = value
    for n in range(1, case.get("forwards", 1) + 1):
        k = "" if n == 1 else str(n)
        for name, value in part(f"in{k}/"):
            net.blobs[name].reshape(*value.shape)
            net.blobs[name].data[...] = value
        net.forward()
        for name, value in part(f"fwd{k}/"):
            close(net.blobs[name].data, value, case["tolerance"]["fwd"])
    if not case.get("backward"):
        return
    for name, value in part("seed/"):
        net.blobs[name].diff[...] = value
    net.clear_param_diffs()
    net.backward()
    for key, value in part("pdiff/"):
        close(param(key).diff, value, case["tolerance"]["bwd"])
    for name in case.get("diff_written", []):
        if name not in case.get("diff_partly", []) and f"bdiff/{name}" in arrays.files:
            close(net.blobs[name].diff, arrays[f"bdiff/{name}"], case["tolerance"]["bwd"])
