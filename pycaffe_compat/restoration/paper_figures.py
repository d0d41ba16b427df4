"""The paper's figures, drawn from our own weights, logs and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pycaffe_compat.figures import COLOURS, new_figure
from pycaffe_compat.restoration.degradation import jpeg
from pycaffe_compat.restoration.evaluation import Method, apply
from pycaffe_compat.restoration.metrics import psnr
from pycaffe_compat.restoration.results import Score


def examples(
    luma: NDArray[np.uint8], quality: int, methods: Mapping[str, Method], box: tuple[int, int, int], columns: int = 3
) -> Figure:
    """Figure 4: the original and each method's result, a crop of each enlarged, with the whole image's PSNR.

    luma     uint8 (H, W), the original
    methods  label -> way of restoration
    box      left, top and side of the crop, pixels
    """
    left, top, side = box
    degraded = jpeg(luma, quality)
    pictures: list[tuple[str, NDArray[np.uint8]]] = [("original", luma)]
    for label, method in methods.items():
        restored = apply(method, degraded, quality)
        pictures.append((f"{label}: {psnr(restored, luma):.2f} dB", restored))
    rows = -(-len(pictures) // columns)
    cell = 3.1
    figure = new_figure(columns * cell, rows * (cell + 0.28))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, picture) in zip(axes, pictures, strict=False):
        crop = picture[top : top + side, left : left + side]
        axis.imshow(crop, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(title, fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.3 / (rows * 3.4), wspace=0.03, hspace=0.1)
    return figure


def generalisation(curves: Mapping[str, Sequence[Score]], qualities: Sequence[int], mixed: str) -> Figure:
    """Figure 5: the gain of each network over the JPEG, at all qualities.

    curves     label -> its scores by quality
    qualities  the ticks
    mixed      the label of the network trained on all of them, which is drawn dashed
    """
    figure = new_figure(7.2, 4.6)
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    for index, (label, scores) in enumerate(curves.items()):
        other = label == mixed
        axis.plot(
            [score.quality for score in scores],
            [score.ipsnr for score in scores],
            marker="s" if other else "o",
            markersize=4,
            linewidth=2.4 if other else 1.4,
            linestyle="--" if other else "-",
            color="black" if other else COLOURS[index % len(COLOURS)],
            label=label,
        )
    axis.axhline(0, color="#888888", linewidth=0.8)
    axis.set_xticks(list(qualities))
    axis.set_xlabel("JPEG quality")
    axis.set_ylabel("PSNR gain over the JPEG [dB]")
    axis.grid(True, color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, ncols=2)
    return figure


@dataclass(frozen=True)
class SizePoint:
    """One training of figure 8: PSNR gain [dB] on the images trained on and on others."""

    network: str
    images: int
    train: float
    test: float


def dataset_size(points: Sequence[SizePoint]) -> Figure:
    """Figure 8: what networks gain on the images they were trained on and on others, by the number of the former."""
    figure = new_figure(7.2, 4.4)
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    for index, network in enumerate(dict.fromkeys(point.network for point in points)):
        mine = sorted((p for p in points if p.network == network), key=lambda p: p.images)
        images = [p.images for p in mine]
        colour = COLOURS[index % len(COLOURS)]
        axis.plot(images, [p.train for p in mine], "o--", color=colour, markersize=4, label=f"{network}, trained on")
        axis.plot(images, [p.test for p in mine], "o-", color=colour, markersize=4, label=f"{network}, others")
    axis.set_xscale("log", base=2)
    ticks = sorted({point.images for point in points})
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.minorticks_off()
    axis.set_xlabel("training images")
    axis.set_ylabel("PSNR gain over the JPEG [dB]")
    axis.grid(True, color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    return figure
