"""Fields of messages whose dialect may not have them, and the words of enums."""

from __future__ import annotations

from typing import Any


def given(message: Any, name: str) -> Any:
    """A field of a message, None where it is not set or the dialect has no such field."""
    known = name in message.DESCRIPTOR.fields_by_name
    return getattr(message, name) if known and message.HasField(name) else None


def word(message: Any, name: str, value: int | None = None) -> str:
    """The name of the value that an enum field has, or of another value of the same enum."""
    values = message.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number
    return str(values[getattr(message, name) if value is None else value].name)
