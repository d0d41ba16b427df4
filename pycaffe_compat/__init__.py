"""Caffe's nets, weights, solvers and Python interface on PyTorch.

import pycaffe_compat as caffe
net = caffe.Net("deploy.prototxt", "weights.caffemodel", caffe.TEST)

graph = pycaffe_compat.load("deploy.prototxt", "weights.caffemodel")     # the same net as a torch.nn.Module
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import torch

from . import _caffe as _caffe
from . import io, layers, log, proto
from .alias import install_as_caffe
from .blob import Blob
from .classifier import Classifier
from .convert import save
from .detector import Detector
from .errors import CaffeError, DataError, NetError, PrototxtError, SolverError, WeightsError
from .graph import TEST, TRAIN, Graph
from .layers.python import PythonLayer as Layer
from .net import Net
from .net_spec import NetSpec, params, to_proto
from .proto.text import read_net
from .pycaffe import (
    NCCL,
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    Timer,
    get_solver,
    has_nccl,
    init_log,
    layer_type_list,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_random_seed,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from .version import __version__
from .weights import read_weights

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "CaffeError",
    "Classifier",
    "DataError",
    "Detector",
    "Graph",
    "Layer",
    "Net",
    "NetError",
    "NetSpec",
    "NesterovSolver",
    "PrototxtError",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "SolverError",
    "Timer",
    "WeightsError",
    "__version__",
    "get_solver",
    "has_nccl",
    "init_log",
    "install_as_caffe",
    "io",
    "layer_type_list",
    "layers",
    "load",
    "log",
    "params",
    "proto",
    "save",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
]


def load(
    net: str | PathLike[str],
    weights: str | PathLike[str] | None = None,
    phase: int = TEST,
    level: int = 0,
    stages: Sequence[str] = (),
    dialect: str | PathLike[str] | None = None,
    channels_last: bool = False,
) -> Graph:
    """A net with its weights as a ``torch.nn.Module``, in evaluation mode.

    Args:
        net: path of the prototxt.
        weights: path of a .caffemodel, .h5 or .safetensors; without it the fillers' values stay.
        dialect: whose Caffe the net is for ("bvlc", "ssd", "nvidia", "intel", "community", or a fork's .proto file);
            None finds out.
        channels_last: keep the filters in PyTorch's channels-last order, which the maps then follow: the same numbers
            but for rounding, faster for convolutions in batches.
    """
    graph = Graph(read_net(net, dialect) if dialect else net, phase, level, stages)
    if weights is not None:
        graph.load_weights(read_weights(weights, empty=True), str(weights))
    if channels_last:
        graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its hints
    return graph.eval()
