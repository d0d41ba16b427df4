#!/usr/bin/env python3
"""Cut training patches from photographs: folders of images -> HDF5 databases and their list for HDF5Data.

    tools/make_patches.py --images bsds500/train bsds500/test --quality 10 --size 64 --count 100000 \\
        --seed 1 --output data/q10_64_train

makes data/q10_64_train_000.h5, data/q10_64_train_001.h5, ... and data/q10_64_train.txt, which lists them:
hdf5_data_param { source: "data/q10_64_train.txt" }. Each file holds "data" (what JPEG left) and "label" (the
original), luma 0..255, (rows, 1, size, size). The same command on the same images gives the same bytes.

To choose settings on photographs that are not trained on, set some apart, here 40:

    tools/make_patches.py --images photos --limit 40 --count 2000 --output data/choose
    tools/make_patches.py --images photos --skip_images 40 --output data/train
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import sys
import time
from collections.abc import Sequence

from pycaffe_compat import cli
from pycaffe_compat.restoration.patches import DTYPES, Settings, make_patches

DEFAULT = Settings()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="make_patches",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", nargs="+", required=True, metavar="PATH", help="image files, folders or globs")
    add("--output", required=True, metavar="NAME", help="what the files' names begin with, as data/train")
    add("--quality", nargs="+", type=cli.jpeg_quality, default=list(DEFAULT.qualities), metavar="Q",
        help="JPEG quality, 1..100; several are mixed in equal shares (default: 10)")  # fmt: skip
    add("--size", type=cli.positive_int, default=DEFAULT.size, metavar="PIXELS",
        help="side of a patch; images that are smaller are left out (default: %(default)s)")  # fmt: skip
    add("--count", type=cli.positive_int, default=DEFAULT.count, metavar="N",
        help="patches in all, the same number from each image (default: %(default)s)")  # fmt: skip
    add("--seed", type=cli.non_negative_int, default=DEFAULT.seed, metavar="N",
        help="of places, flips, rotations and order (default: %(default)s)")  # fmt: skip
    add("--grid", type=cli.positive_int, default=1, metavar="N",
        help="cut at multiples of N pixels: with 8, the JPEG's blocks begin where patches do (default: 1)")  # fmt: skip
    add("--no_augment", action="store_true", help="no flips and rotations")
    add("--dtype", choices=list(DTYPES), default=DEFAULT.dtype,
        help="storage; float32: the same numbers in four times the space (default: %(default)s)")  # fmt: skip
    add("--compress", action="store_true", help="gzip inside HDF5: smaller, slower to read")
    add("--file_size", type=cli.positive_float, default=DEFAULT.file_size, metavar="MB",
        help="upper bound of a file, before compression (default: %(default)s)")  # fmt: skip
    add("--skip_images", type=cli.non_negative_int, default=0, metavar="K",
        help="leave out the first K images of a shuffled list (default: 0)")  # fmt: skip
    add("--limit", type=cli.positive_int, metavar="N",
        help="use at most N images of the shuffled list, after the skipped ones (default: all)")  # fmt: skip
    add("--subset_seed", type=cli.non_negative_int, default=0, metavar="N",
        help="of that shuffle, which --seed does not touch (default: 0)")  # fmt: skip
    add("--workers", type=cli.positive_int, metavar="N",
        help="threads; the result does not depend on it (default: one a CPU)")  # fmt: skip
    arguments = parser.parse_args(argv)
    if len(set(arguments.quality)) < len(arguments.quality):
        parser.error("argument --quality: a quality is given twice")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The program; ``argv`` without its name."""
    arguments = parse(argv)
    settings = Settings(
        qualities=tuple(arguments.quality),
        size=arguments.size,
        count=arguments.count,
        seed=arguments.seed,
        grid=arguments.grid,
        augment=not arguments.no_augment,
        dtype=arguments.dtype,
        file_size=arguments.file_size,
        compress=arguments.compress,
        skip_images=arguments.skip_images,
        limit=arguments.limit,
        subset_seed=arguments.subset_seed,
    )
    start = time.monotonic()
    with cli.progress(total=settings.count, desc="cutting", unit="patches") as progress:
        made = make_patches(
            arguments.images, arguments.output, settings, workers=arguments.workers, progress=progress.update
        )
    for path in made.too_small:
        print(f"warning: {path}: smaller than {settings.size}x{settings.size}, left out", file=sys.stderr)
    size = sum(path.stat().st_size for path in made.files)
    print(
        f"{made.source}: {made.rows} patches of {made.images} images in {len(made.files)} files, "
        f"{size / 1e6:.1f} MB, {time.monotonic() - start:.1f} s"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
