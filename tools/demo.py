#!/usr/bin/env python3
"""The whole path on a few photographs, in under ten minutes on two CPU cores: what `make demo` runs.

    tools/demo.py                       everything, into demo/
    tools/demo.py --minutes 30          a longer training (1000 iterations at most), a better network
    tools/demo.py --iterations 50       a fixed length, for a quick look at the steps

Photographs that come with scikit-image -> a database of patches -> a short training of the paper's L8 -> its
scores on photographs it has not seen -> filters, training curve, before and after -> ONNX. What is a
program of tools/ is shown with the command that you could type. It starts afresh each time: what an earlier run
left in demo/ is removed. What was made and the scores are printed last; it fails (exit 1) if the network does
not beat the JPEG by 0.3 dB.
"""

from __future__ import annotations

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import csv
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pycaffe_compat import cli, cpu, figures
from pycaffe_compat.errors import CaffeError

try:
    import skimage.data
except ImportError:  # the library does without it
    sys.exit("error: the demo's photographs come with scikit-image: run `make demo`, or pip install scikit-image")

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent

# Photographs inside scikit-image's wheel (nothing is downloaded) that are CC0 or in the public domain, as its
# documentation says. Not used: motorcycle (of the Middlebury stereo benchmark, no licence stated), retina (a JPEG
# with artifacts of its own), clock (blurred).
TRAINING = {
    "astronaut.png": "NASA, public domain",
    "brick.png": "CC0Textures, CC0",
    "coffee.png": "Rachel Michetti, CC0",
    "grass.png": "linolafett, CC0",
    "gravel.png": "CC0Textures, CC0",
    "rocket.jpg": "SpaceX, public domain",
}
TESTING = {
    "camera.png": "Lav Varshney, CC0",
    "chelsea.png": "Stefan van der Walt, CC0",
}
# What the last picture shows of each: left, top, side.
CROPS = {"camera": (180, 70, 150), "chelsea": (105, 55, 150)}

QUALITY = 20  # L8 is a network for quality 20 and up in the paper
SIZE = 128  # prototxt/l8.prototxt says where its databases are and of which patches
PATCHES = 4000
SOLVER = "solver_demo.prototxt"
PREFIX = "snapshots/l8_demo"
MARGIN = 0.3  # dB that L8 must gain over the JPEG for this to be called a success

MARK = ".made-by-make-demo"
SHORTEST, LONGEST = 200, 1000  # iterations; with so few photographs, more gain next to nothing
TRIAL = 21


class Demo:
    """Runs the steps in one folder, tells what it does, and keeps the time."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.steps = steps
        self.step_number = 0
        self.start = time.monotonic()

    def minutes(self) -> str:
        """The time since the start, 5:07."""
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        return f"{minutes}:{seconds:02d}"

    def step(self, title: str) -> None:
        """A headline."""
        self.step_number += 1
        print(f"\n[{self.step_number}/{self.steps}] {title}  ({self.minutes()})", flush=True)

    def run(self, program: str, *arguments: object, keep: bool = False, show: bool = True) -> str:
        """Run a program of tools/ in the folder; its standard output if `keep`, which is shown as well."""
        words = [str(argument) for argument in arguments]
        name = os.path.relpath(TOOLS / f"{program}.py", self.folder)
        if show:
            print(f"$ {shlex.join([name, *words])}", flush=True)
        process = subprocess.Popen(
            [sys.executable, name, *words],
            cwd=self.folder,
            stdout=subprocess.PIPE if keep or not show else None,
            stderr=None if show else subprocess.STDOUT,
            text=True,
        )
        kept = []
        with cli.let_end(process):
            for line in process.stdout or ():
                kept.append(line)
                if show:
                    print(line, end="", flush=True)
            code = process.wait()
        if code:
            if not show:
                print("".join(kept), end="", flush=True)
            raise CaffeError(f"{program}.py ended with code {code}; what it printed is above")
        return "".join(kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when all of it worked and the network beats the JPEG."""
    args = parser().parse_args(argv)
    folder = Path(args.output).resolve()
    clear(folder)
    demo = Demo(folder, steps=8)
    print(f"Everything goes into {folder}; the commands below were typed there.")

    demo.step("Photographs: some to train on, others to test on")
    export(folder / "photographs" / "train", TRAINING)
    export(folder / "photographs" / "test", TESTING)

    demo.step("Patch databases, as prototxt/l8.prototxt names them")
    for name, count, seed in (("train", PATCHES, 1), ("test", 64, 2)):
        options = ["--quality", QUALITY, "--size", SIZE, "--count", count, "--seed", seed]
        output = f"data/q{QUALITY}_{SIZE}_{name}"
        demo.run("make_patches", "--images", f"photographs/{name}", *options, "--output", output)

    demo.step("Training L8")
    precision, iterations = plan(demo, args)
    options = ["--precision", precision] if precision != "float32" else []
    demo.run("train_net", "--solver", SOLVER, "--max_iter", iterations, *options, "--log", "train.log")
    weights = f"{PREFIX}_iter_{iterations}.caffemodel"

    demo.step("Scores on the photographs that were not trained on")
    outputs = ["--csv", "scores.csv", "--json", "scores.json"]
    net = ["--model", "l8.prototxt", "--weights", weights]
    images = ["--names", "L8", "--images", "photographs/test", "--quality", QUALITY]
    table = demo.run("eval_net", *net, *images, *outputs, keep=True)

    demo.step("Pictures of the network and its training")
    drawn = os.path.relpath(ROOT / "prototxt" / "l8.prototxt", folder)
    demo.run("draw_net", drawn, "-o", "network.png", "--phase", "test", "--stage", "deploy")
    demo.run("visualize_filters", PREFIX, "-o", "filters.png", "--animation", "filters.gif")
    demo.run("plot_log", "train.log", "-o", "curve.png", "--loss", "--test", "loss", "--psnr")

    demo.step("Restoring JPEG files")
    compress(folder)
    demo.run("restore", "--net", "l8.prototxt", "--weights", weights, "jpeg", "restored")

    demo.step("Before and after")
    before_and_after(folder)
    print("before_after.png")

    demo.step("ONNX, checked by ONNX Runtime")
    demo.run("convert_to_onnx", *net, "--output", "l8.onnx", "--image-in-out")

    return last_screen(demo, table, weights, iterations)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n")
    result = argparse.ArgumentParser(
        prog="demo.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--output", default=str(ROOT / "demo"), metavar="DIR", help="where (default: demo/ of the checkout)")
    add("--minutes", type=cli.positive_float, default=4.0, help="of training (default: %(default)s)")
    add("--iterations", type=cli.positive_int, metavar="N", help="of training, instead of --minutes")
    return result


def clear(folder: Path) -> None:
    """Make the folder empty; one that this program did not make is left alone."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise CaffeError(f"{folder} holds files that are not this demo's: remove it, or choose --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("tools/demo.py may remove this folder\n")


def export(folder: Path, photographs: dict[str, str]) -> None:
    """Write photographs of scikit-image as PNG files."""
    folder.mkdir(parents=True)
    source = Path(skimage.data.__file__).parent
    for name, origin in photographs.items():
        image = Image.open(source / name)
        target = folder / f"{Path(name).stem}.png"
        # Without the file's colour profile and other metadata: the pixels are what counts here.
        Image.fromarray(np.asarray(image)).save(target)
        size = f"{image.width}x{image.height}"
        print(f"  {os.path.relpath(target, folder.parent.parent):36} {size:>9}  {origin}")


def plan(demo: Demo, args: argparse.Namespace) -> tuple[str, int]:
    """Precision and iterations: what this computer can do in the time, measured by a few iterations."""
    if args.iterations:
        return "float32", args.iterations
    solver = (ROOT / "prototxt" / SOLVER).read_text()
    kept = [line for line in solver.splitlines() if not re.match(r"test_|display|snapshot|max_iter", line)]
    kept += [f"max_iter: {TRIAL}", "display: 5", "snapshot_after_train: false"]
    (demo.folder / "trial.prototxt").write_text("\n".join(kept) + "\n")
    speeds = {}
    for precision in ("float32", "bfloat16") if cpu.fast_bfloat16() else ("float32",):
        options = ["--solver", "trial.prototxt", "--precision", precision, "--log", "trial.log"]
        demo.run("train_net", *options, show=False)
        found = re.findall(r"Iteration \d+ \(([\d.eE+-]+) iter/s", (demo.folder / "trial.log").read_text())
        if len(found) < 2:
            raise CaffeError(f"{demo.folder / 'trial.log'}: no line with the iterations a second")
        speeds[precision] = statistics.median(map(float, found[1:]))  # the first holds the start
        print(f"  a trial in {precision}: {speeds[precision]:.2f} iterations a second", flush=True)
    for name in ("trial.prototxt", "trial.log"):
        (demo.folder / name).unlink()
    best = max(speeds, key=lambda name: speeds[name])
    fitting = int(speeds[best] * 60 * args.minutes) // 50 * 50
    iterations = min(max(fitting, SHORTEST), LONGEST)
    print(f"  {iterations} iterations take about {iterations / speeds[best] / 60:.1f} minutes", flush=True)
    return best, iterations


def compress(folder: Path) -> None:
    """What a camera or a web site would have left of the test photographs, in jpeg/."""
    (folder / "jpeg").mkdir()
    for name in TESTING:
        stem = Path(name).stem
        image = cv2.imread(str(folder / "photographs" / "test" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise CaffeError(f"{folder}/photographs/test/{stem}.png cannot be read")
        cv2.imwrite(str(folder / "jpeg" / f"{stem}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def before_and_after(folder: Path) -> None:
    """A crop of each test photograph, as JPEG, restored and original, side by side."""
    columns = {f"JPEG, quality {QUALITY}": "jpeg/{}.jpg", "restored by L8": "restored/{}.png"}
    columns["original"] = "photographs/test/{}.png"
    figure = figures.new_figure(3 * 3.2, len(CROPS) * 3.2 + 0.3)
    axes = figure.subplots(len(CROPS), len(columns), squeeze=False)
    for row, (stem, (left, top, side)) in zip(axes, CROPS.items(), strict=True):
        for axis, place in zip(row, columns.values(), strict=True):
            image = Image.open(folder / place.format(stem)).convert("RGB")
            axis.imshow(image.crop((left, top, left + side, top + side)), interpolation="nearest")
            axis.set_axis_off()
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.94, wspace=0.02, hspace=0.02)
    figures.save_figure(figure, folder / "before_after.png")


def last_screen(demo: Demo, table: str, weights: str, iterations: int) -> int:
    """What was made, where, and how good it is; CaffeError when that is not good enough."""
    gains = psnr_gains(demo.folder / "scores.csv")
    shown = os.path.relpath(demo.folder)
    made = {
        "photographs/": f"{len(TRAINING)} to train on, {len(TESTING)} to test on",
        "data/": "the patch databases (HDF5)",
        weights: f"the network after {iterations} iterations; the snapshots before it lie beside it",
        "train.log, curve.png": "the training",
        "network.png": "the network, drawn from its prototxt",
        "filters.png, filters.gif": "its first layer's filters over the training",
        "scores.csv, scores.json": "the table below",
        "jpeg/, restored/": "photographs before and after",
        "before_after.png": "a closer look at them",
        "l8.onnx": "the network for ONNX Runtime: luma 0..255 in, restored luma out",
    }
    print(f"\nMade in {shown}/ in {demo.minutes()} minutes:\n")
    for name, what in made.items():
        print(f"  {name:42} {what}")
    print(f"\nScores on {len(TESTING)} photographs that were not trained on, JPEG quality {QUALITY}:\n")
    print(table)
    print(f"Yours:  tools/restore.py --net l8.prototxt --weights {shown}/{weights} in.jpg out.png")
    if gains["L8"] < MARGIN:
        raise CaffeError(f"L8 gains only {gains['L8']:.2f} dB over the JPEG: the training was too short")
    print(f"L8 gains {gains['L8']:.2f} dB of PSNR over the JPEG, spp {gains['spp']:.2f} dB.")
    return 0


def psnr_gains(path: Path) -> dict[str, float]:
    """dB over the distorted image by method, means over the test photographs, from eval_net's CSV."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    psnr = {row["method"]: float(row["psnr"]) for row in rows}
    distorted = psnr.pop("distorted")
    return {name: value - distorted for name, value in psnr.items()}


if __name__ == "__main__":
    cli.run(main)
