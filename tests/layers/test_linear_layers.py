"""InnerProduct and Embed against NumPy's matrix product and indexing."""

from __future__ import annotations

import numpy as np

from tests.layers.harness import Row, error_test, forward_test, gradient_test, op

FILLED = 'weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'


def ip(settings: str) -> str:
    return op("InnerProduct", f"inner_product_param {{ {settings} {FILLED} }}")


def embed(settings: str) -> str:
    return op("Embed", f"embed_param {{ {settings} {FILLED} }}")


IDS = np.array([[2, 0, 2], [1, 4, 0]])
TABLE: list[Row] = [
    (ip("num_output: 5"), [(2, 3, 4)], lambda x, p: [x[0].reshape(2, 12) @ p[0].T + p[1]]),
    (ip("num_output: 5 transpose: true"), [(2, 3, 4)], lambda x, p: [x[0].reshape(2, 12) @ p[0] + p[1]]),
    (ip("num_output: 5 axis: 2 bias_term: false"), [(2, 3, 4)], lambda x, p: [x[0] @ p[0].T]),
    (ip("num_output: 5 axis: -1 transpose: true"), [(2, 3, 4)], lambda x, p: [x[0] @ p[0] + p[1]]),
    (ip("num_output: 5 axis: 0"), [(2, 3)], lambda x, p: [p[0] @ x[0].reshape(6) + p[1]]),
    (embed("num_output: 3 input_dim: 5"), [IDS], lambda x, p: [p[0][IDS] + p[1]]),
    (embed("num_output: 3 input_dim: 5 bias_term: false"), [IDS[0]], lambda x, p: [p[0][IDS[0]]]),
    (embed("num_output: 2 input_dim: 5"), [IDS[:, :, None]], lambda x, p: [p[0][IDS[:, :, None]] + p[1]]),
]

BAD = [
    (ip(""), [(2, 3)], "num_output 0 is not positive"),
    (ip("num_output: 2 axis: 2"), [(2, 3)], "axis 2 does not exist in a blob of 2 dimensions"),
    (embed("num_output: 2"), [(2,)], "embed_param: input_dim 0 is not positive"),
    (embed("input_dim: 2"), [(2,)], "embed_param: num_output 0 is not positive"),
]


test_forward_is_the_formula = forward_test(TABLE)
test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)
