"""Training logs read back, and training curves drawn from them.

Reads what Caffe prints while it trains (the original's lines and ours are the same)::

    I1122 07:50:47.159219 23225 solver.cpp:347] Iteration 0, Testing net (#0)
    I1122 07:50:47.165993 23225 solver.cpp:414]     Test net output #0: loss = 15.6344 (* 1 = 15.6344 loss)
    I1122 07:50:47.179214 23225 solver.cpp:239] Iteration 0 (50 iter/s, 0.02s/1 iters), loss = 10.1621
    I1122 07:50:47.179329 23225 solver.cpp:258]     Train net output #0: loss = 10.1621 (* 1 = 10.1621 loss)
    I1122 07:50:47.179378 23225 sgd_solver.cpp:112] Iteration 0, lr = 0.0001

also with the year in front of month and day, as glog 0.6 and later write it.
"""

from __future__ import annotations

import csv
import datetime
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from pycaffe_compat.errors import DataError
from pycaffe_compat.figures import COLOURS, new_figure
from pycaffe_compat.files import atomic_write

Row = dict[str, float]
Values = NDArray[np.float64]
Kind = Literal["loss", "lr", "train", "test"]

_PREFIX = re.compile(
    r"[IWEF](?P<year>\d{4})?(?P<month>\d\d)(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d)\.(?P<micro>\d{1,6})"
    r"\s+\d+ [^\s\]]+:\d+\] ?(?P<text>.*)"
)
_NUMBER = r"([-+]?(?:nan|inf|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))"
_ITERATION = re.compile(r"Iteration (\d+)")
_LOSS = re.compile(r"Iteration (\d+)(?: \([^)]*\))?, loss = " + _NUMBER)
_TESTING = re.compile(r"Iteration (\d+), Testing net \(#(\d+)\)")
_LEARNING_RATE = re.compile(r"lr = " + _NUMBER)
_OUTPUT = re.compile(
    rf"(Train|Test) net output #\d+: (\S+) = {_NUMBER}(?: \(\* {_NUMBER} = )?"  # name = value (* weight = ...
)


@dataclass
class _Block:
    """What one display or one test pass printed: each output's values, in order (a blob may hold many)."""

    iteration: int
    outputs: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Log:
    """One training run as its log tells it.

    train, test: rows as the original's log parser makes them (see `parse_log`).
    loss, lr: (iteration, value) points; loss is the objective (the weighted sum), averaged over average_loss
    iterations by the solver that printed it.
    Where a resumed run repeats iterations, loss, lr and `curve` hold the repeated ones only, the rows hold
    both.
    """

    path: str
    name: str = ""
    train: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)
    loss: list[tuple[int, float]] = field(default_factory=list)
    lr: list[tuple[int, float]] = field(default_factory=list)
    _train_blocks: list[_Block] = field(default_factory=list, repr=False)
    _test_blocks: dict[int, list[_Block]] = field(default_factory=dict, repr=False)
    _weights: dict[tuple[Kind, str], float] = field(default_factory=dict, repr=False)

    def loss_weight(self, kind: Kind, name: str = "") -> float:
        """The weight with which an output enters the objective; 1 for the objective, 0 for no loss."""
        return 1.0 if kind == "loss" else self._weights.get((kind, name), 0.0)

    @property
    def test_nets(self) -> list[int]:
        """Numbers of the test nets that printed something."""
        return sorted(self._test_blocks)

    def outputs(self, kind: Kind, net: int = 0) -> dict[str, int]:
        """Names of the train or test net's outputs, with how many values each prints a time."""
        counts: dict[str, int] = {}
        for block in self._blocks(kind, net):
            for name, values in block.outputs.items():
                counts[name] = max(counts.get(name, 0), len(values))
        return counts

    def curve(self, kind: Kind, name: str = "", net: int = 0) -> tuple[Values, Values]:
        """Iterations and values of one quantity, both of shape (points,).

        kind: "loss", "lr", or "train" / "test" with an output's `name`; one value of a longer blob is
        ``prob[3]``.
        net: which test net. DataError, naming what there is, when the log does not hold it.
        """
        if kind in ("loss", "lr"):
            points = self.loss if kind == "loss" else self.lr
            if not points:
                what = "loss" if kind == "loss" else "learning rate"
                raise DataError(f"{self.path}: no {what} in this log (is the solver's `display` set?)")
        else:
            points = self._output_points(kind, name, net)
        table = np.array(points, dtype=np.float64)
        return table[:, 0], table[:, 1]

    def _blocks(self, kind: Kind, net: int) -> list[_Block]:
        return self._train_blocks if kind == "train" else self._test_blocks.get(net, [])

    def _output_points(self, kind: Kind, name: str, net: int) -> list[tuple[int, float]]:
        counts = self.outputs(kind, net)
        element = re.fullmatch(r"(.*)\[(\d+)\]", name)
        base, index = (element[1], int(element[2])) if element and name not in counts else (name, None)
        which = f"{kind} net" if kind == "train" or net == 0 else f"{kind} net #{net}"
        if base not in counts:
            have = ", ".join(sorted(counts)) or "none"
            raise DataError(f"{self.path}: no {which} output {base!r} in this log; it has: {have}")
        count = counts[base]
        if index is None and count > 1:
            raise DataError(f"{self.path}: {which} output {base!r} has {count} values; choose one: {base}[0]")
        if index is not None and index >= count:
            raise DataError(f"{self.path}: {which} output {base!r} has {count} values, so there is no {name}")
        return [
            (block.iteration, block.outputs[base][index or 0])
            for block in self._blocks(kind, net)
            if len(block.outputs.get(base, ())) > (index or 0)
        ]


def parse_log(path: str | os.PathLike[str]) -> tuple[list[Row], list[Row]]:
    """The train and test tables of a log, row for row what Caffe's own tools/extra/parse_log.py makes of it.

    Each row holds NumIters, Seconds (since the line "Solving ..."), LearningRate and an entry an output name.
    As there, a row is closed when it has as many entries as the first, so an output that prints many values
    fills a second, shorter row with its last one. Two differences, where the original loses what was printed:
    a log with one row only keeps it, and nan and inf are numbers.
    Errors: DataError when the file is no training log; OSError when it can't be read.
    """
    log = read_log(path)
    return log.train, log.test


class _Rows:
    """The table one kind of output line fills, by the original parser's rules."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._open: Row | None = None

    def see(self, output: tuple[str, float] | None, iteration: int, seconds: float, rate: float) -> None:
        """Take one line of the log: an output's (name, value), or None for any other line."""
        if output is not None:
            if self._open is None or self._open["NumIters"] != iteration:
                if self._open is not None:
                    self.rows.append(self._open)
                self._open = {"NumIters": float(iteration), "Seconds": seconds, "LearningRate": rate}
            self._open[output[0]] = output[1]
        if self._open is not None and self.rows and len(self._open) == len(self.rows[0]):
            self.rows.append(self._open)
            self._open = None

    def finish(self) -> list[Row]:
        if not self.rows and self._open is not None:
            self.rows.append(self._open)
        if len(self.rows) > 1:  # the rate is first printed after the first outputs
            self.rows[0]["LearningRate"] = self.rows[1]["LearningRate"]
        return self.rows


def read_log(path: str | os.PathLike[str]) -> Log:
    """Read a whole training log. DataError when the file is none; OSError when it can't be read."""
    log = Log(os.fspath(path))
    train, test = _Rows(), _Rows()
    iteration, rate = -1, math.nan
    start: datetime.datetime | None = None
    block: _Block | None = None  # of the test pass that is being printed
    for time, text in _lines(path):
        if start is None:
            if text.startswith("Solving"):
                start, log.name = time, text[len("Solving") :].strip()
            continue
        if found := _ITERATION.search(text):
            iteration = int(found[1])
        if iteration < 0:
            continue
        if found := _LEARNING_RATE.search(text):
            rate = float(found[1])
            _continue_from(log.lr, iteration).append((iteration, rate))
        if found := _LOSS.search(text):
            _continue_from(log.loss, iteration).append((iteration, float(found[2])))
            _continue_blocks(log._train_blocks, iteration).append(_Block(iteration))
        elif found := _TESTING.search(text):
            block = _Block(iteration)
            _continue_blocks(log._test_blocks.setdefault(int(found[2]), []), iteration).append(block)
        printed = _OUTPUT.search(text)
        output = (printed[2], float(printed[3])) if printed else None
        if printed and output:
            if printed[4]:
                kind: Kind = "train" if printed[1] == "Train" else "test"
                log._weights[kind, output[0]] = float(printed[4])
            if printed[1] == "Test" and block is not None:
                block.outputs.setdefault(output[0], []).append(output[1])
            elif printed[1] == "Train" and log._train_blocks:
                log._train_blocks[-1].outputs.setdefault(output[0], []).append(output[1])
        seconds = (time - start).total_seconds()
        train.see(output if printed and printed[1] == "Train" else None, iteration, seconds, rate)
        test.see(output if printed and printed[1] == "Test" else None, iteration, seconds, rate)
    if start is None:
        raise DataError(f"{log.path}: no line 'Solving ...' in it, so it is not the log of a training")
    if iteration < 0:
        raise DataError(f"{log.path}: the training ended before its first iteration")
    log.train, log.test = train.finish(), test.finish()
    return log


def _continue_from(points: list[tuple[int, float]], iteration: int) -> list[tuple[int, float]]:
    """Drop the points that a resumed run is about to repeat."""
    while points and points[-1][0] >= iteration:
        points.pop()
    return points


def _continue_blocks(blocks: list[_Block], iteration: int) -> list[_Block]:
    while blocks and blocks[-1].iteration >= iteration:
        blocks.pop()
    return blocks


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[datetime.datetime, str]]:
    """Time and text of every line with a log prefix. Others (a net printed as text, a warning) are passed
    over.
    """
    year = datetime.datetime.fromtimestamp(os.path.getmtime(path)).year
    last_month = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            match = _PREFIX.match(line)
            if match is None:
                continue
            month, day = int(match["month"]), int(match["day"])
            if match["year"]:
                year = int(match["year"])
            elif month < last_month:  # the classic prefix has no year: December is followed by January
                year += 1
            last_month = month
            clock = f"{match['clock']}.{match['micro']:0<6}"
            if (month, day) == (2, 29) and not match["year"]:
                while year % 4 or (year % 100 == 0 and year % 400):
                    year -= 1
            try:
                time = datetime.datetime.fromisoformat(f"{year:04d}-{month:02d}-{day:02d}T{clock}")
            except ValueError:  # the 99th of a month: two processes wrote into each other's lines
                continue
            yield time, match["text"]


def write_csv(rows: Sequence[Row], path: str | os.PathLike[str], delimiter: str = ",") -> None:
    """Write rows as comma separated values, byte for byte as Caffe's parse_log.py does (header, CRLF)."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True)
class Quantity:
    """Something to plot: the objective ("loss"), the rate ("lr"), or an output of the train or test net."""

    kind: Kind
    name: str = ""


@dataclass(frozen=True)
class PsnrScale:
    """How an output that is proportional to a mean squared error becomes decibels.

    mse = scale x value, PSNR = 10 log10(peak^2 / mse). EuclideanLoss over patches of P pixels is the sum of
    squares over twice the batch, so scale is 2 / P. A net whose loss_weight is that has the mean squared
    error for its weighted loss: scale None takes the weight that the log itself gives. peak is 1 when the
    loss compares pixels 0..1, 255 when it compares 0..255. The result is the PSNR of the mean error, which is
    below the mean of the images' PSNRs that papers print.
    """

    scale: float | None = None
    peak: float = 1.0

    def decibels(self, values: Values, weight: float) -> Values:
        """PSNR [dB] for values of any shape; nan where the error is not positive. weight: the scale when none
        is set.
        """
        scale = weight if self.scale is None else self.scale
        positive = np.where(values > 0, values, np.nan)
        return 10.0 * np.log10(self.peak**2 / (scale * positive))


def smooth(values: Values, window: int) -> Values:
    """Centred moving mean over `window` points of shape (n,); at the ends over the points there are."""
    if window <= 1:
        return values
    before, after = (window - 1) // 2, window // 2
    n = len(values)
    return np.array([np.mean(values[max(0, i - before) : min(n, i + after + 1)]) for i in range(n)])


def plot_curves(
    runs: Sequence[tuple[str, Log]],
    quantities: Sequence[Quantity] = (Quantity("loss"),),
    *,
    test_net: int = 0,
    psnr: PsnrScale | None = None,
    window: int = 1,
    log_y: bool = False,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
    title: str = "",
) -> Figure:
    """Draw training curves: iterations to the right, one colour a run, one panel a quantity (paper, Figure
    6).

    runs: (label, log). Train and test values of one output name share a panel: test drawn solid, train
    dashed.
    psnr: show the losses and outputs as decibels. window: points of a moving mean, with the values themselves
    pale behind it. log_y, ylim: for every panel but the learning rate's, which is logarithmic when it spans
    over 10.
    Errors: DataError when a log does not hold a quantity.
    """
    panels: dict[tuple[str, str], list[Quantity]] = {}
    for quantity in dict.fromkeys(quantities):
        output = quantity.kind in ("train", "test")
        panels.setdefault(("output" if output else quantity.kind, quantity.name), []).append(quantity)
    height = 4.4 if len(panels) == 1 else 2.9 * len(panels) + 0.6
    figure = new_figure(7.2, height)
    figure.set_layout_engine("constrained")
    axes: list[Axes] = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    for axis, ((kind, _), members) in zip(axes, panels.items(), strict=True):
        rate = kind == "lr"
        both = len(members) > 1
        for index, (label, log) in enumerate(runs):
            for quantity in members:
                x, y = log.curve(quantity.kind, quantity.name, test_net)
                shown = y if psnr is None or rate else _as_psnr(psnr, log, quantity, y)
                style = "--" if both and quantity.kind == "train" else "-"
                text = f"{label}, {quantity.kind}" if both else label
                _draw_curve(axis, x, shown, COLOURS[index % len(COLOURS)], style, text, 1 if rate else window)
        axis.set_ylabel(_axis_label(members, psnr is not None and not rate))
        if rate:
            rates = [value for _, log in runs for _, value in log.lr if value > 0]
            if rates and max(rates) > 10 * min(rates):
                axis.set_yscale("log")
        else:
            if log_y:
                axis.set_yscale("log")
            if ylim:
                axis.set_ylim(ylim)
        axis.grid(True, color="#dddddd", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    if len(runs) > 1 or any(len(members) > 1 for members in panels.values()):
        most = max(range(len(axes)), key=lambda i: len(axes[i].get_legend_handles_labels()[0]))
        axes[most].legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    last = axes[-1]
    last.set_xlabel("iteration")
    if xlim:
        last.set_xlim(xlim)
    last.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    if last.get_xlim()[1] >= 10_000:
        last.xaxis.set_major_formatter(FuncFormatter(_thousands))
    figure.align_ylabels(axes)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _as_psnr(psnr: PsnrScale, log: Log, quantity: Quantity, values: Values) -> Values:
    weight = log.loss_weight(quantity.kind, quantity.name)
    if psnr.scale is None and weight <= 0:
        raise DataError(
            f"{log.path}: {quantity.kind} output {quantity.name!r} has no loss weight, so it can't be taken "
            "for a mean squared error: give the scale (--psnr SCALE)"
        )
    return psnr.decibels(values, weight)


def _draw_curve(
    axis: Axes,
    x: Values,
    y: Values,
    colour: str,
    style: str,
    label: str,
    window: int,
) -> None:
    if window > 1:
        axis.plot(x, y, color=colour, linewidth=0.6, alpha=0.25)
    # A marker a point where there are few, or a log with a single one would show nothing.
    marker = "o" if len(x) <= 25 else ""
    axis.plot(
        x, smooth(y, window), style, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=label
    )


def _axis_label(members: Sequence[Quantity], decibels: bool) -> str:
    kind, name = members[0].kind, members[0].name
    if kind == "lr":
        return "learning rate"
    where = "" if len(members) > 1 else "training " if kind in ("loss", "train") else "test "
    if decibels:
        return f"{where}PSNR from {name or 'loss'} [dB]"
    if "psnr" in name.lower():
        return f"{where}{name.upper() if name.islower() else name} [dB]"
    return f"{where}{name or 'loss'}"


def _thousands(value: float, _position: int) -> str:
    return "0" if value == 0 else f"{value / 1000:g}K"


def default_labels(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """A short label a file: its stem, or with as many parent folders as tell equal stems apart."""
    parts = [(*Path(path).absolute().parts[:-1], Path(path).stem) for path in paths]
    labels = []
    for own in parts:
        depth = 1
        while depth < len(own) and sum(other[-depth:] == own[-depth:] for other in parts) > 1:
            depth += 1
        # Two equal paths stay equal: no depth tells them apart.
        labels.append("/".join(own[-depth:]) if parts.count(own) == 1 else own[-1])
    return labels
