#!/usr/bin/env python3
"""Draw a layer's filters over the iterations of a training: the paper's Figure 7.

    tools/visualize_filters.py snapshots/l8 -o filters.png           a column an iteration
    tools/visualize_filters.py snapshots/l8 --animation filters.gif  a frame a snapshot
    tools/visualize_filters.py models/l4_residual_q10/weights.caffemodel -o filters.png
    tools/visualize_filters.py snapshots/l4_direct snapshots/l4 snapshots/l4_edge -o figure7.pdf \\
        --label Normal --label Residual --label Sobel --iterations 0 10000 50000 250000

A network is a solver's snapshot_prefix, a glob in quotes or a file; .caffemodel and .caffemodel.h5 both do.
Zero is middle gray. Each filter is scaled by its own largest weight, so that its structure shows; --scale
snapshot or network keeps strengths comparable within a picture or over the whole training.
"""

from __future__ import annotations

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
from collections.abc import Sequence

from pycaffe_compat import cli, figures, filters


def parser() -> argparse.ArgumentParser:
    """The command line, as --help shows it."""
    summary, _, rest = (__doc__ or "").partition("\n")
    p = argparse.ArgumentParser(
        prog="visualize_filters.py",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("networks", nargs="+", metavar="SNAPSHOTS", help="prefix, glob or file; a row each")
    p.add_argument("-o", "--output", metavar="FILE", help="the picture: .png, .svg, .pdf or .jpg")
    p.add_argument("--animation", metavar="FILE", help="all snapshots as a film: .gif, .png (animated), .apng or .webp")
    p.add_argument("--label", action="append", metavar="TEXT", help="name of a row; repeat, one a network")
    p.add_argument("--layer", metavar="NAME", help="default: the first with a four-dimensional weight")
    p.add_argument(
        "--iterations",
        type=cli.non_negative_int,
        nargs="+",
        metavar="N",
        help="columns (default: 6, evenly chosen)",
    )
    p.add_argument(
        "--exact", action="store_true", help="fail where an iteration is missing; else the nearest one"
    )
    p.add_argument("--scale", choices=filters.SCALES, default="filter", help="what is scaled alike (filter)")
    p.add_argument(
        "--colours",
        "--colors",
        choices=sorted(filters.COLOUR_MAPS),
        default="gray",
        help="zero gray, or white",
    )
    p.add_argument("--title", default="", help="of the picture")
    p.add_argument(
        "--cell", type=cli.positive_float, default=2.2, metavar="INCHES", help="width of a cell of the picture (2.2)"
    )
    p.add_argument("--dpi", type=cli.positive_int, default=150, help="of a PNG (150)")
    p.add_argument("--fps", type=cli.positive_float, default=2.5, help="snapshots a second in the film (2.5)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code. argv: without the program's name."""
    p = parser()
    args = p.parse_args(argv)
    if not (args.output or args.animation):
        p.error("nothing to do: give -o FILE or --animation FILE")
    if args.label and len(args.label) != len(args.networks):
        p.error(f"{len(args.networks)} networks, but {len(args.label)} times --label")
    if args.output:
        figures.suffix_of(args.output, figures.PICTURE_SUFFIXES)
    if args.animation:
        figures.suffix_of(args.animation, figures.ANIMATION_SUFFIXES)
    labels = args.label or [
        "" if len(args.networks) == 1 else filters.default_label(n) for n in args.networks
    ]
    networks = [
        filters.Network(label, tuple(filters.find_snapshots(name)))
        for label, name in zip(labels, args.networks, strict=True)
    ]
    if args.output:
        figure = filters.figure_of_networks(
            networks,
            args.iterations or filters.choose_iterations(networks),
            layer=args.layer,
            exact=args.exact,
            scale=args.scale,
            colours=args.colours,
            cell=args.cell,
            title=args.title,
        )
        figures.save_figure(figure, args.output, args.dpi)
        print(args.output)
    if args.animation:
        total = len(filters.animation_iterations(networks))
        frames = []
        with cli.progress(total, desc="frames", unit="snapshot") as progress:
            for frame in filters.animation_frames(
                networks, layer=args.layer, scale=args.scale, colours=args.colours
            ):
                frames.append(frame)
                progress.update()
        figures.save_animation(frames, args.animation, seconds=1 / args.fps)
        print(args.animation)
    return 0


if __name__ == "__main__":
    cli.run(main)
