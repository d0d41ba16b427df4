#!/usr/bin/env python3
"""Writes blobs of a net into LMDBs, a record for each image that its data layer reads.

    tools/extract_features.py weights.caffemodel net.prototxt fc7 features_lmdb 100 lmdb
    tools/extract_features.py weights.caffemodel net.prototxt fc6,fc7 fc6_lmdb,fc7_lmdb 100 lmdb GPU 0

Arguments are those of Caffe's program. Records are float Datums under keys 0000000000, 0000000001, ... The databases
appear when all of them are complete.
"""

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
from collections.abc import Sequence

import torch

from pycaffe_compat import cli, gpu, resources
from pycaffe_compat.features import extract_features
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.plugins import import_modules


def names(text: str) -> list[str]:
    """A,B"""
    found = text.split(",")
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} holds an empty name")
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="extract_features.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("weights", metavar="WEIGHTS", help=".caffemodel, .h5 or .safetensors")
    add("net", metavar="NET", help="net prototxt with a data layer in phase TEST; looked for in prototxt/ too")
    add("blobs", type=names, metavar="BLOB[,BLOB...]", help="which blobs")
    add("databases", type=names, metavar="DB[,DB...]", help="folders of the new LMDBs, one a blob; must not exist")
    add("batches", type=cli.positive_int, metavar="BATCHES", help="how many batches to read")
    add("db_type", choices=["lmdb"], help="LevelDB is not written")
    add("mode", nargs="?", choices=["CPU", "GPU"], default="CPU", help="where to compute (default: CPU)")
    add("device", nargs="?", default="0", metavar="DEVICE_ID", help="which GPU (default: 0)")
    add("--import", dest="modules", action="append", default=[], metavar="MODULE", help="that registers layer types")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The program; ``argv`` without its name."""
    args = parser().parse_args(argv)
    import_modules(args.modules)
    device = torch.device("cuda", gpu.chosen(args.device)[0]) if args.mode == "GPU" else torch.device("cpu")
    graph = Graph(resources.net_path(args.net), TEST)
    graph.copy_from(args.weights)
    with cli.progress(total=args.batches, desc="extracting", unit="batches") as progress:
        counts = extract_features(graph, args.blobs, args.databases, args.batches, device, progress.update)
    for database, blob, count in zip(args.databases, args.blobs, counts, strict=True):
        print(f'{database}: {count} records of blob "{blob}"')
    return 0


if __name__ == "__main__":
    cli.run(main)
