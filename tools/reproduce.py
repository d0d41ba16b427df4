#!/usr/bin/env python3
"""Remakes the paper's tables and figures from the weights in models/, or from the beginning.

    tools/reproduce.py --data DIR all                  every table, figure and the page, from models/
    tools/reproduce.py --data DIR table3 figure5       parts: table3 table4 table5 figure4 ... figure8 speed page
    tools/reproduce.py --data DIR train                train the networks that models/ lacks, then stop
    tools/reproduce.py --data DIR train l8_residual_q20    this one only
    tools/reproduce.py --data DIR --train all          everything

DIR holds bsds500/train, bsds500/test, bsds500/val and live1 (README.md says where they come from). What is
done is not done again: databases, trainings (a stopped one goes on from its last snapshot), scores and
curves are kept in data/, snapshots/, models/ and docs/results/. To make something again, remove it.

Training all of it takes some ten hours on two CPU cores, the tables from models/ some twenty minutes.
"""

from __future__ import annotations

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pycaffe_compat import cli, cpu, filters, resources
from pycaffe_compat.errors import CaffeError, DataError
from pycaffe_compat.files import atomic_write
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import read_solver
from pycaffe_compat.restoration import cards
from pycaffe_compat.restoration.results import NETWORKS, Network
from pycaffe_compat.weights import read_weights, write_weights

TOOLS = Path(__file__).resolve().parent
TRAINING_SETS = ("bsds500/train", "bsds500/test")
TESTING_SET = "bsds500/val"
FIGURE7 = ("l4_direct_q10", "l4_residual_q10", "l4_edge_q10")


def run(program: str, *arguments: object) -> None:
    """Run a program of tools/, shown as it would be typed; CaffeError when it fails."""
    words = [str(argument) for argument in arguments]
    print(f"$ tools/{program}.py {shlex.join(words)}", flush=True)
    try:
        code = subprocess.run([sys.executable, str(TOOLS / f"{program}.py"), *words], check=False).returncode
    except KeyboardInterrupt:
        raise
    if code:
        raise CaffeError(f"{program}.py ended with code {code}; what it printed is above")


# ---- Training ------------------------------------------------------------------------------------


def databases(network: Network, data: Path) -> list[list[str]]:
    """The make_patches commands of a network's training and test database, as lists of words."""
    qualities = ["--quality", *map(str, network.qualities), "--size", str(network.size)]
    train = [str(data / folder) for folder in TRAINING_SETS]
    test_patches = 256 * len(network.qualities) if len(network.qualities) > 1 else 1024
    return [
        ["--images", *train, *qualities, "--count", str(network.patches), "--seed", "1",
         "--output", f"{network.database}_train"],
        ["--images", str(data / TESTING_SET), *qualities, "--count", str(test_patches), "--seed", "2",
         "--output", f"{network.database}_test"],
    ]  # fmt: skip


def training(network: Network, models: Path) -> list[str]:
    """The train_net command of a network, from its beginning."""
    prefix = f"snapshots/{network.name}"
    words = ["--solver", network.solver]
    words += ["--train_data", f"{network.database}_train.txt", "--test_data", f"{network.database}_test.txt"]
    words += ["--snapshot_prefix", prefix, "--log", f"{prefix}.log"]
    if network.start:
        words += ["--weights", str(models / network.start / "weights.caffemodel")]
    return words


def train(network: Network, data: Path, models: Path, precision: str) -> None:
    """Train a network, from its last snapshot if there is one, and fill its folder in models/."""
    if (models / network.name / "scores.json").exists():
        print(f"{network.name}: is in {models}")
        return
    if network.start and not (models / network.start / "weights.caffemodel").exists():
        raise CaffeError(f"{network.name} starts from {network.start}, which is not in {models}: train that first")
    for words in databases(network, data):
        if not os.path.exists(words[-1] + ".txt"):
            run("make_patches", *words)
    words = [*training(network, models), "--precision", precision]
    iterations = read_solver(resources.net_path(network.solver)).max_iter
    last = Path(f"snapshots/{network.name}_iter_{iterations}.caffemodel")
    if not last.exists():
        state = newest_state(network)
        if state is not None:
            at = words.index("--weights") if "--weights" in words else len(words)
            words = [*words[:at], *words[at + 2 :], "--snapshot", str(state)]
        run("train_net", *words)
    if not last.exists():  # Ctrl-C: train_net has written a snapshot and ended well
        raise CaffeError(f"{network.name}: stopped before iteration {iterations}; the same command goes on from there")
    publish(network, last, data, models, [*training(network, Path("models")), "--precision", precision])


def newest_state(network: Network) -> Path | None:
    """The last .solverstate of a network's training."""
    found = []
    for path in Path("snapshots").glob(f"{network.name}_iter_*.solverstate"):
        match = re.fullmatch(re.escape(network.name) + r"_iter_(\d+)\.solverstate", path.name)
        if match:
            found.append((int(match[1]), path))
    return max(found)[1] if found else None


def publish(network: Network, weights: Path, data: Path, models: Path, command: list[str]) -> None:
    """Fill models/NAME: weights, log, first-layer filters for figure 7, ONNX, scores, and last the card."""
    folder = models / network.name
    folder.mkdir(parents=True, exist_ok=True)
    copy(weights, folder / "weights.caffemodel")
    copy(Path(f"snapshots/{network.name}.log"), folder / "train.log")
    if network.name in FIGURE7:
        keep_filters(network, folder)
    net = ["--model", network.net, "--weights", folder / "weights.caffemodel"]
    run("convert_to_onnx", *net, "--output", folder / "model.onnx", "--image-in-out")
    sets = [data / "live1", data / TESTING_SET]
    draft = folder / "scores.json.new"
    quality = ["--quality", *map(str, network.qualities)]
    run("eval_net", *net, "--names", network.name, "--images", *sets, *quality, "--json", draft)
    cards.write_card(network, folder, draft, [words for words in databases(network, Path(""))], command)
    os.replace(draft, folder / "scores.json")


def keep_filters(network: Network, folder: Path) -> None:
    """The first layer of some snapshots, for figure 7: small where the snapshots are not."""
    snapshots = filters.find_snapshots(f"snapshots/{network.name}")
    (folder / "filters").mkdir(exist_ok=True)
    for snapshot in snapshots:
        weights = read_weights(snapshot.path)
        first = filters.filter_layer(weights, None, snapshot.path)
        net = caffe_pb2.NetParameter(name=network.name)
        net.layer.add(name=first, type="Convolution")
        target = folder / "filters" / f"{first}_iter_{snapshot.iteration}.caffemodel"
        write_weights(target, net, {first: weights[first]})


def copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with atomic_write(target) as temporary, open(source, "rb") as file, open(temporary, "wb") as out:
        shutil.copyfileobj(file, out)


# ---- The command line ----------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n")
    p = argparse.ArgumentParser(
        prog="reproduce.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("parts", nargs="+", metavar="PART", help="what to make; `train` may be followed by names")
    p.add_argument(
        "--data", default=os.environ.get("JPEG_DATA", "."), metavar="DIR",
        help="folder of bsds500 and live1 (default: $JPEG_DATA, else the working directory)",
    )  # fmt: skip
    p.add_argument("--models", default=os.path.join(resources.root(), "models"), metavar="DIR", help="models/")
    p.add_argument("--precision", choices=["float32", "bfloat16"], help="of training (default: what is faster here)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    data, models = Path(args.data), Path(args.models)
    for folder in (*TRAINING_SETS, TESTING_SET, "live1"):
        if not (data / folder).is_dir():
            raise DataError(f"{data / folder}: no such folder: --data is a folder of {', '.join(TRAINING_SETS)}, ...")
    precision = args.precision or ("bfloat16" if cpu.fast_bfloat16() else "float32")
    if args.parts[0] == "train":
        names = args.parts[1:] or list(NETWORKS)
        for name in names:
            if name not in NETWORKS:
                p.error(f"there is no network {name!r}; there are {', '.join(NETWORKS)}")
        for name in names:
            train(NETWORKS[name], data, models, precision)
    return 0


if __name__ == "__main__":
    cli.run(main)
