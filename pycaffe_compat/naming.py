"""Names that nobody knows: which was probably meant, and which are known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean "step"?``, or nothing when no known name is near."""
    folded = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return f'; did you mean "{folded[near[0]]}"?' if near else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """``unknown lr_policy "stepp"; did you mean "step"? (known: exp, fixed, ...)``"""
    known = list(known)
    return f'unknown {what} "{name}"{did_you_mean(name, known)} (known: {", ".join(known)})'
