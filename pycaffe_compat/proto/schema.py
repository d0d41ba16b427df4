"""Descriptor sets -> message classes, each set in a descriptor pool of its own.

Field numbers and message names of Caffe's forks collide, and other packages bring a ``caffe_pb2`` of their own:
apart, any number of schemas live in one process.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

NAMES = ("bvlc", "ssd", "nvidia", "community", "intel")  # intel last: its strings may be any bytes
"""The schemas that are here: stock Caffe's and the forks'; see ``dialects``."""


@cache
def built_in(name: str) -> dict[str, Any]:
    """The public names of one of them."""
    file = Path(__file__).with_name("caffe.desc" if name == "bvlc" else f"{name}.desc")
    return load_schema(file.read_bytes(), "pycaffe_compat.proto.caffe_pb2")


def load_schema(content: bytes, module: str) -> dict[str, Any]:
    """The public names of a schema: message classes, enum wrappers and enum values, and ``DESCRIPTOR``.

    Args:
        content: a serialised FileDescriptorSet; of several files the last one's names are given.
        module: the module where the classes can be found, for pickle.

    Raises:
        DecodeError, TypeError: it is no descriptor set, or contradicts itself.
    """
    pool = descriptor_pool.DescriptorPool()
    names: dict[str, Any] = {}
    for file in FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
        descriptor = pool.FindFileByName(file.name)
        names["DESCRIPTOR"] = descriptor
        for name, message in descriptor.message_types_by_name.items():
            names[name] = message_factory.GetMessageClass(message)
            # what protoc's classes have, and what lets a message be pickled
            names[name].__module__ = module
        for name, enum in descriptor.enum_types_by_name.items():
            names[name] = EnumTypeWrapper(enum)
            names.update((value.name, value.number) for value in enum.values)
    return names
