"""Filters of a layer over the snapshots of a training, as one picture or an animation (the paper's Figure 7).

Each network is a row, each iteration a column, each cell the grid of the layer's filters. Zero is always the
middle gray (or white, in colour), so a filter's sign and a missing mean can be seen; nothing is shifted.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pycaffe_compat.errors import WeightsError
from pycaffe_compat.figures import new_figure, rasterise
from pycaffe_compat.weights import read_weights

Scale = Literal["filter", "snapshot", "network"]
SCALES: tuple[Scale, ...] = ("filter", "snapshot", "network")
# Colour map and the colour between filters, which must not be that of zero.
COLOUR_MAPS = {
    "gray": matplotlib.colormaps["gray"].with_extremes(bad="white"),
    "diverging": matplotlib.colormaps["RdBu_r"].with_extremes(bad="#999999"),
}

_SNAPSHOT = re.compile(r"_iter_(\d+)\.caffemodel(?:\.h5)?$")
_SUFFIX = re.compile(r"\.caffemodel(?:\.h5)?$|\.h5$")


@dataclass(frozen=True)
class Snapshot:
    """Weights at one iteration; None when the file's name does not tell it (trained weights, say)."""

    path: str
    iteration: int | None


@dataclass(frozen=True)
class Network:
    """A row of the picture: a label and the snapshots it shows, in the order of iterations."""

    label: str
    snapshots: tuple[Snapshot, ...]


def find_snapshots(pattern: str | os.PathLike[str]) -> list[Snapshot]:
    """The snapshots a prefix, a glob or a file name stands for, by iteration.

    ``snapshots/l4`` is the solver's snapshot_prefix: snapshots/l4_iter_<N>.caffemodel, with .h5 or without.
    Where one iteration is there in both forms, the binary one is taken.
    Errors: WeightsError when there is nothing.
    """
    text = os.fspath(pattern)
    if os.path.isfile(text):
        paths = [text]
    elif glob.has_magic(text):
        paths = [p for p in sorted(glob.glob(text)) if _SUFFIX.search(p)]
    else:
        escaped = glob.escape(text)
        paths = [p for p in sorted(glob.glob(escaped + "_iter_*.caffemodel*")) if _SNAPSHOT.search(p)]
    if not paths:
        raise WeightsError(
            f"{text}: no snapshots; give a prefix (snapshots/l4), a glob ('snapshots/l4_iter_*.caffemodel') "
            "or a file"
        )
    found: dict[int | str, Snapshot] = {}
    for path in paths:
        match = _SNAPSHOT.search(path)
        iteration = int(match[1]) if match else None
        # Two runs under one glob must not be taken for one: the prefix is part of what a snapshot is.
        same = path[: match.start()] if match else path
        key = path if iteration is None else f"{same} {iteration}"
        if key not in found or path.endswith(".caffemodel"):
            found[key] = Snapshot(path, iteration)
    snapshots = sorted(found.values(), key=lambda s: (s.iteration is None, s.iteration or 0, s.path))
    iterations = [s.iteration for s in snapshots if s.iteration is not None]
    if len(set(iterations)) < len(iterations):
        twice = next(i for i in iterations if iterations.count(i) > 1)
        raise WeightsError(
            f"{text}: several snapshots of iteration {twice}, so these are several networks: name each"
        )
    return snapshots


def default_label(pattern: str | os.PathLike[str]) -> str:
    """A row's label when none is given: the name without iteration, suffix and wildcards."""
    name = Path(os.fspath(pattern)).name
    name = re.sub(r"_iter_.*$", "", name)
    name = _SUFFIX.sub("", name).strip("*?_- ")
    return name or Path(os.fspath(pattern)).parent.name or "network"


def choose_iterations(networks: Sequence[Network], at_most: int = 6) -> list[int]:
    """Iterations to show, evenly chosen by rank from those that all networks have (or any has, if none is
    common).
    """
    sets = [{s.iteration for s in n.snapshots if s.iteration is not None} for n in networks]
    sets = [s for s in sets if s]
    if not sets:
        return []
    available = sorted(set.intersection(*sets) or set.union(*sets))
    if len(available) <= at_most:
        return available
    ranks = np.linspace(0, len(available) - 1, at_most).round().astype(int)
    return [available[i] for i in dict.fromkeys(ranks.tolist())]


def select(network: Network, iterations: Sequence[int], exact: bool = False) -> list[Snapshot]:
    """For each wanted iteration, the network's snapshot of it or, unless `exact`, the nearest one.

    A network whose only snapshot has no iteration shows it in each column. WeightsError: an exact one isn't
    there.
    """
    known = [s for s in network.snapshots if s.iteration is not None]
    if not known:
        return [network.snapshots[0]] * max(len(iterations), 1)
    chosen = []
    for wanted in iterations:
        nearest = min(known, key=lambda s: abs((s.iteration or 0) - wanted))
        if exact and nearest.iteration != wanted:
            have = ", ".join(str(s.iteration) for s in known[:20]) + (", ..." if len(known) > 20 else "")
            name = network.label or re.sub(_SNAPSHOT, "", nearest.path)
            raise WeightsError(f"{name}: no snapshot of iteration {wanted}; there are: {have}")
        chosen.append(nearest)
    return chosen


def filter_layer(weights: Mapping[str, Sequence[NDArray[np.float32]]], layer: str | None, path: str) -> str:
    """The layer to show: `layer` itself if it has filters, or the first layer with a four-dimensional weight.

    HDF5 snapshots list layers by name; numbers in names count as numbers there (conv2 before conv10).
    Errors: WeightsError, naming what there is.
    """
    have = [name for name, blobs in weights.items() if blobs and np.ndim(blobs[0]) == 4]
    if not have:
        raise WeightsError(f"{path}: no layer with filters (a four-dimensional weight)")
    if layer is None:
        return min(have, key=_natural) if path.endswith(".h5") else have[0]
    if layer not in have:
        what = "has no filters" if layer in weights else "is not in it"
        raise WeightsError(f"{path}: layer {layer!r} {what}; layers with filters: {', '.join(have)}")
    return layer


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def read_filters(snapshot: Snapshot, layer: str | None = None) -> NDArray[np.float32]:
    """One layer's filters from a file: (filters, channels, height, width). WeightsError when they aren't
    there.
    """
    weights = read_weights(snapshot.path)
    return weights[filter_layer(weights, layer, snapshot.path)][0]


def tile_filters(
    filters: NDArray[np.floating], limit: float | None = None, columns: int | None = None, border: int = 1
) -> NDArray[np.float64]:
    """Arrange filters in a grid, scaled to -1..1 with 0 kept at 0; nan between them.

    filters: (N, C, H, W). limit: the absolute value that becomes 1 (larger ones are cut); None scales each
    filter by its own largest. Three channels are shown as colour, giving (height, width, 3); otherwise
    channels become tiles of their own beside each other, giving (height, width). columns: filters a row;
    default as square as it gets.
    """
    n, channels, h, w = filters.shape
    largest = np.abs(filters).reshape(n, -1).max(axis=1) if limit is None else np.full(n, limit)
    scaled = filters / np.where(largest > 0, largest, 1.0)[:, None, None, None]
    scaled = np.clip(scaled, -1.0, 1.0).astype(np.float64)
    colour = channels == 3
    tiles = scaled.transpose(0, 2, 3, 1) if colour else scaled.reshape(n * channels, h, w)
    if columns is None:
        # The grid comes out a little wider than high: 48 filters are 8 x 6. A row holds whole filters.
        per_row = round(np.sqrt(n * channels * 1.2)) if channels in (1, 3) else channels
        columns = _tidy(n if colour else n * channels, per_row)
    rows = -(-len(tiles) // columns)
    shape = (rows * (h + border) + border, columns * (w + border) + border, *tiles.shape[3:])
    grid = np.full(shape, np.nan)
    for index, tile in enumerate(tiles):
        top, left = (border + (h + border) * (index // columns), border + (w + border) * (index % columns))
        grid[top : top + h, left : left + w] = tile
    return grid


def _tidy(count: int, near: int) -> int:
    """The number of columns near to `near` that leaves no hole in the last row, or `near` itself."""
    near = min(max(near, 1), count)
    candidates = [c for c in range(max(1, near - 2), min(count, near + 3) + 1) if count % c == 0]
    return min(candidates, key=lambda c: (abs(c - near), -c)) if candidates else near


def _limits(filters: Sequence[Sequence[NDArray[np.float32]]], scale: Scale) -> list[list[float | None]]:
    """The absolute value shown as full black or white, a cell each; None for a filter's own."""
    if scale == "filter":
        return [[None] * len(row) for row in filters]
    # The 99.5th percentile rather than the largest: one stray weight would turn the rest gray.
    cells = [[float(np.percentile(np.abs(f), 99.5)) or 1.0 for f in row] for row in filters]
    if scale == "network":
        cells = [[max(row)] * len(row) for row in cells]
    return [list(row) for row in cells]


def plot_filters(
    rows: Sequence[tuple[str, Sequence[tuple[str, NDArray[np.float32]]]]],
    *,
    scale: Scale = "filter",
    colours: str = "gray",
    cell: float = 2.2,
    columns: int | None = None,
    limits: Sequence[Sequence[float | None]] | None = None,
    title: str = "",
) -> Figure:
    """Draw filters: a row a network, a column an iteration (paper, Figure 7).

    rows: (label, cells) with cells (caption, filters (N, C, H, W)); captions stand below the pictures, once
    for all rows where they agree. scale: "filter" scales each filter by its own largest weight (structure
    shows, strength doesn't), "snapshot" all filters of a cell alike (weak filters look weak), "network" all
    cells of a row alike (growth shows). colours: "gray" or "diverging" (blue below zero, red above). cell: a
    cell's width in inches.
    limits: what is full black or white in each cell, instead of what `scale` makes of these rows.
    """
    limits = limits or _limits([[f for _, f in cells] for _, cells in rows], scale)
    grids = [
        [tile_filters(f, limit, columns) for (_, f), limit in zip(cells, row, strict=True)]
        for (_, cells), row in zip(rows, limits, strict=True)
    ]
    count = max(len(row) for row in grids)
    heights = [max(g.shape[0] / g.shape[1] for g in row) * cell for row in grids]
    captions = [[caption for caption, _ in cells] for _, cells in rows]
    shared = all(c == captions[0] for c in captions)
    gap, caption_room = 0.12, 0.3
    label_room = 0.34 if any(label for label, _ in rows) else 0.1
    head = 0.36 if title else 0.1
    below = [caption_room if not shared or index == len(rows) - 1 else 0.0 for index in range(len(rows))]
    if not any(any(c) for c in captions):
        below = [0.0] * len(rows)
    width = label_room + count * cell + (count - 1) * gap + 0.1
    height = head + sum(heights) + sum(below) + gap * (len(rows) - 1) + 0.06
    figure = new_figure(width, height)
    top = height - head
    for index, (label, cells) in enumerate(rows):
        bottom = top - heights[index]
        for column, (caption, _) in enumerate(cells):
            left = label_room + column * (cell + gap)
            box = (left / width, bottom / height, cell / width, heights[index] / height)
            axes = figure.add_axes(box)
            _show(axes, grids[index][column], colours)
            if below[index] and caption:
                x, y = (left + cell / 2) / width, (bottom - 0.06) / height
                figure.text(x, y, caption, ha="center", va="top", fontsize=9)
        if label:
            x, y = (label_room / 2 - 0.02) / width, (bottom + heights[index] / 2) / height
            size = min(11.0, 11.0 * heights[index] / max(0.1, 0.095 * len(label)))
            figure.text(x, y, label, rotation=90, ha="center", va="center", fontsize=max(size, 6.0))
        top = bottom - below[index] - gap
    if title:
        figure.text(0.5, (height - 0.1) / height, title, ha="center", va="top", fontsize=11, weight="bold")
    return figure


def _show(axes: Axes, grid: NDArray[np.float64], colours: str) -> None:
    axes.set_axis_off()
    if grid.ndim == 3:
        axes.imshow(np.where(np.isnan(grid), 1.0, 0.5 + 0.5 * grid), interpolation="nearest")
        return
    axes.imshow(grid, cmap=COLOUR_MAPS[colours], vmin=-1.0, vmax=1.0, interpolation="nearest")


def caption(iteration: int | None) -> str:
    """What stands below a cell: ``iteration 500``, ``iteration 10K``; nothing where the iteration isn't
    known.
    """
    if iteration is None:
        return ""
    whole = iteration >= 1000 and iteration % 1000 == 0
    return f"iteration {iteration // 1000}K" if whole else f"iteration {iteration:,}"


def figure_of_networks(
    networks: Sequence[Network],
    iterations: Sequence[int],
    *,
    layer: str | None = None,
    exact: bool = False,
    scale: Scale = "filter",
    colours: str = "gray",
    cell: float = 2.2,
    title: str = "",
) -> Figure:
    """Figure 7 from snapshot files: read, choose, draw. iterations may be empty: each network's one file is
    shown.
    """
    rows = []
    for network in networks:
        cells = []
        for snapshot in select(network, iterations, exact):
            cells.append((caption(snapshot.iteration), read_filters(snapshot, layer)))
        rows.append((network.label, cells))
    return plot_filters(rows, scale=scale, colours=colours, cell=cell, title=title)


def animation_frames(
    networks: Sequence[Network],
    *,
    layer: str | None = None,
    scale: Scale = "filter",
    colours: str = "gray",
    cell: float = 3.0,
    dpi: int = 100,
) -> Iterator[Image.Image]:
    """A picture an iteration, all networks beside each other, each at its latest snapshot so far.

    With scale "network" the scale of a network's last snapshot holds for the whole film.
    """
    iterations = animation_iterations(networks)
    fixed: list[float | None] | None = None
    if scale == "network":
        last = [read_filters(network.snapshots[-1], layer) for network in networks]
        fixed = [row[0] for row in _limits([[f] for f in last], "snapshot")]
    for iteration in iterations:
        cells = []
        for network in networks:
            past = [s for s in network.snapshots if s.iteration is None or s.iteration <= iteration]
            snapshot = past[-1] if past else network.snapshots[0]
            cells.append((network.label, read_filters(snapshot, layer)))
        # One row with the networks as its columns: films are watched on wide screens.
        limits = [fixed] if fixed else _limits([[f] for _, f in cells], scale)
        flat = limits if fixed else [[row[0] for row in limits]]
        figure = plot_filters(
            [("", cells)], colours=colours, cell=cell, limits=flat, title=f"iteration {iteration:,}"
        )
        yield rasterise(figure, dpi)


def animation_iterations(networks: Sequence[Network]) -> list[int]:
    """Every iteration that any network has a snapshot of. WeightsError when no file's name tells one."""
    found = sorted({s.iteration for n in networks for s in n.snapshots if s.iteration is not None})
    if not found:
        raise WeightsError(
            "an animation needs snapshots named PREFIX_iter_N.caffemodel: no name here tells an iteration"
        )
    return found
