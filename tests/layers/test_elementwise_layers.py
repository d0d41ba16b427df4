"""Scale and Bias against NumPy's broadcasting. (Eltwise: test_layers.py.)"""

from __future__ import annotations

from tests.layers.harness import Row, error_test, forward_test, gradient_test, op

FILLED = 'filler { type: "gaussian" } bias_filler { type: "gaussian" }'


def scale(settings: str, bottoms: int = 1) -> str:
    return op("Scale", f"scale_param {{ {settings} {FILLED} }}", bottoms)


def bias(settings: str, bottoms: int = 1) -> str:
    return op("Bias", f'bias_param {{ {settings} filler {{ type: "gaussian" }} }}', bottoms)


TABLE: list[Row] = [
    (scale(""), [(2, 3, 4)], lambda x, p: [x[0] * p[0].reshape(3, 1)]),
    (op("Scale"), [(2, 3, 4)], lambda x, p: [x[0]]),
    (scale("bias_term: true"), [(2, 3, 4, 5)], lambda x, p: [x[0] * p[0].reshape(3, 1, 1) + p[1].reshape(3, 1, 1)]),
    (scale("axis: 1 num_axes: 2 bias_term: true"), [(2, 3, 4, 5)], lambda x, p: [x[0] * p[0][..., None] + p[1][..., None]]),
    (scale("axis: -2 num_axes: -1"), [(2, 3, 4)], lambda x, p: [x[0] * p[0]]),
    (scale("num_axes: 0 bias_term: true"), [(2, 3)], lambda x, p: [x[0] * p[0] + p[1]]),
    (scale("axis: 0 num_axes: -1"), [(2, 3)], lambda x, p: [x[0] * p[0]]),
    (scale("", 2), [(2, 3, 4), (3,)], lambda x, p: [x[0] * x[1][:, None]]),
    (scale("axis: 0 bias_term: true", 2), [(2, 3, 4), (2, 3)], lambda x, p: [x[0] * x[1][..., None] + p[0][..., None]]),
    (scale("", 2), [(2, 3, 4), ()], lambda x, p: [x[0] * x[1]]),
    (bias(""), [(2, 3, 4)], lambda x, p: [x[0] + p[0][:, None]]),
    (op("Bias"), [(2, 3)], lambda x, p: [x[0]]),
    (bias("axis: 0 num_axes: 2"), [(2, 3, 4)], lambda x, p: [x[0] + p[0][..., None]]),
    (bias("num_axes: 0"), [(2, 3)], lambda x, p: [x[0] + p[0]]),
    (bias("axis: -1", 2), [(2, 3, 4), (4,)], lambda x, p: [x[0] + x[1]]),
]  # fmt: skip

BAD = [
    (scale("axis: 3"), [(2, 3)], "axis 3 does not exist in a blob of 2 dimensions"),
    (scale("axis: 1 num_axes: 2"), [(2, 3)], "axis 1 and num_axes 2 reach beyond 2x3"),
    (scale("num_axes: -2"), [(2, 3)], "num_axes -2 must be -1 (all from axis on) or a number of axes"),
    (scale("", 2), [(2, 3), (2,)], "the second bottom of shape 2 does not fit 2x3 from axis 1 on"),
    (bias("", 2), [(2, 3), (3, 1)], "the second bottom of shape 3x1 does not fit 2x3 from axis 1 on"),
    (
        op("Scale", 'scale_param { num_axes: 0 filler { type: "positive_unitball" } }'), [(2, 3)],
        "filler positive_unitball is for the outputs of a layer, not for a single number",
    ),
    (bias("", 3), [(2, 3), (3,), (3,)], "has 3 bottoms: Bias takes 1 to 2"),
]


test_forward_is_the_formula = forward_test(TABLE)
test_gradient_is_the_finite_difference = gradient_test(TABLE)
test_bad_settings = error_test(BAD)
