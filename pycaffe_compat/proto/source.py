"""A network and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class NetSource:
    """A network as it was read, and where its layers stand.

    Attributes:
        param: the network, in the present format, whatever the file's was; a NetParameter of whichever dialect.
        path: the file, or "" when it came from memory.
        lines: the line of each ``param.layer``, counted from 1; 0 where there is none (the Input layer made
            of legacy inputs, a binary file, a network built in Python).
        notes: one line each on what was not understood and therefore has no effect: fields that the schema
            does not know (binary files), settings that an old format had no use for.
    """

    param: Any
    path: str = ""
    lines: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def where(self, index: int) -> str:
        """``prototxt/l8.prototxt:41`` for ``param.layer[index]``; the path alone when the line is unknown."""
        line = self.lines[index] if 0 <= index < len(self.lines) else 0
        return f"{self.path or '<text>'}:{line}" if line else self.path
