"""HDF5 files: weights and states read without trust, and any written without loss.

The format can do what such files never need: point at other files, claim a petabyte that is not there, unpack a
few bytes into gigabytes, call filters that somebody installed. Caffe writes plain arrays; here those are read,
and gzip where somebody packed them, and everything else is refused before a byte of it is allocated.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from pycaffe_compat.errors import WeightsError
from pycaffe_compat.memory import shown_bytes, unpacked_limit
from pycaffe_compat.naming import one_line

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_DEPTH = 64  # of groups within groups
_CHECKSUM = 4  # bytes that Fletcher's filter may have added
_GZIP, _SHUFFLE, _FLETCHER32 = (
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
)


@contextmanager
def new_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Gives a new file to fill, which lies in memory until the block ends well, and is then written in one go.

    HDF5 cannot be trusted with a disk that gets full: closing the file fails, and the process crashes later.

    Raises:
        OSError: it cannot be written.
    """
    with h5py.File(os.fspath(path), "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    Path(path).write_bytes(image)


@contextmanager
def grown_hdf5(path: str | os.PathLike[str], room: int) -> Iterator[h5py.File]:
    """Gives a file to add ``room`` bytes to at most, which are taken from the disk before (see :func:`new_hdf5`).

    Raises:
        OSError: the disk has no such room; the file is as it was.
    """
    size = os.path.getsize(path)
    if hasattr(os, "posix_fallocate"):  # (macOS has none)
        with open(path, "rb+") as content:
            try:
                os.posix_fallocate(content.fileno(), size, room)
            except OSError:
                content.truncate(size)
                raise
    with h5py.File(path, "r+") as file:  # what it does not need it gives back when it is closed
        yield file


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[HDF5Reader]:
    """Opens a file for reading; what goes wrong with it within the block becomes a WeightsError."""
    shown = os.fspath(path)
    try:
        with h5py.File(path, "r") as file:
            yield HDF5Reader(file, shown)
    except WeightsError as error:  # names of groups and links may hold anything
        raise WeightsError(one_line(error, limit=len(shown) + 300)) from None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:  # all occur
        reason = one_line(error) or type(error).__name__
        raise WeightsError(f"{shown}: broken or truncated HDF5: {reason}") from None


class HDF5Reader:
    """The objects of one file: groups are walked, datasets read, links to elsewhere refused.

    Attributes:
        root: the file's root group.
    """

    def __init__(self, file: h5py.File, shown: str) -> None:
        self.root = file
        self._shown = shown
        self._size = os.stat(file.filename).st_size
        self._budget = unpacked_limit(self._size)

    def get(self, group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
        """A group's member; None where there is none.  Raises WeightsError where it is a link to elsewhere."""
        if "/" in name or name in ("", "."):  # may be stored, but h5py would take it for a path, over links as well
            raise WeightsError(f'{self._shown}: "{group.name}" has a member with the name "{name}": it is no name')
        link = group.get(name, getlink=True)  # the link itself: following one may open another file
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            target = getattr(link, "filename", "") or getattr(link, "path", "")
            raise WeightsError(
                f'{self._shown}: "{group.name.rstrip("/")}/{name}" is a link to {target}: the file must hold all itself'
            )
        item = group.get(name)
        return item if isinstance(item, (h5py.Group, h5py.Dataset)) else None

    def walk(self, group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
        """The datasets below a group with their names relative to it; one that has several names, once."""
        seen = {group.id}  # equal for names of one object
        todo: list[tuple[str, h5py.Group]] = [("", group)]
        while todo:
            prefix, parent = todo.pop()
            inner = []
            for name in parent:
                item = self.get(parent, name)
                if item is None:
                    continue
                if item.id in seen:
                    continue
                seen.add(item.id)
                if isinstance(item, h5py.Dataset):
                    yield prefix + name, item
                elif prefix.count("/") >= _MAX_DEPTH:
                    raise WeightsError(f"{self._shown}: groups are nested too deeply")
                else:
                    inner.append((f"{prefix}{name}/", item))
            todo += reversed(inner)

    def read(self, dataset: h5py.Dataset) -> npt.NDArray[np.float32]:
        """A dataset of numbers as a new float32 array.  Raises WeightsError where it is not what it claims."""
        self.check(dataset)
        if dataset.dtype.kind not in "fiu":
            raise WeightsError(f'{self._shown}: "{dataset.name}" holds {dataset.dtype}, not numbers')
        out = np.empty(dataset.shape, np.float32)
        if dataset.dtype == np.float32 and out.ndim and out.size:
            dataset.read_direct(out)
        elif out.size:
            with np.errstate(over="ignore", invalid="ignore"):  # a double that is no float becomes infinite
                out[...] = dataset[()]
        return out

    def check(self, dataset: h5py.Dataset) -> None:
        """Raises WeightsError where reading the dataset would do more than read its bytes."""
        where = f'{self._shown}: "{dataset.name}"'
        if dataset.external or dataset.is_virtual:
            raise WeightsError(f"{where} keeps its values in another file: the file must hold all itself")
        if dataset.shape is None:
            raise WeightsError(f"{where} holds nothing")
        itemsize = dataset.dtype.itemsize
        size = prod(dataset.shape) * itemsize
        chunk = prod(dataset.chunks) * itemsize if dataset.chunks else 0
        if max(size, chunk) > self._budget:
            raise WeightsError(
                f"{where} claims {shown_bytes(max(size, chunk))}, far more than a file of this size can hold"
            )
        self._budget -= size
        if chunk:
            self._check_chunks(dataset, chunk, where)
        elif dataset.id.get_storage_size() != size:
            raise WeightsError(f"{where} lacks values: they were never written, or are damaged")

    def _check_chunks(self, dataset: h5py.Dataset, chunk: int, where: str) -> None:
        """Raises WeightsError where chunks are not all there, or do not unpack to a chunk's size.

        (For what is not there HDF5 would put the fill value, and it crashes where that or the list of the chunks is
        damaged.)
        """
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        if set(filters) - {_GZIP, _SHUFFLE, _FLETCHER32} or filters.count(_GZIP) > 1:
            raise WeightsError(f"{where} is packed in a way that is not read here: save it unpacked, or by gzip")
        chunks: list[h5py.h5d.StoreInfo] = []
        dataset.id.chunk_iter(chunks.append)  # (asked for one by one, each is looked for from the beginning)
        wanted = prod(-(-length // step) for length, step in zip(dataset.shape, dataset.chunks, strict=True))
        inside = (i for i in chunks if i.size > 0 and 0 < i.byte_offset <= self._size - i.size)
        there = {info.chunk_offset for info in inside}
        if len(there) != wanted:
            raise WeightsError(f"{where} lacks values: they were never written, or are damaged")
        for info in chunks:
            packed = _GZIP in filters and not info.filter_mask >> filters.index(_GZIP) & 1
            if not packed:
                if not chunk <= info.size <= chunk + _CHECKSUM:
                    raise WeightsError(f"{where}: a piece of it has {info.size} bytes, not {chunk}")
                continue
            _, content = dataset.id.read_direct_chunk(info.chunk_offset)
            unpacking = zlib.decompressobj()
            try:
                length = len(unpacking.decompress(content, chunk + _CHECKSUM + 1))
            except zlib.error as error:
                raise WeightsError(f"{where}: broken gzip: {error}") from None
            if length > chunk + _CHECKSUM:
                raise WeightsError(f"{where} unpacks to more than it claims")
