#!/usr/bin/env python3
"""Draw training curves from training logs: the paper's Figure 6.

    tools/plot_log.py train.log -o curve.png                   the training loss
    tools/plot_log.py train.log -o curve.png --loss --lr       two panels: the loss, the learning rate
    tools/plot_log.py train.log -o curve.png --smooth 20       a moving mean, the values pale behind it
    tools/plot_log.py train.log -o curve.png --test loss --psnr    the test loss as decibels
    tools/plot_log.py a.log b.log c.log -o figure6.svg --test loss --psnr \\
        --label Normal --label Residual --label Sobel
    tools/plot_log.py train.log --csv tables                   tables/train.log.train and .test
    tools/plot_log.py train.log --list                         what the log holds

Reads logs of the original Caffe and of tools/train_net.py.

--psnr shows losses as decibels. The nets in prototxt/ weight their losses so that the weighted value is the
mean squared error of luma 0..1, and the log says the weight; for other nets give SCALE, where SCALE times the
printed value is the mean squared error: 2/P for EuclideanLoss on outputs of P pixels (2/2116 for L4 on 64x64
patches, of which 46x46 remain). Either is the PSNR of the mean error over the patches, not the mean of the
images' PSNRs.
"""

from __future__ import annotations

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import math
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from pycaffe_compat import cli, curves, figures


def _scale(text: str) -> float:
    try:
        value = float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number or fraction such as 2/2116")
    return value


class _Add(argparse.Action):
    """Collects --loss, --lr, --train and --test in one list, in the order they were written."""

    def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]
        kind = self.option_strings[-1].lstrip("-")
        chosen = list(getattr(namespace, self.dest) or ())
        setattr(namespace, self.dest, [*chosen, curves.Quantity(kind, values or "")])


def parser() -> argparse.ArgumentParser:
    """The command line, as --help shows it."""
    summary, _, rest = (__doc__ or "").partition("\n")
    p = argparse.ArgumentParser(
        prog="plot_log.py",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("logs", nargs="+", metavar="LOG", help="training logs; a curve each")
    p.add_argument("-o", "--output", metavar="FILE", help="the picture: .png, .svg, .pdf or .jpg")
    p.add_argument(
        "--label", action="append", metavar="TEXT", help="name of a log in the legend; repeat, one a log"
    )
    what = p.add_argument_group(
        "what to draw; each may be repeated, an output gets a panel (default: --loss)"
    )
    what.add_argument("--loss", dest="quantities", action=_Add, nargs=0, help="the training objective")
    what.add_argument("--lr", dest="quantities", action=_Add, nargs=0, help="the learning rate")
    what.add_argument(
        "--train", dest="quantities", action=_Add, metavar="NAME", help="an output of the train net"
    )
    what.add_argument(
        "--test", dest="quantities", action=_Add, metavar="NAME", help="an output of the test net"
    )
    what.add_argument(
        "--test-net", type=cli.non_negative_int, default=0, metavar="N", help="which test net (0)"
    )
    how = p.add_argument_group("how")
    how.add_argument(
        "--psnr", type=_scale, nargs="?", const=0.0, metavar="SCALE", help="as decibels; MSE = SCALE x value"
    )
    how.add_argument(
        "--peak", type=cli.positive_float, default=1.0, help="largest pixel value for --psnr (1)"
    )
    how.add_argument(
        "--smooth", type=cli.positive_int, default=1, metavar="N", help="moving mean of N points"
    )
    how.add_argument("--log-y", action="store_true", help="logarithmic values")
    how.add_argument("--xlim", type=float, nargs=2, metavar=("FROM", "TO"), help="iterations shown")
    how.add_argument("--ylim", type=float, nargs=2, metavar=("FROM", "TO"), help="values shown")
    how.add_argument("--title", default="")
    how.add_argument("--dpi", type=cli.positive_int, default=150, help="of a PNG (150)")
    p.add_argument(
        "--csv", metavar="DIR", help="write the tables Caffe's parse_log.py makes: LOG.train, LOG.test"
    )
    p.add_argument("--list", action="store_true", help="print the outputs the logs hold")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code. argv: without the program's name."""
    p = parser()
    args = p.parse_args(argv)
    if not (args.output or args.csv or args.list):
        p.error("nothing to do: give -o FILE, --csv DIR or --list")
    if args.label and len(args.label) != len(args.logs):
        p.error(f"{len(args.logs)} logs, but {len(args.label)} times --label")
    if args.output:
        figures.suffix_of(args.output, figures.PICTURE_SUFFIXES)
    logs = [curves.read_log(path) for path in args.logs]
    if args.list:
        _list(logs)
    if args.csv:
        _write_tables(logs, Path(args.csv))
    if args.output:
        figure = curves.plot_curves(
            list(zip(args.label or curves.default_labels(args.logs), logs, strict=True)),
            args.quantities or [curves.Quantity("loss")],
            test_net=args.test_net,
            psnr=None if args.psnr is None else curves.PsnrScale(args.psnr or None, args.peak),
            window=args.smooth,
            log_y=args.log_y,
            xlim=args.xlim,
            ylim=args.ylim,
            title=args.title,
        )
        figures.save_figure(figure, args.output, args.dpi)
        print(args.output)
    return 0


def _list(logs: Sequence[curves.Log]) -> None:
    for log in logs:
        last = max((iteration for iteration, _ in log.loss + log.lr), default=0)
        print(f"{log.path}: net {log.name!r}, {len(log.loss)} displays up to iteration {last}")
        nets = [("train", 0)] + [("test", net) for net in log.test_nets]
        for kind, net in nets:
            names = [
                f"{n} ({count} values)" if count > 1 else n for n, count in log.outputs(kind, net).items()
            ]
            if names:
                print(f"  {kind}{f' net #{net}' if net else ''}: {', '.join(names)}")


def _write_tables(logs: Sequence[curves.Log], folder: Path) -> None:
    os.makedirs(folder, exist_ok=True)
    for log, label in zip(logs, curves.default_labels([log.path + ".log" for log in logs]), strict=True):
        stem = label.replace("/", "_")
        for kind, rows in (("train", log.train), ("test", log.test)):
            if rows:
                path = folder / f"{stem}.{kind}"
                curves.write_csv(rows, path)
                print(path)


if __name__ == "__main__":
    cli.run(main)
