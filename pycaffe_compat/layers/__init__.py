"""Layer types: one file a family, one small class a type, a registry row each.

To add one, write its class in the family's file with :func:`base.register` above it; CONTRIBUTING.md shows how.
"""

from . import accuracy, activation, class_loss, convolution, data, elementwise, loss, output, python, structure
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
    "elementwise",
    "lookup",
    "loss",
    "output",
    "python",
    "register",
    "structure",
]
