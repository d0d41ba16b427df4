#!/usr/bin/env python3
"""Resizes images and cuts out their middle: squares of one size, in another folder under the same names.

    tools/resize_and_crop_images.py --input_folder photos/ --output_folder squares/
    tools/resize_and_crop_images.py --input list.txt --input_folder photos/ --output_folder squares/ \\
                                    --output_side_length 227

Flags are those of Caffe's program, with one or two dashes. A list (--input) names files within the input folder, one a
line, a label behind each if you like; without it all files of the folder are taken. An image that cannot be read is
left out with a warning.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import os
import sys
from collections.abc import Sequence

from pycaffe_compat import cli
from pycaffe_compat.data.images import read_lines
from pycaffe_compat.data.resize import resize_and_crop
from pycaffe_compat.errors import DataError

FLAGS = ("input", "input_folder", "output_folder", "output_side_length", "image_lib", "num_clients")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="resize_and_crop_images.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--input", metavar="LIST", help="text file: a file name on each line (default: all files of the folder)")
    add("--input_folder", required=True, metavar="DIR")
    add("--output_folder", required=True, metavar="DIR")
    add("--output_side_length", type=cli.positive_int, default=256, metavar="N", help="of the squares (default: 256)")
    add("--image_lib", type=str.lower, choices=["opencv", "pil"], default="opencv", help="default: opencv")
    add("--num_clients", type=cli.positive_int, default=1, metavar="N", help="taken for old scripts; has no effect")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The program; ``argv`` without its name."""
    args = parser().parse_args(cli.gflags(sys.argv[1:] if argv is None else argv, FLAGS))
    if not os.path.isdir(args.input_folder):
        raise DataError(f"{args.input_folder}: no such folder")
    if args.input:
        files = [line.split()[0] for line in read_lines(args.input, "the list of images") if line.strip()]
    else:
        found = (os.path.join(top, name) for top, _, names in os.walk(args.input_folder) for name in names)
        files = sorted(os.path.relpath(path, args.input_folder) for path in found)
    with cli.progress(total=len(files), desc="resizing", unit="images") as progress:
        done = resize_and_crop(
            files, args.input_folder, args.output_folder, args.output_side_length, args.image_lib, progress.update
        )
    for message in done.left_out:
        print(f"warning: {message}; left out", file=sys.stderr)
    print(f"{args.output_folder}: {done.images} images, {len(done.left_out)} left out")
    return 0


if __name__ == "__main__":
    cli.run(main)
