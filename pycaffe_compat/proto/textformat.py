"""Protobuf's text format: text -> entries with their places -> a message.

The two steps are apart because one text may be tried on several schemas (``dialects``), and so that everything
that does not fit a schema is known at once, each with its line and column. What the C++ parser of protobuf takes
is taken: ``name { }`` and ``name: < >``, lists, ``;`` and ``,`` behind fields, strings in either quote and in
several pieces, octal and hexadecimal numbers, enum values by number, ``1.5f``, ``inf``, ``- 1``, comments. What it
refuses is refused: unknown fields, and a second value for a field that takes one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from pycaffe_compat.naming import did_you_mean

MAX_PROBLEMS = 100  # after so many no more are looked for
MAX_DEPTH = 100  # of messages within messages; as deep as binary files may be

TOKEN = re.compile(
    r"""(?P<skip>(?:\s|\#[^\n]*)+)"""
    r"""|(?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')"""
    r"""|(?P<number>0[xX][0-9a-fA-F]+|(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?\d+)?[fF]?)(?![\w.])"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<other>.)""",
    re.DOTALL | re.ASCII,
)
_ESCAPE = re.compile(
    r"\\(?:(?P<octal>[0-7]{1,3})|[xX](?P<hex>[0-9a-fA-F]{1,2})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})"
    r"|(?P<char>[\s\S]))"
)
_CHARS = dict(zip("abfnrtv\\'\"?", "\a\b\f\n\r\t\v\\'\"?", strict=True))
_CLOSING = {"{": "}", "<": ">"}


class TextError(Exception):
    """Text that is no message of any kind.

    Attributes:
        line, column: where, counted from 1.
    """

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line, self.column = line, column


@dataclass(slots=True)
class Value:
    """One value as it is written: a string (its bytes), a number or a name."""

    kind: str
    text: str
    line: int
    column: int
    content: bytes = b""
    negative: bool = False

    @property
    def shown(self) -> str:
        return f"{'-' if self.negative else ''}{self.text[:40]}"


@dataclass(slots=True)
class Entry:
    """One field as it is written. A list of values is an entry each, ``listed``."""

    name: str
    line: int
    column: int
    value: Value | list[Entry]
    listed: bool = False


@dataclass(slots=True)
class Problem:
    """One thing in a text that does not fit the schema.

    Attributes:
        unknown: the name of the field, where the schema has no such field, and
        known: the fields that it has there.
        layer: the name of the layer it stands in, if any.
        lost: how many fields of the text are not read for it: it, and those within it.
    """

    line: int
    column: int
    text: str
    unknown: str = ""
    known: Iterable[str] = ()
    layer: str = ""
    lost: int = 1

    @property
    def hint(self) -> str:
        """``; did you mean "name"?``, or nothing (it takes a while: not for a thousand of them)."""
        return _hint(self.unknown, self.known) if self.unknown else ""

    def __str__(self) -> str:
        return f"{self.text}{self.hint}" + (f' (layer "{self.layer}")' if self.layer else "")


# ------------------------------------------------------------------------------------------------ text -> entries


def parse_entries(text: str) -> list[Entry]:
    """The fields of a text, in its order.  Raises TextError."""
    return _Reader(text).fields(None)


class _Reader:
    """Recursive descent over the tokens of a text."""

    def __init__(self, text: str) -> None:
        self._tokens = TOKEN.finditer(text)
        self._line, self._line_start = 1, 0
        self._depth = 0
        self._advance()

    def _advance(self) -> None:
        """The next token: its kind ("" at the end), text, line and column."""
        for match in self._tokens:
            kind, text = match.lastgroup or "", match[0]
            if kind != "skip":
                self.kind, self.text = kind, text
                self.line, self.column = self._line, match.start() - self._line_start + 1
                return
            breaks = text.count("\n")
            if breaks:
                self._line += breaks
                self._line_start = match.start() + text.rindex("\n") + 1
        self.kind = self.text = ""
        self.line, self.column = self._line, getattr(self, "column", 0) + 1

    def _error(self, message: str) -> TextError:
        return TextError(self.line, self.column, message)

    def _found(self) -> str:
        if self.kind == "other" and self.text in "\"'":
            return "a string that does not end on its line"
        if self.kind == "other" and self.text.isdigit():
            return "a number that runs into letters"
        return repr(self.text[:40]) if self.kind else "the end of the text"

    def _take(self, text: str) -> bool:
        if self.text != text or self.kind != "other":
            return False
        self._advance()
        return True

    def fields(self, opening: tuple[str, int] | None) -> list[Entry]:
        """Fields up to the bracket that closes ``opening`` (its text and line), or to the end of the text."""
        entries: list[Entry] = []
        closing = _CLOSING[opening[0]] if opening else ""
        while True:
            if not self.kind and not opening:
                return entries
            if opening and self._take(closing):
                return entries
            if not self.kind and opening:
                raise self._error(f'Expected "{closing}": the "{opening[0]}" of line {opening[1]} is not closed')
            self._field(entries)

    def _field(self, entries: list[Entry]) -> None:
        if self.kind != "name":
            if self.text == "[":
                raise self._error("Expected a field name, found '[': Caffe's messages do not have extensions")
            raise self._error(f"Expected a field name, found {self._found()}")
        name, line, column = self.text, self.line, self.column
        self._advance()
        colon = self._take(":")
        if self.text == "[" and self.kind == "other":
            self._advance()
            done = self._take("]")
            while not done:
                place = self.line, self.column
                entries.append(Entry(name, *place, self._value(colon), True))
                done = self._take("]")
                if not done and not self._take(","):
                    raise self._error(f'Expected "," or "]", found {self._found()}')
        else:
            entries.append(Entry(name, line, column, self._value(colon)))
        if not self._take(";"):
            self._take(",")

    def _value(self, colon: bool) -> Value | list[Entry]:
        line, column = self.line, self.column
        if self.kind == "other" and self.text in _CLOSING:
            opening = self.text, line
            if self._depth >= MAX_DEPTH:
                raise self._error("messages are nested too deeply")
            self._depth += 1
            self._advance()
            entries = self.fields(opening)
            self._depth -= 1
            return entries
        if not colon:
            raise self._error(f'Expected ":" or "{{", found {self._found()}')
        if self.kind == "string":
            text, pieces = self.text, []
            while self.kind == "string":
                pieces.append(_unescape(self.text[1:-1], self._error))
                self._advance()
            return Value("string", text, line, column, b"".join(pieces))
        negative = self._take("-")
        if self.kind not in ("number", "name"):
            raise self._error(f"Expected a value, found {self._found()}")
        value = Value(self.kind, self.text, line, column, negative=negative)
        self._advance()
        return value


def _unescape(text: str, error: Callable[[str], TextError]) -> bytes:
    """The bytes that a string between its quotes stands for."""
    if "\\" not in text:
        return text.encode("utf-8", "surrogatepass")
    out, position = bytearray(), 0
    for match in _ESCAPE.finditer(text):
        out += text[position : match.start()].encode("utf-8", "surrogatepass")
        position = match.end()
        if match["octal"] or match["hex"]:
            value = int(match["octal"], 8) if match["octal"] else int(match["hex"], 16)
            if value > 255:
                raise error(f"{match[0]} is more than a byte")
            out.append(value)
        elif match["u"] or match["U"]:
            code = int(match["u"] or match["U"], 16)
            if code > 0x10FFFF:
                raise error(f"{match[0]} is no character")
            out += chr(code).encode("utf-8", "surrogatepass")
        elif match["char"] in _CHARS:
            out += _CHARS[match["char"]].encode()
        else:
            raise error(f"there is no escape \\{match['char']}")
    out += text[position:].encode("utf-8", "surrogatepass")
    return bytes(out)


# --------------------------------------------------------------------------------------------- entries -> a message


def fill(message: Message, entries: Sequence[Entry]) -> list[Problem]:
    """Sets the fields of an empty message.

    Returns:
        What does not fit (the first hundred of it), in the text's order; nothing where all of it did.
    """
    problems: list[Problem] = []
    _fill(message, entries, problems, (1, 1), top=True)
    problems.sort(key=lambda problem: (problem.line, problem.column))
    return problems


def _fill(
    message: Message, entries: Sequence[Entry], problems: list[Problem], place: tuple[int, int], top: bool = False
) -> None:
    fields, required = _fields(message.DESCRIPTOR)
    seen: set[str] = set()
    for entry in entries:
        if len(problems) >= MAX_PROBLEMS:
            return
        field = fields.get(entry.name)
        at = entry.line, entry.column
        owner = message.DESCRIPTOR.full_name.removeprefix("caffe.")
        if field is None:
            name = entry.name[:100]
            problems.append(Problem(*at, f'{owner} has no field "{name}"', name, fields, lost=_size(entry)))
            continue
        if not field.repeated:
            if entry.name in seen:
                problems.append(Problem(*at, f'{owner} has the field "{entry.name}" twice'))
                continue
            if entry.listed:
                problems.append(Problem(*at, f'the field "{entry.name}" takes one value, not a list'))
                continue
        seen.add(entry.name)
        value = entry.value
        if field.is_message:
            if not isinstance(value, list):
                problems.append(Problem(value.line, value.column, f'Expected "{{", found {value.shown}'))
                continue
            held = getattr(message, entry.name)
            if field.repeated:
                held = held.add()
            else:
                held.SetInParent()
            known = len(problems)
            _fill(held, value, problems, at)
            if top and entry.name in ("layer", "layers") and len(problems) > known:
                name = held.name or (held.layer.name if entry.name == "layers" else "")
                for problem in problems[known:]:
                    problem.layer = name[:60]
            continue
        if isinstance(value, list):
            problems.append(Problem(*at, f'the field "{entry.name}" is {field.noun}, not a message'))
            continue
        try:
            converted = field.convert(value)
            if field.repeated:
                getattr(message, entry.name).append(converted)
            else:
                setattr(message, entry.name, converted)
        except (ValueError, TypeError) as error:
            problems.append(Problem(value.line, value.column, str(error)))
    for name in required - seen:
        problems.append(Problem(*place, f"{message.DESCRIPTOR.name}: {name} must be set"))


def lost(problems: Iterable[Problem]) -> int:
    """How many fields of a text are not read: what tells which schema knows most of it."""
    return sum(problem.lost for problem in problems)


def _size(entry: Entry) -> int:
    """How many fields an entry is, with those within it."""
    total, open_entries = 0, [entry]
    while open_entries:
        value = open_entries.pop().value
        total += 1
        if isinstance(value, list):
            open_entries += value
    return total


def _hint(name: str, fields: Iterable[str]) -> str:
    """The nearest field; of names that end alike the beginnings are compared."""
    if not name.endswith("_param"):
        return did_you_mean(name, fields)
    stems = [field.removesuffix("_param") for field in fields if field.endswith("_param")]
    return did_you_mean(name.removesuffix("_param"), stems).replace('"?', '_param"?')


@dataclass(frozen=True, slots=True)
class _Field:
    repeated: bool
    is_message: bool
    noun: str
    convert: Callable[[Value], Any]


@lru_cache(maxsize=1000)
def _fields(descriptor: Descriptor) -> tuple[dict[str, _Field], frozenset[str]]:
    """A message's fields by name, and the names of those that must be set."""
    fields = {}
    required = set()
    for field in descriptor.fields:
        noun, convert = _converter(field)
        fields[field.name] = _Field(_is(field, "repeated"), field.message_type is not None, noun, convert)
        if _is(field, "required"):
            required.add(field.name)
    return fields, frozenset(required)


def _is(field: Any, label: str) -> bool:
    """Whether a field is "repeated" or "required"."""
    if hasattr(field, f"is_{label}"):  # newer releases of protobuf, in which `label` warns
        return bool(getattr(field, f"is_{label}"))
    labels = {"required": FieldDescriptor.LABEL_REQUIRED, "repeated": FieldDescriptor.LABEL_REPEATED}
    return bool(field.label == labels[label])


def _converter(field: Any) -> tuple[str, Callable[[Value], Any]]:
    """What a field holds, as a noun, and the function that makes it of a value; that one raises ValueError."""
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return "a number", _float
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false", _bool
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        enum = field.enum_type
        return f"one of {', '.join(value.name for value in enum.values)}", lambda value: _enum(value, enum)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return "a string", _bytes
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return "a string", _string
    signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    bits = 64 if kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else 32
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)

    def convert(value: Value) -> int:
        number = _int(value)
        if not least <= number <= most:
            raise ValueError(f"Value out of range: {value.shown} is not within {least}..{most}")
        return number

    return "a whole number", convert


def _float(value: Value) -> float:
    text = value.text.lower()
    if value.kind == "name" and text in ("inf", "infinity", "nan", "inff"):
        number = float(text[:3])
    elif value.kind == "number" and not re.match(r"0[\dx]", text):  # neither octal nor hexadecimal
        number = float(text.rstrip("f"))
    else:
        raise ValueError(f"Expected a number, found {value.shown}")
    return -number if value.negative else number


def _int(value: Value) -> int:
    text = value.text
    if value.kind != "number" or not re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", text):
        raise ValueError(f"Expected a whole number, found {value.shown}")
    if len(text) > 30:
        raise ValueError(f"Value out of range: {value.shown}...")
    try:
        number = int(text, 16 if "x" in text.lower() else 8 if text[0] == "0" else 10)
    except ValueError:
        raise ValueError(f"Expected a whole number, found {value.shown} (one that begins with 0 is octal)") from None
    return -number if value.negative else number


def _bool(value: Value) -> bool:
    number = _int(value) if re.fullmatch(r"\d+|0[xX].*", value.text) else None
    if not value.negative and (value.text in ("true", "True", "t") or number == 1):
        return True
    if not value.negative and (value.text in ("false", "False", "f") or number == 0):
        return False
    raise ValueError(f'Expected "true" or "false", found {value.shown}')


def _enum(value: Value, enum: EnumDescriptor) -> int:
    name = enum.full_name.removeprefix("caffe.")
    if value.kind == "number":
        number = _int(value)
        if number not in enum.values_by_number:
            raise ValueError(f"{name} has no value with number {number}")
        return number
    if value.kind == "name" and not value.negative and value.text in enum.values_by_name:
        return int(enum.values_by_name[value.text].number)
    names = [entry.name for entry in enum.values]
    if value.kind != "name" or value.negative:
        raise ValueError(f"Expected one of {', '.join(names)}, found {value.shown}")
    hint = did_you_mean(value.text[:100], names) or f": use one of {', '.join(names)}"
    raise ValueError(f'{name} has no value "{value.text[:100]}"{hint}')


def _bytes(value: Value) -> bytes:
    if value.kind != "string":
        raise ValueError(f"Expected a string, found {value.shown}")
    return value.content


def _string(value: Value) -> str:
    try:
        return _bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the string is not UTF-8") from None
