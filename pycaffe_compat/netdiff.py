"""What tells two nets, or two sets of weights, from each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from .errors import WeightsError
from .naming import shape_text
from .proto.dialects import Dialect
from .proto.hdf5 import SIGNATURE
from .proto.sniff import describe_content
from .proto.text import format_message, read_net
from .weights import read_weights

PathLike = str | os.PathLike[str]


def is_weights(path: PathLike) -> bool:
    """Whether a file is to be read as weights and not as a prototxt.  Raises WeightsError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: {error.strerror or error}") from None
    return head.startswith(SIGNATURE) or describe_content(head) == "binary data"


# ------------------------------------------------------------------------------------------------------------- nets


def diff_nets(a: PathLike, b: PathLike, dialect: PathLike | Dialect | None = None) -> list[str]:
    """What differs between two net files, a line each; nothing where they say the same.

    They are compared in the present format, layer by layer by name: ``-`` only in ``a``, ``+`` only in ``b``, ``~``
    in both with other settings, ``a -> b``. A field that is written with its default value is the same as none.
    """
    one, other = read_net(a, dialect).param, read_net(b, dialect).param
    lines = [f"~ net: {change}" for change in _changes(one, other)]
    pairs = _pairs(one.layer, other.layer)
    lines += [f"- {_label(left)}" for left, right in pairs if right is None]
    lines += [f"+ {_label(right)}" for left, right in pairs if left is None]
    both = [(left, right) for left, right in pairs if left is not None and right is not None]
    for left, right in both:
        lines += [f"~ {_label(left)}: {change}" for change in _changes(left, right)]
    places = {id(layer): place for place, layer in enumerate(other.layer)}
    moved = sorted(both, key=lambda pair: places[id(pair[1])])
    for here, there in zip(both, moved, strict=True):
        if here[0] is not there[0]:
            lines.append(f"~ order: where {_label(here[0])} stands, the other has {_label(there[1])}")
            break
    return lines


def _pairs(ours: Sequence[Any], theirs: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Layers of one name together, in the order of ``ours``; a layer without a partner has None.

    Where several have one name (for TRAIN and for TEST), those of one type and with the same rules belong together
    first, then the rest in their order.
    """
    mine, yours = list(ours), list(theirs)
    partner: dict[int, Any] = {}
    for same in (_rules, lambda layer: layer.name):
        for left in mine:
            if id(left) not in partner:
                found = next((right for right in yours if same(right) == same(left)), None)
                if found is not None:
                    partner[id(left)] = found
                    yours = [right for right in yours if right is not found]
    return [(left, partner.get(id(left))) for left in mine] + [(None, right) for right in yours]


def _rules(layer: Any) -> tuple[Any, ...]:
    rules = (*layer.include, None, *layer.exclude)
    return (layer.name, layer.type, *(rule and rule.SerializeToString(deterministic=True) for rule in rules))


def _label(layer: Any) -> str:
    return f'layer "{layer.name}" ({layer.type})'


def _changes(a: Message, b: Message, prefix: str = "") -> Iterator[str]:
    """``convolution_param.num_output: 64 -> 32`` for each field that differs, arrays and the layers left out."""
    fields_a, fields_b = ({f.name: (f, v) for f, v in message.ListFields()} for message in (a, b))
    for name in dict.fromkeys([*fields_a, *fields_b]):
        if name in ("layer", "blobs"):
            continue
        field: Any = (fields_a.get(name) or fields_b[name])[0]
        values = [fields[name][1] if name in fields else None for fields in (fields_a, fields_b)]
        yield from _field_changes(field, values[0], values[1], prefix + name)


def _field_changes(field: Any, one: Any, other: Any, name: str) -> Iterator[str]:
    message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
    repeated = any(hasattr(value, "append") for value in (one, other))
    if message and not repeated:
        empty = type(one if one is not None else other)()
        yield from _changes(one if one is not None else empty, other if other is not None else empty, f"{name}.")
    elif message and len(one or ()) == len(other or ()):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _changes(left, right, f"{name}[{index}].")
    else:
        default = [] if repeated else field.default_value
        left, right = (default if value is None else list(value) if repeated else value for value in (one, other))
        if left != right:
            yield f"{name}: {_shown(field, left)} -> {_shown(field, right)}"


def _shown(field: Any, value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_shown(field, entry) for entry in value)}]"
    if isinstance(value, Message):
        return "{ " + " ".join(format_message(value).split()) + " }"
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        known = field.enum_type.values_by_number
        return str(known[value].name) if value in known else str(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class ArrayDifference:
    """How far one parameter array is from another.

    Attributes:
        absolute: the largest difference; infinite where one holds a NaN and the other does not.
        relative: the same, divided by the largest absolute value in either.
    """

    layer: str
    index: int
    shape: tuple[int, ...]
    absolute: float
    relative: float


def diff_weights(a: PathLike, b: PathLike) -> tuple[list[str], list[ArrayDifference]]:
    """What differs between two weights files.

    Returns:
        lines on layers that are in one only or have other shapes (``-``, ``+``, ``~``), and the difference of every
        array that is in both. The old 4-d shapes (1, 1, N, K) are the same as (N, K).
    """
    one, other = read_weights(a), read_weights(b)
    lines = [f'- layer "{name}": {_shapes(one[name])}' for name in one if name not in other]
    lines += [f'+ layer "{name}": {_shapes(other[name])}' for name in other if name not in one]
    differences = []
    for name in (name for name in one if name in other):
        left, right = one[name], other[name]
        if [_bare(x) for x in left] != [_bare(x) for x in right]:
            lines.append(f'~ layer "{name}": {_shapes(left)} -> {_shapes(right)}')
            continue
        for index, (x, y) in enumerate(zip(left, right, strict=True)):
            differences.append(_difference(name, index, x, y.reshape(x.shape)))
    return lines, differences


def _bare(array: np.ndarray) -> tuple[int, ...]:
    shape = array.shape
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _shapes(arrays: Sequence[np.ndarray]) -> str:
    return ", ".join(shape_text(array.shape) for array in arrays)


def _difference(layer: str, index: int, x: np.ndarray, y: np.ndarray) -> ArrayDifference:
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if same.all():
        return ArrayDifference(layer, index, x.shape, 0.0, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.where(same, 0.0, np.abs(x.astype(np.float64) - y))
    absolute = float("inf") if np.isnan(gap).any() else float(gap.max())
    largest = max(float(np.abs(v[np.isfinite(v)]).max(initial=0.0)) for v in (x, y))
    relative = absolute / largest if largest and np.isfinite(absolute) else float("inf")
    return ArrayDifference(layer, index, x.shape, absolute, relative)
