"""Each layer type against numpy or SciPy, and its gradient against finite differences."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal

from pycaffe_compat import Net, NetError
from pycaffe_compat.graph import TRAIN, Graph
from pycaffe_compat.layers.base import REGISTRY, Layer, register
from pycaffe_compat.layers.convolution import conv2d_of_one_filter
from pycaffe_compat.proto.text import parse_net

Arrays = list[np.ndarray]


def build(layer: str, *shapes: tuple[int, ...]) -> Graph:
    """A net of Input layers a, b, ... and one layer above them."""
    dims = [" ".join(f"dim: {n}" for n in shape) for shape in shapes]
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dim} }} }} }}\n'
        for name, dim in zip("abc", dims, strict=False)
    )
    return Graph(parse_net(inputs + layer, "test.prototxt"), TRAIN)


def correlate(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    group: int = 1,
) -> np.ndarray:
    """Convolution the long way, with SciPy."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    big = np.zeros((*w.shape[:2], *(dilation * (k - 1) + 1 for k in w.shape[2:])))
    big[:, :, ::dilation, ::dilation] = w
    n_in, n_out = x.shape[1] // group, w.shape[0] // group
    tops = [
        [
            signal.correlate(image[o // n_out * n_in : (o // n_out + 1) * n_in], big[o], "valid")[0, ::stride, ::stride]
            + b[o]
            for o in range(w.shape[0])
        ]
        for image in x
    ]
    return np.array(tops)


def conv(settings: str, bottoms: int = 1) -> str:
    names = "abc"[:bottoms]
    return (
        'layer { name: "op" type: "Convolution" '
        + " ".join(f'bottom: "{n}" top: "y{n}"' for n in names)
        + f' convolution_param {{ {settings} weight_filler {{ type: "gaussian" }} bias_filler {{ type: "gaussian" }} }} }}'
    )


def simple(kind: str, settings: str = "", bottoms: int = 1, tops: str = 'top: "y"') -> str:
    return (
        f'layer {{ name: "op" type: "{kind}" {" ".join(f"bottom: {n!r}" for n in "abc"[:bottoms])} {tops} {settings} }}'
    )


# type, layer text, bottom shapes, what numpy says of (bottoms, parameters)
TABLE: list[tuple[str, list[tuple[int, ...]], Callable[[Arrays, Arrays], Arrays]]] = [
    (conv("num_output: 4 kernel_size: 3"), [(2, 3, 6, 7)], lambda x, p: [correlate(x[0], *p)]),
    (conv("num_output: 4 kernel_size: 3 stride: 2 pad: 1"), [(2, 3, 6, 7)], lambda x, p: [correlate(x[0], *p, stride=2, pad=1)]),
    (conv("num_output: 4 kernel_size: 3 dilation: 2"), [(2, 2, 8, 7)], lambda x, p: [correlate(x[0], *p, dilation=2)]),
    (conv("num_output: 4 kernel_size: 2 group: 2"), [(2, 6, 4, 5)], lambda x, p: [correlate(x[0], *p, group=2)]),
    (conv("num_output: 2 kernel_h: 1 kernel_w: 3"), [(1, 2, 4, 5)], lambda x, p: [correlate(x[0], *p)]),
    (conv("num_output: 2 kernel_size: 1 kernel_size: 3"), [(1, 2, 4, 5)], lambda x, p: [correlate(x[0], *p)]),
    (conv("num_output: 3 kernel_size: 3", 2), [(1, 2, 4, 5)] * 2, lambda x, p: [correlate(x[0], *p), correlate(x[1], *p)]),
    (conv("num_output: 1 kernel_size: 3"), [(2, 16, 6, 7)], lambda x, p: [correlate(x[0], *p)]),
    (simple("ReLU"), [(2, 3, 4)], lambda x, p: [np.maximum(x[0], 0)]),
    (simple("ReLU", "relu_param { negative_slope: 0.25 }"), [(2, 3, 4)], lambda x, p: [np.where(x[0] > 0, x[0], 0.25 * x[0])]),
    (simple("PReLU"), [(2, 3, 4, 5)], lambda x, p: [np.where(x[0] > 0, x[0], 0.25 * x[0])]),
    (
        simple("PReLU", 'prelu_param { filler { type: "gaussian" } }'), [(2, 3, 4)],
        lambda x, p: [np.where(x[0] > 0, x[0], p[0].reshape(1, 3, 1) * x[0])],
    ),
    (
        simple("PReLU", 'prelu_param { channel_shared: true filler { type: "gaussian" } }'), [(2, 3)],
        lambda x, p: [np.where(x[0] > 0, x[0], p[0] * x[0])],
    ),
    (simple("Sigmoid"), [(2, 3)], lambda x, p: [1 / (1 + np.exp(-x[0]))]),
    (simple("TanH"), [(2, 3)], lambda x, p: [np.tanh(x[0])]),
    (simple("Power"), [(2, 3)], lambda x, p: [x[0]]),
    (simple("Power", "power_param { scale: 0.5 shift: 2 }"), [(2, 3)], lambda x, p: [x[0] / 2 + 2]),
    (simple("Power", "power_param { power: 3 scale: -0.5 shift: 2 }"), [(2, 3)], lambda x, p: [(2 - x[0] / 2) ** 3]),
    (simple("Concat", bottoms=2), [(2, 3, 4), (2, 1, 4)], lambda x, p: [np.concatenate(x, 1)]),
    (simple("Concat", "concat_param { axis: -1 }", 3), [(2, 1), (2, 3), (2, 2)], lambda x, p: [np.concatenate(x, -1)]),
    (simple("Slice", tops='top: "y" top: "z"'), [(2, 4, 3)], lambda x, p: np.split(x[0], 2, 1)),
    (
        simple("Slice", "slice_param { axis: 0 slice_point: 1 slice_point: 3 }", tops='top: "y" top: "z" top: "w"'), [(4, 2)],
        lambda x, p: np.split(x[0], [1, 3], 0),
    ),
    (simple("Crop", "crop_param { offset: 1 }", 2), [(2, 3, 5, 6), (2, 3, 3, 4)], lambda x, p: [x[0][:, :, 1:4, 1:5]]),
    (
        simple("Crop", "crop_param { axis: 1 offset: 1 offset: 0 offset: 2 }", 2), [(2, 3, 5, 6), (2, 2, 3, 4)],
        lambda x, p: [x[0][:, 1:3, :3, 2:6]],
    ),
    (simple("Crop", "crop_param { offset: 1 axis: 1 }", 2), [(2, 3, 5), (2, 2, 3, 4)], lambda x, p: [x[0][:, 1:3, 1:4]]),
    (simple("Eltwise", bottoms=3), [(2, 3)] * 3, lambda x, p: [x[0] + x[1] + x[2]]),
    (
        simple("Eltwise", "eltwise_param { coeff: 1 coeff: -2 coeff: 0.5 }", 3), [(2, 3)] * 3,
        lambda x, p: [x[0] - 2 * x[1] + x[2] / 2],
    ),
    (simple("Eltwise", "eltwise_param { operation: PROD }", 3), [(2, 3)] * 3, lambda x, p: [x[0] * x[1] * x[2]]),
    (simple("Eltwise", "eltwise_param { operation: MAX }", 3), [(2, 3)] * 3, lambda x, p: [np.maximum.reduce(x)]),
    (simple("Eltwise", "eltwise_param { operation: MAX coeff: 2 coeff: -1 }", 2), [(2, 3)] * 2, lambda x, p: [np.maximum(*x)]),
    (simple("Split", tops='top: "y" top: "z"'), [(2, 3)], lambda x, p: [x[0], x[0]]),
    (simple("EuclideanLoss", bottoms=2), [(4, 3, 2)] * 2, lambda x, p: [((x[0] - x[1]) ** 2).sum() / 8]),
    (simple("EuclideanLoss", bottoms=2), [(4, 3, 2), (4, 6)], lambda x, p: [((x[0].reshape(4, 6) - x[1]) ** 2).sum() / 8]),
]  # fmt: skip


def ids(row: object) -> str | None:
    return row.split('type: "')[1].split('"')[0] if isinstance(row, str) else None


@pytest.mark.parametrize(("text", "shapes", "expected"), TABLE, ids=ids)
def test_forward_is_the_formula(
    text: str, shapes: list[tuple[int, ...]], expected: Callable[[Arrays, Arrays], Arrays]
) -> None:
    graph = build(text, *shapes)
    rng = np.random.default_rng(1)
    bottoms = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    got = graph.run(*map(torch.from_numpy, bottoms))
    params = graph.weights().get("op", [])
    want = expected([b.astype(np.float64) for b in bottoms], [p.astype(np.float64) for p in params])
    tops = graph.nodes[-1].tops
    assert len(tops) == len(want)
    for name, value in zip(tops, want, strict=True):
        assert graph.shapes[name] == value.shape
        np.testing.assert_allclose(got[name].detach().numpy(), value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("text", "shapes", "expected"), TABLE, ids=ids)
def test_gradient_is_the_finite_difference(text: str, shapes: list[tuple[int, ...]], expected: object) -> None:
    graph = build(text, *shapes).double()
    bottoms = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    if "Crop" in text:  # only the second one's shape is read
        bottoms[1] = bottoms[1].detach()
    if "EuclideanLoss" in text:  # computed in float32 by its own rule: held against a coarser difference
        a, b = bottoms
        graph.run(a, b)["y"].backward()
        want = (a - b.reshape(a.shape)).detach() / a.shape[0]
        torch.testing.assert_close(a.grad, want, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(b.grad, -want.reshape(b.shape), rtol=1e-5, atol=1e-6)
        return
    names = [n for n, _ in graph.named_parameters()]
    params = tuple(p.detach().clone().requires_grad_() for p in graph.parameters())

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given, learned = values[: len(bottoms)], dict(zip(names, values[len(bottoms) :], strict=True))
        outputs = torch.func.functional_call(graph, learned, given)
        return tuple(outputs[name] for name in graph.outputs)

    assert torch.autograd.gradcheck(function, (*bottoms, *params))


def test_a_single_filter_is_computed_another_way_to_the_same_end() -> None:
    x = torch.randn(2, 16, 9, 7, dtype=torch.float64, requires_grad=True)
    w = torch.randn(1, 16, 3, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(1, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(conv2d_of_one_filter(x, w, b), torch.nn.functional.conv2d(x, w, b))
    assert torch.autograd.gradcheck(conv2d_of_one_filter, (x, w, b))


def test_power_without_slope_is_a_constant_without_gradient() -> None:
    graph = build(simple("Power", "power_param { scale: 0 shift: 3 power: 2 }"), (2, 3))
    x = torch.full((2, 3), float("nan"), requires_grad=True)
    y = graph.run(x)["y"]
    assert (y == 9).all()
    assert not y.requires_grad


def test_eltwise_max_gives_a_tie_to_the_second_bottom() -> None:
    graph = build(simple("Eltwise", "eltwise_param { operation: MAX }", 2), (3,), (3,))
    a, b = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    graph.run(a, b)["y"].sum().backward()
    assert (a.grad == 0).all()
    assert (b.grad == 1).all()


def test_silence_takes_a_blob_from_the_outputs() -> None:
    graph = build(simple("Split", tops='top: "y" top: "z"') + simple("Silence", tops="").replace("'a'", "'z'"), (2,))
    assert graph.outputs == ["y"]


PYTHON_LAYER = textwrap.dedent(
    """
    import numpy as np
    import pycaffe_compat as caffe

    class Times(caffe.Layer):
        def setup(self, bottom, top):
            self.factor = float(self.param_str)

        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].data.shape)

        def forward(self, bottom, top):
            top[0].data[...] = self.factor * bottom[0].data

        def backward(self, top, propagate_down, bottom):
            if propagate_down[0]:
                bottom[0].diff[...] = self.factor * top[0].diff
    """
)


def test_a_python_layer_runs_on_its_numpy_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "times_layer.py").write_text(PYTHON_LAYER)
    monkeypatch.syspath_prepend(str(tmp_path))
    graph = build(simple("Python", "python_param { module: 'times_layer' layer: 'Times' param_str: '2.5' }"), (2, 3))
    x = torch.randn(2, 3, requires_grad=True)
    y = graph.run(x)["y"]
    torch.testing.assert_close(y, 2.5 * x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2, 3), 2.5))


BAD = [
    (simple("Relu"), [(2, 3)], 'unknown layer type "Relu"; did you mean "ReLU"?'),
    (conv("num_output: 4"), [(1, 1, 5, 5)], "kernel_size is missing"),
    (
        conv("num_output: 4 kernel_size: 7"),
        [(1, 1, 5, 5)],
        "kernel 7x7 does not fit into a bottom of shape 1x1x5x5",
    ),
    (
        conv("num_output: 3 kernel_size: 3 group: 2"),
        [(1, 4, 5, 5)],
        "group 2 does not divide 4 input channels and num_output 3",
    ),
    (conv("kernel_size: 3"), [(1, 4, 5, 5)], "num_output 0 is not positive"),
    (conv("num_output: 3 kernel_size: 3 kernel_h: 2"), [(1, 4, 5, 5)], "exclude kernel_size"),
    (
        conv("num_output: 3 kernel_size: 3").replace("gaussian", "gausian"),
        [(1, 4, 5, 5)],
        'did you mean "gaussian"?',
    ),
    (
        simple("Concat", bottoms=2),
        [(2, 3, 4), (2, 1, 5)],
        'bottom "b" of shape 2x1x5 does not fit the first of shape 2x3x4',
    ),
    (simple("Slice", tops='top: "y" top: "z"'), [(2, 3)], "does not divide into 2 equal tops"),
    (
        simple("Slice", "slice_param { slice_point: 3 }", tops='top: "y" top: "z"'),
        [(2, 3)],
        "must rise within 1..2",
    ),
    (
        simple("Crop", "crop_param { offset: 2 }", 2),
        [(1, 1, 5, 5), (1, 1, 4, 4)],
        "axis 2: offset 2 + size 4 is more than",
    ),
    (simple("Eltwise", bottoms=2), [(2, 3), (2, 1)], "Eltwise does not broadcast: a 2x3, b 2x1"),
    (simple("Eltwise", "eltwise_param { coeff: 1 }", 2), [(2, 3), (2, 3)], "1 coeff for 2 bottoms"),
    (simple("Eltwise", "eltwise_param { operation: MAX coeff: 1 }", 2), [(2, 3), (2, 3)], "1 coeff for 2 bottoms"),
    (
        simple("Eltwise", "eltwise_param { operation: PROD coeff: 1 coeff: 1 }", 2),
        [(2, 3), (2, 3)],
        "coeff is for SUM only",
    ),
    (simple("EuclideanLoss", bottoms=2), [(2, 3), (2, 4)], "must hold as many values"),
    (simple("EuclideanLoss"), [(2, 3)], "has 1 bottoms: EuclideanLoss takes 2"),
    (
        simple("Python", "python_param { module: 'no_such_module' layer: 'X' }"),
        [(2, 3)],
        "is its folder on PYTHONPATH?",
    ),
    (
        simple("Concat", "concat_param { axis: 5 }", 2),
        [(2, 3), (2, 3)],
        "axis 5 does not exist in a blob of 2 dimensions",
    ),
    (
        simple("Concat", "concat_param { concat_dim: 2 }", 2),
        [(2, 3), (2, 3)],
        "axis 2 does not exist in a blob of 2 dimensions",
    ),
    (
        simple("Slice", "slice_param { slice_dim: 2 }", tops='top: "y" top: "z"'),
        [(2, 4)],
        "axis 2 does not exist in a blob of 2 dimensions",
    ),
]


@pytest.mark.parametrize(("text", "shapes", "message"), BAD)
def test_a_layer_that_cannot_be_built_says_where_and_why(
    text: str, shapes: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(NetError) as error:
        build(text, *shapes)
    assert message in str(error.value)
    assert f'test.prototxt:{len(shapes) + 1}: layer "op"' in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), IndexError("out of range")])
@pytest.mark.parametrize("step", ["setup", "forward"])
def test_whatever_goes_wrong_in_a_layer_names_it(error: Exception, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: object) -> None:
        raise error

    text = simple("AbsVal")
    net = Net(build(text, (2, 3)))
    monkeypatch.setattr(REGISTRY["AbsVal"].cls, step, wrong)
    with pytest.raises(NetError, match=rf'test.prototxt:2: layer "op" \(AbsVal\): cannot .*: {error}'):
        build(text, (2, 3)) if step == "setup" else net.forward()


def test_a_type_cannot_be_registered_twice() -> None:
    with pytest.raises(NetError, match='"ReLU" is registered already, by ReLU'):
        register("ReLU")(Layer)
