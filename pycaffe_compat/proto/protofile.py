""".proto files -> descriptors, without protoc.

The part of proto2 that Caffe and its forks use is read (messages, enums, optional / required / repeated fields of
built-in, enum and message types, ``default`` and ``packed``; ``option``, ``reserved`` and ``extensions`` say nothing
about the fields and are skipped); anything else is an error with its line.

A fork's schema may be written as what it adds to another one, an overlay::

    import "caffe.proto";
    extend LayerParameter { optional PermuteParameter permute_param = 202; }    // fields of a message
    extend ConvolutionParameter.Engine { MKLDNN = 4; }                          // values of an enum
    message PermuteParameter { repeated uint32 order = 1; }

Unlike proto2's extensions these become ordinary fields, ``layer.permute_param``. One that has the name of a field
beneath takes its place. One that has only its number (forks gave numbers out twice) pushes it up by 20000: code and
text files still find the old field by its name, and binary files mean the new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

HERE = Path(__file__).resolve().parent

_TOKEN = re.compile(
    r"""\s+|//[^\n]*|/\*.*?\*/"""
    r"""|(?P<token>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[A-Za-z_][\w.]*|-?[\d.][\w.+-]*|[{}()=;\[\],])""",
    re.DOTALL,
)
_MAX_DEPTH = 50  # of messages within messages
_MOVED = 20000  # to where an overlay moves a field whose number it gives to another
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
    "sint64": FieldDescriptorProto.TYPE_SINT64,
    "sint32": FieldDescriptorProto.TYPE_SINT32,
    "fixed64": FieldDescriptorProto.TYPE_FIXED64,
    "fixed32": FieldDescriptorProto.TYPE_FIXED32,
    "sfixed64": FieldDescriptorProto.TYPE_SFIXED64,
    "sfixed32": FieldDescriptorProto.TYPE_SFIXED32,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
}


class SchemaError(ValueError):
    """A .proto file holds something that this reader does not know; the message starts with its line."""


@dataclass(frozen=True)
class _Token:
    text: str
    line: int


class _Parser:
    """Recursive descent over the tokens of one file."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokenize(text))
        self._at = 0
        self._lines: dict[tuple[str, str], int] = {}  # (message, field) whose type is a name -> line

    def parse(self, name: str, load: Callable[[str], FileDescriptorProto]) -> FileDescriptorProto:
        file = FileDescriptorProto(name=name)
        if self._peek() == "syntax":
            self._expect("syntax", "=")
            if (syntax := self._next()).strip("\"'") != "proto2":
                raise self._error(f'"proto2" expected, found {syntax}')
            self._expect(";")
        while self._at < len(self._tokens):
            kind = self._next()
            if kind == "package":
                file.package = self._next()
                self._expect(";")
            elif kind == "import":
                self._import(file, self._next().strip("\"'"), load)
                self._expect(";")
            elif kind == "option":
                self._skip_statement()
            elif kind == "message":
                self._message(file.message_type.add(), file.package)
            elif kind == "enum":
                self._enum(file.enum_type.add())
            elif kind == "extend":
                self._extend(file, self._next())
            elif kind != ";":
                raise self._error(f"message or enum expected, found {kind}")
        self._resolve(file)
        return file

    def _import(self, file: FileDescriptorProto, imported: str, load: Callable[[str], FileDescriptorProto]) -> None:
        """The imported schema becomes part of this one."""
        if file.message_type or file.enum_type:
            raise self._error("one import, in front of the definitions, is what this reader knows")
        name, package = file.name, file.package
        try:
            file.CopyFrom(load(imported))
        except (SchemaError, OSError) as error:
            raise self._error(f"import {imported}: {error}") from None
        file.name = name
        if package not in ("", file.package):
            raise self._error(f"package {package} cannot extend {file.package} of {imported}")

    def _extend(self, file: FileDescriptorProto, name: str) -> None:
        """Adds fields to a message, or values to an enum, of the imported schema."""
        name = name.removeprefix(".").removeprefix(f"{file.package}.")
        found: FileDescriptorProto | DescriptorProto | EnumDescriptorProto | None = file
        for part in name.split("."):
            inner: list[DescriptorProto | EnumDescriptorProto] = []
            if isinstance(found, FileDescriptorProto):
                inner = [*found.message_type, *found.enum_type]
            elif isinstance(found, DescriptorProto):
                inner = [*found.nested_type, *found.enum_type]
            found = next((entry for entry in inner if entry.name == part), None)
        self._expect("{")
        if isinstance(found, EnumDescriptorProto):
            values = EnumDescriptorProto()
            self._values(values)
            _replace(found.value, values.value)
        elif isinstance(found, DescriptorProto):
            fields = DescriptorProto()
            while (word := self._next()) != "}":
                if word == "enum":
                    self._enum(found.enum_type.add())
                    continue
                if word not in _LABELS:
                    raise self._error(f"a field or an enum expected, found {word}")
                self._field(fields.field.add(label=_LABELS[word]), _within(file.package, name))
            _replace(found.field, fields.field)
        else:
            raise self._error(f"extend {name}: there is no such message or enum")

    def _message(self, message: DescriptorProto, scope: str, depth: int = 0) -> None:
        message.name = self._next()
        scope = _within(scope, message.name)
        if depth > _MAX_DEPTH:
            raise self._error("messages are nested too deeply")
        self._expect("{")
        while (word := self._next()) != "}":
            if word == "enum":
                self._enum(message.enum_type.add())
            elif word == "message":
                self._message(message.nested_type.add(), scope, depth + 1)
            elif word in _LABELS:
                self._field(message.field.add(label=_LABELS[word]), scope)
            elif word in ("option", "reserved", "extensions"):
                self._skip_statement()
            elif word != ";":
                raise self._error(f"a field, an enum or a message expected, found {word}")

    def _field(self, field: FieldDescriptorProto, scope: str) -> None:
        type_name = self._next()
        if type_name in _SCALARS:
            field.type = _SCALARS[type_name]
        else:
            field.type_name = type_name
        line = self._tokens[self._at - 1].line
        field.name = self._next()
        self._lines[scope, field.name] = line
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
                try:
                    field.default_value = _default(field, value)
                except ValueError:
                    raise self._error(f"a number expected, found {value}") from None
            elif option not in ("deprecated", "lazy", "ctype"):  # these change nothing that is read here
                raise self._error(f"unknown option {option}")
            separator = self._next()
            if separator == "]":
                separator = self._next()
        if separator != ";":
            raise self._error(f"; expected, found {separator}")

    def _enum(self, enum: EnumDescriptorProto) -> None:
        enum.name = self._next()
        self._expect("{")
        self._values(enum)

    def _values(self, enum: EnumDescriptorProto) -> None:
        while (word := self._next()) != "}":
            if word in ("option", "reserved"):
                self._skip_statement()
            elif word != ";":
                self._expect("=")
                enum.value.add(name=word, number=self._integer())
                self._expect(";")

    def _skip_statement(self) -> None:
        while self._next() != ";":
            continue

    def _resolve(self, file: FileDescriptorProto) -> None:
        """Type names are looked up from the innermost scope outwards, as protoc does."""
        kinds: dict[str, FieldDescriptorProto.Type.ValueType] = {}
        waiting: list[tuple[str, FieldDescriptorProto]] = []

        def collect(scope: str, messages: list[DescriptorProto], enums: list[EnumDescriptorProto]) -> None:
            for enum in enums:
                kinds[_within(scope, enum.name)] = FieldDescriptorProto.TYPE_ENUM
            for message in messages:
                name = _within(scope, message.name)
                if name in kinds:
                    raise SchemaError(f"{name} is defined twice: extend it")
                kinds[name] = FieldDescriptorProto.TYPE_MESSAGE
                waiting.extend((name, field) for field in message.field if field.type_name[:1] not in ("", "."))
                collect(name, list(message.nested_type), list(message.enum_type))

        collect(file.package, list(file.message_type), list(file.enum_type))
        for scope, field in waiting:
            parts = scope.split(".")
            candidates = [".".join([*parts[:n], field.type_name]) for n in range(len(parts), -1, -1)]
            full_name = next((name for name in candidates if name in kinds), None)
            if full_name is None:
                raise SchemaError(f"line {self._lines[scope, field.name]}: unknown type {field.type_name}")
            field.type = kinds[full_name]
            field.type_name = "." + full_name

    def _peek(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

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
        if not re.fullmatch(r"-?(\d{1,10}|0x[0-9a-fA-F]{1,8})", word):
            raise self._error(f"a number expected, found {word}")
        return int(word, 16 if "x" in word else 10)

    def _error(self, message: str) -> SchemaError:
        shown = "".join(char if char.isprintable() else "?" for char in message[:160])
        return SchemaError(f"line {self._tokens[self._at - 1].line}: {shown}")


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


def _within(scope: str, name: str) -> str:
    """The full name of what is defined in a scope; "" is that of a file without a package."""
    return f"{scope}.{name}" if scope else name


def _replace(have: Any, new: Any) -> None:
    """Adds entries: of those that are there, the ones of the same name go, the ones of the same number move."""
    names, numbers = ({getattr(entry, key) for entry in new} for key in ("name", "number"))
    kept = [entry for entry in have if entry.name not in names]
    for entry in kept:
        if entry.number in numbers:
            entry.number += _MOVED
    del have[:]
    have.extend([*kept, *new])


def _default(field: FieldDescriptorProto, value: str) -> str:
    """A default as descriptors spell it: strings bare, floats in their shortest form (1e-08, 0.999, -1)."""
    if value.startswith(('"', "'")):
        return value[1:-1]
    floats = (FieldDescriptorProto.TYPE_FLOAT, FieldDescriptorProto.TYPE_DOUBLE)
    if field.HasField("type") and field.type in floats:  # no type yet: an enum's value
        return repr(float(value)).removesuffix(".0")
    return value


def parse_schema(
    text: str, name: str = "caffe.proto", load: Callable[[str], FileDescriptorProto] | None = None
) -> FileDescriptorSet:
    """The descriptor set of one .proto file's text.

    Args:
        text, name: the file.
        load: gives the schema that a name after ``import`` stands for; without it the files here can be imported.

    Raises:
        SchemaError: it names the line.
    """
    return FileDescriptorSet(file=[_Parser(text).parse(name, load or _load_here)])


def read_schema(path: Path, depth: int = 0) -> FileDescriptorSet:
    """Like ``parse_schema`` for a file, which may import its neighbours and the files here.

    Raises:
        SchemaError: it names the line. OSError, UnicodeDecodeError: the file cannot be read.
    """

    def load(name: str) -> FileDescriptorProto:
        beside = path.parent / name
        if depth > 4:
            raise SchemaError("files import each other")
        return read_schema(beside if beside.is_file() else HERE / Path(name).name, depth + 1).file[0]

    return parse_schema(path.read_text(encoding="utf-8"), path.name, load)


def complete(file: FileDescriptorProto, base: FileDescriptorProto) -> None:
    """Gives a schema what it lacks of another one, in place.

    Forks left Caffe's main line at some time: the one of Fast R-CNN knows no Input layer, and one ``kernel_size``
    for both axes. Code that knows the present schema finds all of its names here too, and as many values to each;
    the fork's own numbers and defaults stay.
    """

    def move(added: Any) -> Any:
        """Definitions of the base, with the names of its types as they are in this file's package."""
        for field in getattr(added, "field", ()):
            if field.type_name:
                name = field.type_name.removeprefix(f".{base.package}.")
                field.type_name = f".{_within(file.package, name)}"
        for inner in getattr(added, "nested_type", ()):
            move(inner)
        return added

    def add(have: Any, wanted: Any) -> None:
        """Entries (fields or values) whose name is not there, under another number where theirs is taken."""
        names, numbers = {entry.name: entry for entry in have}, {entry.number for entry in have}
        for entry in wanted:
            mine = names.get(entry.name)
            if mine is None:
                mine = have.add()
                mine.CopyFrom(entry)
                mine.number += _MOVED if entry.number in numbers else 0
            elif isinstance(entry, FieldDescriptorProto) and (mine.type, mine.label) != (entry.type, entry.label):
                if mine.type == entry.type:
                    mine.label = entry.label
                    mine.ClearField("default_value")

    def merge(have: Any, wanted: Any, messages: str) -> None:
        for kind in (messages, "enum_type"):
            there = {entry.name: entry for entry in getattr(have, kind)}
            for entry in getattr(wanted, kind):
                if entry.name not in there:
                    getattr(have, kind).add().CopyFrom(entry)
                elif kind == "enum_type":
                    add(there[entry.name].value, entry.value)
                else:
                    add(there[entry.name].field, entry.field)
                    merge(there[entry.name], entry, "nested_type")

    rest = FileDescriptorProto()
    rest.CopyFrom(base)
    for message in rest.message_type:
        move(message)
    merge(file, rest, "message_type")


def _load_here(name: str) -> FileDescriptorProto:
    return read_schema(HERE / Path(name).name).file[0]
