"""The .proto files here -> their .desc, and caffe_pb2.pyi, without protoc.

    python -m pycaffe_compat.proto.compile            # after an edit of a .proto file
    python -m pycaffe_compat.proto.compile --check    # exit 1 if the made files are not what the .proto files say

protoc's Python output is tied to the protobuf release it was made with; a FileDescriptorSet is not, so that
is what is committed. The stub file tells type checkers and editors the fields.
"""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from pycaffe_compat.proto.protofile import HERE, SchemaError, parse_schema, read_schema

__all__ = ["SchemaError", "main", "made_files", "parse_schema", "read_schema", "stub"]

SCHEMA, DESCRIPTOR, STUB = HERE / "caffe.proto", HERE / "caffe.desc", HERE / "caffe_pb2.pyi"
OVERLAYS = tuple(HERE / f"{name}.proto" for name in ("ssd", "nvidia", "intel", "community"))

# ---------------------------------------------------------------------------------------------- the stub file

_PYTHON_TYPES = {
    FieldDescriptorProto.TYPE_DOUBLE: "float",
    FieldDescriptorProto.TYPE_FLOAT: "float",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "str",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
}


def stub(schema: FileDescriptorSet) -> str:
    """The .pyi text for caffe_pb2: every message class with its typed fields, every enum value as an int."""
    file = schema.file[0]
    lines = [
        '"""Made from caffe.proto by pycaffe_compat.proto.compile; not to be edited."""',
        "",
        "from typing import Any",
        "",
        "from google.protobuf.descriptor import FileDescriptor",
        "from google.protobuf.internal.containers import RepeatedCompositeFieldContainer as _Messages",
        "from google.protobuf.internal.containers import RepeatedScalarFieldContainer as _Scalars",
        "from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper",
        "from google.protobuf.message import Message",
        "",
        "DIALECT: str",
        "DESCRIPTOR: FileDescriptor",
    ]
    for enum in file.enum_type:
        lines += ["", f"{enum.name}: EnumTypeWrapper", *(f"{value.name}: int" for value in enum.value)]
    for message in file.message_type:
        lines += ["", f"class {message.name}(Message):"]
        for enum in message.enum_type:
            lines += [f"    {enum.name}: EnumTypeWrapper"]
            lines += [f"    {value.name}: int" for value in enum.value]
        lines += [line for field in message.field for line in _stub_field(field, file.package)]
        lines += ["    def __init__(self, **fields: Any) -> None: ..."]
    return "\n".join(lines) + "\n"


def _stub_field(field: FieldDescriptorProto, package: str) -> list[str]:
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    if field.type == FieldDescriptorProto.TYPE_MESSAGE:
        name = field.type_name.removeprefix(f".{package}.")
        if repeated:
            return [f"    {field.name}: _Messages[{name}]"]
        # protobuf refuses assignment of a message to a field
        return ["    @property", f"    def {field.name}(self) -> {name}: ..."]
    name = _PYTHON_TYPES.get(field.type, "int")
    return [f"    {field.name}: {f'_Scalars[{name}]' if repeated else name}"]


def made_files() -> dict[Path, bytes]:
    """What stands to be committed: each .desc and the stub, with its content."""
    schema = read_schema(SCHEMA)
    files = {DESCRIPTOR: schema.SerializeToString(deterministic=True), STUB: stub(schema).encode()}
    for overlay in OVERLAYS:
        files[overlay.with_suffix(".desc")] = read_schema(overlay).SerializeToString(deterministic=True)
    return files


def main(arguments: list[str]) -> int:
    """Writes the made files, or with ``--check`` compares them; returns the exit status."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m pycaffe_compat.proto.compile [--check]", file=sys.stderr)
        return 2
    stale = [path for path, content in made_files().items() if not path.exists() or path.read_bytes() != content]
    for path in stale:
        if arguments:
            print(f"error: {path.name} is older than its .proto file: run without --check", file=sys.stderr)
        else:
            path.write_bytes(made_files()[path])
    return 1 if stale and arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
