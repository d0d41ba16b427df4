"""The six update rules of Caffe's solvers, exact, over all parameters at once.

One call of :meth:`UpdateRule.apply` is what Caffe's solver does between the backward pass and the next
iteration: clip, then, for each parameter, normalise by iter_size, regularise, compute the update, subtract
it. Notation below: g the gradient after all that, lr the rate times the parameter's lr_mult, V, m, v, h the
history, mu = momentum.

torch.optim's rules of the same names are different ones: SGD there keeps V free of the rate (it differs
whenever the rate changes), Adam corrects its epsilon for bias, and so on; hence these.

Afterwards ``parameter.grad`` holds the update itself (``data -= grad`` has been done), as a blob's diff does
in Caffe.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import log
from ..errors import SolverError
from ..naming import unknown


class Learnable(Protocol):
    """What a rule needs to know of a parameter (the graph's ``learnable`` list holds such)."""

    @property
    def parameter(self) -> torch.nn.Parameter: ...
    @property
    def lr_mult(self) -> float: ...
    @property
    def decay_mult(self) -> float: ...


RULES: dict[str, type["UpdateRule"]] = {}


def register(name: str) -> Callable[[type["UpdateRule"]], type["UpdateRule"]]:
    """Enter a rule under the name that ``type:`` in a solver file gives it."""

    def enter(rule: type["UpdateRule"]) -> type["UpdateRule"]:
        if name in RULES:
            raise ValueError(f"update rule {name!r} is registered twice")
        RULES[name] = rule
        rule.name = name
        return rule

    return enter


def make_rule(param: Any, learnable: Sequence[Learnable], where: str = "solver") -> "UpdateRule":
    """The rule that ``param.type`` names; SolverError, beginning with ``where``, if it cannot work."""
    if param.type not in RULES:
        raise SolverError(f"{where}: {unknown('solver type', param.type, RULES)}")
    return RULES[param.type](param, learnable, where)


class UpdateRule:
    """Base of the rules: the steps that they share.

    ``history`` covers every learnable parameter, those with lr_mult 0 too (they stay zero), one tensor of the
    parameter's shape each; rules with two moments append all the second to all the first, as Caffe does.
    """

    name = ""
    slots = 1
    """history tensors a parameter"""

    def __init__(self, param: Any, learnable: Sequence[Learnable], where: str = "solver") -> None:
        self.param = param
        self.where = where
        if param.iter_size < 1:
            raise SolverError(f"{where}: iter_size is {param.iter_size}; it must be at least 1")
        self.check()
        everything = self._everything = [entry.parameter for entry in learnable]
        self.history: list[Tensor] = [
            torch.zeros_like(p, requires_grad=False) for p in everything * self.slots
        ]
        moving = [i for i, entry in enumerate(learnable) if entry.lr_mult != 0]
        self.parameters: list[torch.nn.Parameter] = [everything[i] for i in moving]
        """those that are updated: lr_mult is not 0"""
        self._frozen = [p for p, entry in zip(everything, learnable, strict=True) if entry.lr_mult == 0]
        self._data: list[Tensor] = [p.data for p in self.parameters]
        self._lr_mults = [learnable[i].lr_mult for i in moving]
        self._one_rate = len(set(self._lr_mults)) == 1
        decays = [param.weight_decay * learnable[i].decay_mult for i in moving]
        self._decayed = [(j, decay) for j, decay in enumerate(decays) if decay != 0]
        if self._decayed and param.regularization_type not in ("L1", "L2"):
            raise SolverError(
                f"{where}: {unknown('regularization_type', param.regularization_type, ('L1', 'L2'))}"
            )
        count = len(everything)
        self._slots = [[self.history[slot * count + i] for i in moving] for slot in range(self.slots)]

    def check(self) -> None:
        """Refuse settings that this rule cannot work with."""

    def clear(self) -> None:
        """Begin an iteration: no gradients. (Dropping them is faster than filling them with zeros: backward
        then hands over its buffer instead of adding to one.)"""
        for parameter in self._everything:
            parameter.grad = None

    @torch.no_grad()
    def apply(self, rate: float, iteration: int) -> None:
        """Turn the gradients (summed over iter_size passes) into the update of this iteration and make it."""
        self._clip(self.diffs())
        for diff in self._frozen_diffs():
            diff.zero_()
        if not self.parameters:
            return
        grads = self.gradients()
        if self.param.iter_size > 1:
            torch._foreach_mul_(grads, 1 / self.param.iter_size)
        self._regularise(grads)
        self.compute(grads, self._slots, rate, iteration)
        torch._foreach_sub_(self._data, grads)

    def compute(self, grads: list[Tensor], slots: list[list[Tensor]], rate: float, iteration: int) -> None:
        """Replace the gradients by the update (what is subtracted), and move the history on."""
        raise NotImplementedError

    def scale_by_rate(self, grads: list[Tensor], rate: float) -> None:
        """Multiply each by rate * its lr_mult."""
        if self._one_rate:
            torch._foreach_mul_(grads, rate * self._lr_mults[0])
        else:
            torch._foreach_mul_(grads, [rate * mult for mult in self._lr_mults])

    def gradients(self) -> list[Tensor]:
        """Those of the parameters that are updated, themselves; zeros take the place of missing ones."""
        grads = []
        for i, parameter in enumerate(self.parameters):
            if (
                parameter.grad is None
            ):  # not on the way to a loss: Caffe's zeros, which weight decay still acts on
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
            # Whoever moved the net (to another dtype, device or memory format) after we were made exchanged
            # .data
            self._data[i] = parameter.data
        return grads

    def _frozen_diffs(self) -> list[Tensor]:
        """The gradients that there are (``force_backward``) of parameters with lr_mult 0: their update is 0."""
        return [p.grad for p in self._frozen if p.grad is not None]

    def diffs(self) -> list[Tensor]:
        """All gradients: what is clipped, and averaged over ranks."""
        return self.gradients() + self._frozen_diffs()

    def _clip(self, grads: list[Tensor]) -> None:
        """Scale to a global L2 norm of at most clip_gradients; the norm is that of the sum over iter_size,
        before decay. Only a negative limit switches this off: 0 clips everything to zero."""
        limit = self.param.clip_gradients
        if limit < 0 or not grads:
            return
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))
        if norm > limit:
            scale = limit / norm
            log.info(
                f"Gradient clipping: scaling down gradients (L2 norm {log.number(norm)} > "
                f"{log.number(limit)}) by scale factor {log.number(scale)}",
                "sgd_solver.cpp:99",
            )
            torch._foreach_mul_(grads, scale)

    def _regularise(self, grads: list[Tensor]) -> None:
        if not self._decayed:
            return
        data = [self._data[j] for j, _ in self._decayed]
        penalty = torch._foreach_sign(data) if self.param.regularization_type == "L1" else list(data)
        penalty = torch._foreach_mul(penalty, [decay for _, decay in self._decayed])
        torch._foreach_add_([grads[j] for j, _ in self._decayed], penalty)


@register("SGD")
class SGD(UpdateRule):
    """V = mu V + lr g; w -= V"""

    def compute(self, grads: list[Tensor], slots: list[list[Tensor]], rate: float, iteration: int) -> None:
        (velocity,) = slots
        self.scale_by_rate(grads, rate)
        torch._foreach_mul_(velocity, self.param.momentum)
        torch._foreach_add_(velocity, grads)
        torch._foreach_copy_(grads, velocity)


@register("Nesterov")
class Nesterov(UpdateRule):
    """V' = mu V + lr g; w -= (1 + mu) V' - mu V"""

    def compute(self, grads: list[Tensor], slots: list[list[Tensor]], rate: float, iteration: int) -> None:
        (velocity,) = slots
        momentum = self.param.momentum
        self.scale_by_rate(grads, rate)
        torch._foreach_mul_(velocity, momentum)
        old = [v.clone() for v in velocity]
        torch._foreach_add_(velocity, grads)
        torch._foreach_copy_(grads, velocity)
        torch._foreach_mul_(grads, 1 + momentum)
        torch._foreach_sub_(grads, old)


class _NoMomentum(UpdateRule):
    def check(self) -> None:
        if self.param.momentum != 0:
            raise SolverError(
                f"{self.where}: momentum is {self.param.momentum:g}; {self.name} has none: remove it"
            )

    def divide_by_root(self, grads: list[Tensor], squares: list[Tensor], rate: float) -> None:
        """lr g / (sqrt(h) + delta)"""
        root = torch._foreach_sqrt(squares)
        torch._foreach_add_(root, self.param.delta)
        torch._foreach_div_(grads, root)
        self.scale_by_rate(grads, rate)


@register("AdaGrad")
class AdaGrad(_NoMomentum):
    """h += g^2; w -= lr g / (sqrt(h) + delta)"""

    def compute(self, grads: list[Tensor], slots: list[list[Tensor]], rate: float, iteration: int) -> None:
        (squares,) = slots
        torch._foreach_addcmul_(squares, grads, grads)
        self.divide_by_root(grads, squares, rate)


@register("RMSProp")
class RMSProp(_NoMomentum):
    """h = rms_decay h + (1 - rms_decay) g^2; w -= lr g / (sqrt(h) + delta)"""

    def check(self) -> None:
        super().check()
        if not 0 <= self.param.rms_decay < 1:
            raise SolverError(f"{self.where}: rms_decay is {self.param.rms_decay:g}; it must be in [0, 1)")

    def compute(self, grads: list[Tensor], slots: list[list[Tensor]], rate: float, iteration: int) -> None:
        (squares,) = slots
        decay = self.param.rms_decay
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, grads, grads, 1 - decay)
        self.divide_by_root(grads, squares, rate)


@register("AdaDelta")
class AdaDelta(UpdateRule):
    """h = mu h + (1 - mu) g^2; u = g sqrt((d + delta) / (h + delta)); d = mu d + (1 - mu) u^2; w -= lr u

    mu is momentum; the history keeps u free of the rate.
    """

    slots = 2

    def compute(self, grads: list[Tensor], slots: list[list[Tensor]], rate: float, iteration: int) -> None:
        squares, updates = slots
        momentum, delta = self.param.momentum, self.param.delta
        torch._foreach_mul_(squares, momentum)
        torch._foreach_addcmul_(squares, grads, grads, 1 - momentum)
        ratio = torch._foreach_add(updates, delta)
        torch._foreach_div_(ratio, torch._foreach_add(squares, delta))
        torch._foreach_sqrt_(ratio)
        torch._foreach_mul_(grads, ratio)
        torch._foreach_mul_(updates, momentum)
        torch._foreach_addcmul_(updates, grads, grads, 1 - momentum)
        self.scale_by_rate(grads, rate)


@register("Adam")
class Adam(UpdateRule):
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w -= lr c m / (sqrt(v) + delta)

    c = sqrt(1 - b2^t) / (1 - b1^t), t = iteration + 1, b1 = momentum (whose default is 0), b2 = momentum2;
    delta is not corrected for bias.
    """

    slots = 2

    def check(self) -> None:
        for field in ("momentum", "momentum2"):
            value = getattr(self.param, field)
            if not 0 <= value < 1:
                raise SolverError(f"{self.where}: {field} is {value:g}; Adam needs it in [0, 1)")

    def compute(self, grads: list[Tensor], slots: list[list[Tensor]], rate: float, iteration: int) -> None:
        first, second = slots
        beta1, beta2 = self.param.momentum, self.param.momentum2
        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, grads, alpha=1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        root = torch._foreach_sqrt(second)
        torch._foreach_add_(root, self.param.delta)
        torch._foreach_copy_(grads, first)
        torch._foreach_div_(grads, root)
        t = iteration + 1
        self.scale_by_rate(grads, rate * math.sqrt(1 - beta2**t) / (1 - beta1**t))
