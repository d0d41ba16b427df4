"""Layer types: one file a family, one small class a type, a registry row each.

To add one, write its class in the family's file with :func:`base.register` above it; CONTRIBUTING.md shows how.

pycaffe has something else of this name, which writes nets as Python expressions; types' names lead to it:
``layers.Convolution(bottom, num_output=8, kernel_size=3)`` (see ``net_spec``).
"""

from collections.abc import Callable
from typing import Any

from ..net_spec import layer_function
from . import (
    accuracy,
    activation,
    class_loss,
    convolution,
    data,
    detection,
    elementwise,
    evaluation,
    forks,
    linear,
    loss,
    multibox,
    normalization,
    output,
    pooling,
    python,
    recurrent,
    reduction,
    roi_pooling,
    shape,
    structure,
)
from .base import REGISTRY, Layer, LayerType, lookup, register

__all__ = [
    "REGISTRY",
    "Layer",
    "LayerType",
    "accuracy",
    "activation",
    "class_loss",
    "convolution",
    "data",
    "detection",
    "elementwise",
    "evaluation",
    "forks",
    "linear",
    "lookup",
    "loss",
    "multibox",
    "normalization",
    "output",
    "pooling",
    "python",
    "recurrent",
    "reduction",
    "register",
    "roi_pooling",
    "shape",
    "structure",
]


def __getattr__(name: str) -> Callable[..., Any]:
    if not name[:1].isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return layer_function(name)
