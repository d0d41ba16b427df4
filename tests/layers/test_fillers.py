"""Fillers against the original program's statistics and the paper's demands."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pycaffe_compat import NetError
from pycaffe_compat.layers.fillers import fill
from pycaffe_compat.proto import caffe_pb2


def filler(**settings: object) -> caffe_pb2.FillerParameter:
    return caffe_pb2.FillerParameter(**settings)


def test_statistics_are_the_originals(golden: Path) -> None:
    from google.protobuf import text_format

    entries = json.loads((golden / "fillers.json").read_text())["entries"]
    assert len(entries) > 10
    for entry in entries:
        message = text_format.Parse(entry["filler"], caffe_pb2.FillerParameter())
        values = fill(message, tuple(entry["shape"])).double().numpy()
        label = f"{entry['filler']} {entry['shape']}"
        if entry.get("exact"):
            np.testing.assert_allclose(values.ravel(), np.ravel(entry["values"]), rtol=1e-6, atol=1e-7, err_msg=label)
            continue
        # Both are one draw each: their difference has twice the variance of one; 5 standard errors.
        n = values.size
        error = 5 * math.sqrt(2)
        assert abs(values.mean() - entry["mean"]) <= error * entry["std"] / math.sqrt(n) + 1e-7, label
        spread = math.sqrt(max(entry["kurtosis"] - 1, 0.01) / n) / 2
        assert abs(values.std() - entry["std"]) <= error * entry["std"] * spread + 1e-7, label
        zero, p = float((values == 0).mean()), entry.get("zero_fraction", 0)
        assert abs(zero - p) <= error * math.sqrt(max(p * (1 - p), 1 / n) / n) + 1e-7, label


@pytest.mark.parametrize("kind", ["zero_mean_xavier", "zero_mean_msra", "zero_mean_gaussian"])
def test_symmetric_initialisation_gives_every_filter_zero_mean(kind: str) -> None:
    shape = (48, 3, 11, 11)
    values = fill(filler(type=kind, std=0.1), shape).double()
    assert values.flatten(1).mean(1).abs().max() < 1e-8  # the rounding of float32 weights
    plain = fill(filler(type=kind.removeprefix("zero_mean_"), std=0.1), shape).double()
    assert values.std() == pytest.approx(float(plain.std()), rel=0.05)


def test_sobel_is_the_pair_of_derivatives() -> None:
    pair = fill(filler(type="sobel"), (2, 1, 3, 3))
    ramp = torch.arange(25.0).reshape(1, 1, 5, 5)  # rises by 1 to the right, by 5 downwards
    edges = torch.nn.functional.conv2d(ramp, pair)
    assert (edges[0, 0] == 8).all()
    assert (edges[0, 1] == 40).all()


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"type": "sobel"}, (2, 2, 3, 3), "even number of 3x3 filters of one channel"),
        ({"type": "bilinear"}, (1, 1, 3, 4), "square 4-d blob"),
        ({"type": "xavieer"}, (1, 1), 'did you mean "xavier"'),
        ({"type": "uniform", "min": 2}, (1, 1), "min 2 is larger than max 1"),
        ({"type": "gaussian", "std": -1}, (1, 1), "negative"),
        ({"type": "xavier", "sparse": 3}, (1, 1), "no sparse form"),
        ({"type": "positive_unitball"}, (), "positive_unitball is for the outputs of a layer, not for a single number"),
        ({"type": "gaussian", "sparse": 1}, (), "sparse gaussian is for the outputs of a layer"),
        ({"type": "zero_mean_xavier"}, (4,), "two or more dimensions"),
    ],
)
def test_a_filler_that_cannot_fill_says_why(settings: dict[str, object], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(NetError, match=message):
        fill(filler(**settings), shape)
