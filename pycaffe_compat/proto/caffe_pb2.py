"""Caffe's messages, under the module name and with the attributes that protoc's output would have.

Unlike that output this module is not tied to a protobuf release: it loads the committed descriptor set (made
from caffe.proto beside it) into a descriptor pool of its own, so it also coexists with another ``caffe_pb2``
in one process. ``NetParameter``, ``SolverParameter.GPU``, ``TRAIN``, ``Phase.Name(0)`` and so on are as
everywhere.

Messages that stock Caffe does not have are a fork's (``LabelMap`` is SSD's). Where the environment variable
PYCAFFE_DIALECT names a fork, all messages are that fork's: ``NetParameter`` then takes a net of SSD's, which a script
written for SSD's Caffe expects.
"""

import os
from typing import Any

from pycaffe_compat.errors import PrototxtError
from pycaffe_compat.naming import unknown
from pycaffe_compat.proto.schema import NAMES, built_in

DIALECT = os.environ.get("PYCAFFE_DIALECT") or "bvlc"
if DIALECT not in NAMES:
    raise PrototxtError(f"the environment variable PYCAFFE_DIALECT: {unknown('dialect', DIALECT, NAMES)}")
globals().update(built_in(DIALECT))


def __getattr__(name: str) -> Any:
    for dialect in () if name.startswith("_") else NAMES:
        if name in built_in(dialect):
            return built_in(dialect)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
