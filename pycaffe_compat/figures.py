"""What the pictures have in common: colours, a figure without a display, and files written whole or not at
all.

Figures are made from matplotlib's classes and never through pyplot: no window system is asked for, no global
state is left behind, and several figures can be made in one process. The same figure gives the same bytes
every time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pycaffe_compat.errors import CaffeError
from pycaffe_compat.files import atomic_write

PICTURE_SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")
ANIMATION_SUFFIXES = (".gif", ".apng", ".png", ".webp")

# Okabe and Ito's colours, told apart with every common form of colour blindness (jfly.uni-koeln.de/color);
# the dark ones first, their yellow left out because a line in it is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of width x height inches that draws without a display."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def suffix_of(path: str | os.PathLike[str], allowed: Sequence[str]) -> str:
    """The lower-case suffix of `path`; CaffeError when it is none of the allowed ones (``.png`` style)."""
    suffix = Path(path).suffix.lower()
    if suffix not in allowed:
        raise CaffeError(
            f"{os.fspath(path)}: the name must end in {', '.join(allowed[:-1])} or {allowed[-1]}"
        )
    return suffix


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 150) -> None:
    """Write a figure as PNG, SVG, PDF or JPEG, by the name's suffix.

    The file is complete or absent, and free of dates and random names, so equal figures are equal files.
    Errors: CaffeError for another suffix; OSError when the place can't be written.
    """
    kind = suffix_of(path, PICTURE_SUFFIXES)[1:]
    metadata: dict[str, dict[str, str | None]] = {
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
    }
    with (
        # Identifiers inside an SVG are hashes, salted with random bytes unless told otherwise.
        matplotlib.rc_context({"svg.hashsalt": "pycaffe_compat"}),
        atomic_write(path) as temporary,
    ):
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata.get(kind))


def rasterise(figure: Figure, dpi: int = 100) -> Image.Image:
    """Draw a figure to an RGB picture of dpi pixels an inch."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    return Image.frombuffer("RGBA", (width, height), bytes(canvas.buffer_rgba())).convert("RGB")


def save_animation(
    frames: Sequence[Image.Image], path: str | os.PathLike[str], seconds: float = 0.4, hold: float = 1.6
) -> None:
    """Write frames of one size as an endless GIF, animated PNG or WebP, by the name's suffix.

    seconds: how long each frame stays; hold: how long the last one stays, to look at the end of the story.
    Errors: CaffeError for another suffix or for no frames; OSError when the place can't be written.
    """
    suffix = suffix_of(path, ANIMATION_SUFFIXES)
    if not frames:
        raise CaffeError(f"{os.fspath(path)}: an animation needs at least one frame")
    milliseconds = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * hold)]
    if suffix == ".gif":
        # One palette for all frames: with one each, a colour that doesn't change still flickers.
        palette = _mosaic(frames).quantize(256, method=Image.Quantize.MEDIANCUT)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    kind = {".gif": "GIF", ".apng": "PNG", ".png": "PNG", ".webp": "WEBP"}[suffix]
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    with atomic_write(path) as temporary:
        frames[0].save(
            temporary,
            format=kind,
            save_all=True,
            append_images=list(frames[1:]),
            duration=milliseconds,
            loop=0,
            **options,
        )


def _mosaic(frames: Sequence[Image.Image], at_most: int = 8) -> Image.Image:
    """Some evenly chosen frames on top of each other: a sample of all colours, of bounded size."""
    step = -(-len(frames) // at_most)
    chosen = frames[::-1][::step]  # from the end: the last frame stays longest
    width, height = chosen[0].size
    mosaic = Image.new("RGB", (width, height * len(chosen)))
    for index, frame in enumerate(chosen):
        mosaic.paste(frame, (0, index * height))
    return mosaic
