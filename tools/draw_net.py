#!/usr/bin/env python3
"""Draw a network as a picture, from its prototxt alone.

    tools/draw_net.py prototxt/l8.prototxt l8.png              every layer, with its phase and stages
    tools/draw_net.py prototxt/l8.prototxt -o l8.svg --stage deploy
    tools/draw_net.py net.prototxt -o net.pdf --rankdir LR     from left to right
    tools/draw_net.py net.prototxt -o net.dot                  text for graphviz

A box is a layer; layers that work in place (ReLU) are a line in the box whose blob they change. Arrows are
blobs; blue ones bypass layers. Needs no graphviz. The suffix chooses: .png, .svg, .pdf, .jpg, .dot, .gv or .raw.
"""

from __future__ import annotations

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
from collections.abc import Sequence

from pycaffe_compat import cli, draw, figures, resources
from pycaffe_compat.errors import NetError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import read_net

SUFFIXES = figures.PICTURE_SUFFIXES + draw.DOT_SUFFIXES


def parser() -> argparse.ArgumentParser:
    """The command line, as --help shows it."""
    summary, _, rest = (__doc__ or "").partition("\n")
    p = argparse.ArgumentParser(
        prog="draw_net.py",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("net", metavar="NET", help="the network's prototxt; looked for in prototxt/ too")
    p.add_argument("file", metavar="FILE", nargs="?", help=f"where to: {', '.join(SUFFIXES)}")
    p.add_argument("-o", "--output", metavar="FILE", help="the same")
    p.add_argument(
        "--rankdir",
        choices=("TB", "BT", "LR", "RL"),
        default="TB",
        help="where data flows: top to bottom (TB), ...",
    )
    p.add_argument(
        "--phase",
        type=str.lower,
        choices=("train", "test", "all"),
        help="draw the net as built for it (default: all layers; test with --stage or --level)",
    )
    p.add_argument("--display_lrm", action="store_true", help="is taken and has no effect, for Caffe's command lines")
    p.add_argument("--stage", action="append", default=[], metavar="NAME", help="a stage; may be repeated")
    p.add_argument("--level", type=cli.int32, default=0, help="the level (0)")
    p.add_argument("--title", help="above the picture (default: the net's name)")
    p.add_argument("--dpi", type=cli.positive_int, default=150, help="of a PNG (150)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code. argv: without the program's name."""
    p = parser()
    args = p.parse_args(argv)
    if args.phase == "all" and (args.stage or args.level):
        p.error("--phase all draws every layer: --stage and --level have no meaning with it")
    if (args.file is None) == (args.output is None):
        p.error("give one file to draw to")
    output = args.output or args.file
    figures.suffix_of(output, SUFFIXES)
    phases = {"train": caffe_pb2.TRAIN, "test": caffe_pb2.TEST, "all": None}
    source = read_net(resources.net_path(args.net))
    if not source.param.layer:
        raise NetError(f"{args.net}: no layers in this net")
    draw.draw_net_to_file(
        source.param,
        output,
        args.rankdir,
        phases[args.phase or ("test" if args.stage or args.level else "all")],
        level=args.level,
        stages=args.stage,
        title=args.title,
        dpi=args.dpi,
    )
    print(output)
    return 0


if __name__ == "__main__":
    cli.run(main)
