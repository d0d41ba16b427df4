"""The page of results: Markdown for the repository, and one self-contained HTML file to look closer with."""

from __future__ import annotations

import base64
import html
import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from PIL import Image

from pycaffe_compat.restoration.results import HEAD, NETWORKS, TOLERANCE, Comparison, cells, markdown, markdown_table


@dataclass(frozen=True)
class Picture:
    """A figure of the page: its file beside the page, its caption, and what there is to be seen in it."""

    title: str
    file: str
    text: str


@dataclass(frozen=True)
class Slider:
    """A photograph before and after, for the HTML page: what a visitor can wipe between."""

    title: str
    before: Image.Image
    after: Image.Image


@dataclass
class Page:
    """What the page holds, in its order. Sections whose parts were not made yet are left out."""

    tables: dict[str, list[Comparison]] = field(default_factory=dict)
    """title -> blocks"""
    speed: list[list[str]] = field(default_factory=list)
    """rows of cells, the first one the head"""
    speed_note: str = ""
    pictures: list[Picture] = field(default_factory=list)
    sliders: list[Slider] = field(default_factory=list)


INTRODUCTION = """Svoboda, Hradis, Barina, Zemcik: Compression Artifacts Removal Using Convolutional Neural Networks
(2016), remade with the networks of `models/`. Made by `tools/reproduce.py`; every score by the paper's protocol: luma,
gray JPEG, whole images, 8 bit, means over the images of a set; PSNR and PSNR-B in dB, SSIM over 8x8 windows; networks
in float32."""

DIFFERENCES = (
    """**Optimiser and length.** The paper: SGD, 250,000 iterations of 64 patches of 64x64 (L8: 4 of 128x128), the rate
    halved every 50,000. Here: Adam, a rate that falls as half a cosine, 16 patches of 64x64 (L8: the paper's 4 of
    128x128) and the numbers of iterations that the solver files below say. The paper's own recipe stands in
    `prototxt/solver_*.prototxt` without `quick`.""",
    """**Precision.** Trained in bfloat16 with float32 weights where the computer is fast in it; scored in float32.""",
    """**Starts.** Networks for further qualities start from a neighbouring quality's weights; the paper trains each
    from scratch.""",
    """**Table 5's row "distorted"** prints BSDS500's figures in the paper; ours are LIVE1's, like its other rows.""",
    """**spp.** No setting of FFmpeg's filter gives the paper's row exactly; the forms tried stand side by side.""",
    """**AR-CNN** is trained here, all layers at once, with the paper's symmetric initialisation; the paper quotes its
    authors' figures. At quality 10 a short second training adds the jumps across the borders of JPEG's
    blocks to the loss (stage `deblock` of `arcnn.prototxt`): PSNR-B rises, PSNR stays.""",
    """**L8** for quality 20 was trained a second time from its own end, which brought 0.01 dB; for quality 10 it is not
    in the paper.""",
)


def markdown_page(page: Page) -> str:
    """The page as Markdown; its pictures are files beside it."""
    blocks = ["# Results", fill(INTRODUCTION), fill(_verdict(page))]
    for title, comparisons in page.tables.items():
        blocks.append(f"## {title}")
        for block in comparisons:
            blocks += [f"**{block.title}**", markdown(block)]
    for picture in page.pictures:
        blocks += [f"## {picture.title}", f"![{picture.title}]({picture.file})", fill(picture.text)]
    if page.speed:
        blocks += ["## Speed", markdown_table(page.speed), fill(page.speed_note)]
    differences = "\n".join(fill("- " + text, "  ") for text in DIFFERENCES)
    blocks += ["## What was done differently", differences, markdown_table(_trainings())]
    return "\n\n".join(blocks) + "\n"


def _verdict(page: Page) -> str:
    lines = {
        (block.title, line.label): line
        for comparisons in page.tables.values()
        for block in comparisons
        for line in block.lines
        if line.label in {network.label for network in NETWORKS.values()} and line.paper is not None
    }
    figures = [
        difference >= -tolerance
        for line in lines.values()
        for difference, tolerance in zip(line.differences() or (), TOLERANCE, strict=True)
    ]
    return (
        f"{sum(figures)} of {len(figures)} figures that the paper prints for networks are met or beaten "
        f"(within {TOLERANCE[0]:g} dB and {TOLERANCE[2]:g} of SSIM)."
    )


def _trainings() -> list[list[str]]:
    """How each network was trained: a table's rows, the first one its head."""
    rows = [["network", "solver", "trained on quality", "started from"]]
    for network in NETWORKS.values():
        quality = ", ".join(map(str, network.qualities))
        rows.append([network.name, ", then ".join(network.solvers), quality, network.start or "scratch"])
    return rows


def fill(text: str, indent: str = "") -> str:
    """A paragraph, its lines filled anew; all but the first begin with ``indent``."""
    whole = " ".join(text.split())
    return textwrap.fill(whole, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


# ---- HTML ----------------------------------------------------------------------------------------

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 0.6rem 0 1.4rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
th { cursor: pointer; user-select: none; white-space: nowrap; } th[aria-sort=ascending]::after { content: " \\25b4"; }
th[aria-sort=descending]::after { content: " \\25be"; }
td.met { color: #006b4e; } td.missed { color: #a33c00; font-weight: 600; }
img { max-width: 100%; height: auto; }
.wipe { position: relative; display: inline-block; max-width: 100%; line-height: 0; margin: 0.4rem 0 0.2rem; }
.wipe img.after { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)); }
.wipe::after { content: ""; position: absolute; inset: 0 auto 0 var(--at, 50%); width: 2px; background: #fff8; }
.wipe input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y; }
.wipe input:focus-visible { opacity: 0.25; }
figure { margin: 1rem 0; } figcaption { color: #555; font-size: 0.95rem; }
"""

_SCRIPT = """
for (const wipe of document.querySelectorAll(".wipe")) {
  const input = wipe.querySelector("input");
  const show = at => wipe.style.setProperty("--at", at + "%");
  input.addEventListener("input", () => show(input.value));
  // Anywhere on the picture: some browsers move a range by its thumb alone, which is not to be seen here.
  const drag = e => {
    if (e.type === "pointermove" && !e.buttons) return;
    const box = wipe.getBoundingClientRect();
    show(input.value = 100 * (e.clientX - box.left) / box.width);
  };
  input.addEventListener("pointerdown", drag);
  input.addEventListener("pointermove", drag);
}
for (const head of document.querySelectorAll("th"))
  head.addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => { const t = row.cells[column].textContent, n = parseFloat(t.replaceAll(",", ""));
      return isNaN(n) ? t : n; };
    const order = (a, b) => { const x = value(a), y = value(b);
      return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)); };
    [...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)).forEach(row => body.append(row));
  });
"""


def html_page(page: Page, folder: str | PathLike[str]) -> str:
    """The page as one HTML file with everything inside it.

    folder  where the pictures' files are
    """
    parts = [f"<h1>Results</h1><p>{_inline(INTRODUCTION)}</p><p>{_inline(_verdict(page))}</p>"]
    for title, comparisons in page.tables.items():
        parts.append(f"<h2>{html.escape(title)}</h2>")
        for block in comparisons:
            parts += [f"<h3>{html.escape(block.title)}</h3>", _html_comparison(block)]
    if page.sliders:
        parts.append("<h2>Before and after</h2><p>Drag across a photograph: the JPEG left, restored right.</p>")
        parts += [_html_slider(slider) for slider in page.sliders]
    for picture in page.pictures:
        data = base64.b64encode((Path(folder) / picture.file).read_bytes()).decode()
        title = html.escape(picture.title)
        parts.append(
            f'<h2>{title}</h2><figure><img alt="{title}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_inline(picture.text)}</figcaption></figure>"
        )
    if page.speed:
        parts += ["<h2>Speed</h2>", _html_table(page.speed), f"<p>{_inline(page.speed_note)}</p>"]
    items = "".join(f"<li>{_inline(text)}</li>" for text in DIFFERENCES)
    parts.append(f"<h2>What was done differently</h2><ul>{items}</ul>")
    parts.append(_html_table(_trainings()))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Results</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{os.linesep.join(parts)}<script>{_SCRIPT}</script></body></html>\n"
    )


def _inline(text: str) -> str:
    """The little Markdown of our own texts: **bold** and `code`."""
    result = html.escape(" ".join(text.split()), quote=False)
    for mark, tag in (("**", "b"), ("`", "code")):
        pieces = result.split(mark)
        result = pieces[0] + "".join(
            (f"<{tag}>" if i % 2 else f"</{tag}>") + piece for i, piece in enumerate(pieces[1:], 1)
        )
    return result


def _html_table(rows: Sequence[Sequence[str]], classes: Mapping[tuple[int, int], str] | None = None) -> str:
    head, *body = rows
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    result = f"<table><thead><tr>{titles}</tr></thead><tbody>"
    for i, row in enumerate(body):
        marked = [(classes or {}).get((i, j), "") for j in range(len(row))]
        data = [
            f'<td class="{name}">{html.escape(cell)}</td>' if name else f"<td>{html.escape(cell)}</td>"
            for cell, name in zip(row, marked, strict=True)
        ]
        result += f"<tr>{''.join(data)}</tr>"
    return result + "</tbody></table>"


def _html_comparison(block: Comparison) -> str:
    classes = {}
    for i, line in enumerate(block.lines):
        for k, (difference, tolerance) in enumerate(zip(line.differences() or (), TOLERANCE, strict=False)):
            classes[i, 3 + 3 * k] = "met" if difference >= -tolerance else "missed"
    return _html_table([HEAD, *(cells(line) for line in block.lines)], classes)


def _html_slider(slider: Slider) -> str:
    title = html.escape(slider.title)
    return (
        f'<figure><div class="wipe"><img alt="{title}, the JPEG" src="{_data_uri(slider.before)}">'
        f'<img class="after" alt="{title}, restored" src="{_data_uri(slider.after)}">'
        f'<input type="range" min="0" max="100" value="50" step="0.5" aria-label="{title}: JPEG or restored"></div>'
        f"<figcaption>{title}</figcaption></figure>"
    )


def _data_uri(image: Image.Image) -> str:
    """A picture inside the page: WebP without loss, so that what is seen is what was computed."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
