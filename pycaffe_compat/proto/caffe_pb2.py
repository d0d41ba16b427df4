"""Caffe's messages, under the module name and with the attributes that protoc's output would have.

Unlike that output this module is not tied to a protobuf release: it loads the committed descriptor set (made
from caffe.proto beside it) into a descriptor pool of its own, so it also coexists with another ``caffe_pb2``
in one process. ``NetParameter``, ``SolverParameter.GPU``, ``TRAIN``, ``Phase.Name(0)`` and so on are as
everywhere.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper


def _load(path: Path) -> dict[str, Any]:
    """The public names of the schema: message classes, enum wrappers and enum values."""
    pool = descriptor_pool.DescriptorPool()
    names: dict[str, Any] = {}
    for file in FileDescriptorSet.FromString(path.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
        descriptor = pool.FindFileByName(file.name)
        names["DESCRIPTOR"] = descriptor
        if hasattr(message_factory, "GetMessageClass"):
            make_class = message_factory.GetMessageClass
        else:  # protobuf before 4.22
            make_class = message_factory.MessageFactory(pool).GetPrototype
        for name, message in descriptor.message_types_by_name.items():
            names[name] = make_class(message)
            # what protoc's classes have, and what lets a message be pickled
            names[name].__module__ = __name__
        for name, enum in descriptor.enum_types_by_name.items():
            names[name] = EnumTypeWrapper(enum)
            names.update((value.name, value.number) for value in enum.values)
    return names


globals().update(_load(Path(__file__).with_name("caffe.desc")))
