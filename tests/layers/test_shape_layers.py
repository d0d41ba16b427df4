"""Layers of shape, choice, reduction and the Parameter layer against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pycaffe_compat import DataError
from tests.layers.harness import Row, build, check_forward, error_test, gradient_test, ids, op


def reshape(settings: str) -> str:
    return op("Reshape", f"reshape_param {{ {settings} }}")


def reduction(settings: str) -> str:
    return op("Reduction", f"reduction_param {{ {settings} }}")


def top_k(rows: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest values of each row, the larger index first among equal ones."""
    order = [sorted(range(len(row)), key=lambda i: (row[i], i), reverse=True) for row in rows]
    return np.array(order, float)[:, :k]


KEEP = np.array([1.0, 0.0, -2.0, 0.0])
ROWS = np.array([3.0, 0.0, 0.0, 2.0, 1.0])
TABLE: list[Row] = [
    (op("Flatten"), [(2, 3, 4, 5)], lambda x, p: [x[0].reshape(2, 60)]),
    (op("Flatten", "flatten_param { axis: -3 end_axis: 2 }"), [(2, 3, 4, 5)], lambda x, p: [x[0].reshape(2, 12, 5)]),
    (op("Flatten", "flatten_param { axis: 2 end_axis: 1 }"), [(2, 3, 4)], lambda x, p: [x[0].reshape(2, 3, 1, 4)]),
    (reshape("shape { dim: 0 dim: -1 dim: 2 }"), [(2, 3, 4)], lambda x, p: [x[0].reshape(2, 6, 2)]),
    (reshape("axis: 1 num_axes: 1 shape { dim: 3 dim: 2 }"), [(2, 6, 4)], lambda x, p: [x[0].reshape(2, 3, 2, 4)]),
    (reshape("axis: 1 shape { dim: -1 dim: 0 }"), [(2, 3, 4)], lambda x, p: [x[0].reshape(2, 3, 4)]),
    (reshape("axis: -1 num_axes: 0 shape { dim: 1 }"), [(2, 3)], lambda x, p: [x[0].reshape(2, 3, 1)]),
    (reshape("axis: 0 num_axes: 0 shape { dim: 1 dim: 1 }"), [(2, 3)], lambda x, p: [x[0].reshape(1, 1, 2, 3)]),
    (op("Tile", "tile_param { tiles: 3 }"), [(2, 3, 4)], lambda x, p: [np.concatenate([x[0]] * 3, 1)]),
    (op("Tile", "tile_param { axis: -1 tiles: 2 }"), [(2, 3)], lambda x, p: [np.concatenate([x[0]] * 2, -1)]),
    (op("BatchReindex", bottoms=2), [(4, 3, 2), ROWS], lambda x, p: [x[0][ROWS.astype(int)]]),
    (op("Filter", bottoms=2), [(4, 3), KEEP], lambda x, p: [x[0][[0, 2]]]),
    (
        op("Filter", bottoms=3, tops=["y", "z"]), [(4, 3), (4, 2, 2), KEEP[:, None, None]],
        lambda x, p: [x[0][[0, 2]], x[1][[0, 2]]],
    ),
    (reduction(""), [(2, 3, 4)], lambda x, p: [x[0].sum()]),
    (reduction("axis: 1 operation: SUMSQ coeff: 0.5"), [(2, 3, 4)], lambda x, p: [(x[0] ** 2).sum((1, 2)) / 2]),
    (reduction("axis: -1 operation: ASUM"), [(2, 3, 4)], lambda x, p: [abs(x[0]).sum(-1)]),
    (reduction("axis: 1 operation: MEAN coeff: 3"), [(2, 3, 4)], lambda x, p: [3 * x[0].mean((1, 2))]),
]  # fmt: skip

TIES = np.array([[1.0, 3.0, 3.0, 0.0, 3.0], [2.0, 2.0, 1.0, 0.0, 0.0]])
FORWARD_ONLY: list[Row] = [
    (op("ArgMax"), [TIES], lambda x, p: [np.array([[[4.0]], [[1.0]]])]),
    (op("ArgMax"), [(2, 3, 2, 2)], lambda x, p: [x[0].reshape(2, -1).argmax(1).reshape(2, 1, 1, 1)]),
    (op("ArgMax", "argmax_param { top_k: 3 }"), [TIES], lambda x, p: [top_k(TIES, 3)[:, None]]),
    (
        op("ArgMax", "argmax_param { top_k: 2 out_max_val: true }"), [(2, 3, 4)],
        lambda x, p: [
            np.stack([top_k(x[0].reshape(2, 12), 2), -np.sort(-x[0].reshape(2, 12), 1)[:, :2]], 1)
        ],
    ),
    (op("ArgMax", "argmax_param { axis: 1 }"), [(2, 3, 4)], lambda x, p: [x[0].argmax(1)[:, None]]),
    (op("ArgMax", "argmax_param { axis: -2 top_k: 2 out_max_val: true }"), [(2, 3, 4)], lambda x, p: [-np.sort(-x[0], 1)[:, :2]]),
]  # fmt: skip

BAD = [
    (op("Flatten", "flatten_param { axis: 2 end_axis: 0 }"), [(2, 3, 4)], "end_axis 0 lies before axis 2"),
    (reshape("shape { dim: 5 dim: -1 }"), [(2, 3)], "shape [5, -1] does not hold the 6 values of axes 0..1 of 2x3"),
    (reshape("shape { dim: 5 }"), [(2, 3)], "shape [5] does not hold the 6 values"),
    (reshape("shape { dim: -1 dim: -1 }"), [(2, 3)], "is a size, 0 (copy) or, once, -1 (what is left over)"),
    (reshape("shape { dim: 6 dim: 1 dim: 0 }"), [(2, 3)], "the 0 at place 2 has no dimension to copy"),
    (reshape("axis: 3 shape { dim: 1 }"), [(2, 3)], "axis 3 does not exist in a blob of 2 dimensions"),
    (reshape("axis: 1 num_axes: 2 shape { dim: 3 }"), [(2, 3)], "axis 1 and num_axes 2 reach beyond a blob of 2 dim"),
    (reshape("num_axes: -2 shape { dim: 6 }"), [(2, 3)], "num_axes -2 must be -1 (all) or a number of axes"),
    (op("Reshape", "reshape_param { shape { dim: 0 } }", tops=["a"]), [(2,)], "Reshape does not work in place"),
    (op("Tile"), [(2, 3)], "tiles 0 is not positive"),
    (op("BatchReindex", bottoms=2), [(4, 3), (2, 1)], "the second bottom holds row numbers: 1 axis, not 2x1"),
    (op("Filter", bottoms=2), [(4, 3), (4, 2)], "the selector, holds one value a row, not 4x2"),
    (op("Filter", bottoms=2), [(4, 3), (5,)], 'bottom "a" of shape 4x3 and the selector of 5 differ in rows'),
    (op("Filter", bottoms=2, tops=["y", "z"]), [(4, 3), (4,)], "has 1 bottoms before the selector and 2 tops"),
    (reduction("axis: 2"), [(2, 3)], "axis 2 does not exist in a blob of 2 dimensions"),
    (op("ArgMax", "argmax_param { top_k: 4 }"), [(2, 3)], "top_k 4 is not in 1..3"),
    (op("ArgMax", "argmax_param { axis: 0 top_k: 0 }"), [(2, 3)], "top_k 0 is not in 1..2"),
]


@pytest.mark.parametrize("row", TABLE + FORWARD_ONLY, ids=lambda row: ids(row[0]))
def test_forward_is_the_formula(row: Row) -> None:
    text, bottoms, expected = row
    if ids(text) == "Filter":  # its shapes are known at run time only
        graph = build(text, bottoms)
        assert [graph.shapes[t] for t in graph.nodes[-1].tops] == [b for b in bottoms if isinstance(b, tuple)]
    check_forward(row)


test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)


@pytest.mark.parametrize(("row", "shown"), [(4.0, "4"), (-1.0, "-1"), (np.nan, "nan")])
def test_a_row_that_is_not_there_is_named(row: float, shown: str) -> None:
    graph = build(op("BatchReindex", bottoms=2), [(4, 3), (3,)])
    with pytest.raises(DataError) as error:
        graph.run(torch.zeros(4, 3), torch.tensor([0.0, row, 3.9]))
    assert str(error.value) == f'test.prototxt:3: layer "op" (BatchReindex): row {shown} at position 1 is not in 0..3'


def test_a_filter_that_keeps_nothing_gives_no_rows_and_no_gradient() -> None:
    graph = build(op("Filter", bottoms=2), [(4, 3), (4,)])
    x = torch.randn(4, 3, requires_grad=True)
    y = graph.run(x, torch.zeros(4))["y"]
    assert y.shape == (0, 3)
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros(4, 3))


def test_a_parameter_layer_is_a_learned_blob() -> None:
    text = 'layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 3 } } }'
    bias = 'layer { name: "op" type: "Bias" bottom: "a" bottom: "w" top: "y" }'
    graph = build(text + bias, [(2, 3)])
    (learned,) = graph.learnable
    assert learned.layer == "w"
    learned.parameter.data[:] = torch.tensor([1.0, 2.0, 3.0])
    y = graph(torch.zeros(2, 3))["y"]
    assert y[1].tolist() == [1, 2, 3]
    y.sum().backward()
    assert learned.parameter.grad.tolist() == [2, 2, 2]
