"""pycaffe's solvers and its functions of the whole library, by their names there.

The solvers are the training loop of ``solver`` seen through Nets: each pass goes layer by layer through ``solver.net``,
so that after ``step`` its blobs hold the batch, their diffs the gradients, the parameters' diffs the update, and what
a script writes into an input blob before is what the step trains on. The programs of this project train without Nets,
which is faster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from google.protobuf.message import Message
from torch import Tensor

from . import log
from .errors import SolverError
from .graph import Graph
from .layers import REGISTRY
from .naming import unknown
from .net import Net
from .proto.text import read_solver
from .solver import RULES, distributed
from .solver import Solver as TrainingLoop
from .solver.solver import SolverLike

__all__ = [
    "NCCL",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "Timer",
    "get_solver",
    "has_nccl",
    "init_log",
    "layer_type_list",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
]

# ------------------------------------------------------------------------------------------------------- solvers


class Solver(TrainingLoop):
    """pycaffe's solver: of the type that the file names.

    Attributes:
        net: the training net.
        test_nets: the others, which share its parameters.
        iter: how many updates have been made.
        param: the SolverParameter.
    """

    # Parameters are handed out as arrays, which scripts expect in C order.
    memory_format = torch.contiguous_format

    def __init__(self, solver_file: SolverLike, **options: Any) -> None:
        super().__init__(solver_file, **options)
        self.net = Net(self.graph)
        self.test_nets = [Net(graph) for graph in self.test_graphs]
        for net in (self.net, *self.test_nets):
            net._debug_info = False  # the solver file's counts

    @property
    def lr(self) -> float:
        """The rate of the coming update. With "multistep" asking counts as an iteration's one step, as in Caffe."""
        return self._rate(self.iter)

    @property
    def base_lr(self) -> float:
        """The rate that lr_policy starts from; it may be set at any time."""
        return float(self.param.base_lr)

    @base_lr.setter
    def base_lr(self, rate: float) -> None:
        self.param.base_lr = rate

    def add_callback(
        self, on_start: Callable[[], None] | NCCL, on_gradients_ready: Callable[[], None] | None = None
    ) -> None:
        """Call the first before each iteration's forward pass, the second before its update. An NCCL adds
        nothing: gradients are averaged anyway."""
        if isinstance(on_start, NCCL):
            return
        if on_gradients_ready is None:
            raise TypeError("add_callback takes two functions: on_start and on_gradients_ready")
        super().add_callback(on_start, on_gradients_ready)

    def share_weights(self, net: Net) -> None:
        """Let another net use the values of the training net's parameters, in the layers of the same names."""
        net.share_with(self.net)

    def _net_of(self, graph: Graph) -> Net:
        return next(net for net in (self.net, *self.test_nets) if net.graph is graph)

    def _clear_gradients(self) -> None:
        self.net.clear_param_diffs()  # in place: arrays that were handed out stay the diffs

    def _forward(self, graph: Graph) -> tuple[Mapping[str, Tensor], Tensor]:
        net = self._net_of(graph)
        # Not graph.loss: a layer's part is what it computed, though its top may be changed in place afterwards.
        loss = torch.tensor(net._forward(0, len(net.layers) - 1))
        return {name: blob.data_tensor for name, blob in net.blobs.items()}, loss

    def _backward(self, loss: Tensor) -> None:
        self.net._backward(len(self.net.layers) - 1, 0)


class SGDSolver(Solver):
    """A solver of type SGD, whatever the file says. The other types are its subclasses, as in Caffe."""

    type = "SGD"


class NesterovSolver(SGDSolver):
    """A solver of type Nesterov, whatever the file says."""

    type = "Nesterov"


class AdaGradSolver(SGDSolver):
    """A solver of type AdaGrad, whatever the file says."""

    type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """A solver of type RMSProp, whatever the file says."""

    type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """A solver of type AdaDelta, whatever the file says."""

    type = "AdaDelta"


class AdamSolver(SGDSolver):
    """A solver of type Adam, whatever the file says."""

    type = "Adam"


def get_solver(solver_file: SolverLike, **options: Any) -> Solver:
    """The solver that the file's ``type`` names; options as for ``solver.Solver``."""
    settings: Any = solver_file if isinstance(solver_file, Message) else read_solver(solver_file)
    for cls in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver):
        if cls.type == settings.type:
            return cls(solver_file, **options)
    where = "solver" if isinstance(solver_file, Message) else os.fspath(solver_file)
    raise SolverError(f"{where}: {unknown('solver type', settings.type, RULES)}")


# ------------------------------------------------------------------------------------------- the library's state


@cache
def _say_once(what: str) -> None:
    log.warning(what, "_caffe.cpp:60")


def layer_type_list() -> list[str]:
    """The layer types that can be built."""
    return sorted(REGISTRY)


def set_mode_cpu() -> None:
    """Does nothing: nets are built on the CPU anyway."""


def set_mode_gpu() -> None:
    """Does nothing, and says so: pycaffe's nets stay on the CPU, where their arrays are."""
    _say_once('set_mode_gpu does nothing: Nets compute on the CPU (on a GPU: net.graph.to("cuda"), or train_net --gpu)')


def set_device(device: int) -> None:
    """Does nothing, and says so; see :func:`set_mode_gpu`."""
    _say_once("set_device does nothing: Nets compute on the CPU")


def set_random_seed(seed: int) -> None:
    """Seed the generator that fillers, Dropout and shuffling draw from."""
    torch.manual_seed(seed)


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Write log lines of this severity and above: 0 info, 1 warning, 2 error. They always go to stderr."""
    log.set_level(level)
    if not stderr:
        _say_once("init_log: lines go to stderr (pycaffe_compat.log.to_file writes a file too)")


_told = {"count": 1, "rank": 0}


def solver_count() -> int:
    """How many solvers train together: the ranks of torch.distributed, else what :func:`set_solver_count` was told."""
    return distributed.ranks() if distributed.ranks() > 1 else _told["count"]


def set_solver_count(count: int) -> None:
    """Is remembered; says so where it does not make that many solvers train together: torch.distributed's ranks do."""
    _told["count"] = int(count)
    if count > 1 and count != distributed.ranks():
        _say_once(
            "set_solver_count does nothing: solvers train together where torch.distributed is initialised "
            f"({distributed.ranks()} here), e.g. under torchrun within pycaffe_compat.solver.distributed.joined()"
        )


def solver_rank() -> int:
    """Which of them this one is: torch.distributed's rank, else what :func:`set_solver_rank` was told."""
    return distributed.rank() if distributed.ranks() > 1 else _told["rank"]


def set_solver_rank(rank: int) -> None:
    """Is remembered and does nothing else."""
    _told["rank"] = int(rank)


def set_multiprocess(value: bool) -> None:
    """Does nothing, and says so where it would matter: solvers train together as torch.distributed's ranks."""
    if value and distributed.ranks() == 1:
        _say_once("set_multiprocess does nothing: torch.distributed is not initialised, a solver trains by itself")


def has_nccl() -> bool:
    """Whether this PyTorch has NCCL. Without it, ranks on CPUs still train together."""
    return bool(torch.distributed.is_available() and torch.distributed.is_nccl_available())


class NCCL:
    """The link between several ranks' solvers. The solver averages the gradients by itself, so there is little to do.

    Raises:
        SolverError: solver_count was set to more than there are ranks, and training apart would go wrong silently.
    """

    def __init__(self, solver: Solver, uid: bytes = b"") -> None:
        self._solver = solver
        if distributed.ranks() == 1:
            if solver_count() > 1:
                raise SolverError(
                    f"NCCL: {solver_count()} solvers cannot train together: torch.distributed is not initialised; "
                    "start the script by torchrun and train within pycaffe_compat.solver.distributed.joined()"
                )
            _say_once("NCCL does nothing: one solver trains by itself")

    @staticmethod
    def new_uid() -> bytes:
        """A name for the link."""
        return os.urandom(16)

    def __call__(self, layer: int) -> None:
        """Does nothing: what ``net.after_backward(nccl)`` asks for, gradients as they come, is done for all at once."""

    def bcast(self) -> None:
        """Give all ranks the first one's weights. All must call it."""
        if distributed.ranks() > 1:
            self._solver.join()


class Timer:
    """A stop watch: ``start``, ``stop``, then ``ms``."""

    def __init__(self) -> None:
        self._begin: float | None = None
        self._seconds = 0.0

    def start(self) -> None:
        if self._begin is None:
            self._begin = time.perf_counter()

    def stop(self) -> None:
        if self._begin is not None:
            self._seconds, self._begin = time.perf_counter() - self._begin, None

    @property
    def ms(self) -> float:
        """Milliseconds from start to stop; asking stops a watch that runs, as in Caffe."""
        self.stop()
        return self._seconds * 1e3
