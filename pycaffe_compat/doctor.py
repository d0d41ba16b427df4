"""What keeps a net from running here, all of it at once and before anything runs.

    report = examine("deploy.prototxt", "weights.caffemodel")
    print(*report.findings, sep="\\n")
    report.runs

Reading and building stop at their first error. Here they go on behind it: fields that no schema knows, layer types,
settings, sources of data, weights are each reported with file and line, and with what can be done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from .convert import carried_net
from .errors import CaffeError, DataError, WeightsError
from .graph import Graph, Node, filter_net, merged_state
from .inputs import as_inputs
from .layers.base import REGISTRY
from .naming import did_you_mean, shape_text
from .proto.dialects import Dialect, candidates
from .proto.source import NetSource
from .proto.text import read_text
from .proto.textformat import Problem, TextError, fill, lost, parse_entries
from .proto.upgrade import upgrade_net
from .weights import Weights, read_weights

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: "error": it does not run; "warning": it runs, and probably not as meant; "note": good to know.
        where: ``file:line`` and layer, or the file.
        text: what there is.
        remedy: what can be done; may be empty.
    """

    severity: str
    where: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{self.severity}: {self.where}: {self.text}{remedy}"


@dataclass
class Report:
    """What an examination found.

    Attributes:
        findings: in the order of the file, then of the weights.
        layers: how many the net has in the state that was asked for; None where that could not be found out.
        onnx: whether all of these have a form in ONNX.
    """

    findings: list[Finding] = field(default_factory=list)
    layers: int | None = None
    onnx: bool = False

    @property
    def runs(self) -> bool:
        """Whether there is nothing that keeps the net from running."""
        return not any(finding.severity == ERROR for finding in self.findings)

    def add(self, severity: str, where: str, text: str, remedy: str = "") -> None:
        self.findings.append(Finding(severity, where, text, remedy))

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)


def examine(
    net: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    phase: int | None = None,
    level: int = 0,
    stages: Sequence[str] = (),
    dialect: str | os.PathLike[str] | Dialect | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Report:
    """Examines a net file, and weights for it.

    Args:
        net, weights: paths of a prototxt, and of a .caffemodel or .h5.
        phase, level, stages: the state to examine the net in, as for :class:`Graph`.
        dialect: whose Caffe the net is for, see ``proto.dialects``; None finds out.
        shapes: blob -> shape, for blobs of data layers whose data are not at hand.
    """
    report = Report()
    source = _read(os.fspath(net), dialect, report)
    if source is None:
        return report
    graph = _build(source, phase, level, stages, shapes or {}, report)
    if graph is not None and weights is not None:
        _compare_weights(graph, source, os.fspath(weights), dialect, report)
    return report


# ------------------------------------------------------------------------------------------------------- the text


def _read(path: str, dialect: str | os.PathLike[str] | Dialect | None, report: Report) -> NetSource | None:
    """The net, less what is not understood of it; None where nothing is."""
    try:
        entries = parse_entries(read_text(path))
        best: tuple[list[Problem], Dialect, Any] | None = None
        for candidate in candidates(dialect):
            message = candidate["NetParameter"]()
            problems = fill(message, entries)
            if best is None or lost(problems) < lost(best[0]):
                best = problems, candidate, message
            if not problems:
                break
    except TextError as error:
        report.add(ERROR, f"{path}:{error.line}:{error.column}", str(error))
        return None
    except CaffeError as error:
        report.add(ERROR, *_split_place(str(error), path))
        return None
    assert best
    problems, chosen, message = best
    kinds: dict[str, list[Problem]] = {}  # a field that is not known is not known in each layer of a type
    for problem in problems:
        kinds.setdefault(problem.text, []).append(problem)
    for problem, *others in kinds.values():
        where = f"{path}:{problem.line}:{problem.column}" + (f': layer "{problem.layer}"' if problem.layer else "")
        text = problem.text + problem.hint
        if others:
            lines = ", ".join(str(other.line) for other in others[:4]) + (", ..." if len(others) > 4 else "")
            text += f" ({len(others) + 1} times: also in line {lines})"
        report.add(ERROR, where, text, _remedy_of(problem, chosen))
    if chosen.name != "bvlc" and not problems:
        report.add(NOTE, path, f'is in the dialect "{chosen.name}", which is read as it is')
    _tell_format(message, path, report)
    name = "layers" if message.layers else "layer"
    try:
        source = upgrade_net(NetSource(message, path, [entry.line for entry in entries if entry.name == name]))
    except CaffeError as error:
        report.add(ERROR, *_split_place(str(error), path))
        return None
    for note in source.notes:
        report.add(NOTE, *_split_place(note, path))
    return source


def _split_place(message: str, path: str) -> tuple[str, str]:
    """``file:line:column: layer "x" (T): what`` as place and what; a message without a place is the file's."""
    place = re.match(re.escape(path) + r'(?::\d+)*(?:: layer "[^"]*" \([^)]*\))?(?=[: ])', message)
    if place is None:
        return path, message
    return place[0], message[place.end() :].lstrip(": ")


def _remedy_of(problem: Problem, chosen: Dialect) -> str:
    """Who has the field, where this dialect does not."""
    if not problem.unknown:
        return ""
    message = problem.text.split(" ", 1)[0]
    holders = []
    for candidate in candidates(None):
        found = candidate.messages.get(message)
        if candidate.name != chosen.name and found is not None and problem.unknown in found.DESCRIPTOR.fields_by_name:
            holders.append(candidate.name)
    if holders:
        *first, last = holders
        who = (
            f"dialects {', '.join(first)} and {last} have it, which lack"
            if first
            else f"dialect {last} has it, which lacks"
        )
        return f"{who} other fields of this file: give the fork's own schema, --dialect FILE.proto"
    if problem.hint:
        return ""
    if message == "LayerParameter" and problem.unknown.endswith("_param"):  # without it the layer would be another one
        return "no dialect has it: give the schema of the fork whose layer type it sets, --dialect FILE.proto"
    return "no dialect has it: delete it, or give the fork's own schema, --dialect FILE.proto"


def _tell_format(message: Any, path: str, report: Report) -> None:
    old = ""
    if message.layers:
        first = any(layer.HasField("layer") for layer in message.layers)
        old = f"is in the format of {2013 if first else 2014} (layers)"
    elif message.input or message.input_dim or message.input_shape:
        old = "has input fields, as before Input layers"
    if old:
        report.add(NOTE, path, old, "it is upgraded when it is read; `upgrade` writes the present format")


# ------------------------------------------------------------------------------------------------------- the layers


class _Examined(Graph):
    """A graph of the layers that can be built; the others are told to a report."""

    def __init__(self, source: NetSource, state: dict[str, Any], report: Report) -> None:
        self.report = report
        self.writers: dict[str, list[Any]] = {}  # blob -> the layers that write it, in any state
        for layer in source.param.layer:
            for top in layer.top:
                self.writers.setdefault(top, []).append(layer)
        self.unknown: dict[str, str] = {}  # blob -> label of the layer at fault that its shape is not known
        self.behind: dict[str, list[str]] = {}  # label -> the layers that could not be examined for its fault
        super().__init__(source, **state)

    def _add(self, node: Node, blobs: dict[str, Tensor], last_writer: dict[str, Node], named: dict[str, int]) -> None:
        report, unknown = self.report, self.unknown
        lacking = next((name for name in node.bottoms if name in unknown), None)
        if node.type not in REGISTRY:
            remedy = "write it as a class (CONTRIBUTING.md shows how) and import its module: --import MODULE"
            if node.tops:
                remedy += f"; {_shapes_remedy(node)}"
            hint = did_you_mean(node.type, REGISTRY)
            report.add(ERROR, node.label, f'the layer type "{node.type}" is not known here{hint}', remedy)
        elif lacking is not None:
            if node.type != "Split":  # which is not in the file: nobody can do anything about it
                self.behind.setdefault(unknown[lacking], []).append(node.name)
        else:
            try:
                super()._add(node, blobs, last_writer, named)
            except Exception as error:  # a Python layer's own code may raise anything
                text = str(error) if isinstance(error, CaffeError) else f"{type(error).__name__}: {error}"
                text = text.removeprefix(node.label).lstrip(": ")
                report.add(ERROR, node.label, text, self._remedy(node, error, blobs))
            else:
                for name in node.tops:
                    unknown.pop(name, None)
                return
        origin = unknown.get(lacking or "", node.label)
        for name in node.tops:
            blobs.pop(name, None)
            unknown[name] = origin

    def _remedy(self, node: Node, error: Exception, blobs: dict[str, Tensor]) -> str:
        missing = next((name for name in node.bottoms if name not in blobs), None)
        if missing is not None:
            layers = self.writers.get(missing, [])
            rules = [rule for layer in layers for rule in layer.include]
            stages = sorted({f"--stage {stage}" for rule in rules for stage in rule.stage})
            phases = sorted({f"--phase {_PHASES[rule.phase]}" for rule in rules if rule.HasField("phase")})
            if not layers:
                return f"if it is an input, --shape {missing}=N,C,H,W puts it in front"
            return f"layers of other states write it: {' or '.join(stages + phases)}" if stages or phases else ""
        if node.type == "Python" and node.tops:
            return _shapes_remedy(node)
        if not isinstance(error, DataError):
            return ""
        return _MAKERS.get(node.type, "") + _shapes_remedy(node)


_PHASES = ("TRAIN", "TEST")
_MAKERS = {"Data": "convert_imageset makes such a database of images; ", "HDF5Data": "h5py writes such files; "}


def _shapes_remedy(node: Node) -> str:
    """How to go on without the layer: shapes of its blobs, as far as a data layer's settings tell them."""
    if node.bottoms:
        return f"without the layer, {' '.join(f'--shape {name}=N,...' for name in node.tops)} examines those behind it"
    param = node.param
    batch, size = "N", "H,W"
    for descriptor, settings in param.ListFields():
        if descriptor.name.endswith("data_param") and getattr(settings, "batch_size", 0):
            batch = str(settings.batch_size)
    if param.transform_param.crop_size:
        size = f"{param.transform_param.crop_size},{param.transform_param.crop_size}"
    elif param.image_data_param.new_height and param.image_data_param.new_width:
        size = f"{param.image_data_param.new_height},{param.image_data_param.new_width}"
    shapes = [
        f"--shape {name}={batch},C,{size}" if i == 0 else f"--shape {name}={batch}" for i, name in enumerate(node.tops)
    ]
    return f"without the data, {' '.join(shapes)} examines the layers behind it"


def _build(
    source: NetSource,
    phase: int | None,
    level: int,
    stages: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    report: Report,
) -> _Examined | None:
    path = source.path
    try:
        source, replaced = as_inputs(source, shapes)
        state = merged_state(source.param, phase, level, stages)
        chosen = filter_net(source, state)
    except CaffeError as error:
        report.add(ERROR, *_split_place(str(error), path))
        return None
    for label in replaced:
        report.add(NOTE, label, "its source is not examined: the shapes of its blobs are given")
    report.layers = len(chosen.param.layer)
    _tell_other_states(source, chosen, report)
    if not report.layers:
        known = sorted({stage for layer in source.param.layer for rule in layer.include for stage in rule.stage})
        report.add(
            ERROR, path, "has no layers in this state", f"its rules know the stages {', '.join(known) or '(none)'}"
        )
        return None
    try:
        graph = _Examined(source, {"phase": phase, "level": level, "stages": stages}, report)
    except CaffeError as error:  # what concerns the net as a whole
        report.add(ERROR, *_split_place(str(error), path))
        return None
    for label, names in graph.behind.items():
        more = ", ..." if len(names) > 6 else ""
        text = f"{len(names)} layers behind it could not be examined: {', '.join(names[:6])}{more}"
        report.add(WARNING, label, text.replace("1 layers", "1 layer") if len(names) == 1 else text)
    report.onnx = bool(graph.inputs) and report.runs
    if not graph.inputs:
        report.add(NOTE, path, "has no Input layer in this state, so no form in ONNX", "choose its deployment stage")
    for node in graph.nodes:
        if node.layer.no_onnx:
            report.onnx = False
            report.add(NOTE, node.label, f"has no form in ONNX: {node.layer.no_onnx}")
        if node.type == "Crop" and not node.param.HasField("crop_param"):
            sizes = [graph.shapes[name][2:] for name in node.bottoms]
            if sizes[0] != sizes[1]:
                small, large = shape_text(sizes[1]), shape_text(sizes[0])
                text = f"cuts {small} out of {large} at offset 0, for want of a crop_param"
                report.add(WARNING, node.label, text, _OLD_CROP)
    return graph


_OLD_CROP = (
    "the fork that FCN, HED and CRF-RNN were made with found the offset that puts one blob over the other by itself; "
    "for a net of its kind write it out, crop_param { axis: 2 offset: N }, as coord_map.crop computes it"
)


def _tell_other_states(source: NetSource, chosen: NetSource, report: Report) -> None:
    """Layer types that are not known, in layers that this state leaves out."""
    here = {id_of(layer) for layer in chosen.param.layer}
    for index, layer in enumerate(source.param.layer):
        if layer.type not in REGISTRY and id_of(layer) not in here:
            label = f'{source.where(index)}: layer "{layer.name}" ({layer.type})'
            report.add(WARNING, label, f'the layer type "{layer.type}" is not known here; this state has no use for it')


def id_of(layer: Any) -> bytes:
    """What tells a layer from others of its name: all of it."""
    return bytes(layer.SerializeToString(deterministic=True))


# ------------------------------------------------------------------------------------------------------ the weights


def _compare_weights(
    graph: Graph, source: NetSource, path: str, dialect: str | os.PathLike[str] | Dialect | None, report: Report
) -> None:
    try:
        weights = read_weights(path)
        carried = carried_net(path, dialect)
        for note in carried.notes if carried else ():
            report.add(NOTE, *_split_place(note, path))
    except CaffeError as error:
        report.add(ERROR, *_split_place(str(error), path))
        return
    with_blobs = [node for node in graph.nodes if node.layer.blob_names]
    names = {layer.name for layer in graph.param.layer}  # those that could not be built too
    if with_blobs and not any(node.name in weights for node in with_blobs):
        theirs, ours = list(weights)[:3], [node.name for node in with_blobs][:3]
        report.add(
            ERROR,
            path,
            f"is of another net: no layer of it is in {source.path}",
            f"it has {_listed(theirs)}..., the net {_listed(ours)}...",
        )
        return
    empty = graph.unfilled(weights)  # others share what another layer owns
    spare = [name for name in weights if name not in names]
    for node in with_blobs:
        if node.name not in weights:
            if node.name in empty:
                text = f"has no weights in {path}{did_you_mean(node.name, spare)}"
                report.add(WARNING, node.label, text, "it keeps what its fillers give: train it, or rename it")
            continue
        try:
            graph.load_weights({node.name: weights[node.name]}, path)
        except WeightsError as error:
            report.add(ERROR, node.label, str(error).removeprefix(node.label).strip())
            continue
        for index, array in enumerate(weights[node.name]):
            if not np.isfinite(array).all():
                text = f"parameter {index} in {path} holds {np.count_nonzero(~np.isfinite(array))} numbers that are NaN"
                report.add(WARNING, node.label, f"{text} or infinite", "the training diverged: take an older snapshot")
    _tell_spare(spare, source, weights, path, report)


def _tell_spare(spare: Sequence[str], source: NetSource, weights: Weights, path: str, report: Report) -> None:
    elsewhere = {layer.name for layer in source.param.layer}
    for name in spare:
        size = sum(array.size for array in weights[name])
        text = f"its {size:,} numbers are read by no layer"
        reason = "the net has the layer in another state" if name in elsewhere else f"{source.path} has no such layer"
        report.add(NOTE, f'{path}: layer "{name}"', text, reason)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
