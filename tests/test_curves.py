"""Logs read back, against the tables that the original's own log parser made of the original's logs."""

import math
from pathlib import Path

import numpy as np
import pytest

from pycaffe_compat import curves, figures
from pycaffe_compat.errors import CaffeError, DataError

START = "I1231 23:59:58.000000 7 solver.cpp:289] Solving tiny\n"


def write(path: Path, *lines: str) -> Path:
    """A log whose lines come a second apart from two seconds before midnight of New Year's Eve."""
    text = START
    for second, line in enumerate(lines, 1):
        day, clock = (
            ("1231", f"23:59:{58 + second:02d}") if second < 2 else ("0101", f"00:00:{second - 2:02d}")
        )
        text += f"I{day} {clock}.5 7 solver.cpp:1] {line}\n"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["train.log", "train_average_loss.log", "train_cls.log"])
@pytest.mark.parametrize("kind", ["train", "test"])
def test_tables_are_those_of_the_original_parser(golden: Path, tmp_path: Path, name: str, kind: str) -> None:
    train, test = curves.parse_log(golden / name)
    curves.write_csv(train if kind == "train" else test, tmp_path / "table")
    assert (tmp_path / "table").read_bytes() == (golden / "parse_log" / f"{name}.{kind}").read_bytes()


def test_year_in_the_prefix(golden: Path) -> None:
    """glog 0.6's logs, unreadable for the original's parser, give the values of the run without it."""
    with_year, _ = curves.parse_log(golden / "train_glog06_year_prefix.log")
    without, _ = curves.parse_log(golden / "train.log")
    assert [(r["NumIters"], r["loss"], r["LearningRate"]) for r in with_year] == [
        (r["NumIters"], r["loss"], r["LearningRate"]) for r in without
    ]
    assert 0 < with_year[0]["Seconds"] < 1


def test_curves_hold_every_value(golden: Path) -> None:
    log = curves.read_log(golden / "train_cls.log")
    assert (log.name, log.test_nets) == ("cls", [0])
    assert log.outputs("test") == {"acc": 1, "acc5": 1, "aux": 1, "loss": 1, "prob": 40}
    x, y = log.curve("test", "acc")
    assert (x.tolist(), y.tolist()) == ([0, 10, 20], [0.125, 0.5625, 0.75])
    assert log.curve("lr")[1].tolist() == [0.05, 0.05, 0.05, 0.005]
    assert log.curve("loss")[0].tolist() == [0, 5, 10, 15, 20]  # the one line after the last iteration too
    first, last = (log.curve("test", f"prob[{i}]")[1].tolist() for i in (0, 39))
    assert (first[1:], last[1]) == ([0.510201, 0.275476], 0.18706)
    assert (log.loss_weight("test", "aux"), log.loss_weight("test", "acc")) == (0.5, 0.0)


def test_new_year_and_one_row(tmp_path: Path) -> None:
    """Time goes on over the new year, and the only row of a log isn't lost."""
    log = write(
        tmp_path / "a.log",
        "Iteration 0 (1 iter/s, 1s/1 iters), loss = nan",
        "    Train net output #0: loss = nan (* 1 = nan loss)",
        "Iteration 0, lr = 1e-05",
    )
    train, test = curves.parse_log(log)
    assert test == []
    assert [list(row) for row in train] == [["NumIters", "Seconds", "LearningRate", "loss"]]
    sentence = write(tmp_path / "b.log", "Iteration 0 (1 iter/s, 1s/1 iters), loss = 1.5.2", "Iteration 0, lr = 0.01.")
    assert curves.read_log(sentence).curve("lr")[1].tolist() == [0.01]
    assert train[0]["Seconds"] == 2.5 and math.isnan(train[0]["loss"])
    assert curves.read_log(log).curve("lr")[1].tolist() == [1e-5]


def test_resumed_run_and_second_test_net(tmp_path: Path) -> None:
    """What a resumed run repeats is taken from the resumed run; each test net has curves of its own."""
    display = ["Iteration {} (1 iter/s, 1s/1 iters), loss = {}", "Iteration {}, lr = {}"]
    lines = [text.format(i, v) for i, v in [(0, 9), (10, 8), (20, 7), (10, 5), (20, 4)] for text in display]
    lines += ["Iteration 20, Testing net (#0)", "    Test net output #0: acc = 0.1"]
    lines += ["Iteration 20, Testing net (#1)", "    Test net output #0: acc = 0.2"]
    log = curves.read_log(write(tmp_path / "a.log", *lines))
    assert [v.tolist() for v in log.curve("loss")] == [[0, 10, 20], [9, 5, 4]]
    assert log.curve("test", "acc", 0)[1].tolist() == [0.1]
    assert log.curve("test", "acc", 1)[1].tolist() == [0.2]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("test", "psnr", "no test net output 'psnr' in this log; it has: acc, acc5, aux, loss, prob"),
        ("test", "prob", "has 40 values; choose one: prob[0]"),
        ("test", "prob[40]", "has 40 values, so there is no prob[40]"),
        ("train", "acc", "no train net output 'acc'"),
    ],
)
def test_missing_quantities(golden: Path, kind: curves.Kind, name: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        curves.read_log(golden / "train_cls.log").curve(kind, name)
    assert message in str(error.value) and str(golden / "train_cls.log") in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "hello\n", START, "\x00\xff" * 50], ids=["empty", "text", "start", "bytes"]
)
def test_not_a_log(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.log").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"x\.log: "):
        curves.parse_log(tmp_path / "x.log")


def test_psnr_of_a_loss() -> None:
    """Against the definition, from images: EuclideanLoss is the sum of squares over twice the batch."""
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 4, 1, 6, 6))
    euclidean = np.array([((a - b) ** 2).sum() / (2 * 4)])
    expected = -10 * np.log10(np.mean((a - b) ** 2))
    assert curves.PsnrScale(2 / 36).decibels(euclidean, 0.0) == pytest.approx(expected)
    assert curves.PsnrScale().decibels(euclidean, 2 / 36) == pytest.approx(expected)
    eight_bit = curves.PsnrScale(2 / 36, peak=255.0)
    assert eight_bit.decibels(255.0**2 * euclidean, 0.0) == pytest.approx(expected)
    assert np.isnan(curves.PsnrScale(1.0).decibels(np.zeros(2), 1.0)).all()


def test_smooth_is_a_moving_mean() -> None:
    values = np.array([1.0, 2.0, 6.0, 4.0])
    assert curves.smooth(values, 1) is values
    assert curves.smooth(values, 3) == pytest.approx([1.5, 3.0, 4.0, 5.0])


def test_plot_has_what_was_asked(golden: Path, tmp_path: Path) -> None:
    log = curves.read_log(golden / "train_cls.log")
    wanted = [curves.Quantity("test", "loss"), curves.Quantity("lr"), curves.Quantity("train", "loss")]
    figure = curves.plot_curves([("a", log), ("b", log)], wanted, title="T")
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "learning rate"]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["a, test", "a, train", "b, test", "b, train"]
    assert figure.axes[-1].get_xlabel() == "iteration"
    line = figure.axes[0].lines[0]
    assert np.asarray(line.get_ydata()).tolist() == log.curve("test", "loss")[1].tolist()
    for suffix in (".png", ".svg", ".pdf"):
        once, again = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        figures.save_figure(figure, once)
        figures.save_figure(curves.plot_curves([("a", log), ("b", log)], wanted, title="T"), again)
        assert once.read_bytes() == again.read_bytes()
    with pytest.raises(CaffeError, match="must end in"):
        figures.save_figure(figure, tmp_path / "a.bmp")


def test_decibels_need_a_loss(golden: Path) -> None:
    log = curves.read_log(golden / "train_cls.log")
    figure = curves.plot_curves([("a", log)], [curves.Quantity("test", "aux")], psnr=curves.PsnrScale())
    assert figure.axes[0].get_ylabel() == "test PSNR from aux [dB]"
    expected = -10 * np.log10(0.5 * log.curve("test", "aux")[1])
    assert np.asarray(figure.axes[0].lines[0].get_ydata()) == pytest.approx(expected)
    with pytest.raises(DataError, match="no loss weight"):
        curves.plot_curves([("a", log)], [curves.Quantity("test", "acc")], psnr=curves.PsnrScale())


def test_labels_tell_files_apart() -> None:
    assert curves.default_labels(["x/a.log", "y/b.log"]) == ["a", "b"]
    assert curves.default_labels(["x/train.log", "y/train.log"]) == ["x/train", "y/train"]
