"""What can go wrong, as one small tree.

    CaffeError (a RuntimeError)
    ├── PrototxtError   text that does not parse: file:line:column and what stood there
    ├── NetError        a net that parses but cannot be built: unknown type, missing bottom, bad shape
    ├── WeightsError    weights or snapshots that cannot be read, or do not fit the net
    ├── DataError       databases, lists and images that cannot be read
    ├── SolverError     solver settings that cannot work, a loss that is no longer a number
    │   └── RankLost    (solver.distributed) another rank of a training has gone
    └── RanksFailed     (solver.distributed) a rank that was started here ended with an error

Every message is one line for the person who wrote the file: it names the file, line, layer or dataset and says what
to do. The programs print it after ``error:`` and exit with 1.
"""

from __future__ import annotations

import os


class CaffeError(RuntimeError):
    """Base of every error this library raises about its input. A RuntimeError, which is what pycaffe raises where a
    file cannot be opened or an array does not fit."""


class PrototxtError(CaffeError):
    """Text that is not the message it should be; the message starts with ``file:line:column``."""


class NetError(CaffeError):
    """A net that parses but cannot be built; the message starts with ``file:line: layer "name" (Type)``."""


class WeightsError(CaffeError):
    """Weights or a snapshot that cannot be read or do not fit the net."""


class DataError(CaffeError):
    """A database, list or image that cannot be read or does not hold what the net asks for."""


class SolverError(CaffeError):
    """Solver settings that cannot work, or a training that has diverged."""


def describe_os_error(error: OSError) -> str:
    """One line for an operating system error: the file and the reason, without Python's ``[Errno n]``."""
    reason = error.strerror or str(error) or type(error).__name__
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(names)}: {reason}" if names else reason


def first_line(error: BaseException) -> str:
    """What is of use of an error of PyTorch and others, which may go on for pages; its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
