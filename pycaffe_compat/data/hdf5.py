"""Batches from HDF5 databases, as Caffe's HDF5Data layer gives them.

The source is a text file that lists HDF5 files, split on white space. The dataset of a top is the one of its
name; it holds integers or floats, its first axis is the row. Batches run across the files' borders and over
the epoch's end. With ``shuffle`` the order of the files, and of the rows within each file, is drawn anew for
every epoch; rows of different files are never mixed. (The rule is Caffe's; the random numbers are not:
Caffe's come from its own generator.)

An order is a function of (seed, epoch, file) alone, so the position of a training is three small numbers, and
continuing there gives the very rows that the uninterrupted run would have given.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pycaffe_compat.data.orders import permutation
from pycaffe_compat.data.prefetch import Batch, Reader, Source, one_line
from pycaffe_compat.errors import DataError
from pycaffe_compat.files import regular
from pycaffe_compat.proto.hdf5 import SIGNATURE

RESIDENT_BYTES = 256 * 2**20
"""A database, else the file in use, of at most this size (in its storage type) is held in memory."""
WINDOW_BYTES = 64 * 2**20
"""How much of a larger file is read at a time."""
SLICE_BYTES = 8 * 2**20
"""One HDF5 read. h5py keeps Python's global lock while it reads; in between the training thread runs."""

Array = NDArray[Any]


@dataclass(frozen=True)
class _Position:
    """The next row: ``row`` counts within the file that stands at ``file`` in the order of ``epoch``."""

    epoch: int = 0
    file: int = 0
    row: int = 0


@dataclass(frozen=True)
class _File:
    path: Path
    rows: int
    row_bytes: int  # over all tops, in the storage type

    @property
    def bytes(self) -> int:
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class _Block:
    """Rows of one file in memory: places ``first`` to ``stop`` - 1 of the file's order.

    ``index[i]`` is where place ``first + i`` stands in the arrays; None where they are in that order already.
    """

    first: int
    stop: int
    arrays: list[Array]
    index: NDArray[np.intp] | None


class _Reader(Reader[_Position]):
    """Rows of the files that a list names."""

    def __init__(
        self, source: str, tops: Sequence[str], batch_size: int, shuffle: bool, seed: int, where: str
    ):
        self.source, self.tops, self.batch_size = source, list(tops), batch_size
        self.shuffle, self.seed = shuffle, seed
        self.label = f"{where}: {source}" if where else str(source)
        self.files: list[_File] = []
        self._folder = Path.cwd()  # of the files' paths, wherever a script goes meanwhile
        self.item_shapes: list[tuple[int, ...]] = []
        self._resident: dict[int, list[Array]] = {}
        for path in self._listed():
            self.files.append(self._inspect(path))
        self.rows = sum(file.rows for file in self.files)
        self.reads = [str(source), *(str(file.path) for file in self.files)]
        self.shapes = [(batch_size, *shape) for shape in self.item_shapes]
        self.keep_all = sum(file.bytes for file in self.files) <= RESIDENT_BYTES

    # The list and what it names

    def _listed(self) -> list[Path]:
        try:
            content = regular(self.source).read_bytes()
        except OSError as error:
            self.fail(f"the list of HDF5 files cannot be read: {error.strerror or error}", error)
        if content.startswith(SIGNATURE):
            self.fail(
                "this is an HDF5 file itself; `source` must be a text file with the paths of HDF5 files"
            )
        if b"\0" in content:
            self.fail("this is no text file; `source` must be a text file with the paths of HDF5 files")
        names = [os.fsdecode(name) for name in content.removeprefix(b"\xef\xbb\xbf").split()]
        if not names:
            self.fail("the list is empty; it must hold the path of at least one HDF5 file")
        paths = []
        for name in names:
            beside = Path(self.source).parent / name
            paths.append(beside if not os.path.exists(name) and beside.exists() else Path(name))
        return paths

    def _inspect(self, path: Path) -> _File:
        rows: int | None = None
        row_bytes = 0
        shapes = []
        with self._open(path) as h5:
            for top in self.tops:
                dataset = self._dataset(h5, path, top)
                name = f'{path}: dataset "{top}"'
                if not dataset.shape:
                    self.fail(f"{name} is a single value; its first axis must be the rows")
                if dataset.dtype.kind not in "iuf":
                    kind = "strings or objects" if dataset.dtype.kind in "OSU" else str(dataset.dtype)
                    self.fail(f"{name} holds {kind}; HDF5Data reads integers and floats")
                if rows is not None and dataset.shape[0] != rows:
                    self.fail(
                        f'{name} has {dataset.shape[0]} rows, "{self.tops[0]}" has {rows}; they must be equal'
                    )
                rows = int(dataset.shape[0])
                if rows == 0:
                    self.fail(f"{name} has no rows")
                shapes.append(tuple(int(n) for n in dataset.shape[1:]))
                row_bytes += math.prod(shapes[-1]) * dataset.dtype.itemsize
        if not self.item_shapes:
            self.item_shapes = shapes
        for top, shape, expected in zip(self.tops, shapes, self.item_shapes, strict=True):
            if shape != expected:
                self.fail(
                    f'{path}: dataset "{top}" has rows of shape {shape}, those of {self.files[0].path} are '
                    f"{expected}; all files of a list must agree"
                )
        assert rows is not None
        return _File(path, rows, row_bytes)

    def _open(self, path: Path) -> h5py.File:
        try:
            return h5py.File(regular(self._folder / path), "r")
        except OSError as error:
            if not (self._folder / path).exists():
                self.fail(
                    f"{path}: no such file (looked for in the working directory and beside the list)", error
                )
            if (self._folder / path).is_dir():
                self.fail(f"{path}: is a folder, not an HDF5 file", error)
            if not os.access(self._folder / path, os.R_OK):
                self.fail(f"{path}: permission denied", error)
            self.fail(f"{path}: not a whole HDF5 file ({one_line(error)})", error)

    def _dataset(self, h5: h5py.File, path: Path, top: str) -> h5py.Dataset:
        try:
            found = h5.get(top)
            getattr(found, "dtype", None)  # a TypeError where NumPy has no such type
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self.fail(f'{path}: dataset "{top}" cannot be opened ({one_line(error)})', error)
        if found is None:
            names = ", ".join(f'"{name}"' for name in list(h5)[:8]) or "nothing"
            self.fail(f'{path}: no dataset "{top}" (a dataset is named as its top); the file holds {names}')
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            kind = "an empty dataspace" if isinstance(found, h5py.Dataset) else "a group"
            self.fail(f'{path}: "{top}" is {kind}, not a dataset with rows')
        return found

    # Order

    def file_order(self, epoch: int, seed: int | None = None) -> list[int]:
        """The files' numbers in the order of this epoch."""
        if not self.shuffle:
            return list(range(len(self.files)))
        return [int(i) for i in permutation(len(self.files), self.seed if seed is None else seed, epoch, 0)]

    def row_order(self, epoch: int, place: int) -> NDArray[np.intp] | None:
        """Order of the rows of the file at ``place`` in this epoch's file order; None: as they are stored."""
        if not self.shuffle:
            return None
        return permutation(self.files[self.file_order(epoch)[place]].rows, self.seed, epoch, 1, place)

    def number(self, at: _Position) -> int:
        """The row's number, counted over all epochs."""
        before = self.file_order(at.epoch)[: at.file]
        return at.epoch * self.rows + sum(self.files[i].rows for i in before) + at.row

    def advance(self, at: _Position, count: int) -> _Position:
        """``count`` rows on, where these end within the file or at its end."""
        at = replace(at, row=at.row + count)
        if at.row < self.files[self.file_order(at.epoch)[at.file]].rows:
            return at
        if at.file + 1 < len(self.files):
            return _Position(at.epoch, at.file + 1)
        return _Position(at.epoch + 1)

    def start(self) -> _Position:
        return _Position()

    def position_dict(self, at: _Position) -> dict[str, int]:
        counts = {"files": len(self.files), "rows": self.rows}
        return {"epoch": at.epoch, "file": at.file, "row": at.row, **counts}

    def parse_position(self, values: dict[str, int], seed: int) -> _Position:
        if (values["files"], values["rows"]) != (len(self.files), self.rows):
            self.fail(
                f"the saved data position is of a database with {values['files']} files and "
                f"{values['rows']} rows; this one has {len(self.files)} and {self.rows}"
            )
        at = _Position(values["epoch"], values["file"], values["row"])
        if (
            at.epoch < 0
            or not 0 <= at.file < len(self.files)
            or not 0 <= at.row < self.files[self.file_order(at.epoch, seed)[at.file]].rows
        ):
            self.fail(
                f"the saved data position lies outside the database "
                f"(epoch {at.epoch}, file {at.file}, row {at.row})"
            )
        return at

    # Rows

    def release(self) -> None:
        self._resident.clear()

    def batches(self, at: _Position) -> Iterator[tuple[Batch, _Position]]:
        block: _Block | None = None
        rows, order = 0, None
        entered = None
        number_of_row = self.number(at)
        while True:
            batch = [np.empty((self.batch_size, *shape), np.float32) for shape in self.item_shapes]
            filled = 0
            left = self.batch_size * self.ranks
            while left:
                if entered != (at.epoch, at.file):
                    entered = (at.epoch, at.file)
                    number = self.file_order(at.epoch)[at.file]
                    rows, order = self.files[number].rows, self.row_order(at.epoch, at.file)
                    block = None
                if block is None or not block.first <= at.row < block.stop:
                    block = None  # so that two are never held at once
                    block = self._load(number, order, at.row)
                take = min(left, min(block.stop, rows) - at.row)
                begin = at.row - block.first
                ours = range(begin + self.first_of_ours(number_of_row), begin + take, self.ranks)
                places = slice(ours.start, ours.stop, ours.step)
                for target, stored in zip(batch, block.arrays, strict=True):
                    with np.errstate(over="ignore"):  # a double too large for float32 is inf, as in Caffe
                        if block.index is None:
                            target[filled : filled + len(ours)] = stored[places]
                        else:
                            target[filled : filled + len(ours)] = stored.take(block.index[places], axis=0)
                filled += len(ours)
                left -= take
                number_of_row += take
                at = self.advance(at, take)
            yield batch, at

    def _load(self, number: int, order: NDArray[np.intp] | None, row: int) -> _Block:
        file = self.files[number]
        if file.bytes <= RESIDENT_BYTES:
            if number not in self._resident:
                if not self.keep_all:
                    self._resident.clear()
                self._resident[number] = self._read(file, slice(0, file.rows))
            return _Block(0, file.rows, self._resident[number], order)
        self._resident.clear()
        stop = min(file.rows, row + max(1, WINDOW_BYTES // file.row_bytes))
        if order is None:
            return _Block(row, stop, self._read(file, slice(row, stop)), None)
        wanted = np.sort(order[row:stop])
        return _Block(row, stop, self._read(file, wanted), np.searchsorted(wanted, order[row:stop]))

    def _read(self, file: _File, rows: slice | NDArray[np.intp]) -> list[Array]:
        """These rows of each top, in the storage type: a slice, or ascending row numbers."""
        arrays = []
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        with self._open(file.path) as h5:
            for top, shape in zip(self.tops, self.item_shapes, strict=True):
                dataset = self._dataset(h5, file.path, top)
                if dataset.shape != (file.rows, *shape):
                    self.fail(f'{file.path}: dataset "{top}" has changed its shape since the training began')
                array = np.empty((count, *shape), dataset.dtype)
                step = max(1, SLICE_BYTES // max(1, array[:1].nbytes))
                for begin in range(0, count, step):
                    end = min(begin + step, count)
                    if isinstance(rows, slice):
                        part: Any = slice(rows.start + begin, rows.start + end)
                    else:
                        part = rows[begin:end]
                    try:
                        if array.size:  # h5py refuses to read nothing
                            dataset.read_direct(array, part, np.s_[begin:end])
                    except (OSError, RuntimeError) as error:
                        self.fail(f'{file.path}: dataset "{top}" is damaged ({one_line(error)})', error)
                arrays.append(array.astype(array.dtype.newbyteorder("="), copy=False))
        return arrays


class HDF5Source(Source[_Position]):
    """Endless batches from the HDF5 files that the text file ``source`` lists.

    source      text file: paths split by white space, relative to the working directory or else to its folder
    tops        dataset names, one a top
    batch_size  rows a batch; may exceed the database, which is then wrapped around
    shuffle     random order of files, and of rows within a file, drawn for each epoch
    seed        of that order; any integer
    where       what errors begin with, such as ``net.prototxt:7: layer "data"``

    All files are opened once here and checked; every defect of a list, a file or a dataset is a
    :class:`DataError` that names it.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        tops: Sequence[str],
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        where: str = "",
    ):
        prefix = f"{where}: {source}" if where else str(source)
        if not tops:
            raise DataError(f"{prefix}: no tops, so there is nothing to read")
        if batch_size < 1:
            raise DataError(f"{prefix}: batch_size is {batch_size}; it must be at least 1")
        super().__init__(_Reader(os.fspath(source), tops, batch_size, shuffle, seed % 2**64, where))
