"""What every source of batches shares: a reader that makes them, a thread that keeps some ready, the cursor.

A :class:`Reader` knows one kind of database: from a position it makes batches one after another, each with the
position after it. A :class:`Source` is what a layer holds: it runs the reader on a thread of its own, ahead of the
training, and remembers the position after the last batch that it handed out. What a reader does at random is a function
of its seed and the position alone, so that a resumed training sees the very batches of the uninterrupted one.

Several processes may share a database (:meth:`Source.share`). As in Caffe a row belongs to the process number (row's
number, counted over all epochs) mod (number of processes). A batch of one process is its part of the next
batch_size x processes rows, and the position after it is behind all of these: so it is the same in every process, and
another number of them can go on there with no row left out and none taken twice.
"""

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pycaffe_compat import naming
from pycaffe_compat.errors import DataError

PREFETCH = 4
"""Batches made ahead of the one in use, at most: fewer if they are large (``PREFETCH_BYTES``)."""
PREFETCH_BYTES = 128 * 2**20

At = TypeVar("At")
Batch = list[NDArray[np.float32]]


class Batches(Protocol):
    """What a data layer needs of a source, with or without a thread."""

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of a batch of each top."""

    @property
    def reads(self) -> list[str]:
        """The files that are read."""

    def next(self) -> Batch:
        """The next batch: one new float32 array a top."""

    def state_dict(self) -> dict[str, int]:
        """Where the next batch begins, as JSON can hold it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""


class Reader(Generic[At]):
    """Makes batches of one database. Used by one thread at a time.

    Attributes:
        label: what errors begin with: the layer and the database.
        reads: the files it reads: lists, databases, mean files; nothing else may write there.
        seed: of everything random, 0 <= seed < 2**64.
        shapes: of a batch, one a top.
        rows: records of the database: one epoch.
        rank, ranks: this process is number ``rank`` of ``ranks`` that share the database.
    """

    label: str
    reads: list[str]
    seed: int
    shapes: list[tuple[int, ...]]
    rows: int
    rank = 0
    ranks = 1

    @property
    def batch_bytes(self) -> int:
        """What a batch takes in memory."""
        return sum(4 * int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    def fail(self, message: str, cause: BaseException | None = None) -> NoReturn:
        raise DataError(f"{self.label}: {message}") from cause

    def start(self) -> At:
        """The position of the first batch of all."""
        raise NotImplementedError

    def batches(self, at: At) -> Iterator[tuple[Batch, At]]:
        """Endless: each batch, new arrays, with the position after it."""
        raise NotImplementedError

    def position_dict(self, at: At) -> dict[str, int]:
        """A position, and what tells whether it belongs to this database, as JSON can hold it."""
        raise NotImplementedError

    def parse_position(self, values: dict[str, int], seed: int) -> At:
        """The position in what ``position_dict`` gave (``seed``: the one it was taken under).

        Raises:
            DataError: it is of another database, or outside this one.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Free what is held in memory."""

    def first_of_ours(self, number: int) -> int:
        """How many rows (or whatever the position counts) after ``number`` the first comes that is this process's."""
        return (self.rank - number) % self.ranks


class Prefetcher:
    """A thread that keeps batches of a reader ready. It never refers to the source that owns it."""

    _alive: "weakref.WeakSet[Prefetcher]" = weakref.WeakSet()

    def __init__(self, reader: Reader[Any], at: Any):
        self.ready: queue.SimpleQueue[tuple[Batch, Any] | Exception] = queue.SimpleQueue()
        # Tokens, one a batch that may be made. SimpleQueue.put may run inside a garbage collection; a
        # Semaphore may not.
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(max(1, min(PREFETCH, PREFETCH_BYTES // max(1, reader.batch_bytes)))):
            self._room.put(None)
        self._stopping = False
        # A daemon, so that a forgotten source does not keep the interpreter from ending; _stop_all joins it.
        self._thread = threading.Thread(target=self._work, args=(reader, at), name="prefetch", daemon=True)
        Prefetcher._alive.add(self)
        self._thread.start()

    def _work(self, reader: Reader[Any], at: Any) -> None:
        try:
            batches = reader.batches(at)
            while True:
                self._room.get()
                if self._stopping:
                    return
                self.ready.put(next(batches))
        except Exception as error:  # whatever it is, it belongs to the thread that asks for the batch
            self.ready.put(error)

    def get(self) -> tuple[Batch, Any]:
        item = self.ready.get()
        if isinstance(item, Exception):
            self.ready.put(item)  # for whoever asks again
            raise item
        self._room.put(None)
        return item

    def signal(self) -> None:
        """Ask the thread to end without waiting: this may run inside a garbage collection, under any lock."""
        self._stopping = True
        self._room.put(None)

    def stop(self) -> None:
        """End the thread and wait for it."""
        self.signal()
        if self._thread is not threading.current_thread():
            self._thread.join()


@atexit.register
def _stop_all() -> None:
    """A thread inside HDF5 or LMDB while the interpreter is taken down would crash it."""
    for prefetcher in list(Prefetcher._alive):
        prefetcher.stop()


class Source(Generic[At]):
    """Endless batches of a reader, made ahead by a thread that starts at the first :meth:`next`.

    Use from one thread; it can neither be copied nor pickled nor used in a forked child.
    """

    def __init__(self, reader: Reader[At]):
        self._reader = reader
        self._at = reader.start()
        self._prefetcher: Prefetcher | None = None
        self._finalizer: weakref.finalize[[], Source[At]] | None = None
        self._pid = os.getpid()
        self._closed = False

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of a batch of each top, rows first; those of images of varying size: of the first batch."""
        return self._reader.shapes

    @property
    def rows(self) -> int:
        """Rows of the database: one epoch."""
        return self._reader.rows

    @property
    def reads(self) -> list[str]:
        """The files that are read: lists, databases, mean files."""
        return self._reader.reads

    def share(self, rank: int, ranks: int) -> None:
        """From the next batch on take only what belongs to process number ``rank`` of ``ranks``.

        The processes must have the same seed and position (each other's :meth:`state_dict`).

        Raises:
            DataError: there are fewer rows than processes.
        """
        reader = self._reader
        if not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} of {ranks}")
        if ranks > reader.rows:
            reader.fail(f"has {reader.rows} row{'s' * (reader.rows != 1)} for {ranks} processes: start fewer of them")
        self._halt()
        reader.rank, reader.ranks = rank, ranks

    def next(self) -> Batch:
        """The next batch: one new C-contiguous float32 array a top.

        :class:`DataError` if something has become unreadable since the source was opened, or is damaged.
        """
        if self._closed:
            raise ValueError(f"{self._reader.label}: this source has been closed")
        if self._pid != os.getpid():
            raise RuntimeError(f"{self._reader.label}: opened before a fork; open it anew in the child process")
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(self._reader, self._at)
            self._finalizer = weakref.finalize(self, self._prefetcher.signal)
            self._finalizer.atexit = False  # _stop_all waits as well
        batch, self._at = self._prefetcher.get()
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where the next batch begins, after those handed out (not those prefetched). Fit for JSON."""
        return {"seed": self._reader.seed, **self._reader.position_dict(self._at)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, row for row; the seed becomes that of the state.

        :class:`DataError` if the state is not one of this database (another number of files or rows).
        """
        reader = self._reader
        try:
            values = {name: int(state[name]) for name in ("seed", *reader.position_dict(self._at))}
            if any(not -(2**63) <= value < 2**64 for value in values.values()):
                raise OverflowError("a number is too large")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reader.fail(f"the saved data position is incomplete ({error})", error)
        seed = values["seed"] % 2**64
        at = reader.parse_position(values, seed)
        self._halt()
        reader.seed, self._at = seed, at

    def _halt(self) -> None:
        if self._prefetcher is not None and self._pid == os.getpid():
            assert self._finalizer is not None
            self._finalizer.detach()
            self._prefetcher.stop()
        self._prefetcher = self._finalizer = None

    def close(self) -> None:
        """Stop the thread and free the memory. Closing twice is fine; :meth:`next` is an error afterwards."""
        self._halt()
        self._reader.release()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self._reader.label}: a data source owns a thread and cannot be copied or pickled; "
            "open another one and give it this one's state_dict()"
        )


def one_line(error: BaseException) -> str:
    """An error of some library as text for a message of ours."""
    return naming.one_line(error) or type(error).__name__
