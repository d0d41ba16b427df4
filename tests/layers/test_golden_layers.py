"""Every layer case of the original program whose layer types are registered: forward, state and gradients.

The numbers come from the folder that ``CAFFE_GOLDEN`` names, or from the copy under tests/data/golden. The cases of types
that are still to come are not collected; they join by themselves when their types are registered.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pycaffe_compat as caffe

HERE = Path(__file__).resolve()
PLACES = [
    Path(os.environ.get("CAFFE_GOLDEN") or HERE.parents[2] / "../shared/caffe/golden").resolve(),
    HERE.parents[1] / "data/golden",
]
GOLDEN = next(place for place in PLACES if (place / "layers").is_dir())
TYPES = set(caffe.layer_type_list())

STATE = "the original ignores the gradients of the state's tops, and gives none to the state's bottoms"
OTHER_GRADIENTS = {
    "lstm_expose_seedall_d": STATE,
    "rnn_expose_seedall_d": STATE,
}
"""Cases whose gradient is not the true one in the original and is in ours, and why. Their forward is compared."""


def cases() -> list[Any]:
    rows: dict[str, dict[str, Any]] = {}
    for index in sorted((GOLDEN / "layers").glob("index*.json")):
        rows |= {row["stem"]: row for row in json.loads(index.read_text())["cases"]}
    # Formats of before 2014 are another matter than layers; these two types are fed and checked in their own way, in
    # test_golden_losses_and_data.py.
    rows = {stem: row for stem, row in rows.items() if not set(row["layer_types"]) & {"HDF5Output", "MemoryData"}}
    return [
        pytest.param(row, id=stem)
        for stem, row in rows.items()
        if set(row["layer_types"]) <= TYPES and not stem.startswith(("v0_", "v1_"))
    ]


def close(got: np.ndarray, want: np.ndarray, tolerance: tuple[float, float] | list[float], what: str) -> None:
    assert got.shape == want.shape, what
    finite = np.isfinite(want)
    assert (np.isfinite(got) == finite).all(), what
    if finite.any():
        bound = tolerance[1] * max(1, np.abs(want[finite]).max()) + tolerance[0] * np.abs(want[finite])
        assert (np.abs(got[finite].astype(np.float64) - want[finite]) <= bound).all(), what


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run a net in: nets name their files relative to where they run, and may write there."""
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "caffe", caffe)  # what the Python layers import
    return tmp_path


@pytest.mark.parametrize("case", cases())
def test_the_layer_computes_what_the_original_did(case: dict[str, Any], folder: Path) -> None:
    weights = case.get("weights_file")
    for name in [case["net"], *case.get("files", []), *([weights] if weights else [])]:
        copy = shutil.copytree if (GOLDEN / "layers" / name).is_dir() else shutil.copyfile
        if not (folder / name).exists():
            copy(GOLDEN / "layers" / name, folder / name)
    arrays = np.load(GOLDEN / "layers" / f"{case['stem']}.npz")

    def part(prefix: str) -> list[tuple[str, np.ndarray]]:
        return [(key[len(prefix) :], arrays[key]) for key in arrays.files if key.startswith(prefix)]

    def param(key: str) -> caffe.Blob:
        layer, index = key.rsplit(":", 1)
        return net.params[layer][int(index)]

    phase = {"TRAIN": caffe.TRAIN, "TEST": caffe.TEST}[case["phase"]]
    net = caffe.Net(case["net"], phase, level=case.get("level", 0), stages=case.get("stages", []))
    if weights:
        net.copy_from(weights)
    for key, value in part("param/"):
        param(key).data[...] = value
    for n in range(1, case.get("forwards", 1) + 1):
        k = "" if n == 1 else str(n)
        for name, value in part(f"in{k}/"):
            net.blobs[name].reshape(*value.shape)
            net.blobs[name].data[...] = value
        net.forward()
        for name, value in part(f"fwd{k}/"):
            close(net.blobs[name].data, value, case["tolerance"]["fwd"], name)
        for key, value in part(f"param_after{k}/"):
            close(param(key).data, value, case["tolerance"]["fwd"], key)
    if not case.get("backward") or case["stem"] in OTHER_GRADIENTS:
        return
    for name, value in part("seed/"):
        net.blobs[name].diff[...] = value
    net.clear_param_diffs()
    net.backward()
    for key, value in part("pdiff/"):
        close(param(key).diff, value, case["tolerance"]["bwd"], key)
    for name in case.get("diff_written", []):
        if name not in case.get("diff_partly", []) and f"bdiff/{name}" in arrays.files:
            close(net.blobs[name].diff, arrays[f"bdiff/{name}"], case["tolerance"]["bwd"], name)


@pytest.mark.parametrize("name", ["resnet_d", "googlenet_d", "fcn_d", "superres_d"])
def test_every_blob_of_a_bigger_net_is_the_originals(name: str) -> None:
    case = GOLDEN / "nets" / name
    if not case.is_dir():
        pytest.skip(f"no folder {case}")
    net = caffe.Net(str(case / "net.prototxt"), str(case / "weights.caffemodel"), caffe.TEST)
    arrays = np.load(case / "io.npz")
    for key in arrays.files:
        if key.startswith("in/"):
            net.blobs[key[3:]].data[...] = arrays[key]
    net.forward()
    compared = 0
    for key in arrays.files:
        if key.startswith("fwd/"):
            close(net.blobs[key[4:]].data, arrays[key], (1e-4, 1e-5), key)
            compared += 1
    assert compared > 5


def test_the_committed_copy_is_whole() -> None:
    copy = PLACES[1] / "layers"
    for index in copy.glob("index*.json"):
        for row in json.loads(index.read_text())["cases"]:
            for name in (row["net"], f"{row['stem']}.npz", *row.get("files", [])):
                assert (copy / name).exists(), name
