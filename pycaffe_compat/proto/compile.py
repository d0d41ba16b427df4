"""caffe.proto -> caffe.desc and caffe_pb2.pyi, without protoc.

    python -m pycaffe_compat.proto.compile            # after an edit of caffe.proto
    python -m pycaffe_compat.proto.compile --check    # exit 1 if the two files are not what caffe.proto says

protoc's Python output is tied to the protobuf release it was made with; a FileDescriptorSet is not, so that
is what is committed. caffe.proto uses a small part of the proto2 language (messages, enums, optional /
required / repeated fields of built-in, enum and message types, ``default`` and ``packed``), and this module
reads that part only: anything else is an error with its line, never skipped. The stub file tells type
checkers and editors the fields.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

HERE = Path(__file__).resolve().parent
SCHEMA, DESCRIPTOR, STUB = HERE / "caffe.proto", HERE / "caffe.desc", HERE / "caffe_pb2.pyi"

_TOKEN = re.compile(
    r"""\s+|//[^\n]*|(?P<token>"(?:[^"\\\n]|\\.)*"|[A-Za-z_][\w.]*|-?[\d.][\w.+-]*|[{}=;\[\],])"""
)
_LABELS = {
    "optional": FieldDescriptorProto.LABEL_OPTIONAL,
    "required": FieldDescriptorProto.LABEL_REQUIRED,
    "repeated": FieldDescriptorProto.LABEL_REPEATED,
}
_SCALARS = {
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
}


class SchemaError(ValueError):
    """caffe.proto holds something that this reader does not know; the message starts with its line."""


@dataclass(frozen=True)
class _Token:
    text: str
    line: int


class _Parser:
    """Recursive descent over the tokens of one file."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokenize(text))
        self._at = 0
        self._unresolved: list[tuple[str, FieldDescriptorProto, int]] = []  # scope, field, line

    def parse(self, name: str) -> FileDescriptorProto:
        file = FileDescriptorProto(name=name)
        self._expect("syntax", "=", '"proto2"', ";")
        self._expect("package")
        file.package = self._next()
        self._expect(";")
        while self._at < len(self._tokens):
            kind = self._next()
            if kind == "message":
                self._message(file.message_type.add(), file.package)
            elif kind == "enum":
                self._enum(file.enum_type.add())
            else:
                raise self._error(f"message or enum expected, found {kind}")
        self._resolve(file)
        return file

    def _message(self, message: DescriptorProto, scope: str) -> None:
        message.name = self._next()
        scope = f"{scope}.{message.name}"
        self._expect("{")
        while (word := self._next()) != "}":
            if word == "enum":
                self._enum(message.enum_type.add())
            elif word == "message":
                self._message(message.nested_type.add(), scope)
            elif word in _LABELS:
                self._field(message.field.add(label=_LABELS[word]), scope)
            else:
                raise self._error(f"a field, an enum or a message expected, found {word}")

    def _field(self, field: FieldDescriptorProto, scope: str) -> None:
        type_name = self._next()
        if type_name in _SCALARS:
            field.type = _SCALARS[type_name]
        else:
            field.type_name = type_name
            self._unresolved.append((scope, field, self._tokens[self._at - 1].line))
        field.name = self._next()
        self._expect("=")
        field.number = self._integer()
        separator = self._next()
        while separator == "[" or separator == ",":
            option = self._next()
            self._expect("=")
            value = self._next()
            if option == "packed":
                field.options.packed = value == "true"
            elif option == "default":
                field.default_value = _default(field, value)
            else:
                raise self._error(f"unknown option {option}")
            separator = self._next()
            if separator == "]":
                separator = self._next()
        if separator != ";":
            raise self._error(f"; expected, found {separator}")

    def _enum(self, enum: EnumDescriptorProto) -> None:
        enum.name = self._next()
        self._expect("{")
        while (word := self._next()) != "}":
            self._expect("=")
            enum.value.add(name=word, number=self._integer())
            self._expect(";")

    def _resolve(self, file: FileDescriptorProto) -> None:
        """Type names are looked up from the innermost scope outwards, as protoc does."""
        kinds: dict[str, FieldDescriptorProto.Type.ValueType] = {}

        def collect(scope: str, messages: list[DescriptorProto], enums: list[EnumDescriptorProto]) -> None:
            for enum in enums:
                kinds[f"{scope}.{enum.name}"] = FieldDescriptorProto.TYPE_ENUM
            for message in messages:
                kinds[f"{scope}.{message.name}"] = FieldDescriptorProto.TYPE_MESSAGE
                collect(f"{scope}.{message.name}", list(message.nested_type), list(message.enum_type))

        collect(file.package, list(file.message_type), list(file.enum_type))
        for scope, field, line in self._unresolved:
            parts = scope.split(".")
            candidates = [".".join([*parts[:n], field.type_name]) for n in range(len(parts), -1, -1)]
            full_name = next((name for name in candidates if name in kinds), None)
            if full_name is None:
                raise SchemaError(f"line {line}: unknown type {field.type_name}")
            field.type = kinds[full_name]
            field.type_name = "." + full_name

    def _next(self) -> str:
        if self._at == len(self._tokens):
            raise SchemaError("the file ends in the middle of a definition")
        self._at += 1
        return self._tokens[self._at - 1].text

    def _expect(self, *words: str) -> None:
        for word in words:
            if (found := self._next()) != word:
                raise self._error(f"{word} expected, found {found}")

    def _integer(self) -> int:
        word = self._next()
        if not re.fullmatch(r"-?\d+", word):
            raise self._error(f"a number expected, found {word}")
        return int(word)

    def _error(self, message: str) -> SchemaError:
        return SchemaError(f"line {self._tokens[self._at - 1].line}: {message}")


def _tokenize(text: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise SchemaError(f"line {line}: unexpected {text[position]!r}")
        if match["token"]:
            yield _Token(match["token"], line)
        line += match[0].count("\n")
        position = match.end()


def _default(field: FieldDescriptorProto, value: str) -> str:
    """A default as descriptors spell it: strings bare, floats in their shortest form (1e-08, 0.999, -1)."""
    if value.startswith('"'):
        return value[1:-1]
    floats = (FieldDescriptorProto.TYPE_FLOAT, FieldDescriptorProto.TYPE_DOUBLE)
    if field.HasField("type") and field.type in floats:  # no type yet: an enum's value
        return repr(float(value)).removesuffix(".0")
    return value


def parse_schema(text: str, name: str = "caffe.proto") -> FileDescriptorSet:
    """The descriptor set of one .proto file's text.  Raises SchemaError, which names the line."""
    return FileDescriptorSet(file=[_Parser(text).parse(name)])


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


def main(arguments: list[str]) -> int:
    """Writes caffe.desc and caffe_pb2.pyi, or with ``--check`` compares them; returns the exit status."""
    schema = parse_schema(SCHEMA.read_text(encoding="utf-8"))
    stub_text = stub(schema).encode()
    if arguments == ["--check"]:
        stale = [DESCRIPTOR] if FileDescriptorSet.FromString(DESCRIPTOR.read_bytes()) != schema else []
        stale += [STUB] if STUB.read_bytes() != stub_text else []
        for path in stale:
            print(f"error: {path.name} is older than {SCHEMA.name}: run without --check", file=sys.stderr)
        return 1 if stale else 0
    if arguments:
        print("usage: python -m pycaffe_compat.proto.compile [--check]", file=sys.stderr)
        return 2
    DESCRIPTOR.write_bytes(schema.SerializeToString(deterministic=True))
    STUB.write_bytes(stub_text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
