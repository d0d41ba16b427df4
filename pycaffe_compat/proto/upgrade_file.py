"""A net or solver file of an older Caffe -> the same in the present format."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycaffe_compat.errors import WeightsError
from pycaffe_compat.files import atomic_write
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary import file_size, write_message
from pycaffe_compat.proto.binary_net import read_binary_net
from pycaffe_compat.proto.dialects import Dialect
from pycaffe_compat.proto.hdf5 import SIGNATURE
from pycaffe_compat.proto.sniff import describe_content
from pycaffe_compat.proto.text import format_message, parse_net, parse_solver, read_text
from pycaffe_compat.proto.textformat import TextError, parse_entries


@dataclass(frozen=True)
class Upgraded:
    """What became of a file.

    Attributes:
        kind: "net" or "solver".
        binary: whether the file is a .caffemodel, and no text.
        layers: how many a net has.
        notes: what had no effect in the old file and is left out, or is not understood and is kept.
    """

    kind: str
    binary: bool
    layers: int = 0
    notes: list[str] = field(default_factory=list)


def upgrade_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dialect: str | os.PathLike[str] | Dialect | None = None,
) -> Upgraded:
    """Writes the net or solver in ``source`` to ``target``, in the present format; whole or not at all.

    Text stays text (its comments are lost), a .caffemodel keeps its arrays. ``target`` may be ``source``.

    Raises:
        PrototxtError, WeightsError: the file cannot be read or does not parse. NetError, SolverError: it cannot be
        upgraded. OSError: ``target`` cannot be written.
    """
    binary = not _is_text(source)
    if not binary:
        text = read_text(source)
        if _is_solver(text):
            solver: Any = parse_solver(text, os.fspath(source), dialect)
            _write_text(target, format_message(solver))
            return Upgraded("solver", binary=False)
        net = parse_net(text, os.fspath(source), dialect)
        _write_text(target, format_message(net.param))
    else:
        net = read_binary_net(source, dialect, arrays=True)
        write_message(target, net.param)
    return Upgraded("net", binary, len(net.param.layer), net.notes)


def _is_text(path: str | os.PathLike[str]) -> bool:
    """Whether a file is to be read as text; what is no file at all is, for the message that this gives."""
    if not os.path.isfile(path) or not os.path.getsize(path):
        return True
    file_size(path)
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from None
    if head.startswith(SIGNATURE):
        raise WeightsError(f"{os.fspath(path)}: HDF5 files have had one format only: there is nothing to upgrade")
    control = any(byte < 32 and byte not in b"\t\n\r\f\v" for byte in head)
    return describe_content(head) != "binary data" or not control  # (comments may be in other codes than UTF-8)


def _is_solver(text: str) -> bool:
    """Whether the outermost fields are a solver's rather than a net's."""
    try:
        names = {entry.name for entry in parse_entries(text)}
    except TextError:  # the parser of nets will say where
        return False
    net, solver = (kind.DESCRIPTOR.fields_by_name for kind in (caffe_pb2.NetParameter, caffe_pb2.SolverParameter))
    return sum(name in solver for name in names) > sum(name in net for name in names)


def _write_text(path: str | os.PathLike[str], text: str) -> None:
    with atomic_write(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
