"""Caffe's messages, under the module name and with the attributes that protoc's output would have.

Unlike that output this module is not tied to a protobuf release: it loads the committed descriptor set (made
from caffe.proto beside it) into a descriptor pool of its own, so it also coexists with another ``caffe_pb2``
in one process. ``NetParameter``, ``SolverParameter.GPU``, ``TRAIN``, ``Phase.Name(0)`` and so on are as
everywhere.
"""

from pathlib import Path

from pycaffe_compat.proto.schema import load_schema

globals().update(load_schema(Path(__file__).with_name("caffe.desc").read_bytes(), __name__))
