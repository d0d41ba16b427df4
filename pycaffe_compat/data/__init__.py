"""Where batches come from: one source class a kind of database, on one prefetch thread (:mod:`.prefetch`)."""

from pycaffe_compat.data.annotated import AnnotatedSource
from pycaffe_compat.data.hdf5 import HDF5Source
from pycaffe_compat.data.images import ImageSource
from pycaffe_compat.data.lmdb import LMDBSource
from pycaffe_compat.data.memory import MemorySource
from pycaffe_compat.data.windows import WindowSource

__all__ = ["AnnotatedSource", "HDF5Source", "ImageSource", "LMDBSource", "MemorySource", "WindowSource"]
