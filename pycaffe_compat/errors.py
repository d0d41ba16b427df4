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
