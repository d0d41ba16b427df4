"""How programs end (exit codes, one-line errors), how they show progress, and argument types."""

import argparse
import errno
import io
import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from pycaffe_compat import cli, errors

ROOT = Path(__file__).resolve().parent.parent


def program(tmp_path: Path, body: str) -> list[str]:
    """Command line of a program whose main() has this body."""
    file = tmp_path / "program.py"
    file.write_text(
        "import os, signal, sys\n"
        "from pycaffe_compat import cli, errors\n"
        "def main(argv):\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\n"
        "cli.run(main)\n"
    )
    return [sys.executable, str(file)]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)  # it decides which call meets a full disk
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120, **options}
    return subprocess.run(command, text=True, env=environment, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("raise errors.NetError('a.prototxt:3: no such layer')", 1, "error: a.prototxt:3: no such layer\n"),
        ("raise errors.CaffeError('two\\nlines')", 1, "error: two lines\n"),
        ("open('no/such/file')", 1, "error: no/such/file: No such file or directory\n"),
        ("open('/')", 1, "error: /: Is a directory\n"),
        ("os.rename('from', 'to')", 1, "error: from -> to: No such file or directory\n"),
        ("raise OSError('short and odd')", 1, "error: short and odd\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("os.kill(os.getpid(), signal.SIGINT)\nsignal.pause()", 130, "interrupted\n"),
        ("sys.exit(2)", 2, ""),
    ],
)
def test_exit_code_and_message(tmp_path: Path, body: str, code: int, stderr: str) -> None:
    done = run(program(tmp_path, body))
    assert (done.returncode, done.stderr, done.stdout) == (code, stderr, "")


def test_arguments_without_the_program_name(tmp_path: Path) -> None:
    done = run([*program(tmp_path, "print(argv)"), "--a", "b"])
    assert done.stdout == "['--a', 'b']\n"


def test_other_exceptions_are_bugs_and_show_a_traceback(tmp_path: Path) -> None:
    done = run(program(tmp_path, "1 / 0"))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and "ZeroDivisionError" in done.stderr


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(program(tmp_path, "print('x' * 100_000)"), stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (cli.EXIT_BROKEN_PIPE, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_disk_on_standard_output_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(program(tmp_path, "print('short: stays in the buffer until the end')"), stdout=full)
    assert done.returncode == 1
    assert done.stderr == f"error: standard output: {os.strerror(errno.ENOSPC)}\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.h5"), "x.h5: No space left on device"),
        (OSError(errno.EXDEV, "Cross-device link", "a", None, "b"), "a -> b: Cross-device link"),
        (OSError(errno.EIO, "Input/output error", b"bytes"), "bytes: Input/output error"),
        (OSError(errno.EIO, "Input/output error", 7), "Input/output error"),
        (OSError(), "OSError"),
    ],
)
def test_describe_os_error(error: OSError, text: str) -> None:
    assert errors.describe_os_error(error) == text


@pytest.mark.parametrize(
    ("error", "text"), [(MemoryError(), ""), (MemoryError("Unable to allocate 9 EiB"), ": Unable to allocate 9 EiB")]
)
def test_no_memory_is_one_line(error: MemoryError, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> int:
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 1 and capsys.readouterr().err == f"error: not enough memory{text}\n"


def test_plain_progress_says_little() -> None:
    out = io.StringIO()
    with cli.progress(1000, "patches", "file", stream=out) as bar:
        for _ in range(1000):
            bar.update()
        bar.write("a line")
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("patches: 100/1000 file (10 %), 00:00, ") and lines[0].endswith(" left")
    assert lines[-2:] == ["patches: 1000/1000 file (100 %), 00:00", "a line"]
    assert len(lines) == 11


def test_plain_progress_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(cli.time, "monotonic", lambda: now)
    out = io.StringIO()
    with cli.progress(10_000, initial=1000, stream=out) as bar:
        for _ in range(30):
            now += 1
            bar.update(2)
    # 9000 remain at 2 a second; what was done before the start does not count for the speed.
    assert out.getvalue().splitlines() == [
        "1020/10000 it (10 %), 00:10, 1:14:50 left",
        "1040/10000 it (10 %), 00:20, 1:14:40 left",
        "1060/10000 it (10 %), 00:30, 1:14:30 left",
    ]


@pytest.mark.parametrize("total", [0, None])
def test_plain_progress_without_a_total(total: int | None) -> None:
    out = io.StringIO()
    with cli.progress(total, stream=out) as bar:
        bar.update(0)
    assert out.getvalue() == ("" if total is None else "0/0 it, 00:00\n")


def read_all(leader: int) -> bytes:
    """What was written to a terminal whose other end is closed: it arrives in pieces, then Linux says EIO."""
    pieces = []
    while True:
        try:
            pieces.append(os.read(leader, 65536))
        except OSError:
            return b"".join(pieces)
        if not pieces[-1]:
            return b"".join(pieces)


@pytest.mark.parametrize("columns", [40, 100])
def test_bar_on_a_terminal_keeps_to_its_width(columns: int) -> None:
    import fcntl
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(follower, "w", buffering=1) as terminal:
        with cli.progress(8, "restoring", "tile", stream=terminal) as bar:
            bar.update(3)
            bar.write("between")
            bar.update(5)
    shown = read_all(leader).decode()
    os.close(leader)
    assert "restoring" in shown and "8/8" in shown and "\rbetween\r\n" in shown.replace(" ", "")
    assert max(len(line) for line in shown.replace("\n", "\r").split("\r")) <= columns


def test_interrupt_reaches_a_program_under_a_bar(tmp_path: Path) -> None:
    body = """
    with cli.progress(10, "work") as bar:
        bar.update(5)
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    """
    done = run(program(tmp_path, body))
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.splitlines()[-1] == "interrupted"


def test_interrupt_within_a_callback_is_not_lost(tmp_path: Path) -> None:
    # Python prints and forgets what is raised in a weak reference's callback or a destructor; h5py has many.
    body = """
    import time, weakref
    class Thing: pass
    thing = Thing()
    kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT) or time.sleep(1))
    del thing
    time.sleep(10)
    """
    done = run(program(tmp_path, body))
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "interrupted\n")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (cli.positive_int, {"1": 1, "64": 64}, ["0", "-1", "1.5", "x", "", "3000000000", "1" + "0" * 400]),
        (cli.non_negative_int, {"0": 0, "3": 3}, ["-1", "2.0", "x", "99999999999999999999"]),
        (cli.int32, {"-5": -5}, ["3000000000", "-3000000000", "1.5"]),
        (cli.positive_float, {"0.5": 0.5, "1e-3": 1e-3}, ["0", "-1", "nan", "inf", "x", "1e20"]),
        (cli.non_negative_float, {"0": 0.0, "2": 2.0}, ["-0.1", "nan", "inf", "x"]),
        (cli.jpeg_quality, {"1": 1, "100": 100}, ["0", "101", "10.5", "low"]),
    ],
)
def test_argument_types(kind: type, good: dict[str, float], bad: list[str]) -> None:
    for text, value in good.items():
        assert kind(text) == value
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="is"):
            kind(text)


def test_freed_memory_stays_in_the_process() -> None:
    """Large blocks come from the heap afterwards: writing to the second one costs no page faults."""
    script = """
        import resource
        import numpy as np
        from pycaffe_compat import cli
        if not cli.tune_allocator():
            print("no glibc")
        else:
            np.ones(1 << 22, np.float64)  # 32 MiB: 8192 pages
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(1 << 22, np.float64)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    done = run([sys.executable, "-c", textwrap.dedent(script)])
    if done.stdout == "no glibc\n":
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100


def test_stages_have_commas_between_them() -> None:
    assert cli.stages(" deploy, quick,,") == ["deploy", "quick"]
    assert cli.stages("") == []


def test_names_that_are_no_text_are_shown_and_end_in_a_line(tmp_path: Path) -> None:
    """Printing one is fine; what wants UTF-8 (a message of protobuf) is told in a line."""
    done = run(program(tmp_path, "print('\\udcff')"))
    assert (done.returncode, done.stdout) == (0, "\\udcff\n")
    done = run(program(tmp_path, "'a\\udcff'.encode()"))
    assert done.returncode == 1
    assert done.stderr == "error: 'a\\udcff': is not text in UTF-8, and has to be written into a file: use another name\n"
