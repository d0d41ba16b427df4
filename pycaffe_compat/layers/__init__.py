"""Layer types: one file a family, one small class a type, a registry row each.

To add one, write its class in the family's file with :func:`base.register` above it; CONTRIBUTING.md shows how.
"""

from . import (
    activation,
    convolution,
    data,
    elementwise,
    linear,
    loss,
    normalization,
    pooling,
    python,
    recurrent,
    reduction,
    shape,
    structure,
)
from .base import REGISTRY, Layer, LayerType, lookup, register

__all__ = [
    "REGISTRY",
    "Layer",
    "LayerType",
    "activation",
    "convolution",
    "data",
    "elementwise",
    "linear",
    "lookup",
    "loss",
    "normalization",
    "pooling",
    "python",
    "recurrent",
    "reduction",
    "register",
    "shape",
    "structure",
]
