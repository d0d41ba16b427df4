"""LSTM, RNN and LSTMUnit against loops in NumPy and PyTorch's own LSTM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from tests.layers.harness import Arrays, Row, build, error_test, forward_test, gradient_test, op

CONT = np.array([[0, 0], [1, 1], [1, 0], [1, 1]])


def recurrent(kind: str, settings: str = "", bottoms: int = 2, tops: tuple[str, ...] = ("y",)) -> str:
    fillers = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" }'
    return op(kind, f"recurrent_param {{ num_output: 3 {settings} {fillers} }}", bottoms, tops)


def lstm_step(c: np.ndarray, gates: np.ndarray, cont: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, f, o, g = np.split(gates, 4, -1)
    c = cont * expit(f) * c + expit(i) * np.tanh(g)
    return c, expit(o) * np.tanh(c)


def lstm(x: Arrays, p: Arrays, static: bool = False, expose: bool = False) -> Arrays:
    batch = x[0].shape[1]
    h, c = (x[-2][0], x[-1][0]) if expose else (np.zeros((batch, 3)), np.zeros((batch, 3)))
    extra = x[2].reshape(batch, -1) @ p[2].T if static else 0
    tops = []
    for values, cont in zip(x[0], x[1], strict=True):
        cont = cont[:, None]
        c, h = lstm_step(c, values.reshape(batch, -1) @ p[0].T + p[1] + extra + (cont * h) @ p[-1].T, cont)
        tops.append(h)
    return [np.array(tops), h[None], c[None]] if expose else [np.array(tops)]


def rnn(x: Arrays, p: Arrays, static: bool = False, expose: bool = False) -> Arrays:
    batch = x[0].shape[1]
    h = x[-1][0] if expose else np.zeros((batch, 3))
    extra = x[2].reshape(batch, -1) @ p[2].T if static else 0
    tops = []
    for values, cont in zip(x[0], x[1], strict=True):
        h = np.tanh((cont[:, None] * h) @ p[-3].T + values.reshape(batch, -1) @ p[0].T + p[1] + extra)
        tops.append(np.tanh(h @ p[-2].T + p[-1]))
    return [np.array(tops), h[None]] if expose else [np.array(tops)]


STATE = (1, 2, 3)
GOES_ON = np.array([[1, 0], [1, 1], [0, 1], [1, 1]])
TABLE: list[Row] = [
    (recurrent("LSTM"), [(4, 2, 5), CONT], lstm),
    (recurrent("LSTM"), [(4, 2, 2, 3), CONT], lstm),
    (recurrent("LSTM", bottoms=3), [(4, 2, 5), CONT, (2, 4)], lambda x, p: lstm(x, p, static=True)),
    (
        recurrent("LSTM", "expose_hidden: true", 4, ("y", "hT", "cT")), [(4, 2, 5), GOES_ON, STATE, STATE],
        lambda x, p: lstm(x, p, expose=True),
    ),
    (
        recurrent("LSTM", "expose_hidden: true", 5, ("y", "hT", "cT")), [(4, 2, 5), GOES_ON, (2, 2, 2), STATE, STATE],
        lambda x, p: lstm(x, p, static=True, expose=True),
    ),
    (recurrent("RNN"), [(4, 2, 5), CONT], rnn),
    (recurrent("RNN"), [(4, 2), CONT], rnn),
    (recurrent("RNN", bottoms=3), [(4, 2, 5), CONT, (2, 4)], lambda x, p: rnn(x, p, static=True)),
    (
        recurrent("RNN", "expose_hidden: true", 3, ("y", "hT")), [(4, 2, 5), GOES_ON, STATE],
        lambda x, p: rnn(x, p, expose=True),
    ),
    (
        op("LSTMUnit", bottoms=3, tops=("c1", "h1")), [(1, 2, 3), (1, 2, 12), np.array([[0.0, 1.0]])],
        lambda x, p: lstm_step(x[0], x[1], x[2][..., None]),
    ),
]  # fmt: skip

BAD = [
    (op("LSTM", bottoms=2), [(4, 2, 5), (4, 2)], "num_output 0 is not positive"),
    (recurrent("LSTM"), [(4, 2, 5), (4, 3)], "x is time x batch x ..., cont time x batch: not 4x2x5 and 4x3"),
    (recurrent("LSTM", bottoms=4), [(4, 2, 5), (4, 2), STATE, STATE], "has 4 bottoms, they must be: x, cont, (a static"),
    (recurrent("RNN", "expose_hidden: true"), [(4, 2, 5), (4, 2)], "must be: x, cont, (a static input), h"),
    (recurrent("RNN", "expose_hidden: true", 3), [(4, 2, 5), (4, 2), STATE], "has 1 tops, they must be: the output and h"),
    (
        recurrent("RNN", "expose_hidden: true", 3, ("y", "hT")), [(4, 2, 5), (4, 2), (1, 2, 4)],
        "the state is 1 x batch x num_output, 1x2x3, not 1x2x4",
    ),
    (recurrent("RNN", bottoms=3), [(4, 2, 5), (4, 2), (3, 4)], "the static input is batch x ..., not 3x4"),
    (
        op("LSTMUnit", bottoms=3, tops=("c1", "h1")), [(1, 2, 3), (1, 2, 9), (1, 2)],
        "a state of 1x2x3 goes with gates 1xBx4N and cont 1xB",
    ),
]  # fmt: skip


test_forward_is_the_formula = forward_test(TABLE)
test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)


def test_lstm_is_pytorchs_with_its_gates_in_another_order() -> None:
    graph = build(recurrent("LSTM"), [(6, 2, 5), (6, 2)])
    w, b, u = (torch.from_numpy(blob) for blob in graph.weights()["op"])
    torch_lstm = torch.nn.LSTM(5, 3)
    order = [i * 3 + j for i in (0, 1, 3, 2) for j in range(3)]  # i f o g there; i f g o here
    with torch.no_grad():
        torch_lstm.weight_ih_l0.copy_(w[order])
        torch_lstm.weight_hh_l0.copy_(u[order])
        torch_lstm.bias_ih_l0.copy_(b[order])
        torch_lstm.bias_hh_l0.zero_()
    x, cont = torch.randn(6, 2, 5), torch.ones(6, 2)
    torch.testing.assert_close(graph(x, cont)["y"], torch_lstm(x)[0])


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_the_state_goes_on_to_the_next_forward_where_cont_says_so(kind: str) -> None:
    graph = build(recurrent(kind), [(6, 2, 5), (6, 2)])
    x, cont = torch.randn(6, 2, 5), torch.ones(6, 2)
    whole = graph(x, cont)["y"]
    layer = graph.nodes[-1].layer
    layer.forget()
    first = graph(x[:2], cont[:2])["y"]
    rest = graph(x[2:], cont[2:])["y"]
    torch.testing.assert_close(torch.cat([first, rest]), whole)
    rest.sum().backward()  # no gradient goes to the forward before, whose graph may be gone
    begin = torch.ones(6, 2)
    begin[0] = 0
    torch.testing.assert_close(graph(x, begin)["y"], whole)  # 0: what went before does not count
    assert not torch.allclose(graph(x, cont)["y"], whole)
    layer.forget()
    torch.testing.assert_close(graph(x, cont)["y"], whole)
