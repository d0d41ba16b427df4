"""What Caffe's backward gives where an in-place layer changed what it reads, and that is not the true gradient.

A layer that works in place has one memory for bottom and top, data and diff alike. Caffe's backward formulas read it
when it holds the net's last value of that blob: not the layer's input, and after a later in-place layer not its output
either. So does a layer below that is not in place itself and whose formula reads its top. A formula that writes the
bottom's diff before it has read the top's reads what it wrote.

pycaffe's ``net.backward`` follows the original in this, number by number. The module (``Graph``), and with it
training, has the true gradients: PyTorch keeps what backward needs. Both agree for a lone in-place ReLU, Sigmoid,
TanH, ELU, Exp or Softmax, which is how nets were written.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import Node

Rule = Callable[[Any, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(layer, x, bottom, top, diff) -> the diff that backward leaves in a bottom: x is the layer's input, bottom and top
what the blobs hold now (in place: one and the same), diff the top's."""


def _relu(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    return diff * torch.where(bottom > 0, 1.0, layer.negative_slope)


def _elu(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    return diff * torch.where(bottom > 0, 1.0, layer.alpha + top)


def _swish(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(layer.beta * x)  # kept apart from the blob: of the true input
    return diff * (layer.beta * top + sigmoid * (1 - layer.beta * top))


def _bnll(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    return diff * torch.sigmoid(bottom.clamp(max=50))


def _sigmoid(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    return diff * top * (1 - top)


def _tanh(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    return diff * (1 - top * top)


def _softmax(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    return top * (diff - (top * diff).sum(layer.axis, keepdim=True))


def _clip(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    return diff * ((bottom >= layer.min) & (bottom <= layer.max))


def _exp(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    return diff * top * layer.inner


def _log_in_place(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    """The slope is written into the diff before the diff is multiplied with it: its square."""
    return (layer.scale / (layer.scale * bottom + layer.shift) / layer.log_base) ** 2


def _power_in_place(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    """As Log: the square of the slope."""
    return _power_slope(layer, bottom, top) ** 2


def _power(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    return diff * _power_slope(layer, bottom, top)


def _power_slope(layer: Any, bottom: Tensor, top: Tensor) -> Tensor:
    """Taken from what the blobs hold in three ways, by the power."""
    factor = layer.power * layer.scale
    if factor == 0 or layer.power == 1:
        return torch.full_like(top, factor)
    if layer.power == 2:
        return factor * (layer.scale * bottom + layer.shift)
    if layer.shift == 0:
        return layer.power * (top / bottom)
    return factor * (top / (layer.scale * bottom + layer.shift))


def _product(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    """Eltwise PROD: of the other bottoms, what the top and this bottom say."""
    return diff * (top / bottom)


def _lrn(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    base = layer.base(x)  # kept apart from the blob
    shares = F.conv2d(diff * top / base, layer.across) * (2 * layer.alpha * layer.beta / layer.size)
    return diff * base.pow(-layer.beta) - bottom * shares


def _mvn(layer: Any, x: Tensor, bottom: Tensor, top: Tensor, diff: Tensor) -> Tensor:
    x = x.reshape(top.shape)  # kept apart from the blob

    def mean(values: Tensor) -> Tensor:
        return values.mean(layer.axes, keepdim=True)

    divisor = x.var(layer.axes, correction=0, keepdim=True).sqrt() + layer.eps
    return ((diff - mean(diff) - top * mean(top * diff)) / divisor).reshape(bottom.shape)


IN_PLACE: dict[str, Rule] = {
    "BNLL": _bnll,
    "Clip": _clip,
    "ELU": _elu,
    "Exp": _exp,
    "Log": _log_in_place,
    "Power": _power_in_place,
    "ReLU": _relu,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Swish": _swish,
    "TanH": _tanh,
}
"""By layer type. Others keep what they need apart (Scale, BatchNorm, PReLU, Dropout) or refuse to work in place."""

BELOW: dict[str, Rule] = {
    "ELU": _elu,
    "Eltwise": _product,
    "Exp": _exp,
    "LRN": _lrn,
    "MVN": _mvn,
    "Power": _power,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Swish": _swish,
    "TanH": _tanh,
}
"""For layers whose top a later layer changed in place: types whose formula reads it. (LSTMUnit's reads its new state;
there ours is the true gradient.)"""

READS_TOP: dict[str, Callable[[Any], bool]] = {
    "Eltwise": lambda layer: layer.operation == "PROD" and not layer.settings.stable_prod_grad,
    "LRN": lambda layer: not layer.within,
    "MVN": lambda layer: layer.normalize_variance,
}
"""Types of ``BELOW`` that read the top with some settings only: with which."""


def rule_of(node: Node, rewritten: Container[str]) -> Rule | None:
    """The rule that a layer's backward follows; None where it is the true gradient.

    Args:
        rewritten: the blobs that layers change in place.
    """
    if not (node.bottoms and node.tops):
        return None
    if node.bottoms[0] == node.tops[0]:
        return IN_PLACE.get(node.type)
    if node.tops[0] in rewritten and READS_TOP.get(node.type, lambda layer: True)(node.layer):
        return BELOW.get(node.type)
    return None
