"""Names, and shapes, in messages: as one line can show them; which was probably meant, and which are known."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable, Sequence


def one_line(text: object, limit: int = 200) -> str:
    """A text from a file as messages may hold it: printable characters of one line, at most ``limit`` of them."""
    shown = "".join(char if char.isprintable() else "?" for char in " ".join(str(text)[:10_000].split()))
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def shape_text(shape: Sequence[int]) -> str:
    """A shape as the log and messages print it: ``64x1x11x11``."""
    return "x".join(str(int(n)) for n in shape) or "scalar"


def fresh(name: str, taken: Container[str]) -> str:
    """The name, with as many ``_`` behind it as it takes to be new."""
    while name in taken:
        name += "_"
    return name


_LONGEST = 200  # of names that are compared: the time grows with the square


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean "step"?``, or nothing when no known name is near."""
    if len(name) > _LONGEST:
        return ""
    folded = {entry.lower(): entry for entry in known if len(entry) <= _LONGEST}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return f'; did you mean "{folded[near[0]]}"?' if near else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """``unknown lr_policy "stepp"; did you mean "step"? (known: exp, fixed, ...)``"""
    known = list(known)
    return f'unknown {what} "{name}"{did_you_mean(name, known)} (known: {", ".join(known)})'
