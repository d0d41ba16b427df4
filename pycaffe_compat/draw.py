"""A network as a picture, from its NetParameter alone: no graphviz, nothing built, no data read.

`draw_net_to_file` draws PNG, SVG, PDF or JPEG with matplotlib, or writes graphviz' language (``.dot``). The names
are pycaffe's. A box is a layer with what is folded into it: a layer that works in place (ReLU on its
producer's blob) is a line in the box whose blob it changes. Arrows are blobs, named where the name is not the
producer's own.

The layout is the usual one for layered graphs (Sugiyama, Tagawa and Toda 1981): every layer on the rank after
its latest bottom's, long arrows cut into a point a rank, ranks reordered by barycentres until no crossing
goes away, then positions along the ranks that minimise squared arrow lengths, each rank solved exactly in
turn.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextToPath
from numpy.typing import NDArray

from pycaffe_compat.errors import CaffeError
from pycaffe_compat.figures import PICTURE_SUFFIXES, new_figure, save_figure, suffix_of
from pycaffe_compat.files import atomic_write
from pycaffe_compat.graph import as_source, filter_net, merged_state
from pycaffe_compat.proto import caffe_pb2

DOT_SUFFIXES = (".dot", ".gv", ".raw")

# Fill colours a family of layers, light enough for black text; lightness differs too, so they hold in gray.
_FAMILIES: dict[str, tuple[str, frozenset[str]]] = {
    "data": (
        "#E3E3E3",
        frozenset(
            "Data DummyData HDF5Data HDF5Output ImageData Input MemoryData Parameter WindowData".split()
        ),
    ),
    "filter": ("#A9D3EE", frozenset("Convolution Deconvolution Embed InnerProduct LSTM RNN Im2col".split())),
    "pooling": ("#F6C99F", frozenset("Pooling SPP LRN Reduction ArgMax".split())),
    "merge": (
        "#F3E79B",
        frozenset("BatchReindex Concat Crop Eltwise Filter Flatten Reshape Silence Slice Split Tile".split()),
    ),
    "loss": (
        "#F0B3A4",
        frozenset("Accuracy ContrastiveLoss EuclideanLoss HingeLoss InfogainLoss".split())
        | frozenset("MultinomialLogisticLoss SigmoidCrossEntropyLoss SoftmaxWithLoss".split()),
    ),
}
_OTHER = "#BFE3CF"  # activations, normalisation and other functions of an element

# pydot's attributes for drawings of a script's own.
LAYER_STYLE_DEFAULT = {"shape": "record", "fillcolor": "#6495ED", "style": "filled"}
NEURON_LAYER_STYLE = {**LAYER_STYLE_DEFAULT, "fillcolor": "#90EE90"}
BLOB_STYLE = {"shape": "octagon", "fillcolor": "#E0E0E0", "style": "filled"}

_NAME = FontProperties(family="DejaVu Sans", size=9, weight="bold")
_TEXT = FontProperties(family="DejaVu Sans", size=8)
_BLOB = FontProperties(family="DejaVu Sans", size=7, style="italic")
_TO_PATH = TextToPath()  # measures text without a figure
_LINE = 0.155  # inches between the lines in a box
_PAD = 0.09  # inches between a box's edge and its text
_SIDE_GAP = 0.28  # inches between neighbours on a rank
_RANK_GAP = 0.36  # inches between ranks


@dataclass
class Box:
    """One layer with the in-place layers folded into it. lines: what is written in it, the name first."""

    name: str
    type: str
    lines: list[str]
    tops: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Arrow:
    """A blob from a box to one that reads it (indices); label: "" when it is named like its box."""

    source: int
    target: int
    label: str


@dataclass
class Diagram:
    """Boxes and arrows of a net, before any of them has a place. Arrows only lead to later boxes."""

    name: str
    boxes: list[Box]
    arrows: list[Arrow]


# ---- what a layer says of itself


def _pair(settings: Any, name: str, default: int) -> tuple[int, ...]:
    """A spatial setting in Caffe's three spellings: _h and _w (or one of them), the field, or the default."""
    sides = [f"{name.removesuffix('_size')}_{side}" for side in "hw"]
    if any(settings.HasField(side) for side in sides):
        return tuple(getattr(settings, side) if settings.HasField(side) else default for side in sides)
    values = getattr(settings, name)
    if isinstance(values, int):  # Pooling's are single
        values = [values] if settings.HasField(name) else []
    if not values:
        return (default, default)
    return (values[0], values[0]) if len(values) == 1 else tuple(values)


def _times(values: Sequence[int]) -> str:
    return "×".join(str(value) for value in values)


def _window(kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int]) -> list[str]:
    words = [_times(kernel)] if kernel and any(kernel) else []
    if any(s != 1 for s in stride):
        words.append("stride " + (str(stride[0]) if len(set(stride)) == 1 else _times(stride)))
    if any(pad):
        words.append("pad " + (str(pad[0]) if len(set(pad)) == 1 else _times(pad)))
    return words


def _describe_convolution(layer: Any) -> list[str]:
    p = layer.convolution_param
    words = _window(_pair(p, "kernel_size", 0), _pair(p, "stride", 1), _pair(p, "pad", 0))
    if any(d != 1 for d in p.dilation):
        words.append(f"dilation {_times(p.dilation)}")
    if p.group != 1:
        words.append(f"{p.group} groups")
    words.insert(1, f"{p.num_output} channels" if p.num_output != 1 else "1 channel")
    return words


def _describe_pooling(layer: Any) -> list[str]:
    p = layer.pooling_param
    method = p.PoolMethod.Name(p.pool)
    if p.global_pooling:
        return [method, "global"]
    return [method, *_window(_pair(p, "kernel_size", 0), _pair(p, "stride", 1), _pair(p, "pad", 0))]


def _describe_eltwise(layer: Any) -> list[str]:
    p = layer.eltwise_param
    words = [p.EltwiseOp.Name(p.operation)]
    if p.coeff:
        words.append("coeff " + ", ".join(f"{c:.4g}" for c in p.coeff))
    return words


def _describe_power(layer: Any) -> list[str]:
    p = layer.power_param
    text = "x" if p.scale == 1 else f"{p.scale:.4g}·x"
    if p.shift:
        text += f" {'+' if p.shift > 0 else '−'} {abs(p.shift):.4g}"
    return [text if p.power == 1 else f"({text})^{p.power:g}"]


def _describe_crop(layer: Any) -> list[str]:
    offsets = list(layer.crop_param.offset)
    return (
        [f"offset {_times(sorted(set(offsets)) if len(set(offsets)) == 1 else offsets)}"] if offsets else []
    )


def _describe_input(layer: Any) -> list[str]:
    return [_times(shape.dim) for shape in layer.input_param.shape]


def _describe_inner_product(layer: Any) -> list[str]:
    return [f"{layer.inner_product_param.num_output} outputs"]


def _describe_dropout(layer: Any) -> list[str]:
    return [f"ratio {layer.dropout_param.dropout_ratio:g}"]


def _describe_lrn(layer: Any) -> list[str]:
    return [f"size {layer.lrn_param.local_size}"]


def _describe_hdf5(layer: Any) -> list[str]:
    return [f"batch {layer.hdf5_data_param.batch_size}"]


def _describe_data(layer: Any) -> list[str]:
    return [f"batch {layer.data_param.batch_size}"]


def _describe_python(layer: Any) -> list[str]:
    return [f"{layer.python_param.module}.{layer.python_param.layer}"]


_DESCRIBE: dict[str, Callable[[Any], list[str]]] = {
    "Convolution": _describe_convolution,
    "Crop": _describe_crop,
    "Data": _describe_data,
    "Deconvolution": _describe_convolution,
    "Dropout": _describe_dropout,
    "Eltwise": _describe_eltwise,
    "HDF5Data": _describe_hdf5,
    "InnerProduct": _describe_inner_product,
    "Input": _describe_input,
    "LRN": _describe_lrn,
    "Pooling": _describe_pooling,
    "Power": _describe_power,
    "Python": _describe_python,
}


def layer_settings(layer: Any) -> list[str]:
    """What tells a layer from others of its type, a phrase each: ``["3×3", "64 channels", "stride 2"]``."""
    describe = _DESCRIBE.get(layer.type)
    words = describe(layer) if describe else []
    for weight in layer.loss_weight:
        if weight != 1 or not layer.type.endswith("Loss"):
            words.append(f"weight {weight:.4g}")
    return words


def get_layer_label(layer: Any, rankdir: str = "LR", display_lrm: bool = False) -> str:
    """A layer's name, type and settings as one text, as pycaffe's function of this name gives.

    rankdir: in a net drawn upright (TB, BT) on one line, otherwise a line each. display_lrm: learning rates
    too.
    """
    parts = [layer.name, f"({layer.type})", *layer_settings(layer)]
    if display_lrm:
        parts += [f"lr_mult {p.lr_mult:g}, decay_mult {p.decay_mult:g}" for p in layer.param]
    return (" " if rankdir in ("TB", "BT") else "\n").join(parts)


def get_edge_label(layer: Any) -> str:
    """What a layer puts on its outgoing arrows in pycaffe's pictures: batch size, channels or outputs; else what is
    an empty text in graphviz' language."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    return '""'


def get_layer_lr_mult(layer: Any) -> tuple[float, float]:
    """The multipliers of the rates of a layer's weights and biases.  ValueError for types that pycaffe has none for."""
    if layer.type not in ("Convolution", "Deconvolution", "InnerProduct"):
        raise ValueError(f"{layer.type} layers have no weights and biases")
    weights, biases, *_ = *(p.lr_mult for p in layer.param), 1.0, 1.0
    return weights, biases


def get_pooling_types_dict() -> dict[int, str]:
    """The names of the pooling methods by their numbers."""
    return {number: name for name, number in caffe_pb2.PoolingParameter.PoolMethod.items()}


def choose_color_by_layertype(layertype: str) -> str:
    """The fill colour of a layer type's family, as #RRGGBB."""
    for colour, types in _FAMILIES.values():
        if layertype in types:
            return colour
    return _OTHER


def _rules(layer: Any) -> str:
    """When a layer is there, in words: ``only TRAIN``, ``not deploy``; "" for always."""

    def words(rule: Any) -> str:
        parts = [caffe_pb2.Phase.Name(rule.phase)] if rule.HasField("phase") else []
        parts += [str(stage) for stage in rule.stage]
        parts += [f"not {stage}" for stage in rule.not_stage]
        if rule.HasField("min_level"):
            parts.append(f"level ≥ {rule.min_level}")
        if rule.HasField("max_level"):
            parts.append(f"level ≤ {rule.max_level}")
        return ", ".join(parts)

    if layer.include:
        text = " or ".join(words(rule) for rule in layer.include)
        return text if text.startswith("not ") else f"only {text}"
    if layer.exclude:
        return "not " + " or ".join(words(rule) for rule in layer.exclude)
    return ""


def _together(a: Any, b: Any) -> bool:
    """Whether two layers can be in one net: some include rule of one (if it has any) agrees with one of the
    other.
    """

    def agree(r: Any, s: Any) -> bool:
        if r.HasField("phase") and s.HasField("phase") and r.phase != s.phase:
            return False
        return not (set(r.stage) & set(s.not_stage) or set(s.stage) & set(r.not_stage))

    return any(agree(r, s) for r in a.include or [_ANY] for s in b.include or [_ANY])


_ANY = caffe_pb2.NetStateRule()


# ---- from layers to boxes and arrows


def build_diagram(net_param: Any) -> Diagram:
    """Fold a NetParameter into boxes and arrows.

    Layers that are never in one net may define one blob twice (train and test data): readers then get an
    arrow from each that they can meet. CaffeError for a net without layers or with V1 ``layers``.
    """
    if not net_param.layer:
        old = " (its `layers` are of the old form: upgrade it first)" if len(net_param.layers) else ""
        raise CaffeError(f"net {net_param.name!r} has no layers to draw{old}")
    diagram = Diagram(net_param.name, [], [])
    producers: dict[str, list[int]] = {}
    layers: list[Any] = []  # a box's own layer
    for name, shape in zip(net_param.input, _legacy_shapes(net_param), strict=False):
        producers[name] = [len(diagram.boxes)]
        diagram.boxes.append(Box(name, "Input", [name, " ".join(["Input", shape]).strip()], [name]))
        layers.append(_INPUT)
    for layer in net_param.layer:
        rules = _rules(layer)
        in_place = len(layer.bottom) == 1 and list(layer.bottom) == list(layer.top)
        if in_place and layer.bottom[0] in producers:
            words = " ".join([layer.type, *(f"({w})" for w in layer_settings(layer))])
            for index in producers[layer.bottom[0]]:
                _fold(diagram.boxes[index], words + (f" ({rules})" if rules else ""))
            continue
        index = len(diagram.boxes)
        settings = layer_settings(layer)
        lines = [layer.name]
        # A short setting stays beside the type; more of them get a line of their own.
        short = " ".join([layer.type, *settings])
        lines += [short] if len(short) <= 24 else [layer.type, *_wrap(settings)]
        if rules:
            lines.append(rules)
        diagram.boxes.append(Box(layer.name, layer.type, lines, list(layer.top)))
        layers.append(layer)
        for bottom in layer.bottom:
            for source in producers.get(bottom, ()):
                if not _together(layers[source], layer):
                    continue
                box = diagram.boxes[source]
                label = "" if len(box.tops) == 1 and (bottom == box.name or box.type == "Input") else bottom
                diagram.arrows.append(Arrow(source, index, label))
        for top in layer.top:
            # A layer takes the blob over from those before it, but for those it is never in one net with.
            others = [other for other in producers.get(top, ()) if not _together(layers[other], layer)]
            producers[top] = [*others, index]
    # One arrow for one blob, however often a layer names it.
    diagram.arrows = list(dict.fromkeys(diagram.arrows))
    return diagram


_INPUT = caffe_pb2.LayerParameter(type="Input")


def _fold(box: Box, words: str, width: int = 26) -> None:
    """Write a layer that works in place into its producer's box: "+ BatchNorm, Scale, ReLU"."""
    last = box.lines[-1]
    if last.startswith("+ ") and len(last) + 2 + len(words) <= width:
        box.lines[-1] += ", " + words
    else:
        box.lines.append("+ " + words)


def _wrap(words: Sequence[str], width: int = 30) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 2 <= width:
            lines[-1] += ", " + word
        else:
            lines.append(word)
    return lines


def _legacy_shapes(net_param: Any) -> list[str]:
    """Shapes of the old top-level `input` blobs, as text, "" where none is given."""
    if net_param.input_shape:
        shapes = [_times(shape.dim) for shape in net_param.input_shape]
    else:
        dims = list(net_param.input_dim)
        shapes = [_times(dims[i : i + 4]) for i in range(0, len(dims), 4)]
    return shapes + [""] * (len(net_param.input) - len(shapes))


# ---- layout


@dataclass
class Layout:
    """Where everything is, in inches, x to the right and y down.

    centres, sizes: (boxes, 2); paths: per arrow the points (n, 2) it passes, from border to border.
    """

    centres: NDArray[np.float64]
    sizes: NDArray[np.float64]
    paths: list[NDArray[np.float64]]
    width: float
    height: float


def lay_out(diagram: Diagram, rankdir: str = "TB") -> Layout:
    """Place a diagram. rankdir: TB, BT, LR or RL, the direction data flows in."""
    if rankdir not in ("TB", "BT", "LR", "RL"):
        raise ValueError(f"rankdir {rankdir!r} is not TB, BT, LR or RL")
    sideways = rankdir in ("LR", "RL")
    sizes = np.array([_box_size(box) for box in diagram.boxes])
    # `across`: the extent along a rank; `along`: the extent in the direction of the arrows.
    across, along = (sizes[:, 1], sizes[:, 0]) if sideways else (sizes[:, 0], sizes[:, 1])
    ranks = _ranks(len(diagram.boxes), diagram.arrows)
    graph = _Layered(ranks, diagram.arrows, across)
    graph.reduce_crossings()
    position = graph.positions()
    count = int(ranks.max()) + 1
    thickness = np.array([along[ranks == rank].max(initial=0.0) for rank in range(count)])
    gaps = _rank_gaps(diagram, ranks, sideways)
    start = np.concatenate([[0.0], np.cumsum(thickness[:-1] + gaps)])
    middle = start + thickness / 2
    total = float(start[-1] + thickness[-1])
    low = float(np.min(position - graph.size / 2))
    position = position - low
    extent = float(np.max(position + graph.size / 2))

    def place(a: float, b: float) -> tuple[float, float]:
        if rankdir in ("BT", "RL"):
            b = total - b
        return (b, a) if sideways else (a, b)

    n = len(diagram.boxes)
    centres = np.array([place(position[i], middle[ranks[i]]) for i in range(n)])
    ports_out, ports_in = _ports(diagram.arrows, graph, position, across)
    paths = []
    for index, arrow in enumerate(diagram.arrows):
        chain = graph.chains[index]
        points = [(ports_out[index], middle[ranks[arrow.source]] + along[arrow.source] / 2)]
        # Leave the rank of the source and enter that of the target at their borders, so that an arrow from a
        # small box doesn't cut a large neighbour's corner.
        points.append((ports_out[index], start[ranks[arrow.source]] + thickness[ranks[arrow.source]]))
        for node in chain[1:-1]:
            rank = graph.rank[node]
            points.append((position[node], start[rank]))
            points.append((position[node], start[rank] + thickness[rank]))
        points.append((ports_in[index], start[ranks[arrow.target]]))
        points.append((ports_in[index], middle[ranks[arrow.target]] - along[arrow.target] / 2))
        paths.append(np.array([place(a, b) for a, b in points]))
    width, height = (total, extent) if sideways else (extent, total)
    return Layout(centres, sizes, paths, width, height)


def _text_width(text: str, font: FontProperties) -> float:
    """Width of a line in inches."""
    return float(_TO_PATH.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def _box_size(box: Box) -> tuple[float, float]:
    widths = [_text_width(box.lines[0], _NAME), *(_text_width(line, _TEXT) for line in box.lines[1:])]
    return (max(max(widths) + 2 * _PAD, 0.7), _LINE * len(box.lines) + 2 * _PAD)


def _rank_gaps(diagram: Diagram, ranks: NDArray[np.int64], sideways: bool) -> NDArray[np.float64]:
    """Room after each rank but the last: more where blob names have to stand."""
    gaps = np.full(int(ranks.max()), _RANK_GAP)
    fan = np.zeros(int(ranks.max()))
    for arrow in diagram.arrows:
        fan[ranks[arrow.source] : ranks[arrow.target]] += 1
        if arrow.label:
            room = _text_width(arrow.label, _BLOB) + 0.2 if sideways else _RANK_GAP + 0.12
            gaps[ranks[arrow.target] - 1] = max(gaps[ranks[arrow.target] - 1], room)
    return np.maximum(gaps, _RANK_GAP + 0.02 * np.minimum(fan, 10))


def _ranks(count: int, arrows: Sequence[Arrow]) -> NDArray[np.int64]:
    """Longest path from the sources; sources themselves go right before their first reader."""
    ranks = np.zeros(count, dtype=np.int64)
    for index in range(count):  # boxes are in an order where arrows only lead forward
        ranks[index] = max((ranks[a.source] + 1 for a in arrows if a.target == index), default=0)
    for index in range(count):
        if not any(a.target == index for a in arrows):
            ranks[index] = min((ranks[a.target] - 1 for a in arrows if a.source == index), default=0)
    return ranks - ranks.min()


class _Layered:
    """The graph with long arrows cut into a point a rank; points are nodes after the boxes."""

    def __init__(
        self, ranks: NDArray[np.int64], arrows: Sequence[Arrow], across: NDArray[np.float64]
    ) -> None:
        self.boxes = len(ranks)
        rank, size = [int(r) for r in ranks], [float(w) for w in across]
        self.chains: list[list[int]] = []
        for arrow in arrows:
            chain = [arrow.source]
            for between in range(rank[arrow.source] + 1, rank[arrow.target]):
                chain.append(len(rank))
                rank.append(between)
                size.append(0.06)
            self.chains.append([*chain, arrow.target])
        self.rank = rank
        self.size = np.array(size)
        self.above: list[list[int]] = [[] for _ in rank]
        self.below: list[list[int]] = [[] for _ in rank]
        for chain in self.chains:
            for upper, lower in zip(chain, chain[1:], strict=False):
                self.below[upper].append(lower)
                self.above[lower].append(upper)
        self.order = self._first_order()

    def _first_order(self) -> list[list[int]]:
        """Ranks filled depth first: each chain of layers starts out in a column of its own."""
        order: list[list[int]] = [[] for _ in range(max(self.rank) + 1)]
        seen: set[int] = set()
        starts = [node for node in range(len(self.rank)) if not self.above[node]]
        for start in starts:
            stack = [start]
            while stack:
                node = stack.pop()
                if node in seen:
                    continue
                seen.add(node)
                order[self.rank[node]].append(node)
                # Boxes before points: the main path is laid first, skips end up beside it.
                stack += sorted(self.below[node], key=lambda n: (n < self.boxes, -n))
        return order

    def crossings(self, order: list[list[int]]) -> int:
        """How many pairs of arrows cross."""
        total = 0
        for upper, lower in zip(order, order[1:], strict=False):
            place = {node: i for i, node in enumerate(lower)}
            ends = [place[n] for node in upper for n in sorted(self.below[node], key=place.__getitem__)]
            total += sum(int(np.sum(np.array(ends[i + 1 :]) < end)) for i, end in enumerate(ends))
        return total

    def reduce_crossings(self, sweeps: int = 12) -> None:
        """Barycentre sweeps, down and up in turn, then swaps of neighbours; the best order seen is kept."""
        best, fewest = [list(r) for r in self.order], self.crossings(self.order)
        order = [list(r) for r in self.order]
        for sweep in range(sweeps):
            if fewest == 0:
                break
            down = sweep % 2 == 0
            ranks = range(1, len(order)) if down else range(len(order) - 2, -1, -1)
            for rank in ranks:
                fixed = order[rank - 1] if down else order[rank + 1]
                place = {node: i for i, node in enumerate(fixed)}
                neighbours = self.above if down else self.below
                self._sort_rank(order[rank], neighbours, place)
            found = self.crossings(order)
            if found < fewest:
                best, fewest = [list(r) for r in order], found
        self.order = best
        self._swap_neighbours(fewest)

    @staticmethod
    def _sort_rank(row: list[int], neighbours: list[list[int]], place: dict[int, int]) -> None:
        key = {}
        for i, node in enumerate(row):
            near = [place[n] for n in neighbours[node] if n in place]
            key[node] = float(np.mean(near)) if near else float(i)
        row.sort(key=key.__getitem__)

    def _swap_neighbours(self, fewest: int) -> None:
        improved = fewest > 0 and len(self.rank) <= 600
        while improved:
            improved = False
            for row in self.order:
                for i in range(len(row) - 1):
                    row[i], row[i + 1] = row[i + 1], row[i]
                    found = self.crossings(self.order)
                    if found < fewest:
                        fewest, improved = found, True
                    else:
                        row[i], row[i + 1] = row[i + 1], row[i]

    def positions(self, sweeps: int = 80) -> NDArray[np.float64]:
        """Coordinates of all nodes along their ranks (inches), in order and without overlap.

        Each rank in turn minimises the weighted squared distances to its neighbours' present places, exactly:
        with the gaps taken off, that is an isotonic regression. Points of long arrows weigh more, to keep
        them straight. In the second half the weights go down with distance, which comes near to minimising
        the distances themselves: few arrows are bent then, and the others are straight.
        """
        position = np.zeros(len(self.rank))
        for row in self.order:
            offsets = self._offsets(row)
            position[row] = offsets - offsets.mean()
        for sweep in range(sweeps):
            ranks = range(len(self.order)) if sweep % 2 == 0 else range(len(self.order) - 1, -1, -1)
            for rank in ranks:
                row = self.order[rank]
                wanted, weights = [], []
                for node in row:
                    near = [(position[n], self._weight(node, n)) for n in self.above[node] + self.below[node]]
                    if sweep >= sweeps // 2:
                        near = [(p, w / max(abs(p - position[node]), 0.02)) for p, w in near]
                    weight = sum(w for _, w in near)
                    wanted.append(sum(p * w for p, w in near) / weight if near else position[node])
                    weights.append(weight if near else 0.01)
                offsets = self._offsets(row)
                position[row] = _isotonic(np.array(wanted) - offsets, np.array(weights)) + offsets
        return position

    def _weight(self, a: int, b: int) -> float:
        points = (a >= self.boxes) + (b >= self.boxes)
        if points == 2:
            return 8.0
        if points == 1:
            return 1.0
        # A box that only follows one box, which has no other: a chain, drawn as a straight line.
        upper, lower = (a, b) if self.rank[a] < self.rank[b] else (b, a)
        return 4.0 if len(self.below[upper]) == 1 or len(self.above[lower]) == 1 else 2.0

    def _offsets(self, row: list[int]) -> NDArray[np.float64]:
        """Least places of a rank's nodes: centres of neighbours half their sizes and a gap apart."""
        size = self.size[row]
        gap = np.array(
            [
                0.16 if a >= self.boxes and b >= self.boxes else _SIDE_GAP
                for a, b in zip(row, row[1:], strict=False)
            ]
        )
        return np.concatenate([[0.0], np.cumsum((size[:-1] + size[1:]) / 2 + gap)])


def _isotonic(wanted: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The non-decreasing sequence nearest to `wanted` in weighted squares (pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(wanted, weights, strict=True):
        blocks.append((float(value), float(weight), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (m1, w1, n1), (m2, w2, n2) = blocks[-2:]
            blocks[-2:] = [((m1 * w1 + m2 * w2) / (w1 + w2), w1 + w2, n1 + n2)]
    return np.concatenate([np.full(n, mean) for mean, _, n in blocks])


def _ports(
    arrows: Sequence[Arrow], graph: _Layered, position: NDArray[np.float64], across: NDArray[np.float64]
) -> tuple[dict[int, float], dict[int, float]]:
    """Where arrows leave and enter their boxes: spread over the border, in the order of where they lead."""
    leaving: dict[int, float] = {}
    entering: dict[int, float] = {}
    for ports, end, other in ((leaving, 0, 1), (entering, -1, -2)):
        groups: dict[int, list[int]] = {}
        for index in range(len(arrows)):
            groups.setdefault(graph.chains[index][end], []).append(index)
        for box, members in groups.items():
            members.sort(key=lambda i: (position[graph.chains[i][other]], i))
            room = min(across[box] - 0.2, 0.3 * (len(members) - 1))
            for k, index in enumerate(members):
                offset = room * (k / (len(members) - 1) - 0.5) if len(members) > 1 else 0.0
                if len(members) == 1:
                    # A lone arrow aims for its other end as far as the border allows: straight lines.
                    reach = across[box] / 2 - 0.1
                    offset = float(
                        np.clip(position[graph.chains[index][other]] - position[box], -reach, reach)
                    )
                    offset = offset if abs(offset) < 0.12 else 0.0
                ports[index] = float(position[box] + offset)
    return leaving, entering


# ---- drawing


def draw_diagram(diagram: Diagram, rankdir: str = "TB", title: str | None = None) -> Figure:
    """Draw a diagram; the figure is as large as it needs to be, text at its natural size.

    title: above the picture; default the net's name, "" for none.
    """
    layout = lay_out(diagram, rankdir)
    title = diagram.name if title is None else title
    margin, head = 0.2, 0.32 if title else 0.0
    width = max(layout.width, _text_width(title, _NAME) * 1.3) + 2 * margin
    height = layout.height + 2 * margin + head
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    left = -(width - layout.width) / 2
    axes.set_xlim(left, left + width)
    axes.set_ylim(layout.height + margin, -margin - head)
    if title:
        axes.text(
            left + width / 2, -head / 2 - 0.06, title, ha="center", va="center", fontsize=11, weight="bold"
        )
    sideways = rankdir in ("LR", "RL")
    for path in layout.paths:
        long = len(path) > 4
        axes.add_patch(
            FancyArrowPatch(
                path=_curve(path, sideways),
                arrowstyle="-|>,head_length=4.5,head_width=2.2",
                linewidth=1.4 if long else 1.0,
                # Arrows that bypass layers carry the skip architecture: they stand out.
                color="#0072B2" if long else "#444444",
                shrinkA=0,
                shrinkB=0,
                joinstyle="round",
                zorder=1,
            )
        )
    _draw_blob_names(axes, diagram, layout)
    for box, (x, y), (w, h) in zip(diagram.boxes, layout.centres, layout.sizes, strict=True):
        axes.add_patch(
            FancyBboxPatch(
                (x - w / 2 + 0.04, y - h / 2 + 0.04),
                w - 0.08,
                h - 0.08,
                boxstyle="round,pad=0.04",
                facecolor=choose_color_by_layertype(box.type),
                edgecolor="#444444",
                linewidth=0.9,
                zorder=3,
            )
        )
        for line, text in enumerate(box.lines):
            axes.text(
                x,
                y + (line - (len(box.lines) - 1) / 2) * _LINE,
                text,
                ha="center",
                va="center_baseline",
                fontproperties=_NAME if line == 0 else _TEXT,
                parse_math=False,
                zorder=4,
            )
    return figure


def _curve(points: NDArray[np.float64], sideways: bool) -> Curve:
    """Straight along the ranks' thickness, S-shaped between ranks."""
    vertices, codes = [tuple(points[0])], [Curve.MOVETO]
    for i in range(1, len(points)):
        a, b = points[i - 1], points[i]
        between_ranks = i % 2 == 0
        shift = b[1] - a[1] if sideways else b[0] - a[0]
        if between_ranks and abs(shift) > 1e-6:
            half = (a + b) / 2
            first = (half[0], a[1]) if sideways else (a[0], half[1])
            second = (half[0], b[1]) if sideways else (b[0], half[1])
            vertices += [first, second, tuple(b)]
            codes += [Curve.CURVE4] * 3
        elif np.abs(b - a).max() > 1e-9:
            vertices.append(tuple(b))
            codes.append(Curve.LINETO)
    return Curve(vertices, codes)


def _draw_blob_names(axes: Any, diagram: Diagram, layout: Layout) -> None:
    """Names of blobs near the heads of their arrows, on white so that no line strikes them out."""
    places: dict[tuple[int, str], list[NDArray[np.float64]]] = {}
    for path, arrow in zip(layout.paths, diagram.arrows, strict=True):
        if arrow.label:
            near, border = path[-1], path[-3]
            places.setdefault((arrow.target, arrow.label), []).append(near + 0.42 * (border - near))
    # One blob from several layers (of several phases) is named once, between its arrows.
    for (_, label), points in places.items():
        x, y = np.mean(points, axis=0)
        axes.text(
            x,
            y,
            label,
            ha="center",
            va="center",
            fontproperties=_BLOB,
            parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
            zorder=2,
        )


# ---- graphviz' language


def to_dot(diagram: Diagram, rankdir: str = "TB") -> str:
    """The diagram as text for graphviz (``dot -Tsvg net.dot``)."""

    def quote(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'

    lines = [
        f"digraph {quote(diagram.name)} {{",
        f"  rankdir={rankdir};",
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=10];',
        '  edge [fontname="Helvetica-Oblique", fontsize=8];',
    ]
    for index, box in enumerate(diagram.boxes):
        label, colour = quote("\n".join(box.lines)), choose_color_by_layertype(box.type)
        lines.append(f'  n{index} [label={label}, fillcolor="{colour}"];')
    for arrow in diagram.arrows:
        label = f" [label={quote(arrow.label)}]" if arrow.label else ""
        lines.append(f"  n{arrow.source} -> n{arrow.target}{label};")
    return "\n".join([*lines, "}", ""])


# ---- pycaffe's functions


class PydotGraph:
    """A net's picture behind the few methods of pydot's graphs that scripts call; there is no pydot beneath."""

    def __init__(self, diagram: Diagram, rankdir: str) -> None:
        self._diagram, self._rankdir = diagram, rankdir

    def create(self, format: str = "png") -> bytes:
        """The picture as bytes: png, svg, pdf, or dot for graphviz' language."""
        suffix = suffix_of(f"net.{format}", PICTURE_SUFFIXES + DOT_SUFFIXES)
        if suffix in DOT_SUFFIXES:
            return to_dot(self._diagram, self._rankdir).encode()
        buffer = io.BytesIO()
        draw_diagram(self._diagram, self._rankdir).savefig(buffer, format=suffix[1:], dpi=150)
        return buffer.getvalue()

    def to_string(self) -> str:
        """The graph in graphviz' language."""
        return to_dot(self._diagram, self._rankdir)

    def write(self, path: str | os.PathLike[str], format: str = "dot") -> None:
        """Write what ``create(format)`` gives to a file."""
        with atomic_write(path) as temporary:
            Path(temporary).write_bytes(self.create(format))

    def write_png(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG."""
        self.write(path, "png")


def _diagram_for(caffe_net: Any, phase: int | None, level: int = 0, stages: Iterable[str] = ()) -> Diagram:
    if phase is not None:
        state = merged_state(caffe_net, phase, level, tuple(stages))
        caffe_net = filter_net(as_source(caffe_net), state).param
        for layer in caffe_net.layer:  # chosen by its rules, which have no more to say
            layer.ClearField("include")
            layer.ClearField("exclude")
    return build_diagram(caffe_net)


def get_pydot_graph(
    caffe_net: Any,
    rankdir: str = "LR",
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> PydotGraph:
    """A NetParameter as a graph to write or to draw. phase: None takes all layers.

    label_edges and display_lrm are taken for pycaffe's sake: arrows bear the blobs' names here, boxes the settings.
    """
    return PydotGraph(_diagram_for(caffe_net, phase), rankdir)


def draw_net(
    caffe_net: Any, rankdir: str = "LR", ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """The picture of a NetParameter as bytes. ext: png, svg, pdf or dot; phase: None draws all layers.

    display_lrm is taken for pycaffe's sake.
    """
    return get_pydot_graph(caffe_net, rankdir, phase=phase).create(ext)


def draw_net_to_file(
    caffe_net: Any,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
    *,
    level: int = 0,
    stages: Iterable[str] = (),
    title: str | None = None,
    dpi: int = 150,
) -> None:
    """Draw a NetParameter to a file: .png, .svg, .pdf, .jpg, or .dot, .gv, .raw for graphviz' language.

    phase, level, stages: draw the net as Caffe would build it for that state; phase None: every layer of the
    file, each with its rule. rankdir: TB, BT, LR or RL. display_lrm is taken for pycaffe's sake.
    Errors: CaffeError for another suffix or an empty net; OSError when the place can't be written.
    """
    suffix = suffix_of(filename, PICTURE_SUFFIXES + DOT_SUFFIXES)
    diagram = _diagram_for(caffe_net, phase, level, stages)
    if suffix in DOT_SUFFIXES:
        with atomic_write(filename) as temporary:
            Path(temporary).write_text(to_dot(diagram, rankdir), encoding="utf-8")
    else:
        save_figure(draw_diagram(diagram, rankdir, title), filename, dpi)
