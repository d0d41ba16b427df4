#!/usr/bin/env python3
"""Brings net and solver files of older Caffes to the present format.

    tools/upgrade_net.py old.prototxt new.prototxt
    tools/upgrade_net.py old.caffemodel new.caffemodel
    tools/upgrade_net.py old_solver.prototxt new_solver.prototxt
    tools/upgrade_net.py --dialect fork.proto deploy.prototxt deploy.prototxt

What kind of file it is, is found by its content. Text stays text, without its comments; a .caffemodel keeps its arrays.
Nets of 2013 (layers { layer { type: "conv" } }) and 2014 (layers { type: CONVOLUTION }), input and input_dim, a
solver's solver_type are upgraded; what is new already is written as it is. The output is written whole or not at all,
and may be the input.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import sys
from collections.abc import Sequence

from pycaffe_compat import cli
from pycaffe_compat.proto.dialects import NAMES
from pycaffe_compat.proto.upgrade_file import upgrade_file


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="upgrade_net.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("input", metavar="IN", help="a net's or solver's prototxt, or a .caffemodel")
    add("output", metavar="OUT", help="the file to write")
    add(
        "--dialect",
        metavar="NAME",
        help=f"whose Caffe the file is for: {', '.join(NAMES)}, or a fork's .proto or .desc file (default: found out)",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Upgrade; notes on what was not understood go to standard error."""
    args = parser().parse_args(argv)
    done = upgrade_file(args.input, args.output, args.dialect)
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    size = f" of {done.layers} layer{'s' * (done.layers != 1)}" if done.kind == "net" else ""
    print(f"{args.output}: a {done.kind}{size}, {'binary' if done.binary else 'text'}")
    return 0


if __name__ == "__main__":
    cli.run(main)
