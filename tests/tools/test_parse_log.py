"""tools/parse_log.py against what Caffe's parse_log.py made of the same logs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pycaffe_compat import cli
from tools import parse_log


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda _: parse_log.main([str(word) for word in words]))
    return int(end.value.code or 0)


@pytest.mark.parametrize("name", ["train.log", "train_average_loss.log", "train_cls.log"])
def test_tables_are_the_originals_to_the_byte(name: str, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(golden / name, tmp_path) == 0
    assert capsys.readouterr().out == ""
    for kind in ("train", "test"):
        want = (golden / "parse_log" / f"{name}.{kind}").read_bytes()
        assert (tmp_path / f"{name}.{kind}").read_bytes() == want


def test_verbose_and_delimiter(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--verbose", "--delimiter", ";", golden / "train.log", tmp_path) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path}/train.log.train\nWrote {tmp_path}/train.log.test\n"
    want = (golden / "parse_log" / "train.log.train").read_bytes()
    assert (tmp_path / "train.log.train").read_bytes() == re.sub(b",", b";", want)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["no.log", "."], 1, "error: no.log: No such file or directory"),
        (["empty.log", "."], 1, "no line 'Solving ...' in it"),
        (["good.log", "no/folder"], 1, "error: no/folder: no such folder"),
        (["good.log", ".", "--delimiter", ";;"], 2, "';;' cannot stand between columns"),
        (["good.log"], 2, "the following arguments are required: output_dir"),
    ],
)
def test_refused(
    words: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.log").write_text("hello\n")
    Path("good.log").write_text(
        "I1122 07:50:47.1 1 solver.cpp:289] Solving n\nI1122 07:50:47.2 1 solver.cpp:239] Iteration 0 (1 iter/s, 1s/1 iters), loss = 1\n"
    )
    assert call(*words) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert sorted(p.name for p in Path(".").iterdir()) == ["empty.log", "good.log"]
