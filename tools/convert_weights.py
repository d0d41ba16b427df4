#!/usr/bin/env python3
"""Converts weights between Caffe's two files and PyTorch's exchange format.

    tools/convert_weights.py weights.caffemodel weights.safetensors
    tools/convert_weights.py weights.safetensors weights.caffemodel
    tools/convert_weights.py weights.caffemodel.h5 weights.caffemodel --net deploy.prototxt
    tools/convert_weights.py snapshot.caffemodel weights.safetensors --net l4.prototxt --stage deploy

The output's ending says what it becomes: .caffemodel, .h5 or .safetensors. The numbers stay the same bit for bit. A
.caffemodel and a .safetensors carry their net; an .h5 does not, and a net that reads databases may not be at hand: then
--net names one. The keys in .safetensors are those of the net's state_dict, layers.<layer>.<blob>; the metadata holds
the net's text and its SHA-256.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import os
import sys
from collections.abc import Sequence

from pycaffe_compat import cli, resources
from pycaffe_compat.convert import convert_weights
from pycaffe_compat.graph import TEST, TRAIN, Graph


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="convert_weights.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("input", metavar="IN", help="the weights: .caffemodel, .h5 or .safetensors")
    add("output", metavar="OUT", help="the file to write: .caffemodel, .h5 or .safetensors")
    add("--net", metavar="FILE", help="net prototxt, in place of the one that IN carries; looked for in prototxt/ too")
    add("--phase", choices=["TRAIN", "TEST"], default="TEST", help="of the net's state (default: TEST)")
    add("--stage", type=cli.stages, default=[], metavar="A,B", help="stages of the net's state")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; layers that the net does not have are named on standard error."""
    args = parser().parse_args(argv)
    graph = None
    if args.net:
        graph = Graph(resources.net_path(args.net), TRAIN if args.phase == "TRAIN" else TEST, stages=args.stage)
    for name in convert_weights(args.input, args.output, graph):
        print(f'note: layer "{name}" of {args.input} is not in the net: it is left out', file=sys.stderr)
    print(f"{args.output}: {os.path.getsize(args.output):,} bytes")
    return 0


if __name__ == "__main__":
    cli.run(main)
