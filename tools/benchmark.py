#!/usr/bin/env python3
"""Measures how fast this project is, as ratios side by side in one run.

    tools/benchmark.py                      # everything, some ten minutes
    tools/benchmark.py train restore        # parts: train, restore, data, memory, nets
    tools/benchmark.py nets --rounds 5      # ResNet-50 in batches of 16 takes its time
    tools/benchmark.py train --json F       # the figures as JSON too

Each ratio compares two ways of doing the same work, taken in turn (A B B A ...) so that a machine whose speed drifts
does not favour one; medians are compared. Nothing else should run meanwhile. The parts:

train    one training iteration of L4 (64x1x64x64) and L8 (4x1x128x128), data layer included, against a plain
         hand-written PyTorch loop on tensors in memory; and bfloat16 against float32
restore  restoring 1024x1024 with L4 and L8 against ONNX Runtime on the same model
data     a batch of the HDF5 data layer, as a fraction of the training iteration that takes it
memory   peak memory of restoring 100 megapixels, above the image itself
nets     LeNet, AlexNet, GoogLeNet and ResNet-50, batches of 1 and 16, forward in TEST: against the same net written by
         hand in plain PyTorch, and against ONNX Runtime; seconds to build ResNet-152 from its text, and to load
         AlexNet's 244 MB from a .caffemodel
"""

if not __package__:  # started as a file of a checkout, not as an installed module
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
from pycaffe_compat.convert import save
from pycaffe_compat.data.hdf5 import HDF5Source
from pycaffe_compat.errors import CaffeError, NetError
from pycaffe_compat.export import Deployed, ImageInOut, export_onnx
from pycaffe_compat.files import atomic_write
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.naming import shape_text
from pycaffe_compat.net_spec import Top, to_proto
from pycaffe_compat.net_spec import layers as L
from pycaffe_compat.net_spec import params as P
from pycaffe_compat.proto.text import format_message, parse_net, read_net, read_solver
from pycaffe_compat.restoration.patches import Settings, make_patches
from pycaffe_compat.restoration.restore import Restorer
from pycaffe_compat.solver import Solver
from pycaffe_compat.weights import read_weights

PARTS = ("train", "restore", "data", "memory", "nets")
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
    """Median seconds of each way, taken in turn (A B C, C B A, ...), each after a pause and a call that does not count.

    Without these a way is charged for what goes before it: the threads of ONNX Runtime go on looking for work for some
    milliseconds, on the cores that PyTorch's threads want.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        for name, work in list(ways.items())[:: -1 if i % 2 else 1]:
            time.sleep(0.1)
            work()
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
            [sys.executable, os.path.abspath(__file__), "--child", net], stdout=subprocess.PIPE, text=True, check=False
        )
        if child.returncode:
            raise CaffeError(f"restoring 100 megapixels with {net} ended with code {child.returncode}: out of memory?")
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


# ------------------------------------------------------------------------------------------------------ known nets


def conv(x: Top, count: int, kernel: int, relu: bool = True, **settings: object) -> Top:
    """A Convolution, and a ReLU in place."""
    y = L.Convolution(x, num_output=count, kernel_size=kernel, weight_filler={"type": "msra"}, **settings)
    return L.ReLU(y, in_place=True) if relu else y


def pool(x: Top, kernel: int, stride: int, **settings: object) -> Top:
    return L.Pooling(x, kernel_size=kernel, stride=stride, **settings)


def full(x: Top, count: int, relu: bool = False) -> Top:
    y = L.InnerProduct(x, num_output=count, weight_filler={"type": "xavier"})
    return L.ReLU(y, in_place=True) if relu else y


def image(channels: int, size: int) -> Top:
    return L.Input(shape={"dim": [1, channels, size, size]})


def lenet() -> Top:
    x = pool(conv(image(1, 28), 20, 5, relu=False), 2, 2)
    return full(full(pool(conv(x, 50, 5, relu=False), 2, 2), 500, relu=True), 10)


def alexnet() -> Top:
    x = pool(L.LRN(conv(image(3, 227), 96, 11, stride=4), local_size=5, alpha=1e-4), 3, 2)
    x = pool(L.LRN(conv(x, 256, 5, pad=2, group=2), local_size=5, alpha=1e-4), 3, 2)
    x = conv(conv(x, 384, 3, pad=1), 384, 3, pad=1, group=2)
    x = pool(conv(x, 256, 3, pad=1, group=2), 3, 2)
    for _ in range(2):
        x = L.Dropout(full(x, 4096, relu=True), in_place=True)
    return full(x, 1000)


# 1x1; 3x3: reduced to, then; 5x5: reduced to, then; behind the pooling
INCEPTIONS = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip
POOLED_BEFORE = (2, 7)


def googlenet() -> Top:
    x = L.LRN(pool(conv(image(3, 224), 64, 7, pad=3, stride=2), 3, 2), local_size=5, alpha=1e-4)
    x = pool(L.LRN(conv(conv(x, 64, 1), 192, 3, pad=1), local_size=5, alpha=1e-4), 3, 2)
    for i, (one, three_in, three, five_in, five, pooled) in enumerate(INCEPTIONS):
        x = pool(x, 3, 2) if i in POOLED_BEFORE else x
        x = L.Concat(
            conv(x, one, 1),
            conv(conv(x, three_in, 1), three, 3, pad=1),
            conv(conv(x, five_in, 1), five, 5, pad=2),
            conv(pool(x, 3, 1, pad=1), pooled, 1),
        )
    return full(L.Dropout(pool(x, 7, 1, pool=P.Pooling.AVE), in_place=True), 1000)


def resnet(*blocks: int) -> Top:
    def normal(x: Top, count: int, kernel: int, relu: bool = True, **settings: object) -> Top:
        x = L.BatchNorm(conv(x, count, kernel, relu=False, bias_term=False, **settings), in_place=True)
        x = L.Scale(x, in_place=True, bias_term=True)
        return L.ReLU(x, in_place=True) if relu else x

    x = pool(normal(image(3, 224), 64, 7, pad=3, stride=2), 3, 2)
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            short = x if block else normal(x, 4 * width, 1, relu=False, stride=stride)
            y = normal(normal(x, width, 1, stride=stride), width, 3, pad=1)
            x = L.ReLU(L.Eltwise(short, normal(y, 4 * width, 1, relu=False)), in_place=True)
    return full(pool(x, 7, 1, pool=P.Pooling.AVE), 1000)


class Branches(nn.Module):
    """Modules side by side, their outputs joined or added."""

    def __init__(self, *branches: nn.Module, add: bool = False) -> None:
        super().__init__()
        self.branches, self.add = nn.ModuleList(branches), add

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self.branches]
        return F.relu_(outputs[0] + outputs[1]) if self.add else torch.cat(outputs, 1)


def by_hand_conv(before: int, count: int, kernel: int, **settings: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, count, kernel, **settings), nn.ReLU(inplace=True))


def by_hand_pool(kernel: int, stride: int, padding: int = 0) -> nn.Module:
    return nn.MaxPool2d(kernel, stride, padding, ceil_mode=True)


def by_hand_lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), by_hand_pool(2, 2), nn.Conv2d(20, 50, 5), by_hand_pool(2, 2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, 10),
    )  # fmt: skip


def by_hand_alexnet() -> nn.Module:
    return nn.Sequential(
        by_hand_conv(3, 96, 11, stride=4), nn.LocalResponseNorm(5), by_hand_pool(3, 2),
        by_hand_conv(96, 256, 5, padding=2, groups=2), nn.LocalResponseNorm(5), by_hand_pool(3, 2),
        by_hand_conv(256, 384, 3, padding=1), by_hand_conv(384, 384, 3, padding=1, groups=2),
        by_hand_conv(384, 256, 3, padding=1, groups=2), by_hand_pool(3, 2), nn.Flatten(),
        nn.Linear(9216, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Linear(4096, 1000),
    )  # fmt: skip


def by_hand_googlenet() -> nn.Module:
    layers = [
        by_hand_conv(3, 64, 7, padding=3, stride=2), by_hand_pool(3, 2), nn.LocalResponseNorm(5),
        by_hand_conv(64, 64, 1), by_hand_conv(64, 192, 3, padding=1), nn.LocalResponseNorm(5), by_hand_pool(3, 2),
    ]  # fmt: skip
    before = 192
    for i, (one, three_in, three, five_in, five, pooled) in enumerate(INCEPTIONS):
        layers += [by_hand_pool(3, 2)] if i in POOLED_BEFORE else []
        layers.append(Branches(
            by_hand_conv(before, one, 1),
            nn.Sequential(by_hand_conv(before, three_in, 1), by_hand_conv(three_in, three, 3, padding=1)),
            nn.Sequential(by_hand_conv(before, five_in, 1), by_hand_conv(five_in, five, 5, padding=2)),
            nn.Sequential(by_hand_pool(3, 1, 1), by_hand_conv(before, pooled, 1)),
        ))  # fmt: skip
        before = one + three + five + pooled
    return nn.Sequential(*layers, nn.AvgPool2d(7, 1), nn.Flatten(), nn.Dropout(), nn.Linear(1024, 1000))


def by_hand_resnet(*blocks: int) -> nn.Module:
    def normal(before: int, count: int, kernel: int, **settings: int) -> list[nn.Module]:
        return [nn.Conv2d(before, count, kernel, bias=False, **settings), nn.BatchNorm2d(count)]

    layers: list[nn.Module] = [*normal(3, 64, 7, padding=3, stride=2), nn.ReLU(inplace=True), by_hand_pool(3, 2)]
    before = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            short = nn.Identity() if block else nn.Sequential(*normal(before, 4 * width, 1, stride=stride))
            body = nn.Sequential(
                *normal(before, width, 1, stride=stride), nn.ReLU(inplace=True),
                *normal(width, width, 3, padding=1), nn.ReLU(inplace=True), *normal(width, 4 * width, 1),
            )  # fmt: skip
            layers.append(Branches(short, body, add=True))
            before = 4 * width
    return nn.Sequential(*layers, nn.AvgPool2d(7, 1), nn.Flatten(), nn.Linear(before, 1000))


def same_weights(graph: Graph, by_hand: nn.Module) -> None:
    """Gives the hand-written net the graph's weights, whose order is its own; BatchNorms get statistics first."""
    for node in graph.nodes:
        if node.type == "BatchNorm":
            mean, variance, factor = (blob.data for blob in node.layer.blobs)
            mean.uniform_(-0.1, 0.1), variance.uniform_(0.9, 1.1), factor.fill_(1)
    blobs = (blob.data for node in graph.nodes for blob in node.layer.blobs)
    for module in by_hand.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var, _ = next(blobs), next(blobs), next(blobs)
        for parameter in module.parameters(recurse=False):
            parameter.data = next(blobs)
    assert next(blobs, None) is None


def times(count: int, work: Callable[[], object]) -> Callable[[], object]:
    """The work several times: what takes less than a millisecond cannot be timed alone."""

    def repeated() -> None:
        for _ in range(count):
            work()

    return repeated


KNOWN: dict[str, tuple[Callable[[], Top], Callable[[], nn.Module]]] = {
    "LeNet": (lenet, by_hand_lenet),
    "AlexNet": (alexnet, by_hand_alexnet),
    "GoogLeNet": (googlenet, by_hand_googlenet),
    "ResNet-50": (partial(resnet, 3, 4, 6, 3), partial(by_hand_resnet, 3, 4, 6, 3)),
}


@torch.no_grad()
def bench_nets(rounds: int) -> dict[str, float]:
    """Ratios of forward over known nets, and how long it takes to build and to load."""
    result = {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        for name, (net, by_hand_net) in KNOWN.items():
            graph, by_hand = Graph(to_proto(net()), TEST).eval(), by_hand_net().eval()
            same_weights(graph, by_hand)
            (blob,), (output,) = graph.inputs, graph.outputs
            path = os.path.join(folder, "model.onnx")
            export_onnx(Deployed(graph), path)
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for batch in (1, 16):
                x = torch.rand(batch, *graph.shapes[blob][1:])
                want, given = by_hand(x), {blob: x.numpy()}
                for got in (graph(x)[output], torch.from_numpy(session.run(None, given)[0])):
                    if not (got - want).abs().max() <= 1e-4 * want.abs().max():
                        raise NetError(f"{name} by hand and in this project differ")
                count, often = (400, 4) if name == "LeNet" else (1, 1)  # a small net's times scatter the most
                median = in_turn(
                    {
                        "this project": times(count, partial(graph, x)),
                        "by hand": times(count, partial(by_hand, x)),
                        "ONNX Runtime": times(count, partial(session.run, None, given)),
                    },
                    often * rounds,
                )
                for way, value in median.items():
                    print(f"  {name} {batch}x{shape_text(x.shape[1:])} {way}: {value / count * 1e3:.2f} ms", flush=True)
                for way in ("by hand", "ONNX Runtime"):
                    result[f"{name}, batch {batch}: time / {way}"] = median["this project"] / median[way]
        result["s to build ResNet-152 from its text"] = time_of_building(rounds)
        result["s to load a .caffemodel of 244 MB"] = time_of_loading(folder, rounds)
    return result


def time_of_building(rounds: int) -> float:
    """Seconds from the text of ResNet-152 to the module, fillers included."""
    text = format_message(to_proto(resnet(3, 8, 36, 3)))
    return in_turn({"build": lambda: Graph(parse_net(text), TEST)}, rounds)["build"]


def time_of_loading(folder: str, rounds: int) -> float:
    """Seconds to read AlexNet's weights, which the system has in its cache, into the module."""
    graph, path = Graph(to_proto(alexnet()), TEST), os.path.join(folder, "alexnet.caffemodel")
    save(graph, path)
    return in_turn({"load": lambda: graph.load_weights(read_weights(path))}, rounds)["load"]


BENCHES = {
    "train": bench_train,
    "restore": bench_restore,
    "data": bench_data,
    "memory": bench_memory,
    "nets": bench_nets,
}


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
