"""LevelDB databases of Datum records, copied into LMDB: the same records in the same order.

Caffe's default was LevelDB. It cannot be read without its folder being written to (opening one recovers its log and
makes new tables), nor by two processes, nor be asked how many records it holds; so a copy of it is read, once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pycaffe_compat.data.imageset import MAX_KEY, Progress, write_lmdb
from pycaffe_compat.data.lmdb import Record, key_text
from pycaffe_compat.errors import DataError
from pycaffe_compat.files import new_folder

MAX_OPEN_FILES = 200
"""Of LevelDB's tables, 2 MB each in Caffe's databases: far below what systems let a process open."""


def leveldb_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of a LevelDB in the order of their keys. Nothing in its folder is changed: the temporary folder
    (``TMPDIR``) must have room for a copy.

    Raises:
        DataError: it is missing, no LevelDB or damaged, or the package plyvel is not installed.
    """
    name = os.fspath(path)
    try:
        import plyvel
    except ImportError as error:
        raise DataError(f"{name}: LevelDB is read by the package plyvel: pip install plyvel") from error
    if not os.path.exists(os.path.join(path, "CURRENT")):
        what = "no such folder" if not os.path.exists(path) else "is no LevelDB: there is no CURRENT in it"
        raise DataError(f"{name}: {what}")
    with tempfile.TemporaryDirectory(prefix="leveldb_") as folder:
        try:
            _copy(Path(path), Path(folder))
            # What is read once needs no bigger cache; Caffe's tables carry checksums.
            database = plyvel.DB(folder, paranoid_checks=True, max_open_files=MAX_OPEN_FILES)
            try:
                for key, value in database.iterator(verify_checksums=True, fill_cache=False):
                    yield Record(key, value)
            finally:
                database.close()
        except (plyvel.Error, OSError) as error:
            message = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
            reason = " ".join(message.replace(folder, name).split())
            raise DataError(f"{name}: cannot be read, or is damaged ({reason})") from error


def _copy(source: Path, folder: Path) -> None:
    """A LevelDB's files under another folder.

    Links would not do: a table that a killed process left half made may have the number of the next new one, which is
    then written through the link.
    """
    for file in source.iterdir():
        if file.suffix in (".ldb", ".sst", ".log") or file.name == "CURRENT" or file.name.startswith("MANIFEST"):
            shutil.copyfile(file, folder / file.name)


def leveldb_to_lmdb(
    source: str | os.PathLike[str], output: str | os.PathLike[str], progress: Progress = lambda _: None
) -> int:
    """Copy a LevelDB into a new LMDB, record by record; the number of records.

    The LMDB appears under its name when it is complete; a killed run leaves a hidden folder beside it.

    Args:
        output: the LMDB's folder, which must not exist.
        progress: called with 1 for each record.

    Raises:
        DataError: the source cannot be read or holds no records, or the output exists or cannot be written.
    """
    count = 0

    def records() -> Iterator[tuple[bytes, bytes]]:
        nonlocal count
        for record in leveldb_records(source):
            if len(record.key) > MAX_KEY:
                where = f"{os.fspath(source)}: record {key_text(record.key)}"
                raise DataError(f"{where}: its key has {len(record.key)} bytes, LMDB takes {MAX_KEY}")
            yield record
            count += 1
            progress(1)
        if not count:
            raise DataError(f"{os.fspath(source)}: holds no records")

    with new_folder(output) as folder:
        write_lmdb(folder, records(), output)
    return count
