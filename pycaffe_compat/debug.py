"""debug_info: how large everything is, layer by layer, in the lines that Caffe prints for it.

    [Forward] Layer conv1, top blob conv1 data: 0.332735
    [Backward] Layer conv1, param blob 0 diff: 0.0885567

Each number is the mean of the absolute values. A training prints them in the iterations that are displayed
(:func:`recorded`, which is slow: it copies every bottom), a Net whose file says debug_info at each pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import log
from .graph import Graph, Node
from .layers.base import as_tuple


def _mean(tensor: Tensor | None) -> str:
    return log.number(
        0.0 if tensor is None or not tensor.numel() else tensor.detach().float().abs().mean().item()
    )


def log_forward(node: Node, tops: Sequence[Tensor]) -> None:
    """Print a layer's forward lines."""
    for name, top in zip(node.tops, tops, strict=True):
        log.info(f"    [Forward] Layer {node.name}, top blob {name} data: {_mean(top)}", "net.cpp:593")
    for name, blob in zip(node.param_names, node.layer.blobs, strict=True):
        log.info(f"    [Forward] Layer {node.name}, param blob {name} data: {_mean(blob)}", "net.cpp:605")


def log_backward(node: Node, bottom_diffs: Sequence[Tensor]) -> None:
    """Print a layer's backward lines: call it when the gradients are there."""
    _log_backward(node, [_mean(diff) for diff in bottom_diffs])


def _log_backward(node: Node, bottom_diffs: Sequence[str]) -> None:
    for bottom, down, value in zip(node.bottoms, node.propagate_down, bottom_diffs, strict=True):
        if down:
            log.info(f"    [Backward] Layer {node.name}, bottom blob {bottom} diff: {value}", "net.cpp:621")
    for i, blob in enumerate(node.layer.blobs):
        if blob.requires_grad and blob.is_leaf:
            log.info(f"    [Backward] Layer {node.name}, param blob {i} diff: {_mean(blob.grad)}", "net.cpp:632")


class Recorder:
    """What one forward pass lets the following backward pass report."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.bottom_diffs: dict[tuple[Node, int], str] = {}

    def log_backward(self) -> None:
        """Print the backward lines; call it when the gradients are there."""
        for node in reversed(self.graph.nodes):
            if node.need_backward:
                _log_backward(node, [self.bottom_diffs.get((node, i), "0") for i in range(len(node.bottoms))])
        learnable = [entry.parameter for entry in self.graph.learnable]
        data = [p.detach() for p in learnable]
        diffs = [p.grad for p in learnable if p.grad is not None]
        log.error(
            f"    [Backward] All net params (data, diff): L1 norm = ({_norm(data, 1)}, {_norm(diffs, 1)}); "
            f"L2 norm = ({_norm(data, 2)}, {_norm(diffs, 2)})",
            "net.cpp:721",
        )


def _norm(tensors: list[Tensor], order: int) -> str:
    norms = [torch.linalg.vector_norm(t.float(), order) for t in tensors]
    return log.number(float(torch.linalg.vector_norm(torch.stack(norms), order)) if norms else 0.0)


@contextmanager
def recorded(graph: Graph) -> Iterator[Recorder]:
    """Print the forward lines of whatever runs within the block, and collect what the backward lines need."""
    recorder = Recorder(graph)
    handles: list[Any] = []
    for node in graph.nodes:
        handles.append(node.layer.register_forward_pre_hook(_before(node, recorder)))
        handles.append(node.layer.register_forward_hook(_after(node)))
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _before(node: Node, recorder: Recorder) -> Any:
    def hook(module: torch.nn.Module, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # A copy of its own for each reader: its gradient is then what this layer alone sends down, and a
        # layer that works in place finds nothing that others still need.
        copies = []
        for i, bottom in enumerate(bottoms):
            if torch.is_grad_enabled() and bottom.requires_grad:
                bottom = bottom.clone()
                bottom.register_hook(_keep(recorder, (node, i)))
            copies.append(bottom)
        return tuple(copies)

    return hook


def _keep(recorder: Recorder, key: tuple[Node, int]) -> Any:
    def hook(diff: Tensor) -> None:
        recorder.bottom_diffs[key] = _mean(diff)

    return hook


def _after(node: Node) -> Any:
    def hook(module: torch.nn.Module, bottoms: tuple[Tensor, ...], tops: Tensor | tuple[Tensor, ...]) -> None:
        log_forward(node, as_tuple(tops))

    return hook
