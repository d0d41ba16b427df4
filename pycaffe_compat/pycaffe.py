"""pycaffe's solvers: the training loop of ``solver``, under the names that Caffe's scripts use."""

from __future__ import annotations

import os
from typing import Any

from .errors import SolverError
from .naming import unknown
from .proto import caffe_pb2
from .proto.text import read_solver
from .solver import RULES, Solver
from .solver.solver import SolverLike


class SGDSolver(Solver):
    """A solver of type SGD, whatever the file says."""

    type = "SGD"


class NesterovSolver(Solver):
    """A solver of type Nesterov, whatever the file says."""

    type = "Nesterov"


class AdaGradSolver(Solver):
    """A solver of type AdaGrad, whatever the file says."""

    type = "AdaGrad"


class RMSPropSolver(Solver):
    """A solver of type RMSProp, whatever the file says."""

    type = "RMSProp"


class AdaDeltaSolver(Solver):
    """A solver of type AdaDelta, whatever the file says."""

    type = "AdaDelta"


class AdamSolver(Solver):
    """A solver of type Adam, whatever the file says."""

    type = "Adam"


def get_solver(param: SolverLike, **options: Any) -> Solver:
    """The solver that the file's ``type`` names; options as for :class:`Solver`."""
    in_memory = isinstance(param, caffe_pb2.SolverParameter)
    kind = (param if in_memory else read_solver(param)).type  # type: ignore[union-attr, arg-type]
    for cls in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver):
        if cls.type == kind:
            return cls(param, **options)
    where = "solver" if in_memory else os.fspath(param)  # type: ignore[arg-type]
    raise SolverError(f"{where}: {unknown('solver type', kind, RULES)}")
