"""ONNX export, with a proof that the exported model computes the same.

    graph = Graph("prototxt/l4.prototxt", stages=["deploy"])
    export_onnx(graph, "l4.onnx")
    difference = verify_onnx(Deployed(graph), "l4.onnx", test_inputs(graph))

PyTorch's own exporter writes the model; ONNX Runtime is the judge.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from .errors import NetError
from .files import atomic_write
from .graph import TEST, Graph
from .layers.base import shape_text
from .version import __version__


class Preprocessing(nn.Module):
    """What scripts do to an image before they give it to a net, as part of the model: (image - mean) * scale.

    Args:
        mean: one number a channel in the net's order (one for all will do), or an image channels x height x width.
        scale: what the difference is multiplied with.
        rgb: the model takes red, green, blue, where the net was trained on blue, green, red, as Caffe's data are.
    """

    mean: Tensor

    def __init__(self, mean: Sequence[float] | np.ndarray = (), scale: float = 1.0, rgb: bool = False) -> None:
        super().__init__()
        values = torch.as_tensor(np.array(mean, np.float32))
        self.register_buffer("mean", values if values.ndim == 3 else values.reshape(-1, 1, 1))
        self.scale, self.rgb = scale, rgb

    def check(self, graph: Graph) -> None:
        """NetError where the net's first input blob is no image that this fits."""
        shape = graph.shapes[graph.inputs[0]]
        what = f'{graph.path or "net"}: input blob "{graph.inputs[0]}" of shape {shape_text(shape)}'
        if len(shape) != 4:
            raise NetError(f"{what} is no image (N, C, H, W): preprocessing is for images")
        if self.rgb and shape[1] != 3:
            raise NetError(f"{what} has {shape[1]} channels: the order rgb is for 3")
        if self.mean.numel() and self.mean.shape[0] not in (1, shape[1]):
            raise NetError(f"{what} has {shape[1]} channels, the mean {self.mean.shape[0]}: give one, or one each")
        if self.mean.shape[1:] not in ((1, 1), shape[2:]):
            raise NetError(
                f"{what}: the mean image is {shape_text(self.mean.shape[1:])}: crop it, or give numbers (its own mean: "
                f"{','.join(f'{v:.6g}' for v in self.mean.mean((1, 2)).tolist())})"
            )

    def forward(self, image: Tensor) -> Tensor:
        if self.rgb:
            image = image.flip(1)
        if self.mean.numel():
            image = image - self.mean
        return image * self.scale if self.scale != 1 else image


class Deployed(nn.Module):
    """A graph with its input blobs as arguments and its output blobs as a tuple, in their own order.

    Args:
        preprocessing: done to the first input blob.
    """

    def __init__(self, graph: Graph, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        if not graph.inputs or not graph.outputs:
            raise NetError(
                f'{graph.path or "net"}: net "{graph.name}" has no {"output" if graph.inputs else "Input layer"} '
                "in this state: choose its deployment phase and stage"
            )
        if preprocessing is not None:
            preprocessing.check(graph)
        self.net = graph
        self.preprocessing = preprocessing
        self.input_names = list(graph.inputs)
        self.output_names = list(graph.outputs)

    def prepared(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inputs as the net itself takes them."""
        if self.preprocessing is None:
            return tuple(inputs)
        return (self.preprocessing(inputs[0]), *inputs[1:])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.net(*self.prepared(inputs))
        return tuple(outputs[name] for name in self.output_names)


class EveryLayer(Deployed):
    """The same with every layer's tops as outputs, in front of the net's own: what a proof looks at.

    They are called ``layer/top``. Left out are tops that are a bottom handed on (Split, Dropout in TEST), of which ONNX
    has no value of its own, and tops that are outputs already.
    """

    def __init__(self, graph: Graph, preprocessing: Preprocessing | None = None) -> None:
        super().__init__(graph, preprocessing)
        self.own_outputs = self.output_names
        last = {top: node for node in graph.nodes for top in node.tops}
        self.probes: list[tuple[str, str]] = []
        for node in graph.nodes:
            if node.type in ("Input", "Split") or (node.type == "Dropout" and graph.phase == TEST):
                continue
            for top in node.tops:
                if not (top in graph.outputs and last[top] is node):
                    self.probes.append((node.name, top))
        self.output_names = [f"{layer}/{top}" for layer, top in self.probes] + self.own_outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        blobs = dict(zip(self.input_names, self.prepared(inputs), strict=True))
        seen: dict[tuple[str, str], Tensor] = {}
        for node in self.net.nodes:
            if node.type != "Input":
                self.net.compute(node, blobs)
            for top in node.tops:
                # A copy: a layer behind may change the blob in place.
                seen[node.name, top] = blobs[top].clone()
        return (*(seen[probe] for probe in self.probes), *(blobs[name] for name in self.own_outputs))


class ImageInOut(Deployed):
    """A restoration net as anyone can use it: float32 luma (N,1,H,W) in 0..255 in, restored luma of the same shape out.

    Reflection padding replaces the border that the unpadded convolutions take away, the result is clipped to 0..255.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise NetError(
                f"{graph.path or 'net'}: image in, image out takes a net of one input and one output blob; it has "
                f"{graph.inputs} and {graph.outputs}"
            )
        before, after = graph.shapes[graph.inputs[0]], graph.shapes[graph.outputs[0]]
        border = (
            {(a - b) / 2 for a, b in zip(before[2:], after[2:], strict=True)}
            if len(before) == len(after) == 4
            else set()
        )
        if len(border) != 1 or not next(iter(border)).is_integer() or next(iter(border)) < 0:
            raise NetError(
                f"{graph.path or 'net'}: image in, image out takes a net that leaves the same border on every side; it "
                f"makes {shape_text(after)} of {shape_text(before)}"
            )
        self.border = int(border.pop())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        luma = F.pad(inputs[0], [self.border] * 4, mode="reflect") if self.border else inputs[0]
        return (self.net(luma)[self.output_names[0]].clamp(0, 255),)


def export_onnx(model: Deployed, path: str | PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write a model as ONNX: blob names as input and output names; batch, height, width dynamic where the net allows.

    Args:
        metadata: added to the model's metadata, beside the net's name and this library's version.

    Raises:
        NetError: a layer has no form in ONNX, or PyTorch's exporter cannot express the net.
    """
    for layer in (node.layer for node in model.net.nodes):
        if layer.no_onnx:
            raise NetError(f"{layer.label}: has no form in ONNX: {layer.no_onnx}")
    model = model.eval()
    examples = tuple(torch.zeros(shape) for shape in _example_shapes(model))
    # AUTO: dynamic unless some layer needs the size to be what it is.
    dynamic = (0, 2, 3) if _takes_other_sizes(model) else (0,)
    axes = tuple(dict.fromkeys(dynamic if e.ndim == 4 else range(min(1, e.ndim)), Dim.AUTO) for e in examples)
    # Names that the exporter cannot have given to a value of its own: the blobs' names take their places below.
    inputs = {f"input blob {i}": name for i, name in enumerate(model.input_names)}
    outputs = {f"output blob {i}": name for i, name in enumerate(model.output_names)}
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")  # the exporter's own deprecations, nothing that a user could change
            # Captured here: torch.onnx's own way leaves sizes open that a layer has fixed.
            captured = torch.export.export(model, examples, dynamic_shapes=(axes,), strict=False)
            program = torch.onnx.export(
                captured,
                dynamo=True,
                verbose=False,
                optimize=True,
                input_names=list(inputs),
                output_names=list(outputs),
            )
    except Exception as error:  # the exporter raises many kinds; its own cause says more than its summary
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0]
        raise NetError(f'net "{model.net.name}" cannot be exported to ONNX: {reason}') from error
    assert program is not None
    proto = program.model_proto
    proto.producer_name, proto.producer_version = "pycaffe_compat", __version__
    proto.graph.name = model.net.name or "net"
    _name_values(proto.graph, inputs | outputs)
    _name_sizes(proto.graph)
    # The exporter's notes name files of the machine that it ran on.
    graph = proto.graph
    for items in (graph.node, graph.input, graph.output, graph.initializer, (graph,), (proto,)):
        for item in items:
            del item.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
    del proto.graph.value_info[:]
    for key, value in {"net": model.net.name, "pycaffe_compat": __version__, **(metadata or {})}.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto, full_check=True)
    with atomic_write(path) as temporary:
        onnx.save(proto, str(temporary))


def _example_shapes(model: Deployed) -> list[tuple[int, ...]]:
    """Shapes to trace with: the net's own, but a batch of 2 for a batch of 1, which would be taken as constant."""
    shapes = [model.net.shapes[name] for name in model.input_names]
    return [(2, *shape[1:]) for shape in shapes] if all(shape[:1] == (1,) for shape in shapes) else shapes


def _takes_other_sizes(model: Deployed) -> bool:
    """Whether images of another height and width go through the net (not where an InnerProduct follows its maps)."""
    blobs: dict[str, Tensor] = {}
    for name in model.input_names:
        shape = model.net.shapes[name]
        if len(shape) == 4:
            shape = (*shape[:2], 2 * shape[2] + 7, 2 * shape[3] + 5)
        blobs[name] = torch.empty(shape, device="meta")
    try:
        for node in model.net.nodes:
            if node.type != "Input":
                blobs.update(zip(node.tops, node.infer(*(blobs[name] for name in node.bottoms)), strict=True))
    except (RuntimeError, ValueError, IndexError, NetError):  # PyTorch's and ours where shapes do not fit
        return False
    return True


def _name_values(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Gives the inputs and outputs their blobs' names; an inner value that bears one of them already is renamed."""
    taken = {name for node in graph.node for name in node.output} | {init.name for init in graph.initializer}
    renamed = dict(names)
    for name in taken & set(names.values()):
        fresh = name
        while fresh in taken or fresh in names.values():
            fresh += "_"
        taken.add(fresh)
        renamed[name] = fresh
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for values in (graph.input, graph.output, graph.initializer):
        for value in values:
            value.name = renamed.get(value.name, value.name)


def _name_sizes(graph: onnx.GraphProto) -> None:
    """Calls the dynamic sizes batch, height and width, where the exporter numbers its symbols."""
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param.isdigit():  # a size that a layer has fixed
                size.dim_value = int(size.dim_param)
    names: dict[str, str] = {}
    for value in graph.input:
        for size, name in zip(value.type.tensor_type.shape.dim, ("batch", "channels", "height", "width"), strict=False):
            if size.dim_param:
                names.setdefault(size.dim_param, name)
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"[A-Za-z_]\w*", lambda word: names.get(word[0], word[0]), size.dim_param)


class _quiet:
    """Silences the exporter's progress and registry messages, no news to the user of a converter."""

    def __enter__(self) -> None:
        self.loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *exc: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)


def test_inputs(model: Deployed, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
    """Random inputs in 0..255 of the net's own size and, where the model is dynamic, of other sizes and batches."""
    random = np.random.default_rng(seed)
    own = _example_shapes(model)
    sets = [own]
    if all(len(shape) == 4 for shape in own):
        for batch, extra_h, extra_w in ((1, 0, 0), (3, 7, 2), (2, 0, 31)):
            sets.append([(batch, s[1], s[2] + extra_h, s[3] + extra_w) for s in own])
    else:
        sets.append([(1, *s[1:]) if s else s for s in own])
    return [tuple((random.random(s) * 255).astype(np.float32) for s in shapes) for shapes in sets]


test_inputs.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever its name says to pytest


def verify_onnx(model: Deployed, path: str | PathLike[str], inputs: Sequence[Sequence[np.ndarray]]) -> float:
    """The largest of what ``compare_onnx`` finds."""
    return max(compare_onnx(model, path, inputs).values(), default=0.0)


def compare_onnx(
    model: Deployed, path: str | PathLike[str], inputs: Sequence[Sequence[np.ndarray]]
) -> dict[str, float]:
    """Run an ONNX file in ONNX Runtime and the model in PyTorch on the same inputs.

    Input sets whose sizes the file fixes otherwise are left out.

    Returns:
        Of each output the largest absolute difference, divided by its largest absolute value (at least 1); infinite
        where one is not a finite number and the other is another.

    Raises:
        NetError: no input set fits the file.
    """
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    declared = {i.name: i.shape for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    worst, compared = dict.fromkeys(names, 0.0), 0
    for arrays in inputs:
        named = dict(zip(model.input_names, arrays, strict=True))
        if any(
            isinstance(d, int) and d != n for k, a in named.items() for d, n in zip(declared[k], a.shape, strict=True)
        ):
            continue
        for node in model.net.nodes:
            node.layer.forget()  # the file knows of no earlier forward
        with torch.no_grad():
            expected = dict(zip(model.output_names, model(*(torch.from_numpy(a) for a in arrays)), strict=True))
        for name, got in zip(names, session.run(names, named), strict=True):
            want = expected[name].float().numpy()
            worst[name] = max(worst[name], _difference(got, want))
        compared += 1
    if not compared:
        raise NetError(f"{path}: none of the test inputs has the sizes that this file fixes: {declared}")
    return worst


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    return float(np.abs(got - want).max(initial=0)) / scale


# ------------------------------------------------------------------------------------ from files to a file, with proof


@dataclass(frozen=True)
class Proof:
    """How an ONNX file compares with the net that it was made of.

    Attributes:
        differences: by output, ``layer/top`` for the layers within; see ``compare_onnx``.
        inputs, outputs: the file's.
    """

    differences: dict[str, float]
    inputs: list[str]
    outputs: list[str]

    @property
    def worst(self) -> tuple[str, float]:
        """The output that differs most, and by how much."""
        return max(self.differences.items(), key=lambda item: item[1])


def convert(
    model: Deployed,
    path: str | PathLike[str],
    tolerance: float,
    metadata: Mapping[str, str] | None = None,
    inputs: Sequence[Sequence[np.ndarray]] | None = None,
    told: Callable[[Proof], object] = lambda proof: None,
) -> Proof:
    """Write a model as ONNX after the proof that it computes the same; nothing is written where it does not.

    A model of :class:`EveryLayer` is proved layer by layer; the file has the net's own outputs, and is proved again.

    Args:
        tolerance: the largest difference that is accepted.
        inputs: what to compare on; random numbers without it.
        told: called with the proof before the file is written or refused.

    Raises:
        NetError: as ``export_onnx``; a difference exceeds the tolerance.
    """
    given = test_inputs(model) if inputs is None else inputs
    with tempfile.TemporaryDirectory() as folder:
        draft = os.path.join(folder, "model.onnx")
        export_onnx(model, draft, metadata)
        differences = compare_onnx(model, draft, given)
        outputs = model.output_names
        if isinstance(model, EveryLayer):
            outputs = model.own_outputs
            _keep_outputs(draft, outputs)
            final = compare_onnx(Deployed(model.net, model.preprocessing), draft, given)
            differences |= {name: max(value, differences[name]) for name, value in final.items()}
        proof = Proof(differences, model.input_names, list(outputs))
        told(proof)
        name, worst = proof.worst
        if not worst <= tolerance:
            raise NetError(
                f"{os.fspath(path)} is not written: the difference {worst:.3g} exceeds {tolerance:g}, in {name}"
            )
        with atomic_write(path) as temporary:
            shutil.copyfile(draft, temporary)
    return proof


def _keep_outputs(path: str, outputs: Sequence[str]) -> None:
    """Drops the other outputs of an ONNX file, and what only they need."""
    proto = onnx.load(path)
    graph = proto.graph
    kept = [value for value in graph.output if value.name in outputs]
    needed = set(outputs)
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_read_by(node))
    weights = [value for value in graph.initializer if value.name in needed]
    for field, values in (("node", nodes[::-1]), ("output", kept), ("initializer", weights)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _read_by(node: onnx.NodeProto) -> set[str]:
    """Values that a node reads, those of the graphs within it (If, Loop, Scan) too."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for part in inner.node:
                names |= _read_by(part)
            names |= {value.name for value in inner.output}
    return names


def check_filled(graph: Graph, filled: Sequence[str], weights: str | PathLike[str]) -> None:
    """NetError where a layer that learns has got no weights: a converted net of random numbers is of no use."""
    owners = {entry.layer for entry in graph.learnable}
    empty = [name for name in graph.params if name not in filled and name in owners]
    if empty:
        raise NetError(
            f'{os.fspath(weights)} holds no weights for layer "{empty[0]}" of {graph.path or "the net"}: do they '
            "belong together?"
        )
