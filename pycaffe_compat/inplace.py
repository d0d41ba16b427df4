"""What Caffe's backward of an in-place layer gives, where that is not the layer's true gradient.

A layer that works in place has one memory for bottom and top, data and diff alike. Caffe's backward formulas read it
when it holds the net's last value of that blob: not the layer's input, and after a later in-place layer not its output
either. A formula that writes the bottom's diff before it has read the top's reads what it wrote.

pycaffe's ``net.backward`` follows the original in this, number by number. The module (``Graph``), and with it
training, has the true gradients: PyTorch keeps what backward needs. Both agree for a lone in-place ReLU, Sigmoid,
TanH, ELU or Exp, which is how nets were written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rule = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""(layer, x, z, diff) -> the diff that backward leaves: x is the layer's input, z what the blob holds now."""


def _relu(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    return diff * torch.where(z > 0, 1.0, layer.negative_slope)


def _elu(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    return diff * torch.where(z > 0, 1.0, layer.alpha + z)


def _swish(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(layer.beta * x)  # kept apart from the blob: of the true input
    return diff * (layer.beta * z + sigmoid * (1 - layer.beta * z))


def _bnll(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    return diff * torch.sigmoid(z.clamp(max=50))


def _sigmoid(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    return diff * z * (1 - z)


def _tanh(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    return diff * (1 - z * z)


def _clip(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    return diff * ((z >= layer.min) & (z <= layer.max))


def _exp(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    return diff * z * layer.inner


def _log(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    """The slope is written into the diff before the diff is multiplied with it: its square."""
    return (layer.scale / (layer.scale * z + layer.shift) / layer.log_base) ** 2


def _power(layer: Any, x: Tensor, z: Tensor, diff: Tensor) -> Tensor:
    """As Log: the square of a slope, which is taken from what the blob holds in three ways, by the power."""
    factor = layer.power * layer.scale
    if factor == 0 or layer.power == 1:
        return torch.full_like(diff, factor**2)
    if layer.power == 2:
        return (factor * (layer.scale * z + layer.shift)) ** 2
    if layer.shift == 0:
        return (layer.power * (z / z)) ** 2
    return (factor * (z / (layer.scale * z + layer.shift))) ** 2


RULES: dict[str, Rule] = {
    "BNLL": _bnll,
    "Clip": _clip,
    "ELU": _elu,
    "Exp": _exp,
    "Log": _log,
    "Power": _power,
    "ReLU": _relu,
    "Sigmoid": _sigmoid,
    "Swish": _swish,
    "TanH": _tanh,
}
"""By layer type. Others keep what they need apart (Scale, BatchNorm, PReLU, Dropout) or refuse to work in place."""
