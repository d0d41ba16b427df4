"""The card of a trained network: models/NAME/README.md and what scores.json says beside the scores."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycaffe_compat import resources
from pycaffe_compat.files import atomic_write
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import read_solver
from pycaffe_compat.restoration.report import fill
from pycaffe_compat.restoration.results import PAPER, SETS, Network

_OBJECTIVES = {
    "L4 residual": "residual objective: the network predicts what the compression added",
    "L4 direct": "direct objective: the network predicts the original itself",
    "L4 edge preserving": "edge-preserving objective: the direct one plus the distance of the Sobel derivatives",
    "L8 residual": "residual objective: the network predicts what the compression added",
    "AR-CNN": "direct objective, as Dong, Deng, Loy, Tang (2015) have it",
}
_ARCHITECTURES = {
    "L4": "four unpadded convolutions, 72,097 parameters, receptive field 19x19",
    "L8": "eight unpadded convolutions with two skips, 220,545 parameters, receptive field 25x25",
    "AR-CNN": "four unpadded convolutions, 106,561 parameters, receptive field 19x19",
}


def write_card(
    network: Network, folder: Path, scores: Path, commands: Sequence[Sequence[str]], precision: str
) -> None:
    """Write ``folder/README.md``, and into ``scores`` (eval_net's JSON) how the network was trained.

    Args:
        commands: the programs of tools/ that made it, each as words, its name without ``.py`` first.
        precision: that of its training.
    """
    solvers = [read_solver(resources.net_path(solver)) for solver in network.solvers]
    about = json.loads(scores.read_text(encoding="utf-8"))
    trained = list(network.qualities) if len(network.qualities) > 1 else network.qualities[0]
    about = {
        "model": network.net,
        "weights": "weights.caffemodel",
        "trained_on_quality": trained,
        "solver": " ".join(network.solvers),
        "iterations": sum(solver.max_iter for solver in solvers),
        "started_from": network.start or None,
    } | {key: value for key, value in about.items() if key not in ("model", "weights")}
    with atomic_write(scores) as temporary:
        temporary.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = card(network, about["results"], solvers, sorted(folder.glob("train*.log")), commands, precision)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


def duration(logs: Sequence[Path]) -> str:
    """How long trainings took, by the times in their logs; a run in several parts is the sum of them."""
    seconds = sum(rate for log in logs for rate in _seconds(log))
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} minutes"


def _seconds(log: Path) -> list[float]:
    """The seconds between displays, as the log lines give them: ``(5.1 iter/s, 9.8s/50 iters)``."""
    found: dict[int, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        match = re.search(r"Iteration (\d+) \(\S+ iter/s, (\S+)s/\d+ iters\)", line)
        if match:
            found[int(match[1])] = float(match[2])  # of an iteration that was repeated, the last
    return list(found.values())


def card(
    network: Network,
    results: Sequence[Mapping[str, Any]],
    solvers: Sequence[caffe_pb2.SolverParameter],
    logs: Sequence[Path],
    commands: Sequence[Sequence[str]],
    precision: str,
) -> str:
    """The card's text."""
    architecture = network.label.split()[0]
    first, last = network.qualities[0], network.qualities[-1]
    quality = f"quality {first}" if first == last else f"the qualities {first} to {last}"
    recipe = [f"tools/{program}.py {shlex.join(words)}" for program, *words in commands]
    trained = "; then, from the weights at the end of that, ".join(
        f"`prototxt/{name}`: {_training(solver)}" for name, solver in zip(network.solvers, solvers, strict=True)
    )
    chosen = (
        "the second training was added because of the first one's scores on them, nothing else was chosen by "
        "looking at them"
        if network.then
        else "nothing was chosen by looking at them"
    )
    start = (
        f"It started from the weights of [`{network.start}`](../{network.start}/), which saves time."
        if network.start
        else "It started from the net's own fillers."
    )
    sets = f"--images live1 bsds500/val --quality {' '.join(map(str, network.qualities))}"
    blocks = [
        f"# {network.name}",
        fill(f"""Removes the artifacts of JPEG compression at {quality} from luma. {architecture}:
            {_ARCHITECTURES[architecture]}; {_OBJECTIVES[network.label]}. From Svoboda, Hradis, Barina, Zemcik,
            "Compression Artifacts Removal Using Convolutional Neural Networks" (2016)."""),
        "## Scores",
        fill("""LIVE1 (29 images) and BSDS500 val (100 images), whole images, 8 bit; PSNR [dB], PSNR-B [dB], SSIM over
            8x8 windows as in the paper, and over Gaussian 11x11 windows. `scores.json` has them in full precision."""),
        "\n".join(score_table(network, results)),
        f"    tools/eval_net.py --model {network.name} {sets}",
        "## Data",
        fill(f"""The 400 images of BSDS500 train and test as luma (MATLAB's `rgb2ycbcr`), compressed by libjpeg at
            {quality}; {network.patches:,} patches of {network.size}x{network.size}, flipped and rotated. LIVE1 and
            BSDS500 val were used for evaluation only (the curve in `train.log` is of BSDS500 val): {chosen}."""),
        "## Recipe",
        "\n".join(f"    {line}" for line in recipe),
        fill(f"""{trained}; {precision}. {start} {duration(logs)} on two CPU cores, by the log's times, other work
            beside it included. The paper's own recipe{_borrowed(network)} is SGD over 250,000
            iterations (`prototxt/solver_{network.net}`)."""),
        "## Files",
        f"""- `weights.caffemodel`: for `prototxt/{network.net}`, in Caffe's own format.
- `model.onnx`: luma 0..255 in (float32, batch x 1 x height x width), restored luma 0..255 of the same shape out;
  scaling and reflection padding are inside.
- `scores.json`; {" and ".join(f"`{log.name}`" for log in logs)}: what was printed while it was trained.
- where there is a `filters/`, the first layer at some iterations, for figure 7.""",
        "## Limits",
        fill(f"""Made for {quality}. On files of much better quality it takes away detail; on much worse ones it
            leaves artifacts. It restores luma; chroma stays as it was decoded."""),
    ]
    return "\n\n".join(blocks) + "\n"


def _borrowed(network: Network) -> str:
    """The paper quotes AR-CNN from its authors, so its solver file is the one of the paper's own networks."""
    return " for its networks" if network.label == "AR-CNN" else ""


def _training(solver: caffe_pb2.SolverParameter) -> str:
    """A solver's settings in words."""
    rate = (
        f"rate {solver.base_lr:g} after a warm-up of {solver.stepsize} iterations, then down to zero as half a cosine"
        if solver.lr_policy == "cosine"
        else f"lr policy {solver.lr_policy} from {solver.base_lr:g}"
    )
    return f"{solver.max_iter:,} iterations, {solver.type} ({solver.momentum:g}, {solver.momentum2:g}), {rate}"


def score_table(network: Network, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ours beside the paper's, a row a set and quality."""
    names = {Path(folder).name: name for name, folder in SETS.items()}
    rows = [
        "| | JPEG | this network | the paper's | SSIM, Gaussian |",
        "| --- | --- | --- | --- | --- |",
    ]
    by_method = {(row["dataset"], row["quality"], row["method"]): row for row in results}
    for (dataset, quality, method), row in by_method.items():
        if method != network.name:
            continue
        jpeg = by_method[dataset, quality, "distorted"]
        # The paper's tables are of networks for one quality.
        single = len(network.qualities) == 1
        paper = PAPER.get((names.get(dataset, dataset), quality, network.label)) if single else None
        rows.append(
            f"| {names.get(dataset, dataset)}, quality {quality} | {_triple(jpeg)} | **{_triple(row)}** "
            f"| {' / '.join((f'{paper[0]:.2f}', f'{paper[1]:.2f}', f'{paper[2]:.3f}')) if paper else '-'} "
            f"| {row['ssim_gaussian']:.3f} |"
        )
    return rows


def _triple(row: Mapping[str, Any]) -> str:
    return f"{row['psnr']:.2f} / {row['psnr_b']:.2f} / {row['ssim']:.3f}"
