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
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from .errors import CaffeError, NetError, first_line
from .files import atomic_write
from .graph import TEST, Graph, Node
from .layers.recurrent import LSTMUnit, Recurrent
from .memory import shown_bytes
from .naming import fresh, shape_text
from .version import __version__

MOST_BYTES = 2**31 - 2**20
"""Of weights in one ONNX file: a protobuf message ends at 2 GiB, and the nodes take some of it."""
PROVED = ((1, 0, 0), (3, 7, 2), (2, 4, 31))
"""Batches, and what is added to height and width, that an export is proved with beside the net's own sizes."""


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

    An input blob that no layer reads is no output. One that layers in place have changed is, as ``blob_out``: an ONNX
    file cannot call an input and an output the same.

    Args:
        preprocessing: done to the first input blob.
    """

    def __init__(self, graph: Graph, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        computed = {top for node in graph.nodes if node.type != "Input" for top in node.tops}
        self.output_blobs = [name for name in graph.outputs if name in computed]
        if not graph.inputs or not self.output_blobs:
            raise NetError(
                f'{graph.path or "net"}: net "{graph.name}" has no {"output" if graph.inputs else "Input layer"} '
                "in this state: choose its deployment phase and stage"
            )
        if preprocessing is not None:
            preprocessing.check(graph)
        self.net = graph
        self.preprocessing = preprocessing
        self.input_names = list(graph.inputs)
        self.output_names = [
            fresh(f"{name}_out", graph.shapes) if name in graph.inputs else name for name in self.output_blobs
        ]

    def prepared(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inputs as the net itself takes them."""
        if self.preprocessing is None:
            return tuple(inputs)
        return (self.preprocessing(inputs[0]), *inputs[1:])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.net(*self.prepared(inputs))
        return tuple(outputs[name] for name in self.output_blobs)


class EveryLayer(Deployed):
    """The same with every layer's tops as outputs, in front of the net's own: what a proof looks at.

    They are called ``layer/top`` (with ``_`` behind it where that is a name already). Left out are tops that are a
    bottom handed on (Split, Dropout in TEST), of which ONNX has no value of its own, and tops that are outputs already.
    """

    def __init__(self, graph: Graph, preprocessing: Preprocessing | None = None) -> None:
        super().__init__(graph, preprocessing)
        self.own_outputs = self.output_names
        last = {top: node for node in graph.nodes for top in node.tops}
        # By the layer's place: two layers of one name may work in place on one blob.
        self.probes: dict[tuple[int, str], str] = {}
        taken = {*self.input_names, *self.own_outputs}
        for place, node in enumerate(graph.nodes):
            if node.type in ("Input", "Split") or (node.type == "Dropout" and graph.phase == TEST):
                continue
            for top in node.tops:
                if not (top in graph.outputs and last[top] is node):
                    self.probes[place, top] = fresh(f"{node.name}/{top}", taken)
                    taken.add(self.probes[place, top])
        self.output_names = [*self.probes.values(), *self.own_outputs]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        blobs = dict(zip(self.input_names, self.prepared(inputs), strict=True))
        seen: dict[tuple[int, str], Tensor] = {}
        for place, node in enumerate(self.net.nodes):
            if node.type != "Input":
                node.compute(blobs)
            for top in node.tops:
                # A copy: a layer behind may change the blob in place.
                seen[place, top] = blobs[top].clone()
        return (*(seen[probe] for probe in self.probes), *(blobs[name] for name in self.output_blobs))


class ImageInOut(Deployed):
    """A restoration net as anyone can use it: float32 luma (N,1,H,W) in 0..255 in, restored luma of the same shape out.

    Reflection padding replaces the border that the unpadded convolutions take away, the result is clipped to 0..255.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        if len(graph.inputs) != 1 or len(self.output_blobs) != 1:
            raise NetError(
                f"{graph.path or 'net'}: image in, image out takes a net of one input and one output blob; it has "
                f"{graph.inputs} and {self.output_blobs}"
            )
        before, after = graph.shapes[graph.inputs[0]], graph.shapes[self.output_blobs[0]]
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
        return (self.net(luma)[self.output_blobs[0]].clamp(0, 255),)


def export_onnx(model: Deployed, path: str | PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write a model as ONNX: blob names as input and output names; batch, height, width dynamic where the net allows.

    Args:
        metadata: added to the model's metadata, beside the net's name and this library's version.

    Raises:
        NetError: a layer has no form in ONNX, PyTorch's exporter cannot express the net, or it is too large.
    """
    for layer in (node.layer for node in model.net.nodes):
        if layer.no_onnx:
            raise NetError(f"{layer.label}: has no form in ONNX: {layer.no_onnx}")
    size = sum(value.numel() * value.element_size() for value in (*model.parameters(), *model.buffers()))
    if size > MOST_BYTES:
        raise NetError(
            f'net "{model.net.name}" has {shown_bytes(size)} of weights: an ONNX file holds at most '
            f"{shown_bytes(MOST_BYTES)}"
        )
    proto = _captured(model.eval())
    proto.producer_name, proto.producer_version = "pycaffe_compat", __version__
    proto.graph.name = model.net.name or "net"
    # The exporter's notes name files of the machine that it ran on.
    graph = proto.graph
    for items in (graph.node, graph.input, graph.output, graph.initializer, (graph,), (proto,)):
        for item in items:
            del item.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
    del proto.graph.value_info[:]
    for key, value in {"net": model.net.name, "pycaffe_compat": __version__, **(metadata or {})}.items():
        # A file's name may be no UTF-8, which ONNX takes only.
        proto.metadata_props.add(key=key, value=value.encode(errors="backslashreplace").decode())
    with atomic_write(path) as temporary:
        _save(proto, str(temporary), model.net)


def _save(proto: onnx.ModelProto, path: str, net: Graph) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, path)
    except OSError:
        raise
    except Exception as error:  # of onnx, which has no base class, and of protobuf
        raise _refused(net, error) from error


def _refused(net: Graph, error: BaseException) -> NetError:
    """What PyTorch's exporter or ONNX's checker says, in a line."""
    return NetError(f'net "{net.name}" cannot be exported to ONNX: {first_line(error)}')


def _captured(model: Deployed) -> onnx.ModelProto:
    """The model with as many sizes left open as the exporter can leave open: it takes the net's own in any case."""
    own, axes = _own_shapes(model), open_axes(model)
    without_batch = [{axis: name for axis, name in of.items() if name != "batch"} for of in axes]
    attempts: list[list[dict[int, str]]] = [axes, without_batch, [{} for _ in own]]
    reason: BaseException | None = None
    for attempt, left_open in enumerate(attempts):
        if left_open in attempts[:attempt]:
            continue
        try:
            proto = _traced(model, left_open)
        except Exception as error:  # the exporter raises many kinds; its own cause says more than its summary
            reason = error.__cause__ or error
            continue
        declared = [
            [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in proto.graph.input
        ]
        if all(map(_fits, own, declared)):
            return proto
        reason = ValueError(f"it would take {declared}, not the net's own {own}")
    assert reason is not None
    raise _refused(model.net, reason) from reason


def _traced(model: Deployed, axes: Sequence[Mapping[int, str]]) -> onnx.ModelProto:
    """The model as PyTorch's exporter writes it, these axes of its inputs left open; with its blobs' names."""
    # Traced with the net's own sizes, but a batch of 1 would be taken as constant.
    shapes = _resized(_own_shapes(model), axes, lambda name, size: max(size, 2))
    # Names that the exporter cannot have given to a value of its own: the blobs' names take their places below.
    inputs = {f"input blob {i}": name for i, name in enumerate(model.input_names)}
    outputs = {f"output blob {i}": name for i, name in enumerate(model.output_names)}
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, nothing that a user could change
        # Captured here: torch.onnx's own way leaves sizes open that a layer has fixed.
        captured = torch.export.export(
            model,
            tuple(torch.zeros(shape) for shape in shapes),
            # AUTO: dynamic unless some layer needs the size to be what it is.
            dynamic_shapes=(tuple(dict.fromkeys(of, Dim.AUTO) for of in axes),),
            strict=False,
        )
        program = torch.onnx.export(
            captured,
            dynamo=True,
            verbose=False,
            optimize=True,
            input_names=list(inputs),
            output_names=list(outputs),
        )
    assert program is not None
    proto = program.model_proto
    _name_values(proto.graph, inputs | outputs)
    _name_sizes(proto.graph, axes)
    return proto


def _own_shapes(model: Deployed) -> list[tuple[int, ...]]:
    return [model.net.shapes[name] for name in model.input_names]


def _resized(
    shapes: Sequence[tuple[int, ...]], axes: Sequence[Mapping[int, str]], new: Callable[[str, int], int]
) -> list[tuple[int, ...]]:
    """The shapes with the sizes of the named axes being what ``new`` makes of the axis' name and its size."""
    return [
        tuple(new(of[axis], size) if axis in of else size for axis, size in enumerate(shape))
        for shape, of in zip(shapes, axes, strict=True)
    ]


def _enlarged(batch: int, height: int, width: int) -> Callable[[str, int], int]:
    """For ``_resized``: this batch, and so much more height and width."""
    more = {"height": height, "width": width}
    return lambda name, size: batch if name == "batch" else size + more[name]


def open_axes(model: Deployed) -> list[dict[int, str]]:
    """Of each input blob the axes whose sizes may be others than the net's own: batch, height and width.

    The batch is the first axis; of a sequence (LSTM, RNN), which is time x batch x ..., the second one. Height and
    width are those of all maps at once. What a layer's own checks, or PyTorch's, refuse at one of the sizes that the
    proof takes stays as it is (height and width where an InnerProduct follows the maps).
    """
    net = model.net
    reads = _reads(net)
    sequences = _sequences(net, reads)
    found: dict[str, dict[int, str]] = {}
    for names, nodes in _parts(net, reads):
        own = [net.shapes[name] for name in names]
        batches: list[dict[int, str]] = []
        maps: list[dict[int, str]] = []
        for name, shape in zip(names, own, strict=True):
            axis = 1 if name in sequences else 0
            batches.append({axis: "batch"} if axis < len(shape) else {})
            # A map of one pixel is none, and a size of 1 would be taken as constant.
            sides = ((2, "height"), (3, "width")) if len(shape) == 4 else ()
            maps.append({axis: side for axis, side in sides if shape[axis] > 1})
        # A much larger size too: a few pixels more may be lost in a large stride.
        larger = (2, *(max((shape[axis] for shape in own if len(shape) == 4), default=0) + 7 for axis in (2, 3)))
        for axes in ([a | b for a, b in zip(batches, maps, strict=True)], batches, maps):
            sizes = [_resized(own, axes, _enlarged(*size)) for size in (*PROVED, larger)]
            if all(_goes_through(net, nodes, dict(zip(names, shapes, strict=True))) for shapes in sizes):
                found |= zip(names, axes, strict=True)
                break
    return [found.get(name, {}) for name in model.input_names]


Reads = list[tuple[Node, list[set[str]]]]


def _reads(net: Graph) -> Reads:
    """Every layer, with the input blobs that each of its bottoms comes from."""
    origins = {name: {name} for name in net.inputs}
    reads: Reads = []
    for node in net.nodes:
        if node.type != "Input":
            reads.append((node, [origins[bottom] for bottom in node.bottoms]))
            origins |= dict.fromkeys(node.tops, set().union(*reads[-1][1]))
    return reads


def _sequences(net: Graph, reads: Reads) -> set[str]:
    """Input blobs that are time x batch x ..., as are the bottoms of a layer over sequences that they lead to."""
    found: set[str] = set()
    for node, origins in reads:
        if isinstance(node.layer, (Recurrent, LSTMUnit)):
            static = isinstance(node.layer, Recurrent) and node.layer.static
            for place, (bottom, names) in enumerate(zip(node.bottoms, origins, strict=True)):
                if not (static and place == 2):
                    found |= {name for name in names if net.shapes[name][:2] == net.shapes[bottom][:2]}
    return found


def _parts(net: Graph, reads: Reads) -> list[tuple[list[str], list[Node]]]:
    """Input blobs that some layer brings together, and the layers behind them: nets side by side in one."""
    parts = {name: {name} for name in net.inputs}
    behind = [set().union(*origins) for _, origins in reads]
    for names in behind:
        together = set().union(*(parts[name] for name in names))
        parts |= dict.fromkeys(together, together)
    different = {id(part): part for part in parts.values()}.values()
    return [
        (sorted(part), [node for (node, _), names in zip(reads, behind, strict=True) if not names or names & part])
        for part in different
    ]


def _goes_through(net: Graph, nodes: Sequence[Node], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether inputs of these shapes fit the layers: their own checks, their blobs and their forward."""
    blobs = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        for node in nodes:
            bottoms = [blobs[name] for name in node.bottoms]
            again = type(node.layer)(node.param, net.phase)
            again.setup(*bottoms)
            if [blob.shape for blob in again.blobs] != [blob.shape for blob in node.layer.blobs]:
                return False
            # Its steps are written out in the file.
            if isinstance(node.layer, Recurrent) and bottoms[0].shape[0] != net.shapes[node.bottoms[0]][0]:
                return False
            blobs.update(zip(node.tops, node.infer(*bottoms), strict=True))
    except (CaffeError, RuntimeError, ValueError, IndexError):  # what layers and PyTorch raise where shapes do not fit
        return False
    return True


def _name_values(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Gives the inputs and outputs their blobs' names; an inner value that bears one of them already is renamed."""
    taken = {name for node in graph.node for name in node.output} | {init.name for init in graph.initializer}
    renamed = dict(names)
    for name in taken & set(names.values()):
        renamed[name] = fresh(name, taken | set(names.values()))
        taken.add(renamed[name])
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for values in (graph.input, graph.output, graph.initializer):
        for value in values:
            value.name = renamed.get(value.name, value.name)


def _name_sizes(graph: onnx.GraphProto, axes: Sequence[Mapping[int, str]]) -> None:
    """Calls the dynamic sizes batch, height and width, where the exporter numbers its symbols.

    One that is another than the first of its name has its blob's in front: ``rois_batch``.
    """
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param.isdigit():  # a size that a layer has fixed
                size.dim_value = int(size.dim_param)
    names: dict[str, str] = {}
    for value, of in zip(graph.input, axes, strict=True):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param and size.dim_param not in names:
                name = of[axis]
                if name in names.values():
                    name = re.sub(r"\W", "_", f"{value.name}_{name}")
                names[size.dim_param] = fresh(name, names.values())
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"[A-Za-z_]\w*", lambda word: names.get(word[0], word[0]), size.dim_param)


class _quiet:
    """Silences the exporter's progress and registry messages, no news to the user of a converter.

    And a tensor's that does not fit, with a stack trace: the error says it.
    """

    LEVELS: ClassVar = {
        "torch.onnx": logging.ERROR,
        "onnxscript": logging.ERROR,
        "onnx_ir": logging.ERROR,
        "torch._subclasses.fake_tensor": logging.CRITICAL,
    }

    def __enter__(self) -> None:
        self.before = {name: logging.getLogger(name).level for name in self.LEVELS}
        self._set(self.LEVELS)

    def __exit__(self, *exc: object) -> None:
        self._set(self.before)

    @staticmethod
    def _set(levels: Mapping[str, int]) -> None:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def test_inputs(model: Deployed, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
    """Random inputs in 0..255 of the net's own sizes and, where it takes others, of other sizes and batches.

    What a layer takes as row numbers or as cont is such.
    """
    random = np.random.default_rng(seed)
    own, axes, limits = _own_shapes(model), open_axes(model), _limits(model.net)
    sets = [own, *(_resized(own, axes, _enlarged(*size)) for size in PROVED)]

    def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name in limits:
            return random.integers(0, limits[name], shape).astype(np.float32)
        return (random.random(shape) * 255).astype(np.float32)

    different = list(dict.fromkeys(map(tuple, sets)))
    return [tuple(map(values, model.input_names, shapes)) for shapes in different]


test_inputs.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever its name says to pytest


def _limits(graph: Graph) -> dict[str, int]:
    """Input blobs of whole numbers, and the first one that is too large: an Embed's rows, a sequence's cont."""
    origins = {name: name for name in graph.inputs}
    limits: dict[str, int] = {}
    for node in graph.nodes:
        if node.type in ("Split", "Reshape", "Flatten") and node.bottoms[0] in origins:
            origins |= dict.fromkeys(node.tops, origins[node.bottoms[0]])
        for bottom, limit in (
            *((name, node.layer.settings.input_dim) for name in node.bottoms if node.type == "Embed"),
            *((name, 2) for name in node.bottoms[1:2] if isinstance(node.layer, Recurrent)),
            *((name, 2) for name in node.bottoms[2:] if node.type == "LSTMUnit"),
        ):
            if bottom in origins:
                limits[origins[bottom]] = min(limit, limits.get(origins[bottom], limit))
    return limits


def verify_onnx(model: Deployed, path: str | PathLike[str], inputs: Sequence[Sequence[np.ndarray]]) -> float:
    """The largest of what ``compare_onnx`` finds."""
    return max(compare_onnx(model, path, inputs).values(), default=0.0)


def compare_onnx(
    model: Deployed, path: str | PathLike[str], inputs: Sequence[Sequence[np.ndarray]]
) -> dict[str, float]:
    """Run an ONNX file in ONNX Runtime and the model in PyTorch on the same inputs.

    Input sets whose sizes the file fixes otherwise are left out.

    Returns:
        Of each output the largest absolute difference, divided by its largest absolute value in all input sets (at
        least 1e-6); infinite where one is not a finite number and the other is another.

    Raises:
        NetError: no input set fits the file; PyTorch or ONNX Runtime cannot compute one.
    """
    path = os.fspath(path)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        raise NetError(f"{path}: ONNX Runtime cannot load it: {first_line(error)}") from error
    declared = {i.name: i.shape for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    worst, largest, compared = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0), 0
    for arrays in inputs:
        named = dict(zip(model.input_names, arrays, strict=True))
        if not all(_fits(array.shape, declared[name]) for name, array in named.items()):
            continue
        expected = _computed(model, arrays)
        try:
            run = session.run(names, named)
        except Exception as error:  # as above
            raise NetError(
                f"{path}: ONNX Runtime fails on inputs of {_shapes_text(named)}: {first_line(error)}"
            ) from error
        for name, got in zip(names, run, strict=True):
            worst[name] = max(worst[name], _difference(got, expected[name]))
            largest[name] = max(largest[name], _largest(expected[name]))
        compared += 1
    if not compared:
        given = "; ".join(_shapes_text(dict(zip(model.input_names, arrays, strict=True))) for arrays in inputs)
        raise NetError(f"{path}: takes {declared}: none of the test inputs has these sizes: {given}")
    return {name: worst[name] / max(largest[name], 1e-6) for name in names}


def _computed(model: Deployed, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The model's outputs, in PyTorch."""
    for node in model.net.nodes:
        node.layer.forget()  # the file knows of no earlier forward
    try:
        with torch.no_grad():
            outputs = model(*(torch.from_numpy(a) for a in arrays))
    except (CaffeError, RuntimeError, ValueError, IndexError) as error:  # labels, items and rows that there are not
        shapes = _shapes_text(dict(zip(model.input_names, arrays, strict=True)))
        raise NetError(
            f'net "{model.net.name}" cannot compute the inputs to compare on, {shapes}: {first_line(error)} '
            "(tools/caffe.py convert takes others: --inputs)"
        ) from error
    return {name: output.float().numpy() for name, output in zip(model.output_names, outputs, strict=True)}


def _fits(shape: Sequence[int], declared: Sequence[int | str]) -> bool:
    """Whether a shape is one of those that a file declares."""
    return len(shape) == len(declared) and all(
        size == want for size, want in zip(shape, declared, strict=True) if isinstance(want, int)
    )


def _shapes_text(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {shape_text(array.shape)}" for name, array in arrays.items())


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    """The largest absolute difference; infinite where one is not a finite number and the other is another."""
    finite = np.isfinite(want)
    if got.shape != want.shape or not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return float("inf")
    if not np.isfinite(got[finite]).all():
        return float("inf")
    return float(np.abs(got[finite].astype(np.float64) - want[finite]).max(initial=0))


def _largest(values: np.ndarray) -> float:
    """The largest absolute finite value."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0))


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
            _keep_outputs(draft, model.net, outputs)
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


def _keep_outputs(path: str, net: Graph, outputs: Sequence[str]) -> None:
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
    _save(proto, path, net)


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
    empty = graph.unfilled(filled)
    if empty:
        raise NetError(
            f'{os.fspath(weights)} holds no weights for layer "{empty[0]}" of {graph.path or "the net"}: do they '
            "belong together?"
        )
