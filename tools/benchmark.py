#!/usr/bin/env python3
"""Measures how fast this project is, as ratios side by side in one run.

    tools/benchmark.py                      # everything, some ten minutes
    tools/benchmark.py train restore        # parts: train, restore, data, memory
    tools/benchmark.py train --json F       # the figures as JSON too

Each ratio compares two ways of doing the same work, taken in turn (A B A B ...) so that a machine whose speed drifts
does not favour one; medians are compared. Nothing else should run meanwhile. The parts:

train    one training iteration of L4 (64x1x64x64) and L8 (4x1x128x128), data layer included, against a plain
         hand-written PyTorch loop on tensors in memory; and bfloat16 against float32
restore  restoring 1024x1024 with L4 and L8 against ONNX Runtime on the same model
data     batches a second of the HDF5 data layer, as a multiple of what training consumes
memory   peak memory of restoring 100 megapixels, above the image itself
"""

if __package__ in (None, ""):  # run from a clone, not installed
    import _checkout  # noqa: F401

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pycaffe_compat import cli, log, resources
from pycaffe_compat.data.hdf5 import HDF5Source
from pycaffe_compat.export import ImageInOut, export_onnx
from pycaffe_compat.files import atomic_write
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.proto.text import read_net, read_solver
from pycaffe_compat.restoration.patches import Settings, make_patches
from pycaffe_compat.restoration.restore import Restorer
from pycaffe_compat.solver import Solver

PARTS = ("train", "restore", "data", "memory")
BATCHES = 100
NETS = {"l4": (64, 64), "l8": (4, 128)}  # batch and patch size of the paper


class L4(nn.Module):
    """L4 as one would write it by hand."""

    border = 9

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 48, 11), nn.ReLU(inplace=True), nn.Conv2d(48, 64, 3), nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3), nn.ReLU(inplace=True), nn.Conv2d(64, 1, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class L8(nn.Module):
    """L8 as one would write it by hand."""

    border = 12

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 32, 11), nn.ReLU(inplace=True))
        self.second = nn.Sequential(
            nn.Conv2d(32, 64, 3), nn.ReLU(inplace=True), nn.Conv2d(64, 64, 3), nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.third = nn.Sequential(
            nn.Conv2d(96, 64, 1), nn.ReLU(inplace=True), nn.Conv2d(64, 64, 5), nn.ReLU(inplace=True)
        )
        self.last = nn.Sequential(nn.Conv2d(96, 128, 1), nn.ReLU(inplace=True), nn.Conv2d(128, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        y = self.third(torch.cat([self.second(first), first[:, :, 3:-3, 3:-3]], 1))
        return self.last(torch.cat([y, first[:, :, 5:-5, 5:-5]], 1))


HAND_WRITTEN: dict[str, type[L4] | type[L8]] = {"l4": L4, "l8": L8}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, taken in turn after one warm-up each."""
    for work in ways.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(seconds(work))
    return {name: statistics.median(values) for name, values in times.items()}


def noise_database(folder: str, batch: int, size: int) -> str:
    """A database of the net's patch size, cut from noise: its content does not matter for time."""
    from PIL import Image

    random = np.random.default_rng(0)
    images = []
    for i in range(4):
        images.append(os.path.join(folder, f"noise{i}.png"))
        Image.fromarray(random.integers(0, 256, (size + 64, size + 64), dtype=np.uint8)).save(images[-1])
    settings = Settings(size=size, count=16 * batch, qualities=(10,), seed=0)
    make_patches(images, os.path.join(folder, "database"), settings)
    return os.path.join(folder, "database.txt")


def solver_for(net: str, database: str, precision: str) -> Solver:
    """The project's solver on a net of prototxt/, with Adam, its data taken from ``database``."""
    param = read_solver(resources.net_path(f"solver_{net}.prototxt"))
    source = read_net(resources.net_path(f"{net}.prototxt")).param
    for layer in source.layer:
        if layer.type == "HDF5Data":
            layer.hdf5_data_param.source = database
    for field in ("net", "test_iter", "test_interval", "display", "snapshot", "snapshot_prefix"):
        param.ClearField(field)
    param.net_param.CopyFrom(source)
    param.type, param.base_lr, param.momentum2, param.lr_policy = "Adam", 1e-4, 0.999, "fixed"
    param.weight_decay = 0
    param.snapshot_after_train = False
    return Solver(param, precision=precision)


def hand_written(net: str, batch: int, size: int, precision: str) -> Callable[[], object]:
    """One iteration of a plain PyTorch loop on the same work: residual objective, Adam, channels-last."""
    model = HAND_WRITTEN[net]().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    border = model.border
    data, label = torch.rand(batch, 1, size, size) * 255, torch.rand(batch, 1, size, size) * 255

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            residual = model(data / 255 - 0.5)
        target = (data - label)[:, :, border:-border, border:-border] / 255
        loss = F.mse_loss(residual.float(), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def bench_train(rounds: int) -> dict[str, float]:
    """Ratios of one training iteration."""
    result = {}
    with tempfile.TemporaryDirectory() as folder, log.console(lambda line: None):
        for net, (batch, size) in NETS.items():
            place = os.path.join(folder, net)
            os.mkdir(place)
            database = noise_database(place, batch, size)
            solvers = {p: solver_for(net, database, p) for p in ("float32", "bfloat16")}
            ways: dict[str, Callable[[], object]] = {}
            for p, solver in solvers.items():
                ways[f"this project, {p}"] = partial(solver.step, 1)
                ways[f"hand-written, {p}"] = hand_written(net, batch, size, p)
            median = in_turn(ways, rounds)
            for name, value in median.items():
                print(f"  {net} {batch}x1x{size}x{size} {name}: {value * 1e3:.0f} ms an iteration")
            ours = {p: median[f"this project, {p}"] for p in solvers}
            for p in solvers:
                result[f"train {net} {p}: time / hand-written"] = ours[p] / median[f"hand-written, {p}"]
            result[f"train {net}: speed of bfloat16 / float32"] = ours["float32"] / ours["bfloat16"]
    return result


def bench_restore(rounds: int) -> dict[str, float]:
    """Ratios of restoring a square of 1024 pixels."""
    result = {}
    luma = np.random.default_rng(0).integers(0, 256, (1024, 1024)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    for net in NETS:
        path = resources.net_path(f"{net}.prototxt")
        graph = Graph(path, TEST, stages=["deploy"])
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, "model.onnx")
            export_onnx(ImageInOut(graph), model)
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        restorers = {p: Restorer(path, graph.weights(), precision=p) for p in ("float32", "bfloat16")}
        ways: dict[str, Callable[[], object]] = {"ONNX Runtime": partial(session.run, None, {"data": luma[None, None]})}
        ways |= {p: partial(restorer.restore_luma, luma) for p, restorer in restorers.items()}
        median = in_turn(ways, rounds)
        for name, value in median.items():
            print(f"  {net} 1024x1024 {name}: {value * 1e3:.0f} ms")
        for p in restorers:
            result[f"restore {net} {p}: time / ONNX Runtime"] = median[p] / median["ONNX Runtime"]
    return result


def bench_data(rounds: int) -> dict[str, float]:
    """Time of a batch from the HDF5 layer, against a training iteration that would use it."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for net, (batch, size) in NETS.items():
            place = os.path.join(folder, net)
            os.mkdir(place)
            database = noise_database(place, batch, size)
            source = HDF5Source(database, ["data", "label"], batch, True, 0)
            step = hand_written(net, batch, size, "float32")
            median = in_turn({"batches": partial(take, source, BATCHES), "iteration": step}, rounds)
            source.close()
            print(f"  {net} {batch}x1x{size}x{size}: {BATCHES / median['batches']:.0f} batches/s")
            result[f"data {net}: time / iteration"] = median["batches"] / BATCHES / median["iteration"]
    return result


def take(source: HDF5Source, batches: int) -> None:
    """Fetch that many batches."""
    for _ in range(batches):
        source.next()


def bench_memory(rounds: int) -> dict[str, float]:
    """Peak memory of restoring 100 megapixels, in a process of its own."""
    result = {}
    for net in NETS:
        child = subprocess.run(
            [sys.executable, os.path.abspath(__file__), "--child", net], capture_output=True, text=True, check=True
        )
        gib, took = map(float, child.stdout.split())
        print(f"  {net} 100 Mpx: {gib:.2f} GiB above the image, {took:.0f} s", flush=True)
        result[f"memory {net} 100 Mpx: GiB above the image (in and out)"] = gib
    return result


def restore_100_megapixels(net: str) -> None:
    """The child of ``bench_memory``: prints GiB above what the image takes, and seconds."""
    path = resources.net_path(f"{net}.prototxt")
    restorer = Restorer(path)  # untrained weights take as long
    luma = np.zeros((10_000, 10_000), np.uint8)
    luma[::3, ::7] = 200
    took = seconds(lambda: restorer.restore_luma(luma))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(peak - luma.size * (1 + 4) / 2**30, took)


BENCHES = {"train": bench_train, "restore": bench_restore, "data": bench_data, "memory": bench_memory}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    result = argparse.ArgumentParser(
        prog="benchmark.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} (default: all)")
    add("--rounds", type=cli.positive_int, default=15, help="how often each way is taken (default: 15)")
    add("--json", metavar="FILE", help="write the ratios here too")
    add("--child", choices=sorted(NETS), help=argparse.SUPPRESS)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = parser().parse_args(argv)
    if args.child:
        restore_100_megapixels(args.child)
        return 0
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser().error(f"there is no part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, median of {args.rounds} rounds"
    )
    ratios: dict[str, float] = {}
    for part in args.parts or PARTS:
        print(f"{part}:")
        ratios |= BENCHES[part](args.rounds)
    print("\nratios")
    for name, value in ratios.items():
        print(f"  {value:7.3f}  {name}")
    if args.json:
        with atomic_write(args.json) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(ratios, file, indent=1)
    return 0


if __name__ == "__main__":
    cli.run(main)
