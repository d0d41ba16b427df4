"""Fillers: how a parameter gets its first values.

Caffe's seven (constant, uniform, gaussian, positive_unitball, xavier, msra, bilinear) and four names of ours that a
stock Caffe has no word for, chosen so that the files still parse there: ``zero_mean_xavier``, ``zero_mean_msra`` and
``zero_mean_gaussian`` (the paper's symmetric initialisation: every filter has zero mean over its own weights), and
``sobel`` (the two derivative filters of the paper's equation 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import NetError
from ..naming import unknown

Shape = tuple[int, ...]


def fill(filler: Any, shape: Shape) -> Tensor:
    """A new float32 tensor, filled as a FillerParameter says (None: zeros).

    Random numbers come from PyTorch's global generator.

    Raises:
        NetError: unknown filler, or a shape that it cannot fill.
    """
    if filler is None:
        return torch.zeros(shape)
    if filler.type not in FILLERS:
        raise NetError(unknown("filler", filler.type, FILLERS))
    if filler.sparse != -1 and filler.type != "gaussian":
        raise NetError(f'filler "{filler.type}" has no sparse form: remove "sparse" or use "gaussian"')
    return FILLERS[filler.type](filler, shape)


def fan(filler: Any, shape: Shape) -> float:
    """The number of inputs (or outputs, or their mean) of a unit that xavier and msra scale by.

    fan_in is count / shape[0], fan_out count / shape[1] (of a 1-d blob: 1 and its length), whatever the layer means by
    its dimensions: so it is in Caffe.
    """
    count = math.prod(shape)
    fan_in = count / shape[0] if shape else 1
    fan_out = count / shape[1] if len(shape) > 1 else count
    kind = filler.VarianceNorm.Name(filler.variance_norm)
    return {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}[kind]


def _needs_an_axis(filler: Any, shape: Shape) -> None:
    if not shape:
        sparse = "sparse " if filler.type == "gaussian" else ""
        raise NetError(f"filler {sparse}{filler.type} is for the outputs of a layer, not for a single number")


def constant(filler: Any, shape: Shape) -> Tensor:
    return torch.full(shape, filler.value)


def uniform(filler: Any, shape: Shape) -> Tensor:
    if filler.min > filler.max:
        raise NetError(f"filler uniform: min {filler.min:g} is larger than max {filler.max:g}")
    return torch.empty(shape).uniform_(filler.min, filler.max)


def gaussian(filler: Any, shape: Shape) -> Tensor:
    if filler.std < 0:
        raise NetError(f"filler gaussian: std {filler.std:g} is negative")
    values = torch.empty(shape).normal_(filler.mean, filler.std)
    if filler.sparse >= 0:
        _needs_an_axis(filler, shape)
        # `sparse` is the expected number of non-zero inputs of each output.
        values *= torch.bernoulli(torch.full(shape, min(1.0, filler.sparse / shape[0])))
    return values


def positive_unitball(filler: Any, shape: Shape) -> Tensor:
    _needs_an_axis(filler, shape)
    values = torch.rand(shape)
    rows = values.reshape(shape[0], -1)
    return (rows / rows.sum(1, keepdim=True)).reshape(shape)


def xavier(filler: Any, shape: Shape) -> Tensor:
    scale = math.sqrt(3 / fan(filler, shape))
    return torch.empty(shape).uniform_(-scale, scale)


def msra(filler: Any, shape: Shape) -> Tensor:
    return torch.empty(shape).normal_(0, math.sqrt(2 / fan(filler, shape)))


def bilinear(filler: Any, shape: Shape) -> Tensor:
    if len(shape) != 4 or shape[2] != shape[3]:
        raise NetError(f"filler bilinear needs a square 4-d blob, not {'x'.join(map(str, shape))}")
    f = math.ceil(shape[3] / 2)
    center = (shape[3] - 1) / (2 * f)
    line = 1 - (torch.arange(shape[3], dtype=torch.float64) / f - center).abs()
    return torch.outer(line, line).float().expand(shape).clone()


def zero_mean(function: Callable[[Any, Shape], Tensor]) -> Callable[[Any, Shape], Tensor]:
    """The paper's symmetric initialisation (section 3): each output filter's own mean is taken away.

    A finite sample of a zero-mean distribution has a small mean of its own, which pushes the ReLUs of deeper layers
    into saturation. Subtracted in float64, so that only the rounding of the weights themselves remains.
    """

    def filled(filler: Any, shape: Shape) -> Tensor:
        values = function(filler, shape).double()
        if len(shape) < 2:
            raise NetError(f'filler "{filler.type}" is for filters: a blob of two or more dimensions')
        return (values - values.flatten(1).mean(1).reshape(-1, *[1] * (len(shape) - 1))).float()

    return filled


def sobel(filler: Any, shape: Shape) -> Tensor:
    """Horizontal derivative in even filters, vertical in odd ones (paper, equation 3)."""
    if len(shape) != 4 or shape[1:] != (1, 3, 3) or shape[0] % 2:
        raise NetError(
            "filler sobel needs an even number of 3x3 filters of one channel each "
            f"(num_output 2, kernel_size 3), not {'x'.join(map(str, shape))}"
        )
    horizontal = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    pair = torch.stack([horizontal, horizontal.T]).unsqueeze(1)
    return pair.repeat(shape[0] // 2, 1, 1, 1)


FILLERS: dict[str, Callable[[Any, Shape], Tensor]] = {
    "constant": constant,
    "uniform": uniform,
    "gaussian": gaussian,
    "positive_unitball": positive_unitball,
    "xavier": xavier,
    "msra": msra,
    "bilinear": bilinear,
    "zero_mean_xavier": zero_mean(xavier),
    "zero_mean_msra": zero_mean(msra),
    "zero_mean_gaussian": zero_mean(gaussian),
    "sobel": sobel,
}
