"""glog's prefix, C++'s numbers, and what other programs read out of a log."""

import re
from pathlib import Path

import pytest

from pycaffe_compat import log


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10.162128448486328, "10.1621"),
        (1e-05, "1e-05"),
        (0.0001, "0.0001"),
        (9.999999747378752e-05, "0.0001"),
        (4.999999873689376e-05, "5e-05"),
        (8.0, "8"),
        (0.0, "0"),
        (1234567.0, "1.23457e+06"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_as_cpp_prints_them(value: float, text: str) -> None:
    assert log.number(value) == text


def test_prefix_is_the_classic_one() -> None:
    line = log.line("Solving L4", "solver.cpp:289", now=1_000_000_000.25)
    assert re.fullmatch(r"I09\d\d \d\d:\d\d:40\.250000 +\d+ solver\.cpp:289\] Solving L4", line)


def test_lines_go_to_stderr_and_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "a.log"
    with log.to_file(path):
        log.info("one\ntwo", "x.cpp:1")
        log.warning("three", "x.cpp:2")
        log.error("four", "x.cpp:3")
    log.info("five", "x.cpp:4")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line[0] for line in lines] == ["I", "t", "W", "E", "I"]
    assert path.read_text().splitlines() == lines[:4]
    with log.to_file(path, append=True):
        log.info("six", "x.cpp:5")
    assert len(path.read_text().splitlines()) == 5
    with log.to_file(path):
        log.info("seven", "x.cpp:6")
    assert len(path.read_text().splitlines()) == 1


def test_minloglevel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GLOG_minloglevel", "1")
    log.info("hidden", "x.cpp:1")
    log.warning("shown", "x.cpp:1")
    monkeypatch.setenv("GLOG_minloglevel", "nonsense")
    log.info("shown too", "x.cpp:1")
    assert [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()] == ["shown", "shown too"]


def test_console_takes_the_place_of_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with log.console(lines.append):
        log.info("above the bar", "x.cpp:1")
    log.info("plain", "x.cpp:1")
    assert lines[0].endswith("] above the bar")
    assert capsys.readouterr().err.count("\n") == 1
