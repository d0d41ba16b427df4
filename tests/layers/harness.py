"""What the tables of layers share: a row, how it is built, computed and differentiated.

A row is (layer text, bottoms, what NumPy says of bottoms and parameters). A bottom is a shape, filled with normal random
numbers, or an array, which is taken as it is and not differentiated (indices, selectors, cont).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pycaffe_compat import NetError
from pycaffe_compat.graph import TRAIN, Graph
from pycaffe_compat.proto.text import parse_net

Arrays = list[np.ndarray]
Bottom = tuple[int, ...] | np.ndarray
Row = tuple[str, Sequence[Bottom], Callable[[Arrays, Arrays], Sequence[np.ndarray]]]


def op(kind: str, settings: str = "", bottoms: int = 1, tops: Sequence[str] = ("y",)) -> str:
    """The text of a layer "op" above the inputs a, b, ..."""
    names = [f'bottom: "{name}"' for name in "abcde"[:bottoms]] + [f'top: "{name}"' for name in tops]
    return f'layer {{ name: "op" type: "{kind}" {" ".join(names)} {settings} }}'


def ids(row: object) -> str | None:
    return row.split('type: "')[1].split('"')[0] if isinstance(row, str) and 'type: "' in row else None


def build(text: str, bottoms: Sequence[Bottom], phase: int = TRAIN) -> Graph:
    """A net of Input layers a, b, ..., each on a line, and the layer above them."""
    net = ""
    for name, bottom in zip("abcde", bottoms, strict=False):
        shape = bottom.shape if isinstance(bottom, np.ndarray) else bottom
        dims = " ".join(f"dim: {n}" for n in shape)
        net += f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
    return Graph(parse_net(net + text, "test.prototxt"), phase)


def values(bottoms: Sequence[Bottom], dtype: Any = np.float32) -> Arrays:
    rng = np.random.default_rng(1)
    return [np.asarray(b if isinstance(b, np.ndarray) else rng.standard_normal(b), dtype) for b in bottoms]


def check_forward(row: Row, phase: int = TRAIN) -> None:
    """The tops, and their shapes as the net inferred them, are what NumPy says."""
    text, bottoms, expected = row
    graph = build(text, bottoms, phase)
    given = values(bottoms)
    got = graph.run(*map(torch.from_numpy, given))
    params = graph.weights().get("op", [])
    want = expected([b.astype(np.float64) for b in given], [p.astype(np.float64) for p in params])
    tops = graph.nodes[-1].tops
    assert len(tops) == len(want)
    for name, value in zip(tops, want, strict=True):
        assert got[name].shape == value.shape
        np.testing.assert_allclose(got[name].detach().numpy(), value, rtol=1e-5, atol=1e-5)


def check_gradient(row: Row, phase: int = TRAIN) -> None:
    """The gradients of the differentiable bottoms and the learned parameters are finite differences."""
    text, bottoms, _ = row
    graph = build(text, bottoms, phase).double()
    given = [torch.from_numpy(v) for v in values(bottoms, np.float64)]
    learned = {name: p.detach().clone() for name, p in graph.named_parameters() if p.requires_grad}
    free = [i for i, b in enumerate(bottoms) if not isinstance(b, np.ndarray)]

    def function(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = list(given)
        for i, leaf in zip(free, leaves, strict=False):
            inputs[i] = leaf
        parameters = dict(zip(learned, leaves[len(free) :], strict=True))
        outputs = torch.func.functional_call(graph, parameters, tuple(inputs))
        return tuple(outputs[name] for name in graph.outputs if outputs[name].requires_grad)

    leaves = [given[i].requires_grad_() for i in free] + [p.requires_grad_() for p in learned.values()]
    assert torch.autograd.gradcheck(function, leaves)


def check_error(text: str, bottoms: Sequence[Bottom], message: str) -> None:
    """The net is refused in one line with file, line and layer."""
    with pytest.raises(NetError) as error:
        build(text, bottoms)
    assert message in str(error.value)
    assert f'test.prototxt:{len(bottoms) + 1}: layer "op"' in str(error.value)
    assert "\n" not in str(error.value)


# What every table is put to:  test_forward_is_the_formula = forward_test(TABLE)


def forward_test(rows: Sequence[Row]) -> Callable[..., None]:
    """A test of each row's tops."""

    @pytest.mark.parametrize("row", rows, ids=lambda row: ids(row[0]))
    def test(row: Row) -> None:
        check_forward(row)

    return test


def gradient_test(rows: Sequence[Row]) -> Callable[..., None]:
    """A test of each row's gradients."""

    @pytest.mark.parametrize("row", rows, ids=lambda row: ids(row[0]))
    def test(row: Row) -> None:
        check_gradient(row)

    return test


def error_test(rows: Sequence[tuple[str, Sequence[Bottom], str]]) -> Callable[..., None]:
    """A test of each (layer text, bottoms, what the message says)."""

    @pytest.mark.parametrize(("text", "bottoms", "message"), rows)
    def test(text: str, bottoms: Sequence[Bottom], message: str) -> None:
        check_error(text, bottoms, message)

    return test
