"""Log lines in the form that Caffe's users and Caffe's own log parser know.

    I1122 07:50:47.831974 23225 solver.cpp:289] Solving L4

is glog's classic prefix (severity and date, time, thread, source tag), before a text of one or several
lines. Newer glog puts the year into the prefix, which Caffe's parser cannot read: the classic one is written.
The tag is that of the line of the original program that prints the same: scripts in the wild look for it.

Lines go to stderr, and to a file as well while :func:`to_file` is open. ``GLOG_minloglevel`` (0 info, 1
warning, 2 error) silences lines as it does with Caffe; :func:`set_level` is stronger.

pycaffe has a function of this module's name, so the module can be called: ``caffe.log("text")`` logs a line.
"""

import contextlib
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import TextIO

_SEVERITIES = "IWE"

_files: list[TextIO] = []
_lock = threading.RLock()
_consoles: list[Callable[[str], object]] = []
_level: int | None = None


def number(value: float) -> str:
    """A number as C++ streams print it by default: six significant digits (``10.1621``, ``1e-05``)."""
    return f"{value:.6g}"


def line(message: str, tag: str, severity: str = "I", now: float | None = None) -> str:
    """``message`` behind glog's prefix; ``now`` is seconds since the epoch (default: the present)."""
    now = time.time() if now is None else now
    seconds, micros = divmod(int(now * 1e6), 1_000_000)
    stamp = time.strftime("%m%d %H:%M:%S", time.localtime(seconds))
    return f"{severity}{stamp}.{micros:06d} {threading.get_native_id():5d} {tag}] {message}"


def _write(severity: str, message: str, tag: str) -> None:
    try:
        least = int(os.environ.get("GLOG_minloglevel", "0")) if _level is None else _level
    except ValueError:
        least = 0
    if _SEVERITIES.index(severity) < least:
        return
    text = line(message, tag, severity) + "\n"
    # Reentrant, because a signal handler may log while the line it interrupted is being written.
    with _lock:
        if _consoles:
            _consoles[-1](text[:-1])
        else:
            # One write a line: two processes that share a terminal or a file then never mix within a line.
            sys.stderr.write(text)
            sys.stderr.flush()
        for file in _files:
            file.write(text)
            file.flush()


def set_level(level: int | None) -> None:
    """The least severity that is written: 0 info, 1 warning, 2 error, 3 nothing; None: GLOG_minloglevel's."""
    global _level
    _level = level


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """While the block runs, write no lines."""
    global _level
    before, _level = _level, len(_SEVERITIES)
    try:
        yield
    finally:
        _level = before


def info(message: str, tag: str) -> None:
    """Log progress. ``tag`` names the place in Caffe's source that prints this, e.g. ``solver.cpp:289``."""
    _write("I", message, tag)


def warning(message: str, tag: str) -> None:
    """Log something that the user probably did not mean, but that can go on."""
    _write("W", message, tag)


def error(message: str, tag: str) -> None:
    """Log a line with severity E (Caffe prints debug_info's norms so)."""
    _write("E", message, tag)


@contextlib.contextmanager
def to_file(path: str | os.PathLike[str], append: bool = False) -> Iterator[None]:
    """Write every log line into this file too, until the block ends.

    A missing directory is created. ``append`` continues a file (a resumed training), else it starts anew.
    Raises OSError where the file cannot be written.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "a" if append else "w", encoding="utf-8", errors="backslashreplace") as file:
        with _lock:
            _files.append(file)
        try:
            yield
        finally:
            with _lock:
                _files.remove(file)


@contextlib.contextmanager
def console(write: Callable[[str], object]) -> Iterator[None]:
    """While the block runs, hand each line (without its line end) to ``write`` instead of writing it to
    stderr: a progress bar prints lines above itself so."""
    with _lock:
        _consoles.append(write)
    try:
        yield
    finally:
        with _lock:
            _consoles.remove(write)


class _CallableModule(types.ModuleType):
    def __call__(self, message: str) -> None:
        info(message, "_caffe.cpp:73")


sys.modules[__name__].__class__ = _CallableModule
