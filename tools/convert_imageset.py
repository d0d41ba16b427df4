#!/usr/bin/env python3
"""Make an LMDB of images and their labels, for Caffe's Data layer.

    tools/convert_imageset.py --resize_height=256 --resize_width=256 --shuffle images/ train.txt train_lmdb
    tools/convert_imageset.py --encoded images/ train.txt train_lmdb

The list holds a path and a label on each line; ROOTFOLDER is put in front of each path as it is, so give it its slash.
Flags are those of Caffe's program, with one or two dashes, as are switches (--gray, --gray=false, --nogray). An image
that cannot be read is left out with a warning. The database appears when it is complete.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import sys
from collections.abc import Sequence

from pycaffe_compat import cli
from pycaffe_compat.data.images import read_image_list
from pycaffe_compat.data.imageset import convert_imageset

FLAGS = ("resize_height", "resize_width", "backend", "encode_type", "seed")
SWITCHES = ("gray", "shuffle", "check_size", "encoded")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="convert_imageset.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("root", metavar="ROOTFOLDER/", help="what stands in front of the list's paths")
    add("list", metavar="LISTFILE", help="text file: a path and a label on each line")
    add("database", metavar="DB_NAME", help="folder of the new LMDB; must not exist")
    add("--gray", action="store_true", help="one channel instead of three")
    add("--shuffle", action="store_true", help="in a random order")
    add("--seed", type=cli.non_negative_int, default=0, metavar="N", help="of that order (default: 0)")
    add("--resize_height", type=cli.non_negative_int, default=0, metavar="N", help="0: as it is")
    add("--resize_width", type=cli.non_negative_int, default=0, metavar="N", help="0: as it is")
    add("--backend", choices=["lmdb"], default="lmdb", help="LevelDB is not written")
    add("--check_size", action="store_true", help="an image of another size than the first is an error")
    add("--encoded", action="store_true", help="keep images as files, not as pixels")
    add("--encode_type", default="", metavar="KIND", help="as what kind of file: png, jpg (default: as it is named)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The program; ``argv`` without its name."""
    args = parser().parse_args(cli.gflags(sys.argv[1:] if argv is None else argv, FLAGS, SWITCHES))
    with cli.progress(total=len(read_image_list(args.list)), desc="converting", unit="images") as progress:
        done = convert_imageset(
            args.root,
            args.list,
            args.database,
            gray=args.gray,
            shuffle=args.shuffle,
            seed=args.seed,
            size=(args.resize_height, args.resize_width),
            check_size=args.check_size,
            encoded=args.encoded,
            encode_type=args.encode_type,
            progress=progress.update,
        )
    for message in done.left_out:
        print(f"warning: {message}; left out", file=sys.stderr)
    print(f"{args.database}: {done.records} images, {len(done.left_out)} left out")
    return 0


if __name__ == "__main__":
    cli.run(main)
