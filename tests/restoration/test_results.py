"""The paper's numbers and ours side by side: the book of scores, tables, cards and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pycaffe_compat import DataError, resources
from pycaffe_compat.files import file_digest
from pycaffe_compat.proto.text import read_net, read_solver
from pycaffe_compat.restoration import cards, report
from pycaffe_compat.restoration.results import (
    BSDS500,
    LIVE1,
    NETWORKS,
    PAPER,
    TABLES,
    Line,
    Score,
    ScoreBook,
    cells,
    comparison,
    markdown,
    table,
    text,
)

L4 = "l4_residual_q10"
WEIGHTS = {L4: "abc"}  # what the book's score was measured with


def score(method: str, psnr: float, weights: str = "", dataset: str = LIVE1, quality: int = 10) -> Score:
    return Score(dataset, quality, method, 29, psnr, psnr - 0.4, 0.824, 0.81, psnr - 27.77, weights)


@pytest.fixture
def book(tmp_path: Path) -> ScoreBook:
    made = ScoreBook(tmp_path / "scores.json")
    made.put(score("distorted", 27.77))
    made.put(score(L4, 29.12, "abc"))
    return made


def test_a_score_is_kept_and_counts_only_for_its_weights(book: ScoreBook) -> None:
    again = ScoreBook(book.path)
    assert again.get(LIVE1, 10, L4) == again.get(LIVE1, 10, L4, "abc") == score(L4, 29.12, "abc")
    assert again.get(LIVE1, 10, L4, "other weights") is None
    assert again.get(LIVE1, 20, L4) is None
    again.put(score(L4, 29.2, "def"))
    assert ScoreBook(book.path).get(LIVE1, 10, L4, "def") is not None
    assert [s.psnr for s in again.of(LIVE1, L4)] == [29.2]


@pytest.mark.parametrize("content", ["", "[]", '{"scores": [{"dataset": 1}]}', "{"])
def test_a_file_that_is_no_book_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"scores\.json: not a file of scores .*: remove it to measure again"):
        ScoreBook(path)


def test_the_papers_36_figures_of_networks_are_all_in_the_tables() -> None:
    shown = {
        (dataset, quality, NETWORKS[name].label)
        for _, blocks, _ in TABLES.values()
        for dataset, quality, names in blocks
        for name in names
    }
    labels = {network.label for network in NETWORKS.values()}
    printed = {key for key in PAPER if key[2] in labels}
    assert printed <= shown
    assert 3 * len(printed) == 36
    # and every other row of the paper has a method of ours
    assert {key[2] for key in PAPER} - labels == {"distorted", "spp", "SA-DCT"}


@pytest.mark.parametrize(
    ("ours", "met"),
    [
        ((29.08, 28.71, 0.824), True),
        ((29.061, 28.691, 0.8226), True),
        ((29.05, 28.8, 0.83), False),
        ((29.1, 28.68, 0.83), False),
        ((29.1, 28.8, 0.8224), False),
    ],
)
def test_met_means_within_the_tolerance_in_all_three(ours: tuple[float, float, float], met: bool) -> None:
    assert Line("L4", ours, (29.08, 28.71, 0.824)).met() is met
    assert Line("L4", ours, None).met()


def test_a_table_in_markdown_and_in_text(book: ScoreBook) -> None:
    (block,) = [b for b in table("table5", book, WEIGHTS) if b.lines]
    assert block.title == "LIVE1, JPEG quality 10"
    assert [line.label for line in block.lines] == ["distorted (JPEG)", "L4 residual"]  # what was not measured is left out
    rows = markdown(block).splitlines()
    assert rows[-1] == "| L4 residual | 29.12 | 29.08 | +0.04 | 28.72 | 28.71 | +0.01 | 0.824 | 0.824 | +0.000 |"
    assert len({row.count("|") for row in rows}) == 1
    lines = text(block).splitlines()[1:]
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split() == ["L4", "residual", "29.12", "29.08", "+0.04", "28.72", "28.71", "+0.01", "0.824", "0.824", "+0.000"]


def test_scores_of_other_weights_are_left_out(book: ScoreBook) -> None:
    (block,) = [b for b in table("table5", book, {L4: "trained again"}) if b.lines]
    assert [line.label for line in block.lines] == ["distorted (JPEG)"]


def test_a_row_without_a_figure_in_the_paper_has_empty_cells(book: ScoreBook) -> None:
    book.put(score("l8_residual_q10", 29.3))
    block = comparison(book, LIVE1, 10, ["l8_residual_q10"], False, WEIGHTS)
    assert "| L8 residual | 29.30 |  |  |" in markdown(block)


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    line = Line("L4 residual", (29.079, 28.709, 0.82399), (29.08, 28.71, 0.824))
    assert cells(line)[3::3] == ["+0.00", "+0.00", "+0.000"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_net_solver_and_start(name: str) -> None:
    network = NETWORKS[name]
    assert name.endswith(network.quality_text)
    assert {Path(read_solver(resources.net_path(solver)).net).name for solver in network.solvers} == {network.net}
    data = [layer for layer in read_net(resources.net_path(network.net)).param.layer if layer.type == "HDF5Data"]
    assert {f"_{network.size}_" in layer.hdf5_data_param.source for layer in data} == {True}
    order = list(NETWORKS)
    assert not network.start or order.index(network.start) < order.index(name)
    assert ("next" in network.solver) == bool(network.start)
    assert not network.then or "quick" not in network.then or "next" in network.then


LOG = """I1124 14:32:13.0 1 solver.cpp:239] Iteration 0 (0 iter/s, 0.1s/100 iters), loss = 0.2
I1124 14:32:14.0 1 solver.cpp:239] Iteration 100 (10 iter/s, 3600s/100 iters), loss = 0.1
I1124 14:32:15.0 1 solver.cpp:239] Iteration 100 (10 iter/s, 3000s/100 iters), loss = 0.1
I1124 14:32:16.0 1 solver.cpp:239] Iteration 200 (10 iter/s, 1200.5s/100 iters), loss = 0.1
"""


def test_the_card_tells_data_recipe_command_and_scores(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(LOG)
    scores = tmp_path / "scores.json"
    row = {"psnr_b": 28.74, "ssim": 0.824, "ssim_gaussian": 0.81, "ipsnr": 1.3, "images": 29}
    results = [
        row | {"dataset": folder, "quality": 20, "method": method, "psnr": psnr}
        for folder in ("live1", "val")
        for method, psnr in (("distorted", 30.07), ("l4_residual_q20", 31.45))
    ]
    scores.write_text(json.dumps({"model": "x", "precision": "float32", "results": results}))
    network = NETWORKS["l4_residual_q20"]
    commands = [
        ["make_patches", "--images", "a b", "--output", "data/q20_64_train"],
        ["train_net", "--solver", network.solver, "--precision", "bfloat16"],
    ]
    cards.write_card(network, tmp_path, scores, commands, "bfloat16")
    card = (tmp_path / "README.md").read_text()
    assert "| LIVE1, quality 20 | 30.07 / 28.74 / 0.824 | **31.45 / 28.74 / 0.824** | 31.42 / 30.83 / 0.890 | 0.810 |" in card
    assert "| BSDS500 val, quality 20 |" in card
    assert "    tools/make_patches.py --images 'a b' --output data/q20_64_train\n" in card
    assert "    tools/train_net.py --solver solver_l4_quick_next.prototxt --precision bfloat16\n" in card
    assert "[`l4_residual_q10`](../l4_residual_q10/)" in card
    assert "1 h 10 min on two CPU cores" in " ".join(card.split())  # what was repeated counts once
    prose = [line for line in card.splitlines() if not line.startswith(("|", "    "))]
    assert max(map(len, prose)) <= 120
    about = json.loads(scores.read_text())
    assert about["trained_on_quality"] == 20
    assert about["started_from"] == "l4_residual_q10"
    assert (about["model"], about["solver"]) == ("l4.prototxt", network.solver)
    assert about["results"] == results
    mixed = [{**row, "method": row["method"].replace("q20", "q10-60")} for row in results]
    lines = cards.score_table(NETWORKS["l4_residual_q10-60"], mixed)  # the paper prints nothing of it
    assert lines[-1].startswith("| BSDS500 val, quality 20 |") and "| - |" in lines[-1]


def test_the_card_of_two_trainings_tells_both(tmp_path: Path) -> None:
    for name in ("train.log", "train_then.log"):
        (tmp_path / name).write_text(LOG)
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"results": []}))
    network = replace(NETWORKS["l8_residual_q20"], then="solver_l8_quick_next.prototxt")
    cards.write_card(network, tmp_path, scores, [], "float32")
    words = " ".join((tmp_path / "README.md").read_text().split())
    assert "24,000 iterations, Adam (0.9, 0.99), rate 0.001 after" in words
    assert "then, from the weights at the end of that, `prototxt/solver_l8_quick_next.prototxt`: 16,000 iterations" in words
    assert "2 h 20 min" in words
    assert "the second training was added because of the first one's scores" in words
    assert json.loads(scores.read_text())["iterations"] == 40_000


def test_the_page_counts_what_is_met_and_holds_everything(book: ScoreBook, tmp_path: Path) -> None:
    book.put(score("arcnn_q10", 28.0))
    page = report.Page({title: table(name, book, WEIGHTS) for name, (title, _, _) in TABLES.items()})
    Image.new("L", (4, 4)).save(tmp_path / "figure.png")
    page.pictures.append(report.Picture("Figure 5", "figure.png", "What is **seen** in `it`."))
    page.speed = [["network", "ms"], ["L4", "900"]]
    page.speed_note = "On 2 cores."
    page.sliders.append(report.Slider("a & b", Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")))
    words = report.markdown_page(page)
    assert "4 of 6 figures" in words  # L4's three and AR-CNN's SSIM, not its PSNR and PSNR-B
    assert "![Figure 5](figure.png)" in words
    assert "| L4 | 900 |" in words
    whole = report.html_page(page, tmp_path)
    assert "What is <b>seen</b> in <code>it</code>." in whole
    assert "a &amp; b" in whole
    assert not re.search(r'(src|href)="(?!data:)', whole)  # nothing is outside
    assert whole.count("<table>") == whole.count("</table>") >= 4
    assert '<td class="missed">-0.98</td>' in whole
    assert '<td class="met">+0.04</td>' in whole


def test_bsds500_is_named_as_the_paper_has_it() -> None:
    assert PAPER[BSDS500, 20, "L8 residual"] == (30.99, 30.19, 0.872)


def test_the_results_that_are_shown_are_those_of_the_weights(repo_root: Path) -> None:
    """Weights that change make docs/results stale: `make reproduce` writes it anew."""
    page = (repo_root / "docs/results/README.md").read_text(encoding="utf-8")
    book = ScoreBook(repo_root / "docs/results/scores.json")
    digests = {name: file_digest(repo_root / "models" / name / "weights.caffemodel") for name in NETWORKS}
    lines = [line for name in TABLES for block in table(name, book, digests) for line in block.lines]
    assert len(lines) == 8 * 4 + 4
    assert all(line.met() for line in lines if line.label in {network.label for network in NETWORKS.values()})
    for name in TABLES:
        for block in table(name, book, digests):
            assert markdown(block) in page
    assert "36 of 36 figures that the paper prints for networks are met or beaten" in page
