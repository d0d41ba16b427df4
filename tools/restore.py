#!/usr/bin/env python3
"""Remove JPEG artifacts from photographs: files, folders or globs, gray or colour, of any size.

    tools/restore.py in.jpg out.png                                the network for the file's own JPEG quality
    tools/restore.py holiday/ "scans/*.jpg" restored/              many files into a folder, as PNG
    tools/restore.py holiday/ restored/ --format jpg               ... as JPEG (quality 95)
    tools/restore.py --model l4_residual_q10 in.jpg out.png        a network by name, for any file
    tools/restore.py --quality 10 in.png out.png                   a picture that was a JPEG of quality 10
    tools/restore.py --net l8.prototxt --weights l8_iter_250000.caffemodel in.jpg out.png

The luma is restored; chroma, transparency, orientation (EXIF) and ICC profile are kept. The last argument is
the output: a file (.png, .jpg, .webp, .tif), or a folder when there are several inputs; a folder is made if
need be. Inputs are never overwritten, other files only with --overwrite. A file that cannot be read is
reported and the rest goes on.

Which network: networks are trained for a JPEG quality and restore well some 15 points around it. By default
the file's quality is read off its quantisation table and the network trained nearest to it is taken. A file
that is better than that by more than 15 points (a camera's JPEG of quality 90, say) is left alone and
reported: a network made for coarser files would smooth away detail that the file still has. --model or --net
does it all the same; --quality says what the file was once compressed with, where its own table does not
(saved again at a higher quality, or as PNG). A coarser file than any network knows is restored by the nearest
one.

Exit code: 0 when every file was restored, 1 when any was not.
"""

from __future__ import annotations

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import glob
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pycaffe_compat import cli, cpu, resources
from pycaffe_compat.errors import CaffeError, DataError, describe_os_error
from pycaffe_compat.restoration import restore
from pycaffe_compat.restoration.degradation import list_images

FAR = 15
"""Quality points beyond a network's training above which a file is better left alone (paper, section 4 and
figure 5: networks "generalize only to similar qualities", ranges of 10 to 20 points)."""


def parser() -> argparse.ArgumentParser:
    """The command line, as --help shows it."""
    summary, _, rest = (__doc__ or "").partition("\n")
    p = argparse.ArgumentParser(
        prog="restore.py",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders of images, globs")
    p.add_argument("output", metavar="OUTPUT", help="an image file, or a folder for several inputs")
    p.add_argument(
        "--model", metavar="NAME", help="a network by its name in models/, or the path of such a folder"
    )
    p.add_argument("--net", metavar="NET", help="a network by its prototxt, with --weights")
    p.add_argument("--weights", metavar="W", help="the weights for --net: .caffemodel, .h5 or .safetensors")
    p.add_argument(
        "--quality",
        type=cli.jpeg_quality,
        metavar="Q",
        help="choose the network for this JPEG quality (1..100)",
    )
    p.add_argument(
        "--format", choices=sorted(s[1:] for s in restore.WRITERS), default="png",
        help="of the files in an output folder (default: png)",
    )  # fmt: skip
    p.add_argument(
        "--output_quality",
        type=cli.jpeg_quality,
        default=95,
        metavar="Q",
        help="of JPEG and WebP outputs (default: 95)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace outputs that exist (never an input)")
    p.add_argument("--precision", choices=cpu.PRECISIONS, default="float32", help="default: float32")
    p.add_argument(
        "--tile", type=cli.positive_int, default=restore.TILE, metavar="N",
        help=f"side of the squares computed at once (default: {restore.TILE}); no effect on the result",
    )  # fmt: skip
    return p


class Chooser:
    """Finds the network for a file, and loads each network once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.quality: int | None = args.quality
        self.options = {"precision": args.precision, "tile": args.tile}
        self.loaded: dict[str, restore.Restorer] = {}
        self.fixed: tuple[str, restore.Restorer] | None = None
        if args.model:
            model = restore.find_model(args.model)
            self.fixed = (model.name, model.restorer(**self.options))
        elif args.net:
            net = resources.net_path(args.net)
            self.fixed = (Path(args.weights).stem, restore.Restorer(net, args.weights, **self.options))
        elif not any(model.qualities for model in restore.list_models()):
            raise DataError("no trained network came with this library: name one with --net and --weights")

    def choose(self, picture: restore.Picture) -> tuple[str, restore.Restorer]:
        """Name and network; DataError says why none fits."""
        if self.fixed:
            return self.fixed
        quality = self.quality or picture.quality
        if quality is None:
            raise DataError(
                f"{picture.path}: is no JPEG, so its quality is not known: give --quality or --model"
            )
        model = restore.nearest_model(quality)
        if model is None:
            raise DataError("no trained network came with this library: name one with --net and --weights")
        if model.distance(quality) > FAR:
            raise DataError(
                f"{picture.path}: left alone: its quality is about {quality}, the nearest network is for "
                f"{max(model.qualities)} and would smooth detail away; --model {model.name} does it anyway"
            )
        if model.name not in self.loaded:
            self.loaded[model.name] = model.restorer(**self.options)
        return model.name, self.loaded[model.name]


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if bool(args.net) != bool(args.weights):
        p.error("--net and --weights go together")
    if args.model and args.net:
        p.error("--model and --net exclude each other")
    if args.quality and (args.model or args.net):
        p.error("--quality chooses the network, which --model or --net name already")
    if args.tile < restore.SMALLEST_TILE:
        p.error(f"--tile is at least {restore.SMALLEST_TILE}")
    jobs = _jobs(p, args)
    sources = [source for source, _ in jobs]
    # The limit guards servers against strangers' files; here the user has named the file.
    Image.MAX_IMAGE_PIXELS = None
    chooser = Chooser(args)
    written: dict[tuple[int, int], Path] = {}
    failed = 0
    single = len(jobs) == 1
    pixels = _pixels(sources[0]) if single else None
    with cli.progress(
        total=pixels if single else len(jobs), desc="restoring", unit="px" if single else "files"
    ) as bar:
        for source, target in jobs:
            try:
                restore.check_target(target, sources, args.overwrite or _identity(target) in written)
                if _identity(target) in written:
                    first = written[_identity(target)]
                    raise DataError(f"{target}: was written for {first} already, {source} is left out")
                started = time.monotonic()
                picture = restore.read_picture(source)
                name, restorer = chooser.choose(picture)
                _writable_folder(target.parent)  # before the work, not after it
                image = restore.restore_picture(picture, restorer, bar.update if single else None)
                restore.write_picture(image, picture, target, args.output_quality)
                written[_identity(target)] = source
                quality = f"quality {picture.quality}, " if picture.quality else ""
                took = time.monotonic() - started
                print(
                    f"{source} -> {target} ({image.width}x{image.height}, {quality}{name}, {took:.1f} s)",
                    flush=True,
                )
            except CaffeError as error:
                failed += 1
                bar.write("error: " + " ".join(str(error).split()))
            except OSError as error:
                failed += 1
                bar.write(f"error: {source}: {describe_os_error(error)}")
            if not single:
                bar.update(1)
    if failed and not single:
        bar.write(f"error: {failed} of {len(jobs)} files were not restored")
    return cli.EXIT_BAD_INPUT if failed else 0


def _jobs(p: argparse.ArgumentParser, args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Input and output path of each file."""
    output = Path(args.output)
    one_file = len(args.inputs) == 1 and not os.path.isdir(args.inputs[0])
    if one_file and glob.has_magic(args.inputs[0]) and not os.path.exists(args.inputs[0]):
        one_file = False
    into_folder = output.is_dir() or args.output.endswith(("/", os.sep))
    if one_file and not into_folder:
        if output.suffix.lower() not in restore.WRITERS:
            p.error(f"OUTPUT {args.output} is neither a folder nor one of {', '.join(restore.WRITERS)}")
        return [(list_images(args.inputs)[0], output)]
    if output.suffix.lower() in restore.WRITERS and not into_folder:
        p.error(f"several inputs need a folder as the last argument, {args.output} is named like a file")
    if output.exists() and not output.is_dir():
        p.error(f"several inputs need a folder as the last argument, {args.output} is a file")
    return [(source, output / f"{source.stem}.{args.format}") for source in list_images(args.inputs)]


def _pixels(path: Path) -> int | None:
    """Size of an image by its header; None where it cannot be read, which is reported when its turn comes."""
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except (OSError, ValueError, SyntaxError):
        return None


def _writable_folder(folder: Path) -> None:
    """Make a folder for results, and find out that files can be made in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode: the same for every spelling of a file's name; a missing file has none."""
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_dev, status.st_ino)


if __name__ == "__main__":
    cli.run(main)
