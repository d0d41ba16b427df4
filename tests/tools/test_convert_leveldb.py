"""tools/convert_leveldb.py as a user runs it; LevelDBs are written by plyvel."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import lmdb
import numpy as np
import plyvel
import pytest

from pycaffe_compat import DataError, Net, cli
from pycaffe_compat.data import leveldb
from pycaffe_compat.data.datum import image_to_datum
from tools import convert_leveldb


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6, 7, 3)).astype(np.uint8)


def write_leveldb(path: str, records: dict[bytes, bytes], **options: object) -> dict[bytes, bytes]:
    database = plyvel.DB(path, create_if_missing=True, error_if_exists=True, **options)
    for key, value in records.items():
        database.put(key, value)
    database.close()
    return records


def images(rows: int) -> dict[bytes, bytes]:
    return {b"%08d_%d.jpg" % (i, i): image_to_datum(pixels(i), i).SerializeToString() for i in reversed(range(rows))}


def content(folder: str) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(folder).iterdir()}


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda _: convert_leveldb.main(arguments))
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": None}, {"write_buffer_size": 65536}, {"write_buffer_size": 65536, "block_size": 200}],
    ids=["a log only", "plain", "tables and a log", "small blocks"],
)
def test_the_records_are_the_same_in_the_order_of_their_keys(options: dict[str, object]) -> None:
    records = write_leveldb("old", images(2000), **options)
    before = content("old")
    assert ("write_buffer_size" in options) == any(name.endswith(".ldb") for name in before)
    assert call("old", "new") == 0
    with lmdb.open("new", readonly=True, lock=False) as env, env.begin() as transaction:
        assert list(transaction.cursor()) == sorted(records.items())
    assert content("old") == before  # nothing was recovered, compacted or logged there
    assert sorted(os.listdir()) == ["new", "old"]


def test_a_table_that_a_killed_process_left_is_not_written_over() -> None:
    write_leveldb("old", images(2000), write_buffer_size=65536)
    newest = max(int(path.stem) for path in Path("old").iterdir() if path.stem.isdigit())
    for number in range(newest + 1, newest + 9):  # what new tables and logs will be called
        Path(f"old/{number:06d}.ldb").write_bytes(b"half a table")
    before = content("old")
    assert call("old", "new") == 0
    assert content("old") == before


def test_what_was_deleted_or_written_twice_is_as_leveldb_has_it() -> None:
    write_leveldb("old", images(5))
    with plyvel.DB("old") as database:
        database.delete(b"00000001_1.jpg")
        database.put(b"00000002_2.jpg", b"other")
    assert dict(leveldb.leveldb_records("old")) == {
        **{key: value for key, value in images(5).items() if key[:8] != b"00000001"},
        b"00000002_2.jpg": b"other",
    }


@pytest.mark.parametrize("backend", ["", "backend: LEVELDB", "backend: LMDB"])
def test_an_old_net_reads_the_copy_in_the_old_place(backend: str) -> None:
    write_leveldb("train_db", images(4))
    Path("net.prototxt").write_text(
        'layer { name: "data" type: "Data" top: "data" top: "label" '
        f'data_param {{ source: "train_db" batch_size: 4 {backend} }} }}'
    )
    with pytest.raises(DataError, match=r"train_db: is a LevelDB: copy it .*tools/convert_leveldb.py train_db NEW_FOLDER"):
        Net("net.prototxt", 0)
    assert call("train_db", "copy") == 0
    os.rename("train_db", "old")
    os.rename("copy", "train_db")
    blobs = Net("net.prototxt", 0).forward()
    assert blobs["label"].tolist() == [0, 1, 2, 3]
    assert (blobs["data"][2] == pixels(2).transpose(2, 0, 1)).all()


def test_a_folder_that_may_not_be_written_to() -> None:
    write_leveldb("old", images(3))
    for path in [*Path("old").iterdir(), Path("old")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        assert call("old", "new") == 0
    finally:
        Path("old").chmod(0o755)


def damaged(position: float) -> None:
    write_leveldb("damaged", images(2000), write_buffer_size=65536)
    table = max(Path("damaged").glob("*.ldb"), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[int(position * len(data))] ^= 0xFF
    table.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "error: none: no such folder"),
        ("empty", "error: empty: is no LevelDB: there is no CURRENT in it"),
        ("no records", "error: no records: holds no records"),
        ("junk", "error: junk: cannot be read, or is damaged ("),
        ("damaged", "error: damaged: cannot be read, or is damaged (Corruption: "),
        ("table gone", "error: table gone: cannot be read, or is damaged ("),
        ("long key", 'error: long key: record "' + 100 * "k" + '": its key has 512 bytes, LMDB takes 511'),
        ("taken", "error: new: exists already"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    write_leveldb("no records", {})
    Path("junk").mkdir()
    Path("junk/CURRENT").write_text("MANIFEST-000001\n")
    damaged(0.5)
    write_leveldb("table gone", images(2000), write_buffer_size=65536)
    next(Path("table gone").glob("*.ldb")).unlink()
    write_leveldb("long key", {b"a": b"1", b"k" * 512: b"2"})
    write_leveldb("taken", {b"a": b"1"})
    if name == "taken":
        Path("new").mkdir()
    before = sorted(os.listdir())
    assert call(name, "new") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(message) and "leveldb_" not in error
    assert sorted(os.listdir()) == before


def test_without_plyvel_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plyvel", None)
    write_leveldb("old", images(1))
    assert call("old", "new") == 1
    assert "error: old: LevelDB is read by the package plyvel: pip install plyvel\n" in capsys.readouterr().err
