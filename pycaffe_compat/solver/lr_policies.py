"""How the learning rate moves over the iterations: Caffe's seven policies, and a cosine with warm-up.

With b = base_lr, g = gamma and i = the iteration (counted from 0):

    fixed      b
    step       b * g ^ floor(i / stepsize)
    exp        b * g ^ i
    inv        b * (1 + g * i) ^ -power
    multistep  b * g ^ (number of stepvalues passed)
    poly       b * (1 - i / max_iter) ^ power
    sigmoid    b / (1 + e ^ (-g * (i - stepsize)))
    cosine     b * (i + 1) / stepsize                                         while i < stepsize
               b * (1 + cos(pi * (i - stepsize) / (max_iter - stepsize))) / 2   afterwards

``cosine`` is the only one that the original does not have. It is a new name within the existing field, so the
solver file still parses as Caffe's.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import log
from ..errors import SolverError
from ..naming import unknown

Rate = Callable[[Any, int, int], float]
"""(SolverParameter, iteration, current_step) -> learning rate"""


def _pow(base: float, exponent: float) -> float:
    """C's pow: infinite or NaN where Python's raises an error or becomes complex."""
    with np.errstate(all="ignore"):
        return float(np.float64(base) ** np.float64(exponent))


def _fixed(param: Any, iteration: int, step: int) -> float:
    return float(param.base_lr)


def _stepped(param: Any, iteration: int, step: int) -> float:
    return float(param.base_lr * _pow(param.gamma, step))


def _exp(param: Any, iteration: int, step: int) -> float:
    return float(param.base_lr * _pow(param.gamma, iteration))


def _inv(param: Any, iteration: int, step: int) -> float:
    return float(param.base_lr * _pow(1 + param.gamma * iteration, -param.power))


def _poly(param: Any, iteration: int, step: int) -> float:
    # Past the end (step() can be called for ever) the base is negative: Caffe's power of it is NaN, or for a whole
    # exponent grows again, with either sign. 0 goes on harmlessly.
    left = max(0.0, 1 - iteration / param.max_iter)
    return float(param.base_lr * _pow(left, param.power))


def _sigmoid(param: Any, iteration: int, step: int) -> float:
    exponent = -param.gamma * (iteration - param.stepsize)
    return float(param.base_lr / (1 + math.exp(exponent))) if exponent < 700 else 0.0


def _cosine(param: Any, iteration: int, step: int) -> float:
    if iteration < param.stepsize:
        return float(param.base_lr * (iteration + 1) / param.stepsize)
    done = min(1.0, (iteration - param.stepsize) / max(1, param.max_iter - param.stepsize))
    return float(param.base_lr * (1 + math.cos(math.pi * done)) / 2)


POLICIES: dict[str, Rate] = {
    "fixed": _fixed,
    "step": _stepped,
    "exp": _exp,
    "inv": _inv,
    "multistep": _stepped,
    "poly": _poly,
    "sigmoid": _sigmoid,
    "cosine": _cosine,
}


class LearningRate:
    """The rate of each iteration.

    ``current_step`` is what a snapshot stores of it: how many steps "step" and "multistep" have taken.
    ``where`` (a file name) begins the messages of the errors.
    """

    def __init__(self, param: Any, where: str = "solver") -> None:
        policy = param.lr_policy
        if policy and policy not in POLICIES:
            raise SolverError(f"{where}: {unknown('lr_policy', policy, POLICIES)}")
        if policy in ("step", "exp", "inv", "multistep", "sigmoid") and param.gamma < 0:
            raise SolverError(f'{where}: gamma is {param.gamma:g}; lr_policy "{policy}" needs gamma >= 0')
        if policy in ("step", "sigmoid") and param.stepsize <= 0:
            raise SolverError(f'{where}: lr_policy "{policy}" needs a stepsize > 0')
        if policy == "cosine" and param.stepsize < 0:
            raise SolverError(
                f'{where}: stepsize is {param.stepsize}; with lr_policy "cosine" it is the length of the'
                " warm-up in iterations, >= 0"
            )
        if policy in ("poly", "cosine") and param.max_iter <= 0:
            raise SolverError(f'{where}: lr_policy "{policy}" needs max_iter > 0')
        self.param = param
        self.where = where
        self.current_step = 0

    def __call__(self, iteration: int) -> float:
        """The rate of this iteration.

        As in Caffe, "multistep" takes at most one step a call: it is meant to be asked once an iteration.

        Raises:
            SolverError: the solver file has no lr_policy.
        """
        param = self.param
        if not param.lr_policy:  # told when it is missed: a solver that only tests needs none
            raise SolverError(f"{self.where}: lr_policy is not set: it is one of {', '.join(POLICIES)}")
        if param.lr_policy == "step":
            self.current_step = iteration // param.stepsize
        elif param.lr_policy == "multistep":
            if self.current_step < len(param.stepvalue) and iteration >= param.stepvalue[self.current_step]:
                self.current_step += 1
                log.info(
                    f"MultiStep Status: Iteration {iteration}, step = {self.current_step}", "sgd_solver.cpp:53"
                )
        return POLICIES[param.lr_policy](param, iteration, self.current_step)
