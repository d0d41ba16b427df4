#!/usr/bin/env python3
"""Remakes the paper's tables and figures from the weights in models/, or from the beginning.

    tools/reproduce.py --data DIR all                  every table, figure and the page, from models/ (and for figure 8
                                                       from docs/results/figure8.json)
    tools/reproduce.py --data DIR table3 figure5       parts: table3 table4 table5 figure4 ... figure8 speed page
    tools/reproduce.py --data DIR train                train the networks that models/ lacks, then stop
    tools/reproduce.py --data DIR train l8_residual_q20    this one only
    tools/reproduce.py --data DIR --train all          everything

DIR holds bsds500/train, bsds500/test, bsds500/val and live1 (README.md says where they come from). What is
done is not done again: databases, trainings (a stopped one goes on from its last snapshot), scores and
curves are kept in data/, snapshots/, models/ and docs/results/. To make something again, remove it.

Training all of it takes some nine hours on two CPU cores, figure 8 fifty minutes of them; the tables and figures from
models/ take some forty minutes, most of them for SA-DCT.
"""

from __future__ import annotations

if not __package__:  # started as a file of a checkout, not as an installed module
    import _checkout  # noqa: F401

import argparse
import io
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pycaffe_compat import cli, cpu, curves, figures, filters, resources
from pycaffe_compat.errors import CaffeError, DataError
from pycaffe_compat.files import atomic_write, file_digest
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import read_solver
from pycaffe_compat.restoration import cards, evaluation, paper_figures, report
from pycaffe_compat.restoration.degradation import list_images, open_image, read_luma
from pycaffe_compat.restoration.patches import Settings, choose_images, read_settings
from pycaffe_compat.restoration.restore import Restorer, restore_file
from pycaffe_compat.restoration.results import (
    BASELINE_METHODS,
    LIVE1,
    MIXED,
    NETWORKS,
    SETS,
    TABLES,
    Network,
    Score,
    ScoreBook,
    table,
    text,
)
from pycaffe_compat.solver.snapshot import newest_state
from pycaffe_compat.weights import read_weights, write_weights

TOOLS = Path(__file__).resolve().parent
TRAINING_SETS = ("bsds500/train", "bsds500/test")
TESTING_SET = "bsds500/val"
FIGURE7 = ("l4_direct_q10", "l4_residual_q10", "l4_edge_q10")


def run(program: str, *arguments: object) -> None:
    """Run a program of tools/, shown as it would be typed; CaffeError when it fails."""
    words = [str(argument) for argument in arguments]
    print(f"$ tools/{program}.py {shlex.join(words)}", flush=True)
    process = subprocess.Popen([sys.executable, str(TOOLS / f"{program}.py"), *words], text=True)
    with cli.let_end(process):
        code = process.wait()
    if code:
        raise CaffeError(f"{program}.py ended with code {code}; what it printed is above")


# ---- Training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patches:
    """A database of patches to be made, by make_patches."""

    images: tuple[str, ...]
    settings: Settings
    output: str

    def words(self) -> list[str]:
        """What make_patches is given."""
        made = self.settings
        words = ["--images", *self.images, "--quality", *map(str, made.qualities), "--size", str(made.size)]
        words += ["--count", str(made.count), "--seed", str(made.seed)]
        words += ["--limit", str(made.limit)] if made.limit is not None else []
        words += ["--grid", str(made.grid)] if made.grid > 1 else []
        return [*words, "--output", self.output]

    def make(self) -> None:
        """Make it unless it is there; CaffeError if what is there was made otherwise."""
        source = f"{self.output}.txt"
        if not os.path.exists(source):
            run("make_patches", *self.words())
            return
        there, wanted = asdict(read_settings(source)), asdict(self.settings)
        other = [f"{name} {there[name]} instead of {wanted[name]}" for name in wanted if there[name] != wanted[name]]
        if other:
            raise CaffeError(f"{source}: made with {', '.join(other)}: remove it, and it is made again")


def databases(network: Network, data: Path) -> list[Patches]:
    """A network's databases: training, test, and where its second training has its own, that."""
    photographs = tuple(str(data / folder) for folder in TRAINING_SETS)
    settings = Settings(network.qualities, network.size, network.patches, seed=1)
    train = Patches(photographs, settings, f"{network.database}_train")
    test_patches = 256 * len(network.qualities) if len(network.qualities) > 1 else 1024
    test_settings = replace(settings, count=test_patches, seed=2)
    found = [train, Patches((str(data / TESTING_SET),), test_settings, f"{network.database}_test")]
    if network.then_grid > 1:
        found.append(Patches(photographs, replace(settings, grid=network.then_grid), grid_database(network)))
    return found


def grid_database(network: Network) -> str:
    """Where the patches of a network's second training are."""
    return f"{network.database}_grid{network.then_grid}_train" if network.then_grid > 1 else f"{network.database}_train"


@dataclass(frozen=True)
class Training:
    """A run of train_net for a network: its command from the beginning, where its snapshots are, and its length."""

    command: list[str]
    prefix: str
    iterations: int

    @property
    def end(self) -> Path:
        """The weights at its end."""
        return Path(f"{self.prefix}_iter_{self.iterations}.caffemodel")


def trainings(network: Network, models: Path, precision: str) -> list[Training]:
    """A network's trainings, each from the end of the one before."""
    start = str(models / network.start / "weights.caffemodel") if network.start else ""
    found: list[Training] = []
    for solver in network.solvers:
        prefix = f"snapshots/{network.name}" + ("_then" if found else "")
        patches = grid_database(network) if found else f"{network.database}_train"
        words = ["--solver", solver]
        words += ["--train_data", f"{patches}.txt", "--test_data", f"{network.database}_test.txt"]
        words += ["--snapshot_prefix", prefix, "--log", f"{prefix}.log", "--precision", precision]
        words += ["--weights", start] if start else []
        found.append(Training(words, prefix, read_solver(resources.net_path(solver)).max_iter))
        start = str(found[-1].end)
    return found


def is_complete(folder: Path) -> bool:
    """Whether a folder of models/ has been filled: its scores come last."""
    return (folder / "weights.caffemodel").exists() and (folder / "scores.json").exists()


def train(network: Network, data: Path, models: Path, precision: str) -> None:
    """Train a network, from its last snapshot if there is one, and fill its folder in models/."""
    if is_complete(models / network.name):
        print(f"{network.name}: is in {models}")
        return
    if network.start and not (models / network.start / "weights.caffemodel").exists():
        raise CaffeError(f"{network.name} starts from {network.start}, which is not in {models}: train that first")
    for patches in databases(network, data):
        patches.make()
    for training in trainings(network, models, precision):
        finish(training)
    publish(network, data, models, precision)


def finish(training: Training) -> None:
    """Run a training to its end, from its last snapshot if there is one."""
    if training.end.exists():
        return
    words = training.command
    state = newest_state(training.prefix)
    if state is not None:  # it has the weights too
        at = words.index("--weights") if "--weights" in words else len(words)
        words = [*words[:at], *words[at + 2 :], "--snapshot", state]
    run("train_net", *words)
    if not training.end.exists():  # train_net alone was stopped: it has written a snapshot and ended well
        raise CaffeError(
            f"{training.prefix}: stopped before iteration {training.iterations}; the same command goes on from there"
        )


def publish(network: Network, data: Path, models: Path, precision: str) -> None:
    """Fill models/NAME: weights, logs, first-layer filters for figure 7, ONNX, scores, and last the card."""
    folder = models / network.name
    folder.mkdir(parents=True, exist_ok=True)
    done = trainings(network, Path("models"), precision)
    copy(done[-1].end, folder / "weights.caffemodel")
    for training in done:
        log = training.prefix.replace(f"snapshots/{network.name}", "train") + ".log"
        copy(Path(f"{training.prefix}.log"), folder / log)
    if network.name in FIGURE7:
        keep_filters(network, folder)
    net = ["--model", network.net, "--weights", folder / "weights.caffemodel"]
    run("convert_to_onnx", *net, "--output", folder / "model.onnx", "--image-in-out")
    sets = [data / "live1", data / TESTING_SET]
    draft = folder / "scores.json.new"
    quality = ["--quality", *map(str, network.qualities)]
    run("eval_net", *net, "--names", network.name, "--images", *sets, *quality, "--json", draft)
    commands = [["make_patches", *patches.words()] for patches in databases(network, Path(""))]
    commands += [["train_net", *training.command] for training in done]
    cards.write_card(network, folder, draft, commands, precision)
    os.replace(draft, folder / "scores.json")


def keep_filters(network: Network, folder: Path) -> None:
    """The first layer of the snapshots at 1000, 2000, 4000, ... and of the last one, for figure 7."""
    snapshots = filters.find_snapshots(f"snapshots/{network.name}")
    (folder / "filters").mkdir(exist_ok=True)
    doubling = {1000 * 2**k for k in range(10)}
    for snapshot in [s for s in snapshots if s.iteration in doubling or s is snapshots[-1]]:
        weights = read_weights(snapshot.path)
        first = filters.filter_layer(weights, None, snapshot.path)
        net = caffe_pb2.NetParameter(name=network.name)
        net.layer.add(name=first, type="Convolution")
        target = folder / "filters" / f"{first}_iter_{snapshot.iteration}.caffemodel"
        write_weights(target, net, {first: weights[first]})


def copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with atomic_write(target) as temporary, open(source, "rb") as file, open(temporary, "wb") as out:
        shutil.copyfileobj(file, out)


# ---- Measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where things are: the photographs, models/, and the folder of results with its book of scores."""

    data: Path
    models: Path
    output: Path
    book: ScoreBook

    def weights(self, name: str) -> Path:
        """A network's weights file."""
        return self.models / name / "weights.caffemodel"

    def has(self, name: str) -> bool:
        """Whether models/ has the network; says so if it does not."""
        if is_complete(self.models / name):
            return True
        print(f"{name}: not in {self.models}, left out (`train {name}` makes it)")
        return False

    def method(self, name: str) -> evaluation.Method:
        """A network or a baseline as a way of restoration."""
        if name in evaluation.BASELINES:
            return evaluation.BASELINES[name]
        return evaluation.network(Restorer(resources.net_path(NETWORKS[name].net), self.weights(name)))

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each network's weights file in models/."""
        return {name: file_digest(self.weights(name)) for name in NETWORKS if is_complete(self.models / name)}

    def measure(self, dataset: str, quality: int, methods: Sequence[str]) -> None:
        """Score methods on a set at a quality, those that the book does not have yet."""
        images = list_images(self.data / SETS[dataset])
        for name in methods:
            digest = "" if name in evaluation.BASELINES else file_digest(self.weights(name))
            known = self.book.get(dataset, quality, name, digest)
            if known and known.images == len(images):
                continue
            with cli.progress(len(images), f"{name}, {dataset}, quality {quality}", "images") as progress:
                sets = {dataset: images}
                (result,) = evaluation.evaluate(sets, [quality], {name: self.method(name)}, progress.update)
            self.book.put(Score(dataset, quality, name, len(images), **result.values(), weights=digest))


def tables(place: Place, names: Sequence[str]) -> None:
    """Measure what tables 3 to 5 show, and print them."""
    for name in names:
        _, blocks, baselines = TABLES[name]
        for dataset, quality, networks in blocks:
            rows = list(BASELINE_METHODS) if baselines else ["distorted"]
            place.measure(dataset, quality, rows + [n for n in networks if place.has(n)])
        for block in table(name, place.book, place.digests()):
            print("\n" + text(block))


# ---- Figures -------------------------------------------------------------------------------------

FIGURE4_QUALITY = 20
FIGURE4 = {
    "JPEG": "distorted", "spp": "spp", "SA-DCT": "sadct", "AR-CNN": "arcnn_q20", "L4": "l4_residual_q20",
    "L8": "l8_residual_q20",
}  # fmt: skip
FIGURE5 = [name for name, network in NETWORKS.items() if network.label == "L4 residual"]
FIGURE6_DB = (27.0, 27.75)
"""What the picture shows: the JPEGs themselves are at 26.6, the direct networks begin at 13."""
FIGURE8_SIZES = (4, 16, 64, 256, 400)
FIGURE8_QUALITY = 20
FIGURE8 = {"L4": NETWORKS["l4_residual_q10"], "L8": NETWORKS["l8_residual_q20"]}
FIGURE8_ITERATIONS = 4000


def figure4(place: Place) -> None:
    """Crops of one photograph: a free one that may be shown anywhere, and with the page the paper's lighthouse."""
    methods = {label: name for label, name in FIGURE4.items() if name in evaluation.BASELINES or place.has(name)}
    ways = {label: place.method(name) for label, name in methods.items()}
    photographs = {"figure4.png": (free_photograph(), (250, 60, 150))}
    for photograph in list_images(place.data / SETS[LIVE1]):
        if photograph.stem == "lighthouse3":  # .bmp in the original database
            photographs["local/figure4_lighthouse3.png"] = (photograph, (300, 300, 150))
    for name, (photograph, box) in photographs.items():
        figure = paper_figures.examples(read_luma(photograph), FIGURE4_QUALITY, ways, box)
        (place.output / name).parent.mkdir(parents=True, exist_ok=True)
        figures.save_figure(figure, place.output / name, dpi=110)


def free_photograph() -> Path:
    """A photograph that comes with scikit-image and is free (CC0): chelsea the cat, by Stefan van der Walt."""
    try:
        import skimage.data
    except ImportError as error:
        raise CaffeError("figure 4 needs a photograph of scikit-image: pip install scikit-image") from error
    return Path(skimage.data.__file__).parent / "chelsea.png"


def figure5(place: Place) -> None:
    """Each quality's network at all qualities."""
    curves_of = {}
    for name in (n for n in FIGURE5 if place.has(n)):
        for quality in MIXED:
            place.measure(LIVE1, quality, [name])
        label = "L4 " + NETWORKS[name].quality_text.upper()
        curves_of[label] = place.book.of(LIVE1, name)
    if curves_of:
        figure = paper_figures.generalisation(curves_of, MIXED, mixed=f"L4 Q{MIXED[0]}-{MIXED[-1]}")
        figures.save_figure(figure, place.output / "figure5.png")


def figure6(place: Place) -> None:
    """Test PSNR over the iterations for the three objectives, from the logs in models/."""
    names = [name for name in FIGURE7 if place.has(name)]
    if names:
        runs = [(NETWORKS[name].label, curves.read_log(place.models / name / "train.log")) for name in names]
        figure = curves.plot_curves(runs, [curves.Quantity("test", "loss")], psnr=curves.PsnrScale(), ylim=FIGURE6_DB)
        figures.save_figure(figure, place.output / "figure6.png")


def figure7(place: Place) -> None:
    """First-layer filters over the iterations for the three objectives."""
    rows = []
    for name in (n for n in FIGURE7 if place.has(n)):
        snapshots = filters.find_snapshots(place.models / name / "filters" / "conv1")
        rows.append(filters.Network(NETWORKS[name].label, tuple(snapshots)))
    if rows:
        iterations = filters.choose_iterations(rows, 5)
        figures.save_figure(filters.figure_of_networks(rows, iterations, cell=1.8), place.output / "figure7.png")


def figure8(place: Place, training_allowed: bool, precision: str) -> None:
    """L4 and L8 on more and more photographs; the gains are kept in figure8.json."""
    store = place.output / "figure8.json"
    try:
        points = [paper_figures.SizePoint(**row) for row in kept(store)]
    except TypeError as error:
        raise DataError(f"{store}: holds something else ({error}): remove it to make it again") from error
    for label, network in FIGURE8.items():
        for count in FIGURE8_SIZES:
            if any((point.network, point.images) == (label, count) for point in points):
                continue
            if not training_allowed:
                print(f"figure 8: {label} on {count} images is not there yet (--train makes it)")
                continue
            points.append(train_on_few(place, label, network, count, precision))
            with atomic_write(store) as temporary:
                temporary.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")
    if points:
        figures.save_figure(paper_figures.dataset_size(points), place.output / "figure8.png")


def kept(path: Path) -> Any:
    """What a JSON file of the results holds, [] if it is not there; DataError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}): remove it to make it again") from error


def train_on_few(place: Place, label: str, network: Network, count: int, precision: str) -> paper_figures.SizePoint:
    """One training of figure 8, and its gain on the images trained on and on others."""
    settings = Settings((FIGURE8_QUALITY,), network.size, network.patches, seed=1, limit=count)
    prefix = f"snapshots/figure8_{label.lower()}_{count}"
    database = f"data/figure8_{count}_{network.size}"
    folders = [str(place.data / folder) for folder in TRAINING_SETS]
    Patches(tuple(folders), settings, database).make()
    words = ["--solver", network.solver, "--max_iter", str(FIGURE8_ITERATIONS)]
    words += ["--train_data", f"{database}.txt", "--test_data", f"{database}.txt"]
    words += ["--snapshot_prefix", prefix, "--log", f"{prefix}.log", "--precision", precision]
    training = Training(words, prefix, FIGURE8_ITERATIONS)
    finish(training)
    method = {label: evaluation.network(Restorer(resources.net_path(network.net), training.end))}
    sets = {
        "train": choose_images(list_images(folders), settings),
        "test": list_images(place.data / TESTING_SET),
    }
    with cli.progress(sum(map(len, sets.values())), f"{label} on {count} images", "images") as progress:
        results = evaluation.evaluate(sets, [FIGURE8_QUALITY], method, progress.update)
    gains = {result.dataset: result.values()["ipsnr"] for result in results}
    return paper_figures.SizePoint(label, count, gains["train"], gains["test"])


# ---- Speed and the page --------------------------------------------------------------------------

PAPER_SPEED = {"L4": 220, "L8": 1052}  # ms a megapixel on a GeForce GTX 780 with cuDNN 3


def speed(place: Place) -> None:
    """Milliseconds a megapixel on this computer, kept in speed.json."""
    luma = np.random.default_rng(0).integers(0, 256, (1000, 1000)).astype(np.uint8)
    rows = []
    for label, net in (("L4", "l4.prototxt"), ("L8", "l8.prototxt"), ("AR-CNN", "arcnn.prototxt")):
        row: dict[str, Any] = {"network": label}
        for precision in cpu.PRECISIONS:
            restorer = Restorer(resources.net_path(net), precision=precision)
            restorer.restore_luma(luma)
            times = []
            for _ in range(5):
                start = time.perf_counter()
                restorer.restore_luma(luma)
                times.append(time.perf_counter() - start)
            row[precision] = round(statistics.median(times) * 1000)
        row["operations"] = sum(p.numel() for p in restorer.graph.parameters() if p.ndim == 4) * 2
        rows.append(row)
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}
    with atomic_write(place.output / "speed.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n")
    for row in speed_rows(about):
        print("  ".join(cell.rjust(14) for cell in row))


def speed_rows(about: dict[str, Any]) -> list[list[str]]:
    """speed.json as a table."""
    head = ["network", "operations a pixel", "float32 [ms/Mpx]", "bfloat16 [ms/Mpx]", "paper, GTX 780 [ms/Mpx]"]
    rows = [
        [r["network"], f"{r['operations']:,}", str(r["float32"]), str(r["bfloat16"]),
         str(PAPER_SPEED.get(r["network"], ""))]
        for r in about["rows"]
    ]  # fmt: skip
    return [head, *rows]


PICTURES = (
    report.Picture("Figure 4: examples", "figure4.png", """A crop of a photograph at quality 20. The JPEG has blocks and
        ringing along edges; spp and SA-DCT take them away and blur; the networks keep edges sharp, L8 most."""),
    report.Picture("Figure 5: other qualities than trained for", "figure5.png", """L4 networks on LIVE1: each is best at
        the quality it was trained for and falls off beside it, steeply towards better files; the one trained on all
        qualities is good everywhere and best nowhere."""),
    report.Picture("Figure 6: objectives over the training", "figure6.png", """PSNR of the mean error over test patches.
        The residual objective is ahead from the first thousand iterations and hardly dips; the two objectives that
        predict the picture itself begin at 13 dB, far below the frame, and come close only as the rate falls."""),
    report.Picture("Figure 7: first-layer filters", "figure7.png", """Filters of the first layer over the iterations,
        each scaled to its own range. The residual network's show spots, edges and stripes on clean ground after a few
        thousand iterations; the direct network's still hold much of their random start then."""),
    report.Picture("Figure 8: number of training images", "figure8.png", f"""Gains on the images trained on (dashed) and
        on others, BSDS500's validation set (solid), after {FIGURE8_ITERATIONS:,} iterations. On few images networks
        learn these by heart, L8 more than L4: of 4 images L8 knows so much that it is the worse one on others. With
        more images the curves of a network come together, and L8 is ahead on others too."""),
)  # fmt: skip


def write_page(place: Place) -> None:
    """docs/results/README.md from what has been made; and local/index.html, with photographs, for the own eyes."""
    page = report.Page()
    for name, (title, _, _) in TABLES.items():
        blocks = [block for block in table(name, place.book, place.digests()) if block.lines]
        if blocks:
            page.tables[title] = blocks
    page.pictures = [picture for picture in PICTURES if (place.output / picture.file).exists()]
    about = kept(place.output / "speed.json")
    if about:
        page.speed = speed_rows(about)
        page.speed_note = (
            f"On {about['threads']} CPU cores, PyTorch {about['torch']}; restoring 1000x1000 pixels, median of 5. The "
            "paper counts 140 K and 440 K operations a pixel for L4 and L8."
        )
    with atomic_write(place.output / "README.md") as temporary:
        temporary.write_text(report.markdown_page(page), encoding="utf-8")
    page.sliders = sliders(place)
    local = place.output / "local"
    local.mkdir(exist_ok=True)
    with atomic_write(local / "index.html") as temporary:
        temporary.write_text(report.html_page(page, place.output), encoding="utf-8")
    print(f"{place.output / 'README.md'}, {local / 'index.html'}")


def sliders(place: Place) -> list[report.Slider]:
    """Some LIVE1 photographs in colour, compressed and restored by the best network there is; none without LIVE1."""
    if not (place.data / SETS[LIVE1]).is_dir():
        return []
    wanted = {"lighthouse3", "parrots", "womanhat"}
    photographs = [path for path in list_images(place.data / SETS[LIVE1]) if path.stem in wanted]
    found = []
    for quality in (10, 20):
        names = [n for n in (f"l8_residual_q{quality}", f"l4_residual_q{quality}") if place.weights(n).exists()]
        if not names:
            continue
        restorer = Restorer(resources.net_path(NETWORKS[names[0]].net), place.weights(names[0]))
        for photograph in photographs:
            original = open_image(photograph).convert("RGB")
            buffer = io.BytesIO()
            original.save(buffer, "JPEG", quality=quality)
            with tempfile.TemporaryDirectory() as folder:
                source, target = Path(folder) / "a.jpg", Path(folder) / "b.png"
                source.write_bytes(buffer.getvalue())
                restore_file(source, target, restorer)
                after = Image.open(target).convert("RGB")
                after.load()
            before = Image.open(buffer).convert("RGB")
            found.append(report.Slider(f"{photograph.stem}, JPEG quality {quality}, {names[0]}", before, after))
    return found


# ---- The command line ----------------------------------------------------------------------------

PARTS = ("table3", "table4", "table5", "figure4", "figure5", "figure6", "figure7", "figure8", "speed", "page")
WITHOUT_DATA = {"figure6", "figure7", "figure8", "speed"}
"""Parts that need no photographs, from what is in models/ and the results."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n")
    p = argparse.ArgumentParser(
        prog="reproduce.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("parts", nargs="+", metavar="PART", help="what to make; `train` may be followed by names")
    p.add_argument(
        "--data", default=os.environ.get("JPEG_DATA", "."), metavar="DIR",
        help="folder of bsds500 and live1 (default: $JPEG_DATA, else the working directory)",
    )  # fmt: skip
    p.add_argument("--models", default=os.path.join(resources.root(), "models"), metavar="DIR", help="models/")
    p.add_argument("--output", default="docs/results", metavar="DIR", help="the results (default: docs/results)")
    p.add_argument("--train", action="store_true", help="train first what models/ and figure 8 lack")
    p.add_argument("--precision", choices=cpu.PRECISIONS, help="of training (default: what is faster here)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, draw."""
    p = parser()
    args = p.parse_args(argv)
    data, models = Path(args.data), Path(args.models)
    training_only = args.parts[0] == "train"
    names = args.parts[1:] if training_only else []
    known: Sequence[str] = list(NETWORKS) if training_only else [*PARTS, "all"]
    for word in names if training_only else args.parts:
        if word not in known:
            p.error(f"there is no {'network' if training_only else 'part'} {word!r}; there are {', '.join(known)}")
    if training_only or args.train:
        wanted = [*TRAINING_SETS, *SETS.values()]  # a training is tested and scored, too
    else:
        wanted = list(SETS.values()) if set(args.parts) - WITHOUT_DATA else []
    for folder in wanted:
        if not (data / folder).is_dir():
            raise DataError(f"{data / folder}: no such folder: --data is the folder of bsds500/ and live1/")
    precision = args.precision or ("bfloat16" if cpu.fast_bfloat16() else "float32")
    if training_only or args.train:
        for name in names or NETWORKS:
            train(NETWORKS[name], data, models, precision)
    if training_only:
        return 0
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    place = Place(data, models, output, ScoreBook(output / "scores.json"))
    parts = PARTS if "all" in args.parts else args.parts
    tables(place, [part for part in parts if part in TABLES])
    for part, make in (("figure4", figure4), ("figure5", figure5), ("figure6", figure6), ("figure7", figure7)):
        if part in parts:
            make(place)
    if "figure8" in parts:
        figure8(place, args.train, precision)
    if "speed" in parts:
        speed(place)
    write_page(place)
    return 0


if __name__ == "__main__":
    cli.run(main)
