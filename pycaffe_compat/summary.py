"""A net as a table: what each layer makes, learns, costs and sees.

MACs are multiply-adds of matrix products and convolutions, for the net's own shapes (batch included); what is done
once a value (activations, pooling, scaling) is not counted, as everywhere. The receptive field is how many positions
of the input, along each spatial axis, one position of the layer's output can depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import torch
from torch.utils.flop_counter import FlopCounterMode

from .graph import Graph, Node
from .layers.convolution import Convolution, Deconvolution, Im2col
from .layers.pooling import Pooling
from .naming import shape_text

WHOLE = "all"
UNKNOWN = "?"


@dataclass(frozen=True)
class Field:
    """A receptive field along one axis: ``size`` positions of the input; the next output's lies ``jump`` further."""

    size: int
    jump: Fraction


Fields = list[Field] | str
"""One a spatial axis, or WHOLE, or UNKNOWN."""


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        tops: shapes.
        parameters: learned numbers of the layer; those it shares count with their owner.
        macs: multiply-adds.
        field: the receptive field of its first top, as text: "19x19", "all", "?" where it is not known.
    """

    name: str
    type: str
    tops: list[tuple[int, ...]]
    parameters: int
    macs: int
    field: str


def summarize(graph: Graph) -> list[Row]:
    """A row for each layer of the net's file, in order."""
    fields: dict[str, Fields] = {}
    owned = {id(entry.parameter): entry.parameter.numel() for entry in graph.learnable}
    shapes: dict[str, tuple[int, ...]] = {}
    rows = []
    for node in graph.nodes:
        before = [shapes[name] for name in node.bottoms]
        shapes.update((name, graph.shapes[name]) for name in node.tops)
        field = _field(node, [fields[name] for name in node.bottoms], before, graph)
        fields.update(dict.fromkeys(node.tops, field))
        if node.type == "Split" and node.name.endswith("_split"):
            continue  # not in the file
        tops = [graph.shapes[name] for name in node.tops]
        own = sum(owned.pop(id(blob), 0) for blob in node.layer.blobs)  # a shared one counts where it comes first
        rows.append(Row(node.name, node.type, tops, own, _macs(node, before, graph), _text(field)))
    return rows


def _macs(node: Node, bottoms: Sequence[tuple[int, ...]], graph: Graph) -> int:
    if isinstance(node.layer, Convolution) and not isinstance(node.layer, Deconvolution):
        # By its definition: the way it is computed (see conv2d_of_one_filter) may cost more.
        weight = node.layer.blobs[0]
        return sum(torch.Size(graph.shapes[top]).numel() for top in node.tops) * weight[0].numel()
    if not node.bottoms:
        return 0
    with FlopCounterMode(display=False) as counter:
        node.layer.infer(*(torch.empty(shape, device="meta") for shape in bottoms))
    return counter.get_total_flops() // 2


def _field(node: Node, bottoms: Sequence[Fields], before: Sequence[tuple[int, ...]], graph: Graph) -> Fields:
    if not node.bottoms:
        if not node.tops:
            return UNKNOWN
        return [Field(1, Fraction(1))] * max(0, len(graph.shapes[node.tops[0]]) - 2)
    for word in (UNKNOWN, WHOLE):
        if word in bottoms:
            return word
    layer, own = node.layer, bottoms[0]
    if isinstance(own, str) or not node.tops:
        return UNKNOWN
    if isinstance(layer, Pooling) and layer.is_global:
        return WHOLE
    if isinstance(layer, (Convolution, Deconvolution, Im2col, Pooling)):
        dilation = getattr(layer, "dilation", (1,) * len(layer.kernel))
        axes = zip(own, layer.kernel, layer.stride, dilation, strict=False)
        if isinstance(layer, Deconvolution):
            return [_behind_deconvolution(f, k, s, d) for f, k, s, d in axes]
        return [Field(int(f.size + (d * (k - 1)) * f.jump), f.jump * s) for f, k, s, d in axes]
    if node.type == "InnerProduct" or (node.type == "Reduction"):
        return WHOLE
    if node.type == "LRN" and layer.settings.norm_region == layer.settings.WITHIN_CHANNEL:
        return [Field(int(f.size + (layer.settings.local_size - 1) * f.jump), f.jump) for f in own]
    after = graph.shapes[node.tops[0]]
    if len(after) != len(before[0]) or (after[2:] != before[0][2:] and node.type != "Crop"):
        return UNKNOWN if after else WHOLE
    merged = [field for field in bottoms if not isinstance(field, str) and len(field) == len(own)]
    return [Field(max(f.size for f in axis), max(f.jump for f in axis)) for axis in zip(*merged, strict=True)]


def _behind_deconvolution(field: Field, kernel: int, stride: int, dilation: int) -> Field:
    """An output takes every ``stride``-th tap of the kernel: at most ceil(kernel / stride) neighbours of its bottom."""
    reach = ceil((dilation * (kernel - 1) + 1) / stride) - 1
    return Field(int(field.size + reach * field.jump), field.jump / stride)


def _text(field: Fields) -> str:
    return field if isinstance(field, str) else "x".join(str(axis.size) for axis in field) or "1"


def format_table(rows: Sequence[Row]) -> list[str]:
    """The lines of a table with its totals."""
    head = ("layer", "type", "top", "parameters", "MACs", "field")
    body = [
        (r.name, r.type, " ".join(map(shape_text, r.tops)) or "-", f"{r.parameters:,}", f"{r.macs:,}", r.field)
        for r in rows
    ]
    total = (
        "total",
        f"{len(rows)} layers",
        "",
        f"{sum(r.parameters for r in rows):,}",
        f"{sum(r.macs for r in rows):,}",
        "",
    )
    widths = [max(len(line[i]) for line in (head, *body, total)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        left = [f"{cell:<{width}}" for cell, width in zip(cells[:3], widths, strict=False)]
        right = [f"{cell:>{width}}" for cell, width in zip(cells[3:], widths[3:], strict=True)]
        return "  ".join([*left, *right]).rstrip()

    rule = "-" * len(line(head))
    return [line(head), rule, *map(line, body), rule, line(total)]
