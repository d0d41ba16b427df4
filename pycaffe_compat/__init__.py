"""Caffe's nets, weights, solvers and Python interface on PyTorch.

import pycaffe_compat as caffe
net = caffe.Net("deploy.prototxt", "weights.caffemodel", caffe.TEST)

graph = pycaffe_compat.load("deploy.prototxt", "weights.caffemodel")     # the same net as a torch.nn.Module
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from os import PathLike

import torch

from .errors import CaffeError, DataError, NetError, PrototxtError, SolverError, WeightsError
from .graph import TEST, TRAIN, Graph
from .layers import REGISTRY
from .layers.python import PythonLayer as Layer
from .net import Blob, Net
from .proto.text import read_net
from .solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)
from .version import __version__
from .weights import read_weights

__all__ = [
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "CaffeError",
    "DataError",
    "Graph",
    "Layer",
    "Net",
    "NetError",
    "NesterovSolver",
    "PrototxtError",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "SolverError",
    "WeightsError",
    "__version__",
    "get_solver",
    "install_as_caffe",
    "layer_type_list",
    "load",
    "set_mode_cpu",
    "set_random_seed",
]


def load(
    net: str | PathLike[str],
    weights: str | PathLike[str] | None = None,
    phase: int = TEST,
    level: int = 0,
    stages: Sequence[str] = (),
    dialect: str | PathLike[str] | None = None,
) -> Graph:
    """A net with its weights as a ``torch.nn.Module``, in evaluation mode.

    Args:
        net: path of the prototxt.
        weights: path of a .caffemodel or .h5; without it the fillers' values stay.
        dialect: whose Caffe the net is for ("bvlc", "ssd", "nvidia", "intel", "community", or a fork's .proto file);
            None finds out.
    """
    graph = Graph(read_net(net, dialect), phase, level, stages)
    if weights is not None:
        graph.load_weights(read_weights(weights), str(weights))
    return graph.eval()


def layer_type_list() -> list[str]:
    """The layer types that can be built."""
    return sorted(REGISTRY)


def set_mode_cpu() -> None:
    """Nets are built on the CPU: nothing to switch."""


def set_random_seed(seed: int) -> None:
    """Seed the generator that fillers and shuffling draw from."""
    torch.manual_seed(seed)


def install_as_caffe() -> None:
    """Let ``import caffe`` find this package, for scripts and Python layers that say so."""
    sys.modules.setdefault("caffe", sys.modules[__name__])
