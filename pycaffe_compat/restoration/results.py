"""The paper's numbers, the networks that remake them, and the tables that put both side by side.

Svoboda, Hradis, Barina, Zemcik 2016, tables 3 to 5. Scores are PSNR [dB], PSNR-B [dB] and SSIM over 8x8 windows, means
over the images of a set. ``tools/reproduce.py`` trains, measures, draws and writes the page; this module says what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

from pycaffe_compat.errors import DataError
from pycaffe_compat.files import atomic_write

LIVE1, BSDS500 = "LIVE1", "BSDS500 val"
SETS = {LIVE1: "live1", BSDS500: "bsds500/val"}
"""The sets of images that are evaluated on, and their folders."""

Triple = tuple[float, float, float]
"""PSNR, PSNR-B, SSIM."""


@dataclass(frozen=True)
class Network:
    """A network of ``models/``: how it was made and what it is measured at.

    name        its folder in models/
    label       what tables and figures call it
    net         its prototxt; solver: the solver file that trained it
    then        the solver file of a second training, from the end of the first, or ""
    then_grid   its patches lie on this grid (make_patches --grid); 1: it takes the first one's
    qualities   JPEG qualities of its training data
    size        side of the training patches, pixels
    patches     how many of them, in all
    start       the network whose weights it started from, or "" for the fillers'
    """

    name: str
    label: str
    net: str
    solver: str
    qualities: tuple[int, ...]
    size: int = 64
    patches: int = 100_000
    start: str = ""
    then: str = ""
    then_grid: int = 1

    @property
    def solvers(self) -> tuple[str, ...]:
        """The solver files of its trainings, one after the other."""
        return (self.solver, self.then) if self.then else (self.solver,)

    @property
    def quality_text(self) -> str:
        """``q10``, or ``q10-60`` for a mixture."""
        first, last = self.qualities[0], self.qualities[-1]
        return f"q{first}" if first == last else f"q{first}-{last}"

    @property
    def database(self) -> str:
        """What the names of its databases begin with: ``data/q10_64``."""
        return f"data/{self.quality_text}_{self.size}"


MIXED = (10, 20, 30, 40, 50, 60)

NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("l4_residual_q10", "L4 residual", "l4.prototxt", "solver_l4_quick.prototxt", (10,)),
        *(
            Network(
                f"l4_residual_q{quality}",
                "L4 residual",
                "l4.prototxt",
                "solver_l4_quick_next.prototxt",
                (quality,),
                start=f"l4_residual_q{quality - 10}",
            )
            for quality in (20, 30, 40, 50, 60)
        ),
        Network(
            "l4_residual_q10-60",
            "L4 residual",
            "l4.prototxt",
            "solver_l4_quick_next.prototxt",
            MIXED,
            start="l4_residual_q30",
        ),
        Network("l4_direct_q10", "L4 direct", "l4_direct.prototxt", "solver_l4_direct_quick.prototxt", (10,)),
        Network("l4_edge_q10", "L4 edge preserving", "l4_edge.prototxt", "solver_l4_edge_quick.prototxt", (10,)),
        Network(
            "l8_residual_q20",
            "L8 residual",
            "l8.prototxt",
            "solver_l8_quick.prototxt",
            (20,),
            128,
            25_000,
            then="solver_l8_quick_next.prototxt",
        ),
        Network(
            "l8_residual_q10",
            "L8 residual",
            "l8.prototxt",
            "solver_l8_quick_next.prototxt",
            (10,),
            128,
            25_000,
            start="l8_residual_q20",
        ),
        Network(
            "arcnn_q10",
            "AR-CNN",
            "arcnn.prototxt",
            "solver_arcnn_quick.prototxt",
            (10,),
            then="solver_arcnn_deblock.prototxt",
            then_grid=8,
        ),
        Network("arcnn_q20", "AR-CNN", "arcnn.prototxt", "solver_arcnn_quick_next.prototxt", (20,), start="arcnn_q10"),
    )
}

# By (set, quality, row). Table 5's row "Distorted" prints BSDS500's figures; its trained rows are LIVE1's.
PAPER: dict[tuple[str, int, str], Triple] = {
    (LIVE1, 10, "distorted"): (27.77, 25.33, 0.791),
    (LIVE1, 10, "spp"): (28.37, 27.77, 0.806),
    (LIVE1, 10, "SA-DCT"): (28.65, 28.01, 0.809),
    (LIVE1, 10, "AR-CNN"): (28.98, 28.70, 0.822),
    (LIVE1, 10, "L4 residual"): (29.08, 28.71, 0.824),
    (LIVE1, 10, "L4 direct"): (28.99, 28.66, 0.820),
    (LIVE1, 10, "L4 edge preserving"): (28.69, 28.40, 0.813),
    (LIVE1, 20, "distorted"): (30.07, 27.57, 0.868),
    (LIVE1, 20, "spp"): (30.49, 29.22, 0.877),
    (LIVE1, 20, "SA-DCT"): (30.81, 29.82, 0.878),
    (LIVE1, 20, "AR-CNN"): (31.29, 30.76, 0.887),
    (LIVE1, 20, "L4 residual"): (31.42, 30.83, 0.890),
    (LIVE1, 20, "L8 residual"): (31.51, 30.92, 0.891),
    (BSDS500, 10, "distorted"): (27.58, 24.97, 0.769),
    (BSDS500, 10, "spp"): (28.13, 27.49, 0.782),
    (BSDS500, 10, "AR-CNN"): (28.74, 28.38, 0.796),
    (BSDS500, 10, "L4 residual"): (28.75, 28.29, 0.800),
    (BSDS500, 20, "distorted"): (29.72, 26.97, 0.852),
    (BSDS500, 20, "spp"): (30.11, 28.68, 0.859),
    (BSDS500, 20, "AR-CNN"): (30.80, 30.08, 0.868),
    (BSDS500, 20, "L4 residual"): (30.90, 30.13, 0.871),
    (BSDS500, 20, "L8 residual"): (30.99, 30.19, 0.872),
}
"""What the paper prints in tables 3, 4 and 5."""


# ---- Measured scores -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One measured row: a method on a set at a quality. ``weights`` is the SHA-256 of a network's weights file."""

    dataset: str
    quality: int
    method: str
    images: int
    psnr: float
    psnr_b: float
    ssim: float
    ssim_gaussian: float
    ipsnr: float
    weights: str = ""

    @property
    def triple(self) -> Triple:
        """What the paper prints of it."""
        return (self.psnr, self.psnr_b, self.ssim)


class ScoreBook:
    """Measured scores in a JSON file, so that what was measured is not measured again.

    A score counts only for the weights it was measured with. The file is written whole at every new score.

    Raises:
        DataError: the file is there and is not such a book.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._scores: dict[tuple[str, int, str], Score] = {}
        if self.path.exists():
            try:
                for row in json.loads(self.path.read_text(encoding="utf-8"))["scores"]:
                    self._add(Score(**row))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{self.path}: not a file of scores ({error}): remove it to measure again") from error

    def _add(self, score: Score) -> None:
        self._scores[score.dataset, score.quality, score.method] = score

    def get(self, dataset: str, quality: int, method: str, weights: str | None = None) -> Score | None:
        """The score, or None; with ``weights`` only if it was measured with these."""
        score = self._scores.get((dataset, quality, method))
        return score if score and (weights is None or score.weights == weights) else None

    def put(self, score: Score) -> None:
        """Add a score and write the file."""
        self._add(score)
        rows = [asdict(self._scores[key]) for key in sorted(self._scores)]
        with atomic_write(self.path) as temporary:
            text = json.dumps({"scores": rows}, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    def of(self, dataset: str, method: str) -> list[Score]:
        """A method's scores on a set, by quality."""
        rows = [score for score in self._scores.values() if (score.dataset, score.method) == (dataset, method)]
        return sorted(rows, key=lambda score: score.quality)


# ---- Tables --------------------------------------------------------------------------------------

METRICS = ("PSNR", "PSNR-B", "SSIM")
_DECIMALS = (2, 2, 3)
TOLERANCE: Triple = (0.02, 0.02, 0.0015)
"""How far below the paper's printed figure a score may be to count as met: its rounding, and noise of training."""


@dataclass(frozen=True)
class Line:
    """A row of a comparison: what was measured, and what the paper prints for it (None: nothing)."""

    label: str
    ours: Triple
    paper: Triple | None

    def differences(self) -> Triple | None:
        """Ours minus the paper's; the paper's figures are rounded."""
        return None if self.paper is None else tuple(a - b for a, b in zip(self.ours, self.paper, strict=True))  # type: ignore[return-value]

    def met(self) -> bool:
        """Every figure reaches the paper's, within `TOLERANCE`."""
        found = self.differences()
        return found is None or all(d >= -t for d, t in zip(found, TOLERANCE, strict=True))


@dataclass(frozen=True)
class Comparison:
    """A block of a table of the paper: one set of images at one quality."""

    title: str
    lines: tuple[Line, ...]


# Rows of a table: label here, its method in the book, the paper's name for it ("" where it has no such row).
_BASELINES = (
    ("distorted (JPEG)", "distorted", "distorted"),
    ("spp, re-JPEG at 8 shifts", "spp8", "spp"),
    ("spp, re-JPEG at 64 shifts", "spp", "spp"),
    ("spp, FFmpeg's thresholding, 8 shifts", "spp_hard8", "spp"),
    ("SA-DCT", "sadct", "SA-DCT"),
)


BASELINE_METHODS = tuple(method for _, method, _ in _BASELINES)
"""Names in ``evaluation.BASELINES``."""


def comparison(
    book: ScoreBook, dataset: str, quality: int, networks: Sequence[str], baselines: bool, weights: Mapping[str, str]
) -> Comparison:
    """Ours beside the paper's for one set and quality; rows that were not measured are left out.

    networks    names in `NETWORKS`, the rows below the baselines
    weights     network -> SHA-256 of its present weights file: scores of other weights are left out too
    """
    rows = list(_BASELINES) if baselines else list(_BASELINES[:1])
    rows += [(NETWORKS[name].label, name, NETWORKS[name].label) for name in networks]
    lines = []
    for label, method, paper in rows:
        score = book.get(dataset, quality, method, weights.get(method, ""))
        if score is not None:
            lines.append(Line(label, score.triple, PAPER.get((dataset, quality, paper))))
    return Comparison(f"{dataset}, JPEG quality {quality}", tuple(lines))


TABLES: dict[str, tuple[str, tuple[tuple[str, int, tuple[str, ...]], ...], bool]] = {
    "table3": (
        "Table 3: LIVE1",
        (
            (LIVE1, 10, ("arcnn_q10", "l4_residual_q10", "l8_residual_q10")),
            (LIVE1, 20, ("arcnn_q20", "l4_residual_q20", "l8_residual_q20")),
        ),
        True,
    ),
    "table4": (
        "Table 4: BSDS500 validation",
        (
            (BSDS500, 10, ("arcnn_q10", "l4_residual_q10", "l8_residual_q10")),
            (BSDS500, 20, ("arcnn_q20", "l4_residual_q20", "l8_residual_q20")),
        ),
        True,
    ),
    "table5": (
        "Table 5: objectives",
        ((LIVE1, 10, ("l4_direct_q10", "l4_edge_q10", "l4_residual_q10")),),
        False,
    ),
}
"""Title, blocks (set, quality, networks), and whether the classical baselines are in it."""


def table(name: str, book: ScoreBook, weights: Mapping[str, str]) -> list[Comparison]:
    """The blocks of one of `TABLES`; weights: see `comparison`."""
    _, blocks, baselines = TABLES[name]
    return [comparison(book, dataset, quality, names, baselines, weights) for dataset, quality, names in blocks]


def cells(line: Line) -> list[str]:
    """A row's cells: label, then ours, the paper's and the difference for each metric."""
    found = line.differences()
    result = [line.label]
    for i, digits in enumerate(_DECIMALS):
        result.append(f"{line.ours[i]:.{digits}f}")
        result += ["", ""] if line.paper is None or found is None else [
            f"{line.paper[i]:.{digits}f}", f"{found[i]:+z.{digits}f}",
        ]  # fmt: skip
    return result


HEAD = ["method", *(text for metric in METRICS for text in (metric, "paper", "diff."))]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first one the head; all columns but the first to the right."""
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def markdown(block: Comparison) -> str:
    """A comparison as a Markdown table."""
    return markdown_table([HEAD, *(cells(line) for line in block.lines)])


def text(block: Comparison) -> str:
    """A comparison as aligned text for a terminal."""
    rows = [HEAD, *(cells(line) for line in block.lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return "\n".join([block.title, lines[0], "-" * len(lines[0]), *lines[1:]])
