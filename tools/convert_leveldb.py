#!/usr/bin/env python3
"""Copy a LevelDB into an LMDB, the database that is read here.

    tools/convert_leveldb.py ilsvrc12_train_leveldb ilsvrc12_train_lmdb

The records are the same, byte for byte and in the same order. A net that says nothing else than its old `source` reads
the LMDB as it read the LevelDB, once it stands in its place: the folder tells what it is, not `backend`. The LevelDB is
not changed: a copy of it is read, for which the folder TMPDIR (default: /tmp) must have room. The LMDB appears when it
is complete. Wants the package plyvel (pip install plyvel).
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
from collections.abc import Sequence

from pycaffe_compat import cli
from pycaffe_compat.data.leveldb import leveldb_to_lmdb


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="convert_leveldb.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("leveldb", metavar="LEVELDB", help="folder of the LevelDB")
    result.add_argument("lmdb", metavar="LMDB", help="folder of the new LMDB; must not exist")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The program; ``argv`` without its name."""
    args = parser().parse_args(argv)
    with cli.progress(total=None, desc="copying", unit="records") as progress:
        count = leveldb_to_lmdb(args.leveldb, args.lmdb, progress.update)
    print(f"{args.lmdb}: {count} records")
    return 0


if __name__ == "__main__":
    cli.run(main)
