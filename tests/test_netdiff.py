"""What tells two nets or two weights files from each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pycaffe_compat.netdiff import diff_nets, diff_weights
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.weights import write_weights

A = 'layer { name: "a" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 4 kernel_size: 3 } }'
B = 'layer { name: "b" type: "ReLU" bottom: "y" top: "y" }'
C = 'layer { name: "c" type: "LRN" bottom: "y" top: "z" lrn_param { alpha: 0.5 } }'
TWO = 'layer { name: "d" type: "Input" top: "d" include { phase: TRAIN } } layer { name: "d" type: "Input" top: "d" include { phase: TEST } }'
SWAPPED = 'layer { name: "d" type: "Input" top: "d" include { phase: TEST } } layer { name: "d" type: "Input" top: "d" include { phase: TRAIN } }'


@pytest.mark.parametrize(
    ("left", "right", "lines"),
    [
        (A + B, A + "\n# a comment\n" + B, []),
        (A, A.replace("num_output: 4", "num_output: 4 group: 1 bias_term: true"), []),  # the defaults, written out
        (A, A.replace("num_output: 4", "num_output: 4 group: 2"), ['~ layer "a" (Convolution): convolution_param.group: 1 -> 2']),
        (A, A.replace("num_output: 4", ""), ['~ layer "a" (Convolution): convolution_param.num_output: 4 -> 0']),
        (A, A.replace("kernel_size: 3", "kernel_size: [3, 5]"), ['~ layer "a" (Convolution): convolution_param.kernel_size: [3] -> [3, 5]']),
        (A + B, A, ['- layer "b" (ReLU)']),
        (A, A + B, ['+ layer "b" (ReLU)']),
        (B, B.replace("ReLU", "TanH"), ['~ layer "b" (ReLU): type: "ReLU" -> "TanH"']),
        (C, C.replace("alpha: 0.5", "alpha: 0.25 norm_region: WITHIN_CHANNEL"), ['~ layer "c" (LRN): lrn_param.alpha: 0.5 -> 0.25', '~ layer "c" (LRN): lrn_param.norm_region: ACROSS_CHANNELS -> WITHIN_CHANNEL']),
        (A, 'name: "n" force_backward: true ' + A, ['~ net: name: "" -> "n"', "~ net: force_backward: false -> true"]),
        (A + B + C, A + C + B, ['~ order: where layer "b" (ReLU) stands, the other has layer "c" (LRN)']),
        (TWO, TWO, []),
        (TWO, SWAPPED, ['~ order: where layer "d" (Input) stands, the other has layer "d" (Input)']),
        (
            TWO,
            TWO.replace("TEST", "TEST stage: \"q\""),
            ['~ layer "d" (Input): include[0].stage: [] -> ["q"]'],
        ),
        (A, A.replace("convolution_param", "param { lr_mult: 2 } convolution_param"), ['~ layer "a" (Convolution): param: [] -> [{ lr_mult: 2 }]']),
        (
            A.replace("convolution_param", "blobs { data: 1 } convolution_param"),
            A,
            [],  # the arrays are another matter
        ),
        ('layers { name: "b" type: RELU bottom: "y" top: "y" }', B, []),  # the format is not a difference
    ],
)
def test_nets(left: str, right: str, lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "a").write_text(left)
    (tmp_path / "b").write_text(right)
    assert diff_nets(tmp_path / "a", tmp_path / "b") == lines
    assert bool(diff_nets(tmp_path / "b", tmp_path / "a")) == bool(lines)


def test_weights(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    one = {"a": [random.random((4, 3, 2, 2)), random.random(4)], "b": [random.random((2, 5))], "gone": [np.ones(3)], "nan": [np.array([np.nan, 1.0])], "inf": [np.array([np.inf, 1.0])]}
    other = {"a": [one["a"][0] * 1.5, one["a"][1]], "b": [one["b"][0].reshape(1, 1, 2, 5)], "new": [np.ones(2)], "nan": [np.array([np.nan, np.nan])], "inf": [np.array([np.inf, 2.0])]}
    for name, weights in (("a.caffemodel", one), ("b.h5", other)):
        net = caffe_pb2.NetParameter(layer=[caffe_pb2.LayerParameter(name=layer) for layer in weights])
        write_weights(tmp_path / name, net, weights)
    lines, arrays = diff_weights(tmp_path / "a.caffemodel", tmp_path / "b.h5")
    assert lines == ['- layer "gone": 3', '+ layer "new": 2']
    found = {(d.layer, d.index): d for d in arrays}
    assert list(found) == [("a", 0), ("a", 1), ("b", 0), ("nan", 0), ("inf", 0)]
    largest = one["a"][0].max()
    assert found["a", 0].absolute == pytest.approx(0.5 * largest, rel=1e-6)
    assert found["a", 0].relative == pytest.approx(1 / 3, rel=1e-6)
    assert found["a", 1].absolute == found["b", 0].absolute == 0
    assert found["nan", 0].absolute == found["nan", 0].relative == float("inf")
    assert (found["inf", 0].absolute, found["inf", 0].relative) == (1, 0.5)
    assert all(d.absolute == 0 for d in diff_weights(tmp_path / "a.caffemodel", tmp_path / "a.caffemodel")[1])
