"""Caffe's solvers: update rules, ways for the learning rate to move, snapshots that resume bit for bit.

solver = Solver("prototxt/solver_l8.prototxt")
solver.solve()
"""

from . import distributed
from .lr_policies import POLICIES, LearningRate
from .signals import Action, SignalActions, handled
from .solver import Solver, find_net
from .update_rules import RULES, UpdateRule

__all__ = [
    "POLICIES",
    "RULES",
    "Action",
    "LearningRate",
    "SignalActions",
    "Solver",
    "UpdateRule",
    "distributed",
    "find_net",
    "handled",
]
