"""Text files: prototxt networks and solvers, read with the line of what is wrong, written as Caffe does."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from pycaffe_compat.errors import NetError, PrototxtError, SolverError
from pycaffe_compat.naming import did_you_mean
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.sniff import describe_content

_M = TypeVar("_M", bound=Message)

_OLD_FORMAT = "`layers` is Caffe's format of before 2014: upgrade the file first (upgrade_net_proto_text)"


@dataclass
class NetSource:
    """A network as it was read, and where its layers stand.

    Attributes:
        param: the network; legacy inputs are already an Input layer.
        path: the file, or "" when it came from memory.
        lines: the line of each ``param.layer``, counted from 1; 0 where there is none (the Input layer made
            of legacy inputs, a network built in Python).
    """

    param: caffe_pb2.NetParameter
    path: str = ""
    lines: list[int] = field(default_factory=list)

    def where(self, index: int) -> str:
        """``prototxt/l8.prototxt:41`` for ``param.layer[index]``; the path alone when the line is unknown."""
        line = self.lines[index] if 0 <= index < len(self.lines) else 0
        return f"{self.path or '<text>'}:{line}" if line else self.path


# --------------------------------------------------------------------------------------------------- networks


def read_net(path: str | os.PathLike[str]) -> NetSource:
    """Reads a network's prototxt.

    Raises:
        PrototxtError: the file cannot be read or does not parse; ``path:line:column: message``. NetError: it
        parses but is written in the format of before 2014 (``layers``), or its inputs have no shape.
    """
    return parse_net(read_text(path), os.fspath(path))


def parse_net(text: str, path: str = "") -> NetSource:
    """Reads a network from text; ``path`` is for messages.  Raises as ``read_net`` does."""
    param = caffe_pb2.NetParameter()
    parse_message(text, param, path)
    lines = _block_lines(text, ("layer", "layers"))
    if param.layers:
        where = _at(path, lines["layers"][0] if lines["layers"] else 0)
        if param.layer:
            raise NetError(f"{where}: the net has both `layer` and `layers`, two formats: use `layer`")
        raise NetError(f"{where}: {_OLD_FORMAT}")
    source = NetSource(param, path, lines["layer"])
    if len(source.lines) != len(param.layer):  # a line is a help, a wrong line would not be
        source.lines = [0] * len(param.layer)
    if upgrade_net(param, path):
        source.lines.insert(0, 0)
    return source


def upgrade_net(param: caffe_pb2.NetParameter, path: str = "") -> bool:
    """Brings a network written for an older Caffe to the present form, in place, as Caffe does on reading.

    ``input`` with ``input_shape`` or ``input_dim`` becomes one Input layer called "input" in front of the
    others; a BatchNorm layer's three ``param`` get lr_mult 0 and decay_mult 0 (its statistics are not
    trained).

    Returns:
        True if a layer was put in front.

    Raises:
        NetError: inputs and their shapes do not go together.
    """
    for layer in param.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0
    inputs, shapes, dims = list(param.input), list(param.input_shape), list(param.input_dim)
    if not (inputs or shapes or dims):
        return False
    prefix = f"{path}: " if path else ""
    enough = len(shapes) in (1, len(inputs)) if shapes else len(dims) == 4 * len(inputs)
    if not inputs or not enough:
        given = f"{len(shapes)} `input_shape`" if shapes else f"{len(dims)} `input_dim`"
        raise NetError(
            f"{prefix}{len(inputs)} `input` but {given}: give each input an input_shape, or four input_dim"
        )
    layer = caffe_pb2.LayerParameter(name="input", type="Input", top=inputs)
    if shapes:
        layer.input_param.shape.extend(shapes)
    else:
        for start in range(0, len(dims), 4):
            layer.input_param.shape.add(dim=dims[start : start + 4])
    others = list(param.layer)
    del param.layer[:]
    param.layer.append(layer)
    param.layer.extend(others)
    for name in ("input", "input_shape", "input_dim"):
        param.ClearField(name)
    return True


# ---------------------------------------------------------------------------------------------------- solvers

_SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")  # in the order of the enum


def read_solver(path: str | os.PathLike[str]) -> caffe_pb2.SolverParameter:
    """Reads a solver's prototxt; the old ``solver_type`` becomes ``type``.

    Raises:
        PrototxtError: the file cannot be read or does not parse; ``path:line:column: message``.
        SolverError: both ``type`` and ``solver_type`` are set.
        NetError: a network inside it is in an old format.
    """
    return parse_solver(read_text(path), os.fspath(path))


def parse_solver(text: str, path: str = "") -> caffe_pb2.SolverParameter:
    """Reads a solver from text; ``path`` is for messages.  Raises as ``read_solver`` does."""
    param = caffe_pb2.SolverParameter()
    parse_message(text, param, path)
    if param.HasField("solver_type"):
        if param.HasField("type"):
            raise SolverError(f"{path or '<text>'}: both `type` and `solver_type` are set: keep `type`")
        param.type = _SOLVER_TYPES[param.solver_type]
        param.ClearField("solver_type")
    nets: list[caffe_pb2.NetParameter] = [*param.test_net_param]
    nets += [getattr(param, name) for name in ("net_param", "train_net_param") if param.HasField(name)]
    for net in nets:
        if net.layers:
            raise NetError(f"{path or '<text>'}: {_OLD_FORMAT}")
        upgrade_net(net, path)
    return param


# ------------------------------------------------------------------------------------------- text of any kind


def format_message(message: Message) -> str:
    """The message as Caffe prints it: a field a line, floats as the shortest text that reads back equal."""
    return _FLOAT.sub(_shortest, text_format.MessageToString(message))


_FLOAT = re.compile(r"(?<=: )-?\d[\d.]*(?:\.|e[+-])\d+$", re.MULTILINE)  # a string's line ends in a quote


def _shortest(match: re.Match[str]) -> str:
    """A number as C++ prints it: ``3`` and ``1e+06`` where Python says ``3.0`` and ``1000000.0``."""
    value = float(match[0])
    return next(text for digits in range(6, 18) if float(text := f"{value:.{digits}g}") == value)


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a prototxt.  Raises PrototxtError (one line that names the file) when it is none."""
    shown = os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise PrototxtError(f"{shown}: no such file") from None
    except IsADirectoryError:
        raise PrototxtError(f"{shown}: is a directory, not a prototxt") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise PrototxtError(f"{shown}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = describe_content(content)
        if kind == "text":
            line = content.count(b"\n", 0, error.start) + 1
            byte = content[error.start]
            raise PrototxtError(f"{shown}:{line}: byte 0x{byte:02x} is not UTF-8: save it as UTF-8") from None
        raise PrototxtError(f"{shown}: is not a prototxt but looks like {kind}") from None
    if "\0" in text:
        raise PrototxtError(f"{shown}: is not a prototxt but looks like {describe_content(content)}")
    return text


def parse_message(text: str, message: _M, path: str = "") -> _M:
    """Reads text into an empty ``message`` and returns it; ``path`` is for messages.

    Raises:
        PrototxtError: ``path:line:column: message``, with the nearest field's name for a misspelt one.
    """
    shown = path or "<text>"
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise PrototxtError(_parse_error(error, text, message.DESCRIPTOR, shown)) from None
    except RecursionError:
        raise PrototxtError(f"{shown}: messages are nested too deeply") from None
    except (UnicodeError, ValueError) as error:  # such as a string whose escapes are not UTF-8
        raise PrototxtError(f"{shown}: {_one_line(error)}") from None
    missing: list[str] = message.FindInitializationErrors()  # type: ignore[attr-defined]  # not in the stubs
    if missing:
        layer = re.match(r"layer\[(\d+)\]", missing[0])
        lines = _block_lines(text, ("layer",))["layer"] if layer else []
        where = _at(path, lines[int(layer[1])] if layer and int(layer[1]) < len(lines) else 0)
        raise PrototxtError(f"{where}: {missing[0]} must be set")
    return message


def _parse_error(error: text_format.ParseError, source: str, descriptor: Any, shown: str) -> str:
    """The one line for an error of text_format, with its position in front and a hint where one is near."""
    match = re.match(r"(\d+):(\d+) : (.*)", str(error), re.DOTALL)
    if match is None:
        return f"{shown}: {_one_line(error)}"
    line, column, text = match.groups()
    quoted = f"'{source.split(chr(10))[int(line) - 1]}': "  # text_format repeats the whole line
    text = text.removeprefix(quoted)
    repeated = re.search(r'Message type "([\w.]+)" should not have multiple "(\w+)" fields', text)
    if repeated:
        text = f'{repeated[1].removeprefix("caffe.")} has the field "{repeated[2]}" twice'
    unknown = re.search(r'Message type "([\w.]+)" has no field named "(\w+)"', text)
    if unknown:
        names = _field_names(descriptor, unknown[1])
        text = f'{unknown[1].removeprefix("caffe.")} has no field "{unknown[2]}"{did_you_mean(unknown[2], names)}'
    value = re.search(r'Enum type "([\w.]+)" has no value named "?(\w+)"?', text)
    if value:
        names = _enum_values(descriptor, value[1])
        hint = did_you_mean(value[2], names) or (f": use one of {', '.join(names)}" if names else "")
        text = f'{value[1].removeprefix("caffe.")} has no value "{value[2]}"{hint}'
    return f"{shown}:{line}:{column}: {_one_line(text)}"


def _field_names(descriptor: Any, full_name: str) -> list[str]:
    message = descriptor.file.message_types_by_name.get(full_name.rsplit(".", 1)[-1])
    return [field.name for field in message.fields] if message else []


def _enum_values(descriptor: Any, full_name: str) -> list[str]:
    package, *path = full_name.split(".")
    holder = descriptor.file if len(path) == 1 else descriptor.file.message_types_by_name.get(path[0])
    enum = holder.enum_types_by_name.get(path[-1]) if holder else None
    return [value.name for value in enum.values] if enum else []


def _one_line(error: object) -> str:
    """At most 200 printable characters."""
    text = "".join(char if char.isprintable() else "?" for char in " ".join(str(error)[:10_000].split()))
    return text if len(text) <= 200 else text[:197] + "..."


def _at(path: str, line: int) -> str:
    return f"{path or '<text>'}:{line}" if line else path or "<text>"


# -------------------------------------------------------------------------------------------- lines of blocks

_SCAN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|(?P<open>[{<\[])|(?P<close>[}>\]])|(?P<name>[A-Za-z_]\w*)|(?P<other>.)""",
    re.DOTALL,
)


def _block_lines(text: str, names: tuple[str, ...]) -> dict[str, list[int]]:
    """The lines (from 1) on which the top-level blocks ``name { }`` of each name begin, in order.

    The text is known to parse; this looks only at what decides the nesting: comments, strings, brackets. The
    list form ``name: [{ }, { }]`` counts one a block.
    """
    found: dict[str, list[int]] = {name: [] for name in names}
    depth, listed, last, last_line = 0, "", "", 0
    line = 1
    for match in _SCAN.finditer(text):
        kind, token = match.lastgroup, match[0]
        if kind == "skip":
            line += token.count("\n")
        elif kind == "open":
            if depth == 0 and last in found:
                if token == "[":
                    listed = last
                else:
                    found[last].append(last_line)
            elif depth == 1 and listed:
                found[listed].append(line)
            depth += 1
            last = ""
        elif kind == "close":
            depth -= 1
            listed = listed if depth else ""
            last = ""
        elif kind == "name":
            last, last_line = token, line
        elif token != ":":
            last = ""
    return found
