"""Where batches come from: one source class a kind of database, each with its own prefetch thread."""

from pycaffe_compat.data.hdf5 import HDF5Source

__all__ = ["HDF5Source"]
