"""A .caffemodel as a network: its layers' settings, and its arrays where they are wanted.

(Weights alone, by layer name, are read by ``weights``, which needs no schema and no second copy.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError, Message

from pycaffe_compat.errors import WeightsError
from pycaffe_compat.naming import one_line
from pycaffe_compat.proto.binary import (
    BYTES,
    WireError,
    check_size,
    check_strings,
    fields,
    file_size,
    header,
    not_a_message,
)
from pycaffe_compat.proto.dialects import Dialect, candidates, unknown_fields
from pycaffe_compat.proto.source import NetSource
from pycaffe_compat.proto.upgrade import upgrade_net

_LAYERS = {100: 7, 2: 6}  # NetParameter's layers: field -> where such a layer has its arrays
_FIRST, _FIRST_BLOBS = 1, 50  # 2013's layer within one of 2014, and its arrays


def read_binary_net(
    path: str | os.PathLike[str],
    dialect: str | os.PathLike[str] | Dialect | None = None,
    arrays: bool = False,
) -> NetSource:
    """Reads a .caffemodel of any age and dialect as a network in the present format.

    Args:
        path: the file.
        dialect: whose schema it was written with, see ``dialects``; None finds out.
        arrays: whether the layers keep their ``blobs``.

    Returns:
        the network; its ``notes`` list the fields that no schema knows. They are kept, and written again.

    Raises:
        WeightsError: the file cannot be read, or is no network. NetError: it cannot be upgraded.
    """
    check_size(path, file_size(path))
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from None
    return parse_binary_net(content, os.fspath(path), dialect, arrays)


def parse_binary_net(
    content: bytes, path: str = "", dialect: str | os.PathLike[str] | Dialect | None = None, arrays: bool = False
) -> NetSource:
    """Like ``read_binary_net`` for bytes; ``path`` is for messages."""
    shown = path or "<bytes>"
    try:
        frame = _without_arrays(content)
    except WireError as error:
        raise not_a_message(shown, "NetParameter", content[:4096], error) from None
    best: tuple[int, Dialect, Message] | None = None
    reason: object = "it holds no layers"
    for candidate in candidates(dialect):
        try:
            message = candidate["NetParameter"].FromString(frame)
        except (DecodeError, RecursionError) as error:
            reason = error
            continue
        missing = message.FindInitializationErrors()
        misfits = len(missing) + sum(1 for _ in unknown_fields(message))
        if (message.layer or message.layers) and (best is None or misfits < best[0]):
            best = misfits, candidate, message
            if not misfits:
                break
    if best is None:
        raise not_a_message(shown, "NetParameter", content[:4096], reason)
    misfits, chosen, message = best
    try:
        check_strings(message)
    except WireError as error:
        raise not_a_message(shown, "NetParameter", content[:4096], error) from None
    notes = list(_unknown_notes(message, shown)) if misfits else []
    if arrays:
        try:
            message = chosen["NetParameter"].FromString(content)
        except DecodeError as error:
            raise not_a_message(shown, "NetParameter", content[:4096], error) from None
    return upgrade_net(NetSource(message, path, [], notes))


def _unknown_notes(net: Any, shown: str) -> Iterator[str]:
    """A line for each field that the schema does not know, with its layer."""
    for path, number in unknown_fields(net):
        where = ""
        if len(path) > 1 and path[1].DESCRIPTOR.name in ("LayerParameter", "V1LayerParameter"):
            layer = path[1]
            name = layer.name or (layer.layer.name if layer.DESCRIPTOR.name == "V1LayerParameter" else "")
            where = f'layer "{one_line(name)}" ({one_line(layer.type)}): '
        yield f"{shown}: {where}{path[-1].DESCRIPTOR.name} has no field of number {number}: it is ignored"


def _without_arrays(content: bytes) -> bytes:
    """A serialised NetParameter less its layers' blobs.  Raises WireError."""
    buffer = memoryview(content)
    pieces: list[bytes] = []
    for number, wire_type, at, stop, begin in _spans(buffer, 0, len(buffer)):
        if number in _LAYERS and wire_type == BYTES:
            body = b"".join(_layer_pieces(buffer, at, stop, _LAYERS[number]))
            pieces += [header(number, len(body)), body]
        else:
            pieces.append(bytes(buffer[begin:stop]))
    return b"".join(pieces)


def _layer_pieces(buffer: memoryview, start: int, end: int, blobs: int) -> Iterator[bytes]:
    for number, wire_type, at, stop, begin in _spans(buffer, start, end):
        if wire_type == BYTES and number == blobs:
            continue
        if wire_type == BYTES and number == _FIRST and blobs == _LAYERS[2]:
            body = b"".join(_layer_pieces(buffer, at, stop, _FIRST_BLOBS))
            yield header(number, len(body)) + body
        else:
            yield bytes(buffer[begin:stop])


def _spans(buffer: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """``fields`` with where each field begins, tag included."""
    begin = start
    for number, wire_type, at, stop in fields(buffer, start, end):
        yield number, wire_type, at, stop, begin
        begin = stop
