"""What ``caffe test`` and ``caffe time`` do with a net, and the lines that they log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import log
from .errors import NetError
from .graph import Graph, Node, to_device


def _zeros(graph: Graph, device: torch.device) -> dict[str, Tensor]:
    """Input blobs hold zeros, as they do in Caffe where nobody fills them."""
    return {name: torch.zeros(graph.shapes[name], device=device) for name in graph.inputs}


# ----------------------------------------------------------------------------------------------------------- test


@dataclass
class Scores:
    """Means over the batches of a test: the loss, and each output's values (flat)."""

    loss: float = 0.0
    outputs: dict[str, np.ndarray] = field(default_factory=dict)


def score(graph: Graph, iterations: int, device: torch.device | None = None) -> Scores:
    """Runs a net forward on ``iterations`` batches, logs each output value and the means at the end.

    Sums are made in float32, as in Caffe, so that the last digit printed is the same.
    """
    device = device or torch.device("cpu")
    to_device(graph, device)
    inputs = _zeros(graph, device)
    log.info(f"Running for {iterations} iterations.", "caffe.cpp:281")
    sums: dict[str, np.ndarray] = {}
    loss = np.float32(0)
    for batch in range(iterations):
        with torch.no_grad():
            blobs = graph.run(**inputs)
            loss += np.float32(float(graph.loss(blobs)))
        for name in graph.outputs:
            values = blobs[name].detach().float().cpu().flatten().numpy()
            for value in values:
                log.info(f"Batch {batch}, {name} = {log.number(value)}", "caffe.cpp:304")
            if name in sums and sums[name].shape != values.shape:
                raise NetError(
                    f'{graph.path or "net"}: output "{name}" has {len(values)} values in batch {batch}, '
                    f"{len(sums[name])} before: there is no mean of these"
                )
            sums[name] = sums[name] + values if name in sums else values.copy()
    count = np.float32(iterations)
    scores = Scores(float(loss / count), {name: values / count for name, values in sums.items()})
    log.info(f"Loss: {log.number(scores.loss)}", "caffe.cpp:309")
    for name, means in scores.outputs.items():
        weight = graph.loss_weights.get(name, 0.0)
        for mean in means:
            part = f" (* {log.number(weight)} = {log.number(weight * mean)} loss)" if weight else ""
            log.info(f"{name} = {log.number(mean)}{part}", "caffe.cpp:321")
    return scores


# ----------------------------------------------------------------------------------------------------------- time


@dataclass
class Times:
    """Mean times of a net in milliseconds: of each layer, by name in the net's order, and of all."""

    forward: dict[str, float] = field(default_factory=dict)
    backward: dict[str, float] = field(default_factory=dict)
    total_forward: float = 0.0
    total_backward: float = 0.0
    total: float = 0.0
    """Of all iterations together."""


def measure(graph: Graph, iterations: int, device: torch.device | None = None) -> Times:
    """Times every layer forward and backward, over ``iterations`` passes after one that does not count; logs them.

    Input blobs hold zeros. The gradients that come into a layer are ones: what backward costs does not depend on them.
    """
    device = device or torch.device("cpu")
    to_device(graph, device)
    timed = _Timed(graph, device)
    log.info("Performing Forward", "caffe.cpp:357")
    timed.forward(lambda name, seconds: None)
    with torch.no_grad():
        log.info(f"Initial loss: {log.number(float(graph.loss(timed.blobs)))}", "caffe.cpp:362")
    log.info("Performing Backward", "caffe.cpp:363")
    timed.backward(lambda name, seconds: None)
    log.info("*** Benchmark begins ***", "caffe.cpp:371")
    log.info(f"Testing for {iterations} iterations.", "caffe.cpp:372")
    names = [node.name for node in graph.nodes]
    times = Times(dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0))

    def add_to(sums: dict[str, float]) -> Callable[[str, float], None]:
        def add(name: str, seconds: float) -> None:
            sums[name] += 1000 * seconds / iterations

        return add

    began = time.perf_counter()
    for iteration in range(1, iterations + 1):
        start = time.perf_counter()
        timed.forward(add_to(times.forward))
        middle = time.perf_counter()
        timed.backward(add_to(times.backward))
        end = time.perf_counter()
        times.total_forward += 1000 * (middle - start) / iterations
        times.total_backward += 1000 * (end - middle) / iterations
        log.info(
            f"Iteration: {iteration} forward-backward time: {log.number(1000 * (end - start))} ms.", "caffe.cpp:400"
        )
    times.total = 1000 * (time.perf_counter() - began)
    log.info("Average time per layer: ", "caffe.cpp:403")
    for name in times.forward:
        log.info(f"{name:>10}\tforward: {log.number(times.forward[name])} ms.", "caffe.cpp:406")
        log.info(f"{name:>10}\tbackward: {log.number(times.backward[name])} ms.", "caffe.cpp:409")
    log.info(f"Average Forward pass: {log.number(times.total_forward)} ms.", "caffe.cpp:414")
    log.info(f"Average Backward pass: {log.number(times.total_backward)} ms.", "caffe.cpp:416")
    log.info(f"Average Forward-Backward: {log.number(times.total / iterations)} ms.", "caffe.cpp:418")
    log.info(f"Total Time: {log.number(times.total)} ms.", "caffe.cpp:420")
    log.info("*** Benchmark ends ***", "caffe.cpp:421")
    return times


class _Timed:
    """A net whose layers run one after the other, each with an autograd tape of its own.

    One tape for the whole net, as in training, would not tell where backward's time goes.
    """

    def __init__(self, graph: Graph, device: torch.device) -> None:
        self.graph, self.device = graph, device
        self.blobs = _zeros(graph, device)
        self.tapes: dict[Node, tuple[list[Tensor], list[Tensor]]] = {}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def forward(self, told: Callable[[str, float], None]) -> None:
        for node in self.graph.nodes:
            bottoms = self._bottoms(node)
            leaves = [b for b in bottoms.values() if b.requires_grad]
            # A leaf must not be overwritten by an in-place layer: that one gets a copy, made before the clock starts.
            blobs = {n: b.clone() if node.layer.inplace and b.requires_grad else b for n, b in bottoms.items()}
            start = self._now()
            with torch.set_grad_enabled(node.need_backward):
                if node.type != "Input":
                    node.compute(blobs)
            told(node.name, self._now() - start)
            tops = [blobs[name] for name in node.tops if node.type != "Input"]
            self.tapes[node] = (leaves, [top for top in tops if top.requires_grad])
            if node.type != "Input":
                self.blobs.update({name: blobs[name].detach() for name in node.tops})

    def _bottoms(self, node: Node) -> dict[str, Tensor]:
        bottoms = {}
        for name, down in zip(node.bottoms, node.propagate_down, strict=True):
            value = self.blobs[name].detach()
            wanted = down and node.need_backward and value.is_floating_point()
            bottoms[name] = value.requires_grad_() if wanted else value
        return bottoms

    def backward(self, told: Callable[[str, float], None]) -> None:
        for node in reversed(self.graph.nodes):
            leaves, tops = self.tapes.pop(node)
            shared = [owner for _, owner, _ in node.views]
            wanted = [*leaves, *(p for p in [*node.layer.parameters(), *shared] if p.requires_grad)]
            ones = [torch.ones_like(top) for top in tops]
            start = self._now()
            if tops and wanted:
                torch.autograd.grad(tops, wanted, ones, allow_unused=True)
            told(node.name, self._now() - start)
