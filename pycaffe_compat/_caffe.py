"""The names of pycaffe's compiled module.

Scripts ask ``type(net.params[name]) is caffe._caffe.BlobVec`` and import from here what ``caffe`` has too.
"""

from . import log as log
from .blob import Blob as Blob
from .blob import BlobVec as BlobVec
from .blob import RawBlobVec as RawBlobVec
from .layers.python import PythonLayer as Layer  # noqa: F401
from .net import Net as Net
from .proto.caffe_pb2 import LayerParameter as LayerParameter
from .proto.caffe_pb2 import SolverParameter as SolverParameter
from .pycaffe import *  # noqa: F403
from .version import __version__ as __version__

# What Caffe shows of C++'s vectors are lists here.
BoolVec = DtypeVec = IntVec = LayerVec = NetVec = StringVec = list
