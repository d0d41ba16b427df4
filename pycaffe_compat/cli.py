"""What every program in ``tools/`` shares: how it starts and ends, and how it shows that it is getting on.

A program is a function ``main(argv) -> int | None`` and one line::

    if __name__ == "__main__":
        cli.run(main)

Exit codes: 0 done, 1 bad input (one line on standard error says which file and what to do), 2 wrong usage
(argparse), 130 interrupted, 141 when whoever read the output has gone. A traceback means a bug in the program and
nothing else.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, Protocol, TextIO

from tqdm import tqdm

from pycaffe_compat.errors import CaffeError, describe_os_error

EXIT_BAD_INPUT = 1
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for a program that the signal ended
EXIT_INTERRUPTED = 130  # 128 + SIGINT

# Plain progress (no terminal): a line at each tenth of the work, and whenever the last line is this old.
_LOG_FRACTION = 0.1
_LOG_SECONDS = 10.0


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Run a program on the command line's arguments and leave the process with the right exit code.

    main: takes the arguments without the program's name; returns an exit code, None being 0.
    """
    tune_allocator()
    sys.unraisablehook = _keep_interrupt
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text; standard error is so
    try:
        code = main(sys.argv[1:]) or 0
        _flush_stdout()
    except CaffeError as error:
        code = _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) has gone
        _abandon_stdout()
        code = EXIT_BROKEN_PIPE
    except OSError as error:
        code = _fail(describe_os_error(error))
    except UnicodeEncodeError as error:
        code = _fail(f"{error.object!a}: is not text in UTF-8, and has to be written into a file: use another name")
    except MemoryError as error:
        code = _fail(f"not enough memory: {error}".removesuffix(": "))
    sys.exit(code)


def _keep_interrupt(unraisable: sys.UnraisableHookArgs) -> None:
    """Ctrl-C within a destructor or a weak reference's callback, where Python can raise nothing: ask again soon."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)


def _flush_stdout() -> None:
    """A full disk or a closed pipe shows only when the last buffer is written: now, while it can be told."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _abandon_stdout()
        raise OSError(error.errno, error.strerror, "standard output") from error


def _abandon_stdout() -> None:
    """Python flushes standard output once more when it exits, and would complain again: give it a sink."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return EXIT_BAD_INPUT


@contextmanager
def let_end(child: subprocess.Popen[str]) -> Iterator[None]:
    """While a child runs: Ctrl-C, which reaches it too, waits for it. A training writes its snapshot first."""
    try:
        yield
    except KeyboardInterrupt:
        child.wait()
        raise


class Progress(Protocol):
    """What `progress` gives: count work done, and print lines without tearing a bar."""

    def update(self, n: int = 1, /) -> None:
        """n more units are done."""

    def write(self, line: str, /) -> None:
        """Print a line to standard error, above the bar if there is one."""


class _Bar:
    """A tqdm bar on a terminal."""

    def __init__(self, bar: tqdm[NoReturn]) -> None:
        self._bar = bar

    def update(self, n: int = 1, /) -> None:
        self._bar.update(n)

    def write(self, line: str, /) -> None:
        tqdm.write(line, file=self._bar.fp)


class _Lines:
    """Occasional plain lines for logs, pipes and CI."""

    def __init__(self, stream: TextIO, total: int | None, desc: str, unit: str, initial: int) -> None:
        self._stream = stream
        self._total = total
        self._prefix = f"{desc}: " if desc else ""
        self._unit = unit
        self._initial = initial
        self._done = initial
        self._start = self._last_time = time.monotonic()
        self._last_done = initial

    def update(self, n: int = 1, /) -> None:
        self._done += n
        now = time.monotonic()
        tenth = self._total is not None and self._done - self._last_done >= _LOG_FRACTION * self._total
        finished = self._done == self._total
        if finished or tenth or now - self._last_time >= _LOG_SECONDS:
            self.write(self.line(now - self._start))
            self._last_time, self._last_done = now, self._done

    def write(self, line: str, /) -> None:
        print(line, file=self._stream, flush=True)

    def line(self, elapsed: float) -> str:
        """The line for the present state after `elapsed` seconds."""
        if self._total is None:
            return f"{self._prefix}{self._done} {self._unit}, {_clock(elapsed)}"
        text = f"{self._prefix}{self._done}/{self._total} {self._unit}"
        if self._total > 0:
            text += f" ({100 * self._done // self._total} %)"
        text += f", {_clock(elapsed)}"
        fresh = self._done - self._initial
        if 0 < fresh and self._done < self._total:
            text += f", {_clock(elapsed * (self._total - self._done) / fresh)} left"
        return text


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"


@contextmanager
def progress(
    total: int | None, desc: str = "", unit: str = "it", initial: int = 0, *, stream: TextIO | None = None
) -> Iterator[Progress]:
    """Show progress while the block runs: a bar with an ETA on a terminal, a line now and then elsewhere.

    total: units in all, None when it isn't known; initial: units that were done before (a resumed run), which
    do not count for the speed; stream: default standard error, so that what a program prints can be piped.
    """
    out = sys.stderr if stream is None else stream
    if not out.isatty():
        yield _Lines(out, total, desc, unit, initial)
        return
    # dynamic_ncols: the bar follows the terminal's width, also when the window is resized.
    with tqdm(total=total, desc=desc, unit=unit, initial=initial, file=out, dynamic_ncols=True) as bar:
        yield _Bar(bar)


def tune_allocator(threshold: int = 1 << 30) -> bool:
    """Keep freed memory in the process, not handed back to the kernel; True where that took effect.

    glibc gives a block over 128 KiB (up to 32 MiB after it has adapted) its own mapping and unmaps it when
    it is freed, so the blobs of each training iteration are page-faulted in and zeroed again: a quarter of an
    iteration's time. Both thresholds are set, in bytes; older glibc refuses mapping thresholds over 32 MiB,
    which is then used. Other C libraries have no such call and are left alone.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
        libc.gnu_get_libc_version  # noqa: B018  (musl and others may have a mallopt of another meaning)
    except (AttributeError, OSError, TypeError):
        return False
    mapped = mallopt(m_mmap_threshold, threshold) or mallopt(m_mmap_threshold, min(threshold, 32 << 20))
    trimmed = mallopt(m_trim_threshold, threshold)
    return bool(mapped and trimmed)


def gflags(argv: Sequence[str], names: Sequence[str], switches: Sequence[str] = ()) -> list[str]:
    """Arguments with Caffe's ways to write a flag (-solver x, --solver=x, -solver=x) brought to argparse's one.

    names, switches: the flags that are meant, so that short options and negative numbers stay what they are. A switch
    has no value, or is true or false (-gray, --gray=true, --nogray, --gray=false): one that is off is left out.
    """
    flag = re.compile(rf"--?({'|'.join(map(re.escape, names))})(=.*)?", re.DOTALL)
    states = "true|false|1|0|yes|no|t|f|y|n"
    switch = re.compile(rf"--?(no)?({'|'.join(map(re.escape, switches))})(?:=({states}))?", re.IGNORECASE)
    result = []
    for word in argv:
        if match := flag.fullmatch(word):
            result.append(f"--{match[1]}{match[2] or ''}")
        elif switches and (match := switch.fullmatch(word)):
            if (match[3] is None or match[3].lower() in ("true", "1", "yes", "t", "y")) != bool(match[1]):
                result.append(f"--{match[2]}")
        else:
            result.append(word)
    return result


# Types for argparse: each turns a word into a value or says in one line what it should have been (exit 2).

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
LARGEST = 1e9  # of what has a fraction: seconds, megabytes, inches


def _number(text: str, kind: type[int] | type[float]) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        name = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {name}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    if abs(value) > (INT64_MAX if kind is int else LARGEST):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is too large")
    return value


def int32(text: str) -> int:
    """A whole number of 32 bits, as Caffe's settings are."""
    value = int(_number(text, int))
    if not -INT32_MAX <= value <= INT32_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is too large")
    return value


def positive_int(text: str) -> int:
    """1, 2, 3, ... of 32 bits."""
    value = int32(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is less than 1")
    return value


def non_negative_int(text: str) -> int:
    """0, 1, 2, ... of 64 bits."""
    value = int(_number(text, int))
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = float(_number(text, float))
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def non_negative_float(text: str) -> float:
    """A finite number, 0 or above."""
    value = float(_number(text, float))
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative")
    return value


def stages(text: str) -> list[str]:
    """The stages of a net's state, with commas between them."""
    return [stage.strip() for stage in text.split(",") if stage.strip()]


def jpeg_quality(text: str) -> int:
    """A JPEG quality of libjpeg's scale, 1..100."""
    value = int(_number(text, int))
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a JPEG quality (1..100)")
    return value
