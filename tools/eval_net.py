#!/usr/bin/env python3
"""Score networks on folders of images as the paper does: PSNR, PSNR-B, SSIM, beside the JPEG and classical filters.

    tools/eval_net.py --images live1 --quality 10 20                                    the JPEG and spp alone
    tools/eval_net.py --images live1 --quality 10 20 --baseline distorted spp8 sadct    classical filters
    tools/eval_net.py --model l4_residual_q10 --images live1 --quality 10               a network from models/
    tools/eval_net.py --model l4.prototxt --weights l4.caffemodel --images live1 bsds500/val --quality 10
    tools/eval_net.py --model l4.prototxt l8.prototxt --weights l4.caffemodel l8.caffemodel --names L4 L8 \\
                      --images live1 --quality 10 20 --csv scores.csv --json scores.json
    tools/eval_net.py --model l4.prototxt --weights snapshots/*.caffemodel --images live1 --quality 10

Images are turned to luma (MATLAB's rgb2ycbcr, 16..235), compressed as gray JPEG at each quality, restored
whole, rounded to 8 bits and compared with the original over all pixels. The score of a set is the mean of
its images' scores. Each folder or glob is a set of its own. SSIM 8x8 is the paper's; SSIM Gauss is the 11x11
window that newer papers report; IPSNR is the gain of PSNR over the JPEG.

Baselines: distorted is the JPEG. spp is re-application of JPEG at all 64 shifts of its grid, spp8 at the 8 of
FFmpeg's default; spp_hard, spp_hard8, spp_soft and spp_soft8 threshold coefficients there instead, as FFmpeg's
filter does. sadct is pointwise shape-adaptive DCT (Foi et al. 2007), some seconds an image.
"""

from __future__ import annotations

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycaffe_compat import cli, cpu, resources
from pycaffe_compat.files import file_digest
from pycaffe_compat.restoration import evaluation
from pycaffe_compat.restoration.restore import Restorer, find_model


def parser() -> argparse.ArgumentParser:
    """The command line, as --help shows it."""
    summary, _, rest = (__doc__ or "").partition("\n")
    p = argparse.ArgumentParser(
        prog="eval_net.py",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--images", nargs="+", required=True, metavar="DIR", help="folders, globs or files of originals"
    )
    p.add_argument(
        "--quality",
        nargs="+",
        required=True,
        type=cli.jpeg_quality,
        metavar="Q",
        help="JPEG qualities, 1..100",
    )
    p.add_argument(
        "--model", nargs="+", default=[], metavar="NET",
        help="prototxt files, one for each of --weights or one for all; without --weights, names in models/",
    )  # fmt: skip
    p.add_argument(
        "--weights", nargs="+", default=[], metavar="W", help=".caffemodel, .caffemodel.h5 or .safetensors files"
    )
    p.add_argument("--names", nargs="+", default=[], metavar="NAME", help="names of the networks' rows")
    p.add_argument(
        "--baseline", nargs="*", default=["distorted", "spp"], choices=evaluation.BASELINES, metavar="ROW",
        help=f"rows above the networks: any of {', '.join(evaluation.BASELINES)} (default: distorted spp)",
    )  # fmt: skip
    p.add_argument(
        "--precision", choices=cpu.PRECISIONS, default="float32", help="of the networks (default: float32)"
    )
    p.add_argument("--csv", metavar="FILE", help="write the table there too, in full precision")
    p.add_argument("--json", metavar="FILE", help="the same as JSON, with names and SHA-256 of networks and weights")
    p.add_argument("--per_image", action="store_true", help="also a line for each image")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    networks = _networks(p, args)
    sets = evaluation.datasets(args.images)
    qualities = list(dict.fromkeys(args.quality))
    methods = {name: evaluation.BASELINES[name] for name in dict.fromkeys(args.baseline)}
    for entry in networks:
        restorer = Restorer(entry["model"], entry["weights"], precision=args.precision)
        methods[entry["name"]] = evaluation.network(restorer)
    if not methods:
        p.error("nothing to measure: give --model or --baseline")
    for path in (args.csv, args.json):
        if path:
            _check_writable(path)

    total = sum(map(len, sets.values())) * len(qualities) * len(methods)
    with cli.progress(total=total, desc="scoring", unit="images") as progress:
        results = evaluation.evaluate(sets, qualities, methods, progress.update)

    print(evaluation.table(results, args.per_image))
    if args.csv:
        evaluation.write_csv(args.csv, results, args.per_image)
    if args.json:
        evaluation.write_json(args.json, results, _about(args, networks), args.per_image)
    return 0


def _networks(p: argparse.ArgumentParser, args: argparse.Namespace) -> list[dict[str, str]]:
    """name, model and weights of every network asked for."""
    pairs: list[tuple[str, str, str]] = []
    if args.weights:
        nets = args.model * len(args.weights) if len(args.model) == 1 else args.model
        if len(nets) != len(args.weights):
            p.error(f"{len(args.model)} --model for {len(args.weights)} --weights: give as many, or one")
        for net, weights in zip(nets, args.weights, strict=True):
            pairs.append((_row_name(weights), resources.net_path(net), weights))
    else:
        for name in args.model:
            if name.endswith(".prototxt"):
                p.error(f"--model {name} needs --weights (alone, --model takes a name in models/)")
            model = find_model(name)
            pairs.append((model.name, str(model.net), str(model.weights)))
    names = args.names or _distinct([name for name, _, _ in pairs], [weights for _, _, weights in pairs])
    if len(names) != len(pairs):
        p.error(f"{len(names)} --names for {len(pairs)} networks")
    taken = [*args.baseline, *names]
    for name in names:
        if taken.count(name) > 1:
            p.error(f'two rows would be called "{name}": give other --names')
    return [{"name": n, "model": net, "weights": w} for n, (_, net, w) in zip(names, pairs, strict=True)]


def _row_name(weights: str) -> str:
    """What a row is called: the folder of models/<folder>/weights.caffemodel, else the file without its
    suffixes."""
    path = Path(weights)
    stem = path.name.removesuffix(".h5").removesuffix(".caffemodel").removesuffix(".safetensors")
    return path.resolve().parent.name if stem == "weights" else stem


def _distinct(names: list[str], paths: list[str]) -> list[str]:
    """Names that several rows would share become the paths of the weights."""
    return [path if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]


def _check_writable(path: str) -> None:
    """Fail before the work and not after it, where the folder of an output is missing."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(2, "no such folder to write to", folder)


def _about(args: argparse.Namespace, networks: list[dict[str, str]]) -> dict[str, Any]:
    """What was measured and how; of a single network its files on top, as models/<name>/scores.json has
    them."""
    about: dict[str, Any] = {}
    if len(networks) == 1:
        about |= {"model": Path(networks[0]["model"]).name, "weights": Path(networks[0]["weights"]).name}
    files = [
        {"name": entry["name"]}
        | {key: os.path.basename(entry[key]) for key in ("model", "weights")}
        | {f"{key}_sha256": file_digest(entry[key]) for key in ("model", "weights")}
        for entry in networks
    ]
    return about | {"networks": files, "precision": args.precision}


if __name__ == "__main__":
    cli.run(main)
