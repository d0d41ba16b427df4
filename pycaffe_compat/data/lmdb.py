"""Batches from LMDB databases of Datum records, as Caffe's Data layer gives them: in the order of the keys."""

from __future__ import annotations

import os
import struct
import time
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import lmdb

from pycaffe_compat.data.datum import datum_to_array, parse_datum
from pycaffe_compat.data.prefetch import Source, one_line
from pycaffe_compat.data.records import Item, RecordReader
from pycaffe_compat.data.transform import Transformer
from pycaffe_compat.errors import DataError

_CLOSING_SECONDS = 5.0

# The file format: pages of a B+ tree. A page begins with what it is and where the list of its nodes' offsets ends; a
# node with a number (a leaf's: the size of the value; a branch's: a page), flags, and the length of its key.
_META = struct.Struct("=128xQ8xQ")  # the root's page of the main database, the number of the state
_PAGE = struct.Struct("=10x2H")
_PAGE_HEAD = 16
_OFFSET = struct.Struct("=H")
_NODE = struct.Struct("=4H")
_NUMBER = struct.Struct("=Q")
_BRANCH, _LEAF = 1, 2
_ELSEWHERE = 1  # the value has pages of its own; their first one's number stands in its place


class Record(NamedTuple):
    key: bytes
    value: bytes


class Database:
    """An LMDB opened for reading, at ``path`` (its folder, or the file itself).

    Raises:
        DataError: it is missing, no LMDB, shorter than it says, or empty; the message begins with the path.
    """

    def __init__(self, path: str):
        self.path = path
        self.file = os.path.join(path, "data.mdb") if os.path.isdir(path) else path
        if not os.path.exists(path):
            self.fail("no such LMDB (looked for from the working directory)")
        if not os.path.exists(self.file):
            if os.path.exists(os.path.join(path, "CURRENT")):
                how = f"tools/convert_leveldb.py {path} NEW_FOLDER"
                self.fail(f"is a LevelDB: copy it into an LMDB, which is read whatever backend the net names: {how}")
            self.fail("is no LMDB: there is no data.mdb in this folder")
        if not os.path.isfile(self.file):
            self.fail(f"is no LMDB: {self.file} is no file")
        try:
            self.env = self._opened()
            last_page, page_size = self.env.info()["last_pgno"], self.env.stat()["psize"]
            self.rows: int = self.env.stat()["entries"]
        except (lmdb.Error, OSError) as error:
            self.fail(f"cannot be opened as an LMDB ({one_line(error)})", error)
        self.page_size: int = page_size
        self.bytes = os.path.getsize(self.file)
        # Reading beyond a memory-mapped file's end is a signal, not an error: it has to be known before.
        if self.bytes < (last_page + 1) * page_size:
            self.fail(
                f"is cut off: {self.file} has {self.bytes} bytes, its header says {(last_page + 1) * page_size}; "
                "copy it again"
            )
        if not self.rows:
            self.fail("holds no records")
        self.descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        # two states of the database, the newer of which counts
        states = (_META.unpack(os.pread(self.descriptor, _META.size, at)) for at in (0, page_size))
        self.root: int = max(states, key=lambda state: state[1])[0]

    def _opened(self) -> Any:
        # No lock: the folder may be read-only, and nobody writes to a database that is trained from.
        options: dict[str, Any] = {"subdir": os.path.isdir(self.path), "readonly": True, "lock": False, "create": False}
        deadline = time.monotonic() + _CLOSING_SECONDS
        while True:
            try:
                return lmdb.open(self.path, **options)
            except lmdb.Error as error:
                # The last net that read it is gone (or `open_database` would have found it), but the thread that read
                # ahead for it is still closing it.
                if "already open" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def fail(self, message: str, cause: BaseException | None = None) -> NoReturn:
        raise DataError(f"{self.path}: {message}") from cause

    def records(self, first: int = 0) -> Iterator[Record]:
        """The records from number ``first`` on, to the end, in the order of their keys.

        Raises:
            DataError: the database is damaged.
        """
        for page in self._leaves():
            count = self._count(page)
            for index in range(first, count):
                yield self._record(page, index)
            first = max(0, first - count)

    # LMDB's own reading trusts the file: what lies behind its end is a signal, which ends the process.

    def _leaves(self) -> Iterator[bytes]:
        """The leaf pages of the tree, in order."""
        todo, seen = [self.root], 0
        while todo:
            number, seen = todo.pop(), seen + 1
            page = os.pread(self.descriptor, self.page_size, min(number * self.page_size, self.bytes))
            if len(page) < self.page_size or seen > self.bytes // self.page_size:
                self.fail(f"is damaged: page {number} is not in the file, or is in the tree again and again")
            flags, _ = _PAGE.unpack_from(page)
            if flags & _LEAF:
                yield page
            elif flags & _BRANCH:
                nodes = [self._node(page, index) for index in reversed(range(self._count(page)))]
                todo += [low | high << 16 | highest << 32 for _, _, low, high, highest in nodes]
            else:
                self.fail(f"is damaged: page {number} is none of a tree")

    def _count(self, page: bytes) -> int:
        """How many nodes a page has."""
        return max(0, min(_PAGE.unpack_from(page)[1], len(page)) - _PAGE_HEAD) // _OFFSET.size

    def _node(self, page: bytes, index: int) -> tuple[bytes, int, int, int, int]:
        """A node's key, where it ends, and its numbers."""
        (at,) = _OFFSET.unpack_from(page, _PAGE_HEAD + _OFFSET.size * index)
        if at + _NODE.size > len(page):
            self.fail("is damaged: a record lies outside its page")
        low, high, flags, length = _NODE.unpack_from(page, at)
        end = at + _NODE.size + length
        return page[at + _NODE.size : end], end, low, high, flags

    def _record(self, page: bytes, index: int) -> Record:
        key, at, low, high, flags = self._node(page, index)
        size = low | high << 16
        value = page[at : at + size]
        if flags & _ELSEWHERE and at + _NUMBER.size <= len(page):
            at = _NUMBER.unpack_from(page, at)[0] * self.page_size + _PAGE_HEAD
            value = os.pread(self.descriptor, size, at) if at + size <= self.bytes else b""
        if len(value) < size:
            self.fail(f"record {key_text(key)}: is damaged: its size is {size} bytes")
        return Record(key, value)


_open: weakref.WeakValueDictionary[tuple[Any, ...], Database] = weakref.WeakValueDictionary()


def open_database(path: str) -> Database:
    """The LMDB at ``path``. A process may open one only once, so the nets of a training share it.  Raises DataError."""
    try:
        status = os.stat(os.path.join(path, "data.mdb") if os.path.isdir(path) else path)
        key: tuple[Any, ...] = (os.path.realpath(path), status.st_ino, status.st_mtime_ns)  # another one may come there
    except OSError:
        return Database(path)  # says what is wrong
    database = _open.get(key)
    if database is None:
        database = _open[key] = Database(path)
    return database


def key_text(key: bytes) -> str:
    """A record's key as messages show it."""
    return '"' + key.decode("utf-8", "backslashreplace").encode("unicode_escape").decode()[:100] + '"'


class LMDBReader(RecordReader[Record]):
    """The records of an LMDB, round and round."""

    def __init__(self, source: str, **shared: Any):
        super().__init__(source, **shared)
        try:
            self.database = open_database(source)
        except DataError as error:
            self.fail(str(error).removeprefix(f"{source}: "), error)
        self.reads.append(self.database.file)
        self.rows = self.database.rows
        self.begin()

    def records(self, at: int) -> Iterator[Record]:
        first = at % self.rows
        while True:
            count = 0
            try:
                for record in self.database.records(first):
                    count += 1
                    yield record
            except DataError as error:
                self.fail(str(error).removeprefix(f"{self.database.path}: "), error)
            if not count:
                self.fail(f"has fewer than the {self.rows} records that its header says")
            first = 0

    def place(self, record: Record) -> str:
        return f"{self.source}: record {key_text(record.key)}"

    def decode(self, record: Record) -> Item:
        datum = parse_datum(record.value)
        return datum_to_array(datum, self.transformer.color), datum.label


class LMDBSource(Source[int]):
    """Endless batches of the Datum records of an LMDB, in the order of their keys.

    source      path of the database
    transformer what is done to each image
    batch_size  records a batch
    tops        1: images only; 2: images and labels
    seed        of the crops and mirrors
    where       what errors begin with
    rank, ranks of ``ranks`` processes that share the database this one is number ``rank``: it gets every ranks-th
                record

    Records of different sizes need a crop, or a batch of 1. A damaged record is a :class:`DataError` with its key,
    when its turn comes.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        transformer: Transformer,
        batch_size: int,
        tops: int = 2,
        *,
        seed: int = 0,
        where: str = "",
        rank: int = 0,
        ranks: int = 1,
    ):
        shared = {"transformer": transformer, "batch_size": batch_size, "tops": tops, "seed": seed, "where": where}
        super().__init__(LMDBReader(os.fspath(source), **shared, rank=rank, ranks=ranks))
