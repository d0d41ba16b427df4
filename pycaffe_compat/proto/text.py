"""Text files: prototxt networks and solvers, read with the line of what is wrong, written as Caffe does."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from pycaffe_compat.errors import PrototxtError
from pycaffe_compat.naming import one_line
from pycaffe_compat.proto.dialects import Dialect, candidates
from pycaffe_compat.proto.schema import NAMES
from pycaffe_compat.proto.sniff import describe_content
from pycaffe_compat.proto.source import NetSource
from pycaffe_compat.proto.textformat import TOKEN, Entry, Problem, TextError, fill, lost, parse_entries
from pycaffe_compat.proto.upgrade import upgrade_net, upgrade_solver

__all__ = [
    "NetSource",
    "format_message",
    "parse_message",
    "parse_net",
    "parse_solver",
    "read_net",
    "read_solver",
    "read_text",
]

_M = TypeVar("_M", bound=Message)


# ---------------------------------------------------------------------------------------- networks and solvers


def read_net(path: str | os.PathLike[str], dialect: str | os.PathLike[str] | Dialect | None = None) -> NetSource:
    """Reads a network's prototxt of any age and dialect, and brings it to the present format.

    Args:
        path: the file.
        dialect: whose schema it is written for, see ``dialects``; None finds out.

    Raises:
        PrototxtError: the file cannot be read or does not parse; ``path:line:column: message``. NetError: it
        parses but cannot be upgraded.
    """
    return parse_net(read_text(path), os.fspath(path), dialect)


def parse_net(text: str, path: str = "", dialect: str | os.PathLike[str] | Dialect | None = None) -> NetSource:
    """Reads a network from text; ``path`` is for messages.  Raises as ``read_net`` does."""
    entries = _entries(text, path)
    param = _in_best_dialect(entries, "NetParameter", path, dialect)
    name = "layers" if param.layers else "layer"
    lines = [entry.line for entry in entries if entry.name == name]
    return upgrade_net(NetSource(param, path, lines))


def read_solver(path: str | os.PathLike[str], dialect: str | os.PathLike[str] | Dialect | None = None) -> Any:
    """Reads a solver's prototxt; the old ``solver_type`` becomes ``type``.

    Returns:
        a SolverParameter, of the dialect's class.

    Raises:
        PrototxtError: the file cannot be read or does not parse; ``path:line:column: message``.
        SolverError: both ``type`` and ``solver_type`` are set.
        NetError: a network inside it cannot be upgraded.
    """
    return parse_solver(read_text(path), os.fspath(path), dialect)


def parse_solver(text: str, path: str = "", dialect: str | os.PathLike[str] | Dialect | None = None) -> Any:
    """Reads a solver from text; ``path`` is for messages.  Raises as ``read_solver`` does."""
    param = _in_best_dialect(_entries(text, path), "SolverParameter", path, dialect)
    upgrade_solver(param, path)
    return param


def _entries(text: str, path: str) -> list[Entry]:
    try:
        return parse_entries(text)
    except TextError as error:
        raise PrototxtError(f"{path or '<text>'}:{error.line}:{error.column}: {one_line(error)}") from None


def _in_best_dialect(
    entries: Sequence[Entry], name: str, path: str, dialect: str | os.PathLike[str] | Dialect | None
) -> Any:
    """The message of the first dialect that knows all of the text.

    Raises:
        PrototxtError: none does; tells what the one that knows most of it does not.
    """
    least: list[Problem] | None = None
    for candidate in candidates(dialect):
        message = candidate[name]()
        problems = fill(message, entries)
        if not problems:
            return message
        if least is None or lost(problems) < lost(least):
            least = problems
    assert least
    raise PrototxtError(_told(least, path, all_tried=dialect is None))


def _told(problems: Sequence[Problem], path: str, all_tried: bool) -> str:
    """The first problem with its place, and where the others are."""
    first, *others = problems
    text = f"{path or '<text>'}:{first.line}:{first.column}: {one_line(first)}"
    settings = first.unknown.endswith("_param") and not first.hint
    if all_tried and settings:
        text += f", nor has a fork's schema ({', '.join(NAMES[1:])}): give the fork's own, dialect=FILE.proto"
    if others:
        more = [f'"{p.unknown}" in line {p.line}' if p.unknown else f"line {p.line}" for p in others[:4]]
        more += ["..."] if len(others) > 4 else []
        text += f"; {len(others)} more of the kind: {', '.join(more)}"
    return text


# ------------------------------------------------------------------------------------------- text of any kind


def format_message(message: Message) -> str:
    """The message as Caffe prints it: a field a line, floats as the shortest text that reads back equal."""
    return _FLOAT.sub(_shortest, text_format.MessageToString(message))


_FLOAT = re.compile(r"(?<=: )-?\d[\d.]*(?:\.|e[+-])\d+$", re.MULTILINE)  # a string's line ends in a quote


def _shortest(match: re.Match[str]) -> str:
    """A number as C++ prints it: ``3`` and ``1e+06`` where Python says ``3.0`` and ``1000000.0``."""
    value = float(match[0])
    return next(text for digits in range(6, 18) if float(text := f"{value:.{digits}g}") == value)


_LONGEST = 64 << 20  # bytes of a prototxt


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a prototxt.  Raises PrototxtError (one line that names the file) when it is none."""
    shown = os.fspath(path)
    try:
        with open(path, "rb") as file:  # a pipe is fine, what never ends is not
            content = file.read(_LONGEST + 1)
    except FileNotFoundError:
        raise PrototxtError(f"{shown}: no such file") from None
    except IsADirectoryError:
        raise PrototxtError(f"{shown}: is a directory, not a prototxt") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise PrototxtError(f"{shown}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > _LONGEST:
        raise PrototxtError(f"{shown}: is not a prototxt: it is longer than {_LONGEST >> 20} MiB")
    kind = describe_content(content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if kind not in ("text", "binary data") or re.search(rb"[\0-\x08\x0e-\x1f\x7f]", content):
            raise PrototxtError(f"{shown}: is not a prototxt but looks like {kind}") from None
        text = _decode_comments(content, shown)
    if "\0" in text:
        raise PrototxtError(f"{shown}: is not a prototxt but looks like {kind}")
    return text


def _decode_comments(content: bytes, shown: str) -> str:
    """Text whose comments are in some other code than UTF-8: there it does not matter."""
    text = content.decode("utf-8-sig", "surrogateescape")
    strange = re.compile("[\udc80-\udcff]")
    for match in TOKEN.finditer(text):
        found = strange.search(match[0]) if match.lastgroup != "skip" else None
        if found:
            line = text.count("\n", 0, match.start()) + 1
            byte = ord(found[0]) - 0xDC00
            raise PrototxtError(f"{shown}:{line}: byte 0x{byte:02x} is not UTF-8: save it as UTF-8")
        if match.lastgroup == "other" and match[0] in "\"'0123456789":
            break  # the start of no string and no number: parsing ends here too, and others like it would take long
    return strange.sub("\ufffd", text)


def parse_message(text: str, message: _M, path: str = "") -> _M:
    """Reads text into an empty ``message`` and returns it; ``path`` is for messages.

    Raises:
        PrototxtError: ``path:line:column: message``, with the nearest field's name for a misspelt one.
    """
    problems = fill(message, _entries(text, path))
    if problems:
        raise PrototxtError(_told(problems, path, all_tried=False))
    return message
