"""What is fuzzed: every reader of files that people download.

Each target takes any bytes and returns, or raises a ``CaffeError`` of one line. What else may happen is a bug: another
exception, more than 2 s of the processor, more than 1 GiB. The same targets run with hypothesis in the test suite (``test_targets``)
and with atheris for as long as one likes (``make fuzz``, ``run``).
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from pycaffe_compat.data.annotated import objects_of, parse_annotated
from pycaffe_compat.data.datum import datum_to_array, parse_datum
from pycaffe_compat.data.lmdb import Database
from pycaffe_compat.errors import CaffeError
from pycaffe_compat.proto.binary import blob_bytes_to_array
from pycaffe_compat.proto.binary_net import parse_binary_net
from pycaffe_compat.proto.dialects import find_dialect
from pycaffe_compat.proto.text import format_message, parse_net, parse_solver, read_net
from pycaffe_compat.proto.upgrade_file import upgrade_file
from pycaffe_compat.solver.snapshot import read_state
from pycaffe_compat.weights import read_weights

SECONDS, MEMORY = 2, 1 << 30  # the most that one input may take


def _folder() -> Path:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="pycaffe_compat_fuzz_", dir=base))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


FOLDER = _folder()


def _file(name: str, content: bytes) -> str:
    path = FOLDER / name
    path.write_bytes(content)
    return str(path)


def text(content: bytes) -> None:
    """A prototxt as a net and as a solver; what parses is written and parses again."""
    try:
        string = content.decode("utf-8")
    except UnicodeDecodeError:
        read_net(_file("net.prototxt", content))
        return
    parse_solver_quietly(string)
    source = parse_net(string, "net.prototxt")
    assert len(source.lines) == len(source.param.layer)
    again = parse_net(format_message(source.param), dialect=_dialect(source.param)).param
    assert format_message(again) == format_message(source.param)  # (the text has no sign for what is not a number)


def _dialect(message: object) -> str:
    name = str(message.DESCRIPTOR.file.name).removesuffix(".proto")  # type: ignore[attr-defined]
    return "bvlc" if name == "caffe" else name


def parse_solver_quietly(string: str) -> None:
    """A net is no solver: this error says nothing about the net."""
    try:
        parse_solver(string, "solver.prototxt")
    except CaffeError as error:
        check(error)


def weights(content: bytes) -> None:
    """A .caffemodel's arrays."""
    read_weights(_file("w.caffemodel", content))


def hdf5(content: bytes) -> None:
    """A .caffemodel.h5 and a .solverstate.h5."""
    path = _file("w.h5", content)
    try:
        read_weights(path)
    except CaffeError as error:
        check(error)
    read_state(path)


def binary_net(content: bytes) -> None:
    """A .caffemodel as a net, in whichever dialect."""
    parse_binary_net(content, "w.caffemodel", arrays=True)


def state(content: bytes) -> None:
    """A .solverstate."""
    read_state(_file("s.solverstate", content))


def blob(content: bytes) -> None:
    """A BlobProto, such as a mean image; held against protobuf's own reading."""
    try:
        array = blob_bytes_to_array(memoryview(content), 0, len(content))
    except ValueError:  # a WireError: its callers name the file
        return
    try:
        read = find_dialect("nvidia")["BlobProto"].FromString(content)
    except DecodeError:  # in a field that ours has no use for
        return
    if not read.HasField("raw_data"):  # bytes: they count where they are
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(array.ravel(), np.array(read.double_data or read.data, np.float32))


def schema(content: bytes) -> None:
    """A user's .proto and .desc."""
    for name in ("s.proto", "s.desc"):
        path = _file(name, content)
        try:
            find_dialect(path)
        except CaffeError as error:
            check(error)


def datum(content: bytes) -> None:
    """A record of a database, plain and annotated."""
    try:
        datum_to_array(parse_datum(content))
    except CaffeError as error:
        check(error)
    record = parse_annotated(content)
    objects_of(record)
    datum_to_array(record.datum)


def lmdb(content: bytes) -> None:
    """A database's file, and each of its records."""
    database = Database(_file("data.mdb", content))
    try:
        for record in database.records():
            try:
                datum(record.value)
            except CaffeError as error:
                check(error)
    finally:
        database.env.close()


def upgrade(content: bytes) -> None:
    """Any file, upgraded."""
    upgrade_file(_file("old", content), FOLDER / "new")


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (text, weights, hdf5, binary_net, state, blob, schema, datum, lmdb, upgrade)
}


def check(error: CaffeError) -> None:
    """An error is one line of reasonable length."""
    said = str(error)
    assert said and "\n" not in said and len(said) < 2000, said[:3000]


def run_one(name: str, content: bytes) -> None:
    """Runs a target on an input; what is not as it should be is raised."""
    started = time.process_time()
    try:
        TARGETS[name](content)
    except CaffeError as error:
        check(error)
    took = time.process_time() - started
    assert took < SECONDS, f"{took:.1f} s"
