#!/usr/bin/env python3
"""Compute the mean image of an LMDB, for a transform_param's mean_file.

    tools/compute_image_mean.py train_lmdb mean.binaryproto
    tools/compute_image_mean.py train_lmdb

All images must have one size. The mean of each channel, for mean_value, is printed; without OUTPUT_FILE that is all.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import sys
from collections.abc import Sequence

from pycaffe_compat import cli
from pycaffe_compat.data.imageset import compute_image_mean, write_mean
from pycaffe_compat.data.lmdb import open_database


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="compute_image_mean.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("database", metavar="INPUT_DB", help="folder of the LMDB")
    add("output", metavar="OUTPUT_FILE", nargs="?", help="the .binaryproto file to write")
    add("--backend", choices=["lmdb"], default="lmdb", help="a LevelDB: tools/convert_leveldb.py")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The program; ``argv`` without its name."""
    args = parser().parse_args(cli.gflags(sys.argv[1:] if argv is None else argv, ["backend"]))
    with cli.progress(total=open_database(args.database).rows, desc="summing", unit="images") as progress:
        mean = compute_image_mean(args.database, progress.update)
    if args.output:
        write_mean(args.output, mean)
    for channel, value in enumerate(mean.mean((1, 2), dtype=float)):
        print(f"mean_value channel [{channel}]: {value:g}")
    return 0


if __name__ == "__main__":
    cli.run(main)
