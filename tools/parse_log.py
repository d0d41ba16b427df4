#!/usr/bin/env python3
"""Makes tables of a training log, as Caffe's parse_log.py does.

    tools/parse_log.py caffe.log tables/                # tables/caffe.log.train and tables/caffe.log.test
    tools/parse_log.py --delimiter ';' --verbose caffe.log .

Reads logs of the original Caffe and of tools/train_net.py; tools/plot_log.py draws them.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import os
from collections.abc import Sequence

from pycaffe_compat import cli, curves
from pycaffe_compat.errors import DataError


def one_character(text: str) -> str:
    """A delimiter; \\t may be written out."""
    text = "\t" if text == "\\t" else text
    if len(text) != 1 or text in '"\r\n':
        raise argparse.ArgumentTypeError(f"{text!r} cannot stand between columns: give one character")
    return text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="parse_log.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("logfile_path", help="the log")
    result.add_argument("output_dir", help="folder for the tables, LOG.train and LOG.test")
    result.add_argument("--verbose", action="store_true", help="print the names of the files that are written")
    result.add_argument("--delimiter", type=one_character, default=",", help="between columns (default: ,)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The program; ``argv`` without its name."""
    args = parser().parse_args(argv)
    tables = curves.parse_log(args.logfile_path)
    if not os.path.isdir(args.output_dir):
        raise DataError(f"{args.output_dir}: no such folder")
    for kind, rows in zip(("train", "test"), tables, strict=True):
        path = os.path.join(args.output_dir, f"{os.path.basename(args.logfile_path)}.{kind}")
        if not rows:
            print(f"{path} is not written: the log has no {kind} outputs")
            continue
        curves.write_csv(rows, path, args.delimiter)
        if args.verbose:
            print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
