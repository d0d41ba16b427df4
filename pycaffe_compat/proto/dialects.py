"""The schemas of Caffe's forks, each in a descriptor pool of its own.

    bvlc        stock Caffe
    ssd         weiliu89/caffe: object detection (Permute, PriorBox, Normalize, DetectionOutput, ...)
    nvidia      NVIDIA/caffe: half precision, DetectNet, and SSD's
    community   SSD's and single layers of papers (ROIPooling, Interp, ShuffleChannel, Upsample, ...)
    intel       intel/caffe: CPU engines, R-FCN, and SSD's

One schema for all cannot be: forks gave one number to different fields, so a binary file means something else in
each. ``NAME.proto`` beside this file is what a fork adds. Which dialect a file is in is found by trial: the first
of the above in which nothing of it is unknown, else the one in which the least is. A dialect may also be given
(``dialect=``): one of these names, or a ``.proto`` (a whole schema, or an overlay: see ``protofile``) or ``.desc``
file of the user's. What a whole schema lacks of stock Caffe's is added to it: forks are often of an older Caffe.

A net's message is of its dialect's class. Everything else looks fields up on it by name and knows of no dialects:
a layer type registered with ``param="permute_param"`` finds its settings there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from pycaffe_compat.errors import PrototxtError
from pycaffe_compat.naming import unknown
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.protofile import HERE, SchemaError, complete, read_schema
from pycaffe_compat.proto.schema import NAMES, built_in, load_schema


@dataclass(frozen=True)
class Dialect:
    """A schema: ``dialect["NetParameter"]`` is a message class."""

    name: str
    messages: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.messages[name]


def find_dialect(dialect: str | os.PathLike[str] | Dialect) -> Dialect:
    """A dialect by its name, or of a ``.proto`` or ``.desc`` file.

    Raises:
        PrototxtError: there is no such name or file, or the file is no schema of Caffe's.
    """
    if isinstance(dialect, Dialect):
        return dialect
    name = os.fspath(dialect)
    if name in NAMES:
        return _built_in(name)
    if not name.endswith((".proto", ".desc")):
        raise PrototxtError(unknown("dialect", name, NAMES) + ", or give a .proto or .desc file")
    return _of_file(name)


@cache
def _built_in(name: str) -> Dialect:
    return Dialect(name, built_in(name))


def _of_file(name: str) -> Dialect:
    try:
        if name.endswith(".desc"):
            files = FileDescriptorSet.FromString(Path(name).read_bytes())
        else:
            files = read_schema(Path(name))
        own = {message.name for file in files.file[-1:] for message in file.message_type}
        if not {"NetParameter", "LayerParameter"} <= own:
            missing = "LayerParameter" if "NetParameter" in own else "NetParameter"
            raise PrototxtError(f"{name}: is no schema of Caffe's: it has no message {missing}")
        complete(files.file[-1], read_schema(HERE / "caffe.proto").file[0])
        dialect = Dialect(name, load_schema(files.SerializeToString(), __name__))
    except OSError as error:
        raise PrototxtError(f"{name}: cannot be read: {error.strerror}") from None
    except (SchemaError, UnicodeDecodeError) as error:
        raise PrototxtError(f"{name}: {error}") from None
    except (DecodeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise PrototxtError(f"{name}: is no schema: {reason}") from None
    for message, field in (("NetParameter", "layer"), ("LayerParameter", "blobs"), ("BlobProto", "data")):
        ours, theirs = getattr(caffe_pb2, message).DESCRIPTOR, dialect[message].DESCRIPTOR
        if getattr(theirs.fields_by_name.get(field), "number", 0) != ours.fields_by_name[field].number:
            raise PrototxtError(f"{name}: is no schema of Caffe's: {message} has no field {field} as Caffe has it")
    return dialect


def candidates(dialect: str | os.PathLike[str] | Dialect | None) -> Iterator[Dialect]:
    """What a file is to be tried as: the given dialect, else all in turn, ``caffe_pb2``'s own first."""
    if dialect is None:
        yield from map(_built_in, sorted(NAMES, key=lambda name: name != caffe_pb2.DIALECT))
    else:
        yield find_dialect(dialect)


def settings_of(layer: Any, name: str) -> Any:
    """A layer's message of settings, such as ``permute_param``.

    Where its dialect has no such field (the net does not set it), the message of defaults of one that has.

    Raises:
        PrototxtError: no dialect has it.
    """
    if name in layer.DESCRIPTOR.fields_by_name:
        return getattr(layer, name)
    for dialect in candidates(None):
        if name in dialect["LayerParameter"].DESCRIPTOR.fields_by_name:
            return getattr(dialect["LayerParameter"](), name)
    raise PrototxtError(f"no dialect has the field {name}: give the fork's schema (dialect)")


def unknown_fields(message: Message) -> Iterator[tuple[list[Any], int]]:
    """What a binary message holds that its schema does not know.

    Returns:
        The fields' numbers, each with the messages it was found in, outermost first.
    """
    here: Any = UnknownFieldSet(message)  # the stubs do not know that it can be iterated over
    for field in here:
        yield [message], field.field_number
    for descriptor, value in message.ListFields():
        if descriptor.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            for inner in value if not isinstance(value, Message) else (value,):
                for path, number in unknown_fields(inner):
                    yield [message, *path], number
