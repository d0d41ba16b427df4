"""Whole nets in the styles that people used, from their text to ONNX and back.

Each net of tests/data/nets is trained on a small problem that is made here; the loss falls; its snapshot, read again,
computes the same; so do ONNX Runtime, ``torch.export`` and ``torch.compile``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
import torch

import pycaffe_compat
from pycaffe_compat import log
from pycaffe_compat.convert import convert_weights
from pycaffe_compat.data.datum import array_to_datum
from pycaffe_compat.export import Deployed, export_onnx, verify_onnx
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.proto.dialects import find_dialect
from pycaffe_compat.proto.text import parse_solver, read_net
from pycaffe_compat.solver import Solver

NETS = Path(__file__).resolve().parent / "data" / "nets"
Arrays = dict[str, np.ndarray]


def patterns(count: int, channels: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images of a bright bar in one of 4 directions, and which one."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, count)
    y, x = np.mgrid[:size, :size] - size // 2
    bars = [abs(y) < size // 8, abs(x) < size // 8, abs(x - y) < size // 8, abs(x + y) < size // 8]
    images = rng.normal(0, 0.3, (count, channels, size, size)) + np.stack(bars)[label][:, None]
    return images.astype(np.float32), label.astype(np.float32)


def classes(channels: int, size: int) -> Callable[[], dict[str, Arrays]]:
    def make() -> dict[str, Arrays]:
        images, label = patterns(64, channels, size)
        return {"train": {"data": images, "label": label}}

    return make


def segments() -> dict[str, Arrays]:
    """Three colours of blocks; the border of each image is to be ignored."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (16, 1, 6, 7)).repeat(4, 2).repeat(4, 3)
    data = (label == np.arange(3)[:, None, None]) + rng.normal(0, 0.2, (16, 3, 24, 28))
    label[:, :, [0, -1]] = 255
    return {"train": {"data": data.astype(np.float32), "label": label.astype(np.float32)}}


def pairs() -> dict[str, Arrays]:
    images, label = patterns(64, 1, 20)
    others = np.random.default_rng(1).permutation(64)
    pair = np.concatenate([images, images[others]], 1)
    return {"train": {"pair_data": pair, "sim": (label == label[others]).astype(np.float32)}, "deploy": {"data": images}}


def objects() -> dict[str, Arrays]:
    """One or two bright rectangles in an image, red (class 1) or green (class 2), with their boxes; 8 images a batch."""
    rng = np.random.default_rng(0)
    data = rng.normal(0, 0.1, (32, 3, 48, 64)).astype(np.float32)
    label = np.full((32, 2, 8), -1, np.float32)
    for n in range(32):
        for k in range(rng.integers(1, 3)):
            kind, width, height = rng.integers(1, 3), rng.integers(12, 28), rng.integers(12, 28)
            x, y = rng.integers(32 * k, 33 + 32 * k - width), rng.integers(0, 49 - height)
            data[n, kind - 1, y : y + height, x : x + width] += 1
            label[n, k] = [n % 8, kind, k, x / 64, y / 48, (x + width) / 64, (y + height) / 48, 0]
    return {"train": {"data": data, "label": label}}


def digits() -> dict[str, Arrays]:
    return {"train": {"data": (patterns(64, 1, 12)[0] > 0.5).astype(np.float32)}}


def captions() -> dict[str, Arrays]:
    """Sentences of 3 words, time x batch: the image tells the first word, each word the next; 0 begins, -1 is no word."""
    start = np.arange(4)
    words = (start + np.arange(3)[:, None]) % 4 * 2 + 1
    inputs = np.vstack([np.zeros((1, 4)), words, np.zeros((2, 4))])
    targets = np.vstack([words, np.zeros((1, 4)), np.full((2, 4), -1)])
    cont = np.ones((6, 4))
    cont[0] = 0
    features = np.eye(8)[start]
    sentences = {"cont_sentence": cont, "input_sentence": inputs, "target_sentence": targets}
    return {
        "train": {name: value.astype(np.float32) for name, value in sentences.items()},
        "images": {"image_features": features.astype(np.float32)},
    }


@dataclass(frozen=True)
class Case:
    """A net, the databases that it reads, how it is trained, how far its loss must fall."""

    data: Callable[[], dict[str, Arrays]]
    iterations: int = 30
    settings: str = 'type: "Adam" base_lr: 0.003 momentum: 0.9 momentum2: 0.999'
    falls_to: float = 0.7
    deploy: str = ""


CASES = {
    "lenet": Case(classes(1, 28), settings='base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005'),
    "alexnet": Case(classes(3, 67), 40, falls_to=0.9),
    "vgg": Case(classes(3, 32), 30, falls_to=0.9),
    "googlenet": Case(classes(3, 40), 40, falls_to=0.9),
    "resnet": Case(classes(3, 32)),
    "fcn": Case(segments, 40),
    "siamese": Case(pairs, 40),
    "autoencoder": Case(digits, 40),
    "captioning": Case(captions, 60, settings='type: "RMSProp" base_lr: 0.01 rms_decay: 0.9 clip_gradients: 10'),
    "ssd": Case(objects, 100, settings='type: "Adam" base_lr: 0.005 momentum: 0.9 momentum2: 0.999', falls_to=0.3),
    "v1_train": Case(classes(1, 24), 40, falls_to=0.9, deploy="v1_deploy"),
}


@dataclass
class Trained:
    solver: Solver
    losses: list[float]
    snapshot: Path
    deploy: Path
    inputs: list[torch.Tensor]

    def deployed(self) -> Graph:
        return pycaffe_compat.load(self.deploy, self.snapshot)


@pytest.fixture(scope="module", params=CASES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    case, name = CASES[request.param], request.param
    folder = tmp_path_factory.mktemp(name)
    databases = case.data()
    given = databases.pop("deploy", {})
    for database, arrays in databases.items():
        with h5py.File(folder / f"{database}.h5", "w") as file:
            for key, array in arrays.items():
                file[key] = array
        (folder / f"{database}.txt").write_text(f"{folder / database}.h5\n")
        given |= arrays
    source = read_net(NETS / f"{name}.prototxt").param
    for layer in source.layer:  # the databases lie where the test has put them
        if layer.type == "HDF5Data":
            layer.hdf5_data_param.source = str(folder / layer.hdf5_data_param.source)
    text = f'lr_policy: "fixed" max_iter: 1000 display: 1 random_seed: 1 snapshot_prefix: "{folder}/net" {case.settings}'
    (folder / "net.prototxt").write_text(str(source))
    param = parse_solver(f'{text} net: "{folder}/net.prototxt"')
    lines: list[str] = []
    with log.console(lines.append):
        solver = Solver(param)
        solver.step(case.iterations)
        state = Path(solver.snapshot())
    found = re.findall(r"Iteration \d+.*, loss = (\S+)", "\n".join(lines))
    deploy = NETS / f"{case.deploy or name}.prototxt"
    graph = Graph(deploy, TEST)
    inputs = [torch.from_numpy(given[blob][:6]) for blob in graph.inputs]
    return Trained(solver, [float(x) for x in found], state.with_suffix(".caffemodel"), deploy, inputs)


def test_the_loss_falls(trained: Trained, request: pytest.FixtureRequest) -> None:
    case = CASES[request.node.callspec.params["trained"]]
    assert len(trained.losses) == case.iterations
    assert np.mean(trained.losses[-5:]) < case.falls_to * np.mean(trained.losses[:5])


def test_a_snapshot_read_again_is_the_net(trained: Trained, tmp_path: Path) -> None:
    graph = trained.deployed()
    learned = trained.solver.graph.weights()
    for name, blobs in graph.weights().items():
        for got, want in zip(blobs, learned[name], strict=True):
            np.testing.assert_array_equal(got, want)
    want = graph(*trained.inputs)
    assert all(bool(value.isfinite().all()) for value in want.values())
    convert_weights(trained.snapshot, tmp_path / "w.safetensors", graph)
    convert_weights(tmp_path / "w.safetensors", tmp_path / "w.h5")
    again = pycaffe_compat.load(trained.deploy, tmp_path / "w.h5")
    for name, value in again(*trained.inputs).items():
        torch.testing.assert_close(value, want[name], rtol=0, atol=0)


def test_forward_keeps_what_run_computes(trained: Trained) -> None:
    graph = trained.deployed()
    with torch.no_grad():
        run = Graph(trained.deploy, TEST)
        run.load_state_dict(graph.state_dict())
        blobs = run.run(*trained.inputs)
        for name, value in graph(*trained.inputs).items():
            torch.testing.assert_close(value, blobs[name], rtol=1e-5, atol=1e-5)


def test_onnx_runtime_computes_the_same(trained: Trained, tmp_path: Path) -> None:
    model = Deployed(trained.deployed())
    export_onnx(model, tmp_path / "net.onnx")
    assert verify_onnx(model, tmp_path / "net.onnx", [[x.numpy() for x in trained.inputs]]) < 1e-5


def test_torch_export_and_compile_compute_the_same(trained: Trained) -> None:
    want = trained.deployed()(*trained.inputs)
    program = torch.export.export(trained.deployed(), tuple(trained.inputs), strict=False)
    torch._dynamo.reset()
    compiled = torch.compile(trained.deployed(), fullgraph=True, backend="eager")
    with torch.no_grad():
        for got in (program.module()(*trained.inputs), compiled(*trained.inputs)):
            for name, value in want.items():
                torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)


def test_gradients_go_through_the_compiled_training_net(trained: Trained) -> None:
    """The training net's own objective, its data given by hand, against the gradients without a compiler."""
    source = trained.solver.graph
    gradients = []
    torch._dynamo.reset()
    for compiled in (False, True):
        graph = Graph(trained.deploy, TEST)
        graph.load_weights(source.weights())
        function = torch.compile(graph, fullgraph=True, backend="aot_eager") if compiled else graph
        outputs = function(*trained.inputs)
        sum(value.square().sum() for value in outputs.values()).backward()  # type: ignore[union-attr]
        gradients.append({name: p.grad for name, p in graph.named_parameters() if p.requires_grad})
    assert any(bool(g.any()) for g in gradients[0].values())
    for name, want in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trained", ["ssd"], indirect=True)
def test_a_trained_detector_finds_what_it_was_shown(trained: Trained) -> None:
    data = objects()["train"]
    graph = Graph(trained.deploy, TEST, stages=["detect"])
    graph.load_weights(trained.solver.graph.weights())
    with torch.no_grad():
        rows = graph(torch.from_numpy(data["data"]))["detection_out"][0, 0].numpy()
    found = total = 0
    for n, boxes in enumerate(data["label"]):
        mine = rows[(rows[:, 0] == n) & (rows[:, 2] > 0.5)]
        for _, kind, _, x1, y1, x2, y2, _ in boxes[boxes[:, 0] >= 0]:
            w = np.minimum(mine[:, 5], x2) - np.maximum(mine[:, 3], x1)
            h = np.minimum(mine[:, 6], y2) - np.maximum(mine[:, 4], y1)
            common = w.clip(0) * h.clip(0)
            union = (x2 - x1) * (y2 - y1) + (mine[:, 5] - mine[:, 3]) * (mine[:, 6] - mine[:, 4]) - common
            found += bool((common / union > 0.5)[mine[:, 1] == kind].any())
            total += 1
    assert total > 40 and found > 0.8 * total and (rows[:, 2] > 0.5).sum() <= 1.1 * total


def test_a_detector_trains_from_a_database_of_annotated_images(tmp_path: Path) -> None:
    """SSD's own data layer with its samplers; a training that is interrupted sees the images that it would have seen."""
    made = objects()["train"]
    with lmdb.open(str(tmp_path / "db"), map_size=2**24) as env, env.begin(write=True) as transaction:
        for n, (image, boxes) in enumerate(zip(made["data"], made["label"], strict=True)):
            record = find_dialect("ssd")["AnnotatedDatum"](type=0)
            pixels = np.rint(image * 100 + 50).clip(0, 255).astype(np.uint8)
            record.datum.ParseFromString(array_to_datum(pixels, n).SerializeToString())
            for _, kind, _, x1, y1, x2, y2, _ in boxes[boxes[:, 0] >= 0]:
                box = record.annotation_group.add(group_label=int(kind)).annotation.add().bbox
                box.xmin, box.ymin, box.xmax, box.ymax = x1, y1, x2, y2
            transaction.put(b"%04d" % n, record.SerializeToString())
    text = (NETS / "ssd.prototxt").read_text()
    first = text.index('layer {\n  name: "data"')
    text = text[:first] + text[text.index('layer {\n  name: "input"') :]
    (tmp_path / "net.prototxt").write_text(
        f"""layer {{ name: "data" type: "AnnotatedData" top: "data" top: "truth" include {{ phase: TRAIN }}
          data_param {{ source: "{tmp_path}/db" backend: LMDB batch_size: 8 }}
          transform_param {{
            mirror: true mean_value: 50 scale: 0.01 resize_param {{ height: 48 width: 64 interp_mode: LINEAR interp_mode: AREA }}
            expand_param {{ prob: 0.5 max_expand_ratio: 1.5 }} emit_constraint {{ emit_type: CENTER }}
            distort_param {{ brightness_prob: 0.5 brightness_delta: 16 contrast_prob: 0.5 contrast_lower: 0.8 contrast_upper: 1.2 }}
          }}
          annotated_data_param {{
            batch_sampler {{ max_sample: 1 max_trials: 1 }}
            batch_sampler {{ max_sample: 1 max_trials: 50 sampler {{ min_scale: 0.6 }} sample_constraint {{ min_jaccard_overlap: 0.1 }} }}
          }} }}\n"""
        + text
    )  # fmt: skip
    settings = CASES["ssd"].settings
    param = parse_solver(
        f'lr_policy: "fixed" max_iter: 1000 display: 1 random_seed: 1 snapshot_prefix: "{tmp_path}/net" '
        f'net: "{tmp_path}/net.prototxt" {settings}'
    )
    lines: list[str] = []
    with log.console(lines.append):
        solver = Solver(param)
        solver.step(60)
        state = Path(solver.snapshot())
        solver.step(2)
        other = Solver(param)
        other.restore(state)
        other.step(2)
    losses = [float(x) for x in re.findall(r"Iteration \d+.*, loss = (\S+)", "\n".join(lines))]
    assert np.mean(losses[50:60]) < 0.6 * np.mean(losses[:5])
    assert losses[-2:] == losses[-4:-2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "googlenet", "resnet", "fcn"])
@pytest.mark.filterwarnings("ignore")  # the compiler's own deprecations
def test_inductor_computes_the_same(name: str) -> None:
    torch._dynamo.reset()
    graph = Graph(NETS / f"{name}.prototxt", TEST)
    x = torch.rand(2, *graph.shapes["data"][1:])
    with torch.no_grad():
        got, want = torch.compile(graph, fullgraph=True)(x), graph(x)
    for blob, value in want.items():
        torch.testing.assert_close(got[blob], value, rtol=1e-4, atol=1e-5)


def test_every_net_here_has_a_case() -> None:
    assert {path.stem for path in NETS.glob("*.prototxt")} == set(CASES) | {c.deploy for c in CASES.values() if c.deploy}
