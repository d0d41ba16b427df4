"""The builder: a NetParameter becomes an ordinary ``torch.nn.Module``.

    graph = Graph("prototxt/l8.prototxt", stages=["deploy"])
    graph.load_weights(read_weights("models/l8_residual_q20/weights.caffemodel"))
    restored = graph(luma)["restored"]

Read top to bottom: the net's text is filtered for its state (:func:`filter_net`), Split layers are inserted where a
blob has several readers (:func:`insert_splits`), the layers are built in order with their shapes inferred on the meta
device, shared parameters are tied, and last it is decided where gradients go (Caffe's own rules, ``Net::Init``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from . import log
from .errors import CaffeError, NetError, WeightsError, first_line
from .layers import lookup
from .layers.base import Layer
from .layers.data import DataLayer
from .layers.elementwise import Scale
from .layers.normalization import BatchNorm, ScaledBatchNorm
from .memory import physical_memory, shown_bytes
from .naming import did_you_mean, fresh, one_line, shape_text
from .proto import caffe_pb2
from .proto.binary import blob_to_array, same_shape
from .proto.fields import refuse_unread
from .proto.source import NetSource
from .proto.text import read_net
from .proto.upgrade import upgrade_net
from .weights import read_weights

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST


@dataclass(eq=False)
class Node:
    """One layer in its place: what it reads, what it writes, where it stands in the file.

    What belongs to a layer is kept by its node, not by its name, which another layer may bear too.
    """

    name: str
    type: str
    bottoms: list[str]
    tops: list[str]
    param: Any
    where: str
    """``file:line`` of the layer, for messages."""
    layer: Layer = field(init=False)
    checks: bool = False
    """Whether the layer has shapes to check."""
    loss_weights: list[float] = field(default_factory=list)
    """One a top; 0 where the top is no loss."""
    lr_mults: list[float] = field(default_factory=list)
    """Those that the file gives, before a layer (BatchNorm) corrects them."""
    need_backward: bool = False
    propagate_down: list[bool] = field(default_factory=list)
    """One a bottom: whether backward writes that bottom's gradient."""
    detached: tuple[int, ...] = ()
    """Bottoms whose gradient the file cuts off with ``propagate_down: false``."""
    last_use: list[str] = field(default_factory=list)
    """Blobs that nothing reads after this layer: ``forward`` frees them here."""
    views: list[tuple[str, nn.Parameter, tuple[int, ...]]] = field(default_factory=list)
    """Parameters shared under another shape (``share_mode: PERMISSIVE``): attribute, owner, shape."""
    checked: Any = None
    """The bottoms' shapes that the layer has checked last: a list, or the shape of the only one."""

    def infer(self, *bottoms: Tensor) -> Sequence[Tensor]:
        """The tops as meta tensors; the shapes are checked."""
        self.layer.check(*bottoms)
        return self.layer.infer(*bottoms)

    def compute(self, blobs: dict[str, Tensor]) -> None:
        """The layer's tops, put among the blobs that its bottoms are taken from.

        What goes wrong names the layer and the bottoms' shapes.
        """
        if self.views:
            _renew_views(self)
        try:
            if len(self.bottoms) == 1 and not self.detached:  # spelled out: a tenth of a small net's time is spent here
                x = blobs[self.bottoms[0]]
                if self.checks and not is_compiling() and x.shape != self.checked:
                    self._check(x.shape, x)
                tops = self.layer(x)
            else:
                bottoms = [blobs[name] for name in self.bottoms]
                for i in self.detached:
                    bottoms[i] = bottoms[i].detach()
                if self.checks and not is_compiling() and (shapes := [b.shape for b in bottoms]) != self.checked:
                    self._check(shapes, *bottoms)
                tops = self.layer(*bottoms)
        except (RuntimeError, ValueError, IndexError, ArithmeticError):  # NetError is a RuntimeError
            if is_compiling():
                raise  # PyTorch's own way of telling itself something
            given = ", ".join(shape_text(blobs[name].shape) for name in self.bottoms)
            with located(self, f"cannot compute on bottoms of shapes {given}"):
                raise
        if isinstance(tops, Tensor):
            blobs[self.tops[0]] = tops
        else:
            blobs.update(zip(self.tops, tops, strict=True))

    def _check(self, shapes: Any, *bottoms: Tensor) -> None:
        self.layer.check(*bottoms)
        self.checked = shapes

    @property
    def label(self) -> str:
        """How messages name the layer: ``prototxt/l8.prototxt:41: layer "conv3" (Convolution)``."""
        return f'{self.where + ": " if self.where else ""}layer "{self.name}" ({self.type})'

    @property
    def param_names(self) -> list[str]:
        """How the log names its parameter blobs: as the file does (``param { name: "w" }``), else by number."""
        names = [spec.name for spec in self.param.param] + [""] * len(self.layer.blob_names)
        return [name or str(i) for i, name in enumerate(names[: len(self.layer.blob_names)])]


@dataclass(frozen=True)
class Learnable:
    """A parameter as the solver sees it: owners only, in Caffe's order."""

    parameter: nn.Parameter
    lr_mult: float
    decay_mult: float
    layer: str
    index: int


class Graph(nn.Module):
    """A net as a module: blobs by name in, blobs by name out.

    Args:
        net: path of a prototxt, a NetParameter, or a parsed NetSource.
        phase: TRAIN (0) or TEST (1); None takes the net's own ``state`` (TEST when it says nothing).
        level, stages: they choose among ``include``/``exclude`` rules; stages that the net's own state names count too.

    Raises:
        NetError: the net cannot be built; names file, line and layer.
        WeightsError: the same, for arrays within the net (``blobs``) that do not fit.
    """

    def __init__(
        self,
        net: str | PathLike[str] | NetSource | Any,
        phase: int | None = None,
        level: int = 0,
        stages: Sequence[str] = (),
    ) -> None:
        super().__init__()
        source = as_source(net)
        state = merged_state(source.param, phase, level, stages)
        source = insert_splits(filter_net(source, state))
        self.name: str = source.param.name
        self.phase: int = state.phase
        self.param = source.param
        self.path = source.path
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.layers = nn.ModuleDict()
        self._owners: list[tuple[Node, int]] = []
        self._mults: list[tuple[float, float]] = []
        self._read_on: set[tuple[int, str]] = set()  # (node, top) to which a layer above sends a gradient
        self._parameter_bytes = 0
        self._build(source)
        self._check_files()
        self.inputs = [top for node in self.nodes if node.type == "Input" for top in node.tops]
        unread: set[str] = set()
        for node in self.nodes:
            unread = (unread - set(node.bottoms)) | set(node.param.top)  # not what the file does not name
        self.outputs = sorted(unread)
        self._plan_backward()
        self._plan_memory()
        self._steps = self._plan_steps()

    # ------------------------------------------------------------------------------------------------- building

    def _build(self, source: NetSource) -> None:
        blobs: dict[str, Tensor] = {}  # meta tensors: shapes only
        last_writer: dict[str, Node] = {}
        named: dict[str, int] = {}  # parameter name -> index into self._owners
        for i, param in enumerate(source.param.layer):
            node = Node(param.name, param.type, list(param.bottom), list(param.top), param, source.where(i))
            self._add(node, blobs, last_writer, named)

    def _add(self, node: Node, blobs: dict[str, Tensor], last_writer: dict[str, Node], named: dict[str, int]) -> None:
        with located(node):
            node.layer = self._make(node, blobs)
            node.layer.label = node.label
            node.lr_mults = [spec.lr_mult for spec in node.param.param]
            node.checks = type(node.layer).check is not Layer.check
            bottoms = [blobs[b] for b in node.bottoms]
            node.layer.setup(*bottoms)
            tops = node.infer(*bottoms)
            if len(tops) != len(node.tops):
                raise NetError(f"computes {len(tops)} tops, the file names {len(node.tops)}")
            self._check_size(node, tops)
            node.layer.fill()
            self._take_blobs(node)
            self._share(node, named)
        if node.tops[:1] == node.bottoms[:1] and node.bottoms:
            node.layer.inplace = last_writer[node.bottoms[0]].layer.fresh_output
        for name, top in zip(node.tops, tops, strict=True):
            blobs[name] = top
            self.shapes[name] = tuple(top.shape)
            last_writer[name] = node
        weights = list(node.param.loss_weight)
        if weights and len(weights) != len(node.tops):
            raise NetError(
                f"{node.label}: {len(weights)} loss_weight for {len(node.tops)} tops: give one each, or none"
            )
        default = [node.layer.default_loss_weight] + [0.0] * len(node.tops)
        node.loss_weights = weights or default[: len(node.tops)]
        self.layers.add_module(_module_key(node.name, self.layers), node.layer)
        self.nodes.append(node)

    def _make(self, node: Node, blobs: Mapping[str, Tensor]) -> Layer:
        row = lookup(node.type)
        for name in node.bottoms:
            if name not in blobs:
                raise NetError(f'bottom "{name}" is produced by no layer above{did_you_mean(name, blobs)}')
        for _ in range(len(node.tops), row.tops[0] if row.cls.auto_tops else 0):
            node.tops.append(fresh("(automatic)", blobs))
        for what, names, (least, most) in (
            ("bottom", node.bottoms, row.bottoms),
            ("top", node.tops, row.tops),
        ):
            if len(names) < least or (most is not None and len(names) > most):
                count = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
                raise NetError(f"has {len(names)} {what}s: {node.type} takes {count}")
        if row.same_count and len(node.tops) != len(node.bottoms):
            raise NetError(
                f"has {len(node.bottoms)} bottoms and {len(node.tops)} tops: {node.type} takes as many of both"
            )
        for k, name in enumerate(node.tops):
            if name in node.tops[:k]:
                raise NetError(f'names the top "{name}" twice')
            if name in blobs:
                if k >= len(node.bottoms) or node.bottoms[k] != name:
                    raise NetError(
                        f'top "{name}" is produced by a layer above already: rename one (or, for an in-place layer, '
                        f"note that a blob with several readers cannot be changed in place)"
                    )
                if not row.inplace:
                    raise NetError(f'top "{name}" is also its bottom: {node.type} does not work in place')
        downs = len(node.param.propagate_down)
        if downs and downs != len(node.bottoms):
            raise NetError(f"{downs} propagate_down for {len(node.bottoms)} bottoms: give one each, or none")
        refuse_unread(node.param)
        # A layer's own `phase` goes before the net's.
        return row.cls(node.param, node.param.phase if node.param.HasField("phase") else self.phase)

    def _check_size(self, node: Node, tops: Sequence[Tensor]) -> None:
        """Refuses what cannot fit, before any of it is allocated."""
        limit = physical_memory()
        sizes = [(f'top "{n}"', tuple(t.shape), t.element_size()) for n, t in zip(node.tops, tops, strict=True)]
        sizes += [(f"parameter {i}", tuple(blob.shape), 4) for i, blob in enumerate(node.layer.blobs)]
        for what, shape, itemsize in sizes:
            if prod(shape) * itemsize > limit:
                raise NetError(
                    f"{what} of shape {shape_text(shape)} takes {shown_bytes(prod(shape) * itemsize)} of memory, "
                    f"there are {shown_bytes(limit)}"
                )
        self._parameter_bytes += sum(4 * blob.numel() for blob in node.layer.blobs)
        if self._parameter_bytes > limit:
            raise NetError(
                f"the parameters up to this layer take {shown_bytes(self._parameter_bytes)} of memory, "
                f"there are {shown_bytes(limit)}"
            )

    def _take_blobs(self, node: Node) -> None:
        """Arrays that the net itself gives (``blobs``) take the place of the fillers'; they are not kept twice."""
        if node.param.blobs:
            _copy(_fitted(node, [blob_to_array(blob) for blob in node.param.blobs], "the net file"))
            del node.param.blobs[:]

    def _share(self, node: Node, named: dict[str, int]) -> None:
        """Ties parameters of one name together: the first layer that names it owns it."""
        specs = node.param.param
        if len(specs) > len(node.layer.blobs):
            raise NetError(f"has {len(specs)} param blocks for {len(node.layer.blobs)} parameter blobs")
        for index, attribute in enumerate(node.layer.blob_names):
            spec = specs[index] if index < len(specs) else caffe_pb2.ParamSpec()
            if not spec.name or spec.name not in named:
                if spec.name:
                    named[spec.name] = len(self._owners)
                self._owners.append((node, index))
                self._mults.append((spec.lr_mult, spec.decay_mult))
                continue
            owner_id = named[spec.name]
            owner_node, owner_index = self._owners[owner_id]
            owner = owner_node.layer.blobs[owner_index]
            mine = node.layer.blobs[index]
            permissive = spec.share_mode == spec.PERMISSIVE
            fits = mine.numel() == owner.numel() if permissive else mine.shape == owner.shape
            if not fits:
                raise NetError(
                    f'param "{spec.name}": shape {shape_text(mine.shape)} does not fit {shape_text(owner.shape)} of '
                    f'its owner, layer "{owner_node.name}"'
                    + ("" if permissive else " (share_mode: PERMISSIVE asks for the same count only)")
                )
            self._merge_mults(owner_id, spec, owner_node, owner_index)
            assert isinstance(owner, nn.Parameter)
            if mine.shape == owner.shape:
                setattr(node.layer, attribute, owner)
            else:
                delattr(node.layer, attribute)
                node.views.append((attribute, owner, tuple(mine.shape)))
                node.layer.__dict__[attribute] = owner.view(mine.shape)

    def _merge_mults(self, owner_id: int, spec: Any, owner_node: Node, owner_index: int) -> None:
        """A sharer may say lr_mult or decay_mult where the owner is silent; two that differ are an error."""
        specs = owner_node.param.param
        owner_spec = specs[owner_index]
        for name in ("lr_mult", "decay_mult"):
            if not spec.HasField(name):
                continue
            value = getattr(spec, name)
            if owner_spec.HasField(name) and getattr(owner_spec, name) != value:
                raise NetError(
                    f'param "{spec.name}": {name} {value:g} differs from {getattr(owner_spec, name):g} of its owner, '
                    f'layer "{owner_node.name}"'
                )
            setattr(owner_spec, name, value)
        self._mults[owner_id] = (owner_spec.lr_mult, owner_spec.decay_mult)

    def _check_files(self) -> None:
        """No layer may write over what the net is made from."""
        read = {os.path.realpath(path): node for node in self.nodes for path in node.layer.reads}
        for node in self.nodes:
            for path in map(os.path.realpath, node.layer.writes):
                if path in read or (self.path and path == os.path.realpath(self.path)):
                    what = f'layer "{read[path].name}" reads it' if path in read else "it is the net itself"
                    raise NetError(f"{node.label}: would overwrite {path}: {what}")

    def _plan_backward(self) -> None:
        """Which layers and bottoms take part in backward: Caffe's two passes and its force_backward."""
        blob_needs: dict[str, bool] = {}
        for node in self.nodes:
            needs = [blob_needs[b] for b in node.bottoms]
            override = list(node.param.propagate_down)
            node.propagate_down = [bool(v) for v in override] or list(needs)
            node.detached = tuple(i for i, down in enumerate(node.propagate_down) if needs[i] and not down)
            # As the file has them, where none means 1: a BatchNorm without `param` counts as one that learns.
            learns = [*node.lr_mults, *[1.0] * (len(node.layer.blob_names) - len(node.lr_mults))]
            node.need_backward = any(needs) or any(learns)
            for top in node.tops:
                blob_needs[top] = node.need_backward or (top in node.bottoms and blob_needs[top])
        # Backwards: what leads to no loss needs none.
        under_loss: set[str] = set()
        skipped: set[str] = set()
        for node in reversed(self.nodes):
            contributes = any(node.loss_weights) or any(t in under_loss for t in node.tops)
            # (A loss is a beginning whoever reads it; Caffe skips one whose only readers lead to no loss.)
            if node.need_backward and all(t in skipped for t in node.tops) and not any(node.loss_weights):
                node.need_backward = False
                node.propagate_down = [False] * len(node.bottoms)
            if not contributes:
                node.need_backward = False
            for i, bottom in enumerate(node.bottoms):
                if contributes:
                    under_loss.add(bottom)
                else:
                    node.propagate_down[i] = False
                if not node.propagate_down[i]:
                    skipped.add(bottom)
        if self.phase == TRAIN:
            self._check_gradients()
        force = self.param.force_backward
        for node in self.nodes:
            if force:
                node.need_backward = True
                node.detached = ()
                node.propagate_down = [
                    down or node.layer.forced_bottoms(i) for i, down in enumerate(node.propagate_down)
                ]
        written: dict[str, int] = {}
        for i, node in enumerate(self.nodes):
            leads = any(node.loss_weights) or any(t in under_loss for t in node.tops)
            for bottom, down in zip(node.bottoms, node.propagate_down, strict=True):
                if leads and down and node.need_backward:
                    self._read_on.add((written[bottom], bottom))
            written.update(dict.fromkeys(node.tops, i))
        for learnable in self.learnable:
            learnable.parameter.requires_grad_(force or learnable.lr_mult != 0)

    def _check_gradients(self) -> None:
        """What is learned through a bottom that gets no gradient (a label, all of Threshold's) would never change."""
        for node in self.nodes:
            for i, down in enumerate(node.propagate_down):
                if node.need_backward and down and not node.layer.gives_gradient(i):
                    where = f'where "{node.tops[0]}" is read' if node.layer.gradient == "no" else "for it"
                    raise NetError(
                        f'{node.label}: training needs a gradient for bottom "{node.bottoms[i]}", and {node.type} '
                        f"gives it none: say propagate_down: false {where}"
                    )

    def _plan_memory(self) -> None:
        keep = set(self.outputs) | {t for n in self.nodes for t, w in zip(n.tops, n.loss_weights, strict=True) if w}
        seen: set[str] = set()
        for node in reversed(self.nodes):
            for name in node.bottoms + node.tops:
                if name not in seen:
                    seen.add(name)
                    if name not in keep:
                        node.last_use.append(name)

    def _plan_steps(self) -> list[Node]:
        """What ``forward`` computes: every node but Input layers, and a BatchNorm with the Scale above it as one."""
        steps: list[Node] = []
        for node in self.nodes:
            norm, scale = steps[-1].layer if steps else None, node.layer
            if (
                isinstance(norm, BatchNorm)
                and isinstance(scale, Scale)
                and node.bottoms == steps[-1].tops
                and not (node.detached or node.views)
                and ScaledBatchNorm.fits(norm, scale, len(self.shapes[node.bottoms[0]]))
            ):
                first = steps.pop()
                both = replace(node, bottoms=first.bottoms, detached=first.detached, checks=False)
                both.last_use = [n for n in first.last_use + node.last_use if n in first.bottoms + node.tops]
                both.layer = ScaledBatchNorm(norm, scale)  # type: ignore[assignment]  # it only computes
                steps.append(both)
            elif node.type != "Input":
                steps.append(node)
        return steps

    # ------------------------------------------------------------------------------------------------ computing

    def forward(self, *inputs: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """The net's output blobs, by name in alphabetical order.

        Args:
            inputs, named: the input blobs, in the net's order or by name; any shape that the layers accept.
        """
        blobs = self._given(inputs, named)
        for node in self._steps:
            node.compute(blobs)
            for name in node.last_use:
                del blobs[name]
        return {name: blobs[name] for name in self.outputs}

    def run(self, *inputs: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Like ``forward``, but every blob is kept and returned; one changed in place holds its last value."""
        blobs = self._given(inputs, named)
        for node in self.nodes:
            if node.type != "Input":
                node.compute(blobs)
        return blobs

    def loss(self, blobs: Mapping[str, Tensor]) -> Tensor:
        """The objective: every loss top's weight times the sum of its values, added up (0-d, float32).

        A term that another layer sends a gradient to (a loss that is read further) has no gradient of its own: as in
        Caffe, where the reader's overwrites it.
        """
        terms = []
        for i, node in enumerate(self.nodes):
            for top, weight in zip(node.tops, node.loss_weights, strict=True):
                if weight:
                    term = blobs[top].float().sum() * weight if blobs[top].ndim or weight != 1 else blobs[top]
                    terms.append(term.detach() if (i, top) in self._read_on else term)
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0] if terms else torch.zeros(())

    def _given(self, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if len(inputs) == 1 == len(self.inputs) and not named:
            return {self.inputs[0]: inputs[0]}
        if len(inputs) > len(self.inputs):
            raise NetError(
                f'net "{self.name}" has {len(self.inputs)} input blobs {self.inputs}, {len(inputs)} are given'
            )
        blobs = dict(zip(self.inputs, inputs, strict=False)) | dict(named)
        missing = [name for name in self.inputs if name not in blobs]
        unknown = [name for name in named if name not in self.inputs]
        if missing or unknown:
            what = f'input blob "{missing[0]}" is not given' if missing else f'"{unknown[0]}" is no input blob'
            raise NetError(f'net "{self.name}": {what}; its input blobs are {self.inputs}')
        return blobs

    # ----------------------------------------------------------------------------------------------- parameters

    def _apply(self, fn: Any, recurse: bool = True) -> Graph:  # what .to(), .double() and the like come down to
        super()._apply(fn, recurse)
        for node in self.nodes:
            _renew_views(node)
        return self

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """Parameter blobs by layer name, in Caffe's order; a shared one stands under each of its layers."""
        return {node.name: node.layer.blobs for node in self.nodes if node.layer.blob_names}

    @property
    def blob_keys(self) -> dict[str, list[str]]:
        """The ``state_dict`` key of each parameter blob by layer name, in Caffe's order; a shared one has its owner's.

        It is ``layers.<layer>.<blob>``: the layer's name with ``_`` for each dot (and one behind it where it would be a
        method's name of ``nn.ModuleDict``, or another layer's), and the blob's attribute of its layer.
        """
        keys = {id(parameter): key for key, parameter in self.named_parameters()}
        found = {}
        for node in self.nodes:
            if node.layer.blob_names:
                owners: dict[str, Tensor] = {attribute: owner for attribute, owner, _ in node.views}
                blobs = zip(node.layer.blob_names, node.layer.blobs, strict=True)
                found[node.name] = [keys[id(owners.get(attribute, blob))] for attribute, blob in blobs]
        return found

    @property
    def learnable(self) -> list[Learnable]:
        """Every parameter once, as the solver sees it, in Caffe's order (those with lr_mult 0 too)."""
        return [
            Learnable(node.layer.blobs[index], *mults, node.name, index)  # type: ignore[arg-type]
            for (node, index), mults in zip(self._owners, self._mults, strict=True)
        ]

    def unfilled(self, filled: Container[str]) -> list[str]:
        """Names of the layers with parameters of their own that ``load_weights`` found nothing for.

        filled: what it returned. Of layers with one name it fills the first.
        """
        owners = {id(node) for node, _ in self._owners}
        met: set[str] = set()
        found = []
        for node in self.nodes:
            if id(node) in owners and (node.name not in filled or node.name in met):
                found.append(node.name)
            met.add(node.name)
        return found

    def check_names(self) -> None:
        """NetError if two layers with parameters have one name: files of weights tell layers apart by it."""
        met: dict[str, Node] = {}
        for node in self.nodes:
            if node.layer.blob_names and met.setdefault(node.name, node) is not node:
                raise NetError(
                    f"{node.label}: {met[node.name].label} has parameters too, and a file of weights tells layers "
                    "apart by the name: rename one of them"
                )

    @property
    def loss_weights(self) -> dict[str, float]:
        """The blobs that make up the loss, and what each weighs."""
        return {t: w for n in self.nodes for t, w in zip(n.tops, n.loss_weights, strict=True) if w}

    @property
    def data_layers(self) -> dict[str, DataLayer]:
        """The layers that read a source of their own."""
        return {node.name: node.layer for node in self.nodes if isinstance(node.layer, DataLayer)}

    def weights(self) -> dict[str, list[np.ndarray]]:
        """Copies of all parameter blobs by layer name, float32, in Caffe's memory order; see `check_names`."""
        self.check_names()
        return {
            name: [np.array(b.detach().cpu().float().numpy(), order="C") for b in blobs]
            for name, blobs in self.params.items()
        }

    def load_weights(self, weights: Mapping[str, Sequence[np.ndarray]], source: str = "the weights") -> list[str]:
        """Copy weights into the layers of the same name; other layers keep theirs.

        Old 4-d shapes with leading ones match right-aligned, and of layers with one name the first is filled, as in
        Caffe.

        Returns:
            Names of the layers that were filled.

        Raises:
            WeightsError: a layer has another number of blobs or another shape; nothing is changed then.
        """
        owned: dict[str, set[int]] = {node.name: set() for node in self.nodes}
        for p in self.learnable:
            owned[p.layer].add(id(p.parameter))
        todo: list[tuple[Tensor, np.ndarray]] = []
        met: set[str] = set()
        filled: list[str] = []
        for node in self.nodes:
            if node.name not in weights or node.name in met:
                continue
            met.add(node.name)
            # HDF5 files hold a shared parameter once, with its owner: a sharer's place is empty, or missing at the end.
            borrowed = [id(blob) not in owned[node.name] for blob in node.layer.blobs]
            todo += _fitted(
                node, weights[node.name], source, borrowed, "; to train this layer from scratch, rename it"
            )
            if node.layer.blob_names:
                filled.append(node.name)
        _copy(todo)
        return filled

    def copy_from(self, path: str | PathLike[str]) -> list[str]:
        """Load a weights file as Caffe does, which tells of each layer of the file that the net has not.

        Returns:
            Names of the layers that were filled.

        Raises:
            WeightsError: the file cannot be read, or does not fit; nothing is changed then.
        """
        weights = read_weights(path, empty=True)
        names = {node.name for node in self.nodes}
        for name in weights:
            if name not in names:
                log.info(f"Ignoring source layer {one_line(name)}", "net.cpp:744")
        return self.load_weights(weights, os.fspath(path))

    def extra_repr(self) -> str:
        return f"{self.name!r}, inputs={self.inputs}, outputs={self.outputs}"


def to_device(graph: Graph, device: torch.device) -> None:
    """Moves a net there, and what its data layers bring each time."""
    graph.to(device)
    if device.type != "cpu":
        for layer in graph.data_layers.values():
            layer.register_forward_hook(lambda _, __, tops: tuple(top.to(device) for top in tops))


def _pairs(owner: Graph, user: Graph) -> Iterator[tuple[Node, Node]]:
    """The layers of one name in both nets, whose parameters ``user`` is to share."""
    sources = {node.name: node for node in owner.nodes}
    for node in user.nodes:
        source = sources.get(node.name)
        if source is None:
            continue
        if [b.shape for b in source.layer.blobs] != [b.shape for b in node.layer.blobs]:
            raise NetError(
                f"{node.label}: its parameters have other shapes than those it is to share, of {source.label}"
            )
        yield source, node


def share_values(owner: Graph, user: Graph) -> None:
    """Let the parameters of ``user`` be the memory of those of ``owner``, in the layers of the same names.

    The gradients stay each net's own. What ``.to()`` moves elsewhere is shared no longer.

    Raises:
        NetError: such a layer has another number or other shapes of parameters.
    """
    for source, node in _pairs(owner, user):
        under = {attribute: parameter for attribute, parameter, _ in node.views}
        for attribute, mine, theirs in zip(node.layer.blob_names, node.layer.blobs, source.layer.blobs, strict=True):
            parameter = under.get(attribute, mine)
            parameter.data = theirs.detach().view(parameter.shape)
    for node in user.nodes:
        _renew_views(node)


def share_parameters(owner: Graph, user: Graph) -> None:
    """Let the layers of ``user`` use the very parameters of the layers of the same names in ``owner``.

    Raises:
        NetError: such a layer has another number or other shapes of parameters.
    """
    for source, node in _pairs(owner, user):
        views = {attribute: (blob, shape) for attribute, blob, shape in source.views}
        node.views = []
        for mine, theirs in zip(node.layer.blob_names, source.layer.blob_names, strict=True):
            node.layer.__dict__.pop(mine, None)
            if theirs in views:
                node.layer._parameters.pop(mine, None)
                node.views.append((mine, *views[theirs]))
                node.layer.__dict__[mine] = views[theirs][0].view(views[theirs][1])
            else:
                blob = getattr(source.layer, theirs)
                if isinstance(blob, nn.Parameter):
                    node.layer.register_parameter(mine, blob)


def _renew_views(node: Node) -> None:
    """A parameter that is another's under another shape: as the owner is now."""
    for attribute, owner, shape in node.views:
        node.layer.__dict__[attribute] = owner.view(shape)


def _fitted(
    node: Node, arrays: Sequence[np.ndarray], source: str, borrowed: Sequence[bool] = (), hint: str = ""
) -> list[tuple[Tensor, np.ndarray]]:
    """A layer's parameter blobs, each with the array that is to go into it.

    Args:
        borrowed: of each blob, whether another layer owns it: its array may be missing, or be empty.
        hint: what to do about another shape, for the message.

    Raises:
        WeightsError: another number of arrays, or other shapes.
    """
    given, mine = list(arrays), node.layer.blobs
    while len(given) < len(borrowed) and borrowed[len(given)]:
        given.append(np.empty(0, np.float32))
    if len(given) != len(mine):
        raise WeightsError(f"{node.label} has {len(mine)} parameter blobs, {source} holds {len(given)}")
    pairs = []
    for i, (blob, array) in enumerate(zip(mine, given, strict=True)):
        if borrowed and borrowed[i] and array.shape == (0,):
            continue
        if not _same_shape(tuple(blob.shape), array.shape, node.layer.axes_of_one_behind):
            raise WeightsError(
                f"{node.label} parameter {i} has shape {shape_text(blob.shape)}, {source} holds "
                f"{shape_text(array.shape)}{hint}"
            )
        pairs.append((blob, array))
    return pairs


@torch.no_grad()
def _copy(pairs: Sequence[tuple[Tensor, np.ndarray]]) -> None:
    for blob, array in pairs:
        blob.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(blob.shape))


def _same_shape(mine: tuple[int, ...], given: tuple[int, ...], with_ones_behind: bool) -> bool:
    return same_shape(given, mine) or (with_ones_behind and _without_ones_behind(mine) == _without_ones_behind(given))


def _without_ones_behind(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _module_key(name: str, modules: nn.ModuleDict) -> str:
    """A layer's name as PyTorch accepts it in a state_dict: no dots, nothing empty, no method's name, no duplicate."""
    key = name.replace(".", "_") or "_"
    while key in modules or hasattr(modules, key):
        key += "_"
    return key


class located:
    """Puts file, line and layer in front of what goes wrong, and ``what`` in front of what PyTorch says of it."""

    def __init__(self, node: Node, what: str = "cannot be built") -> None:
        self.node, self.what = node, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if any(text.startswith(self.node.label) for text in (str(error), *getattr(error, "__notes__", ()))):
            return
        if isinstance(error, CaffeError):
            raise type(error)(f"{self.node.label}: {error}") from error
        if isinstance(error, (RuntimeError, ValueError, TypeError, MemoryError, IndexError, ArithmeticError)):
            first = first_line(error)
            if "overflow" in first:
                first = f"asks for more memory than there can be ({first})"
            raise NetError(f"{self.node.label}: {self.what}: {first}") from error


# --------------------------------------------------------------------------------------- the net's text, rewritten


def as_source(net: Any) -> NetSource:
    """A path, a NetParameter or a NetSource as a NetSource."""
    if isinstance(net, NetSource):
        return net
    if isinstance(net, (str, PathLike)):
        return read_net(net)
    copy = type(net)()
    copy.CopyFrom(net)
    return upgrade_net(NetSource(copy))


def merged_state(param: Any, phase: int | None, level: int, stages: Sequence[str]) -> Any:
    """The net's own state under the caller's: a phase given comes with its level, stages add up (Caffe's ``Net``)."""
    state = type(param.state)()
    state.CopyFrom(param.state)
    if phase is not None:
        state.phase = phase
    if phase is not None or level:
        state.level = level
    state.stage.extend(s for s in stages if s not in state.stage)
    return state


def filter_net(source: NetSource, state: Any) -> NetSource:
    """The layers whose ``include``/``exclude`` rules the state meets.

    A layer with include rules stays when any of them holds; one with exclude rules when none does.

    Raises:
        NetError: a layer has both include and exclude rules.
    """
    param = type(source.param)()
    param.CopyFrom(source.param)
    del param.layer[:]
    param.state.CopyFrom(state)
    lines = []
    for i, (layer, line) in enumerate(zip(source.param.layer, source.lines, strict=True)):
        if layer.include and layer.exclude:
            raise NetError(
                f'{source.where(i) or "net"}: layer "{layer.name}" has both include and exclude rules: use one'
            )
        keep = not any(_meets(state, rule) for rule in layer.exclude)
        if layer.include:
            keep = any(_meets(state, rule) for rule in layer.include)
        if keep:
            param.layer.add().CopyFrom(layer)
            lines.append(line)
    return NetSource(param, source.path, lines)


def _meets(state: Any, rule: Any) -> bool:
    """Whether a state meets a rule: all of its conditions hold."""
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and all(stage in state.stage for stage in rule.stage)
        and not any(stage in state.stage for stage in rule.not_stage)
    )


def insert_splits(source: NetSource) -> NetSource:
    """Gives every reader of a shared blob its own name, through Split layers named as Caffe names them.

    A loss weight on a blob that is read further counts as one more reader, and moves to the Split's first top.
    """
    writer: dict[str, tuple[int, int]] = {}  # blob -> (layer, top) that wrote it last
    reads: dict[tuple[int, int], tuple[int, int]] = {}  # (layer, bottom) -> its writer
    readers: Counter[tuple[int, int]] = Counter()
    weighed: dict[tuple[int, int], float] = {}
    layers = source.param.layer
    for i, layer in enumerate(layers):
        for j, name in enumerate(layer.bottom):
            if name in writer:  # an unknown bottom is reported when the layer is built
                reads[i, j] = writer[name]
                readers[writer[name]] += 1
        for j, name in enumerate(layer.top):
            writer[name] = (i, j)
        for j, weight in enumerate(layer.loss_weight[: len(layer.top)]):
            if weight:
                weighed[i, j] = weight
                readers[i, j] += 1
    param = type(source.param)()
    param.CopyFrom(source.param)
    del param.layer[:]
    lines: list[int] = []
    used: Counter[tuple[int, int]] = Counter()
    for i, layer in enumerate(layers):
        copy = param.layer.add()
        copy.CopyFrom(layer)
        lines.append(source.lines[i])
        for j, name in enumerate(layer.bottom):
            top = reads.get((i, j))
            if top is not None and readers[top] > 1:
                copy.bottom[j] = f"{_split_name(layers[top[0]].name, name, top[1])}_{used[top]}"
                used[top] += 1
        for j, name in enumerate(layer.top):
            count = readers[i, j]
            if count <= 1:
                continue
            split = param.layer.add(name=_split_name(layer.name, name, j), type="Split", bottom=[name])
            split.top.extend(f"{split.name}_{k}" for k in range(count))
            lines.append(source.lines[i])
            if (i, j) in weighed:
                copy.ClearField("loss_weight")
                split.loss_weight.extend([weighed[i, j]] + [0.0] * (count - 1))
                used[i, j] += 1
    return NetSource(param, source.path, lines)


def _split_name(layer: str, blob: str, index: int) -> str:
    return f"{blob}_{layer}_{index}_split"
