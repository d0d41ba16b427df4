"""The nets and small weights that travel with the library, wherever it was put.

In a checkout `prototxt/` and `models/` stand at the top of the repository, beside the package; an installed
package carries copies of them inside itself (setup.py maps them there). Callers need not know which.
"""

from __future__ import annotations

import errno
import os
from pathlib import PurePosixPath

KINDS = ("prototxt", "models")

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def _root() -> str | None:
    # Inside the package first: in an installation the folder beside the package is site-packages, where a
    # folder called `models` may well be somebody else's.
    for folder in (_PACKAGE, os.path.dirname(_PACKAGE)):
        if os.path.isdir(os.path.join(folder, "prototxt")):
            return folder
    return None


def root() -> str:
    """The folder that holds `prototxt/` and `models/`: ``root()/prototxt/l4.prototxt`` is a file.

    Raises FileNotFoundError when an installation lacks them (files were removed by hand).
    """
    folder = _root()
    if folder is None:
        wanted = os.path.join(_PACKAGE, "prototxt")
        raise FileNotFoundError(errno.ENOENT, "the nets that come with the library are missing", wanted)
    return folder


def find(kind: str, name: str | os.PathLike[str]) -> str | None:
    """The path of a file or folder that came with the library, or None.

    kind: "prototxt" or "models". name: relative to that folder (``solver_l8.prototxt``,
    ``l4_residual_q10/model.onnx``); the folder's own name in front is allowed (``prototxt/l8.prototxt``), as
    solver files write it. Absolute names and names that lead out of the folder are never found.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(KINDS)}")
    parts = PurePosixPath(os.fspath(name).replace(os.sep, "/")).parts
    if parts[:1] == (kind,):
        parts = parts[1:]
    folder = _root()
    if folder is None or not parts or ".." in parts or PurePosixPath(*parts).is_absolute():
        return None
    path = os.path.join(folder, kind, *parts)
    return path if os.path.exists(path) else None


def net_path(name: str | os.PathLike[str]) -> str:
    """A net or solver file as the programs take it: a path, or else a name in prototxt/.

    What is neither is given back as it is: opening it says what is wrong.
    """
    return os.fspath(name) if os.path.exists(name) else find("prototxt", name) or os.fspath(name)
