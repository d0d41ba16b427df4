"""pycaffe's ``Net`` and ``Blob`` over a graph: layer by layer, every blob's data and diff at hand.

The graph computes; this module keeps what a Caffe user looks at between the steps. ``blob.data`` and ``blob.diff`` are
live, writable float32 arrays that stay the same memory from call to call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import NetError
from .graph import Graph, Node
from .layers.base import as_tuple
from .layers.data import MemoryData
from .weights import read_weights, write_weights


class Blob:
    """A blob: ``data`` and ``diff`` as float32 numpy arrays of one shape.

    A parameter's blob views the parameter itself: writing into it changes the graph.
    """

    def __init__(self, shape: Sequence[int] = (), parameter: Tensor | None = None) -> None:
        self._parameter = parameter
        self._data = torch.zeros(tuple(shape)) if parameter is None else parameter.detach()
        self._diff: Tensor | None = None

    @property
    def data(self) -> np.ndarray:
        """The values, writable."""
        return self._data.numpy()

    @property
    def diff(self) -> np.ndarray:
        """The gradients, writable; zeros until something is written."""
        return self.diff_tensor.numpy()

    @property
    def diff_tensor(self) -> Tensor:
        if self._parameter is not None:
            if self._parameter.grad is None:
                self._parameter.grad = torch.zeros_like(self._parameter)
            return self._parameter.grad
        if self._diff is None or self._diff.shape != self._data.shape:
            self._diff = torch.zeros_like(self._data)
        return self._diff

    def store(self, value: Tensor) -> None:
        """Take over new values: into the same memory while the shape stays."""
        if self._data.shape != value.shape:
            self._data = torch.empty(value.shape)
        self._data.copy_(value.detach())

    def reshape(self, *shape: int) -> None:
        """Change the shape; the values are undefined afterwards, as in Caffe."""
        if tuple(self._data.shape) != shape:
            self._data = torch.zeros(shape)
            self._diff = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._data.shape)

    @property
    def count(self) -> int:
        return self._data.numel()

    def _legacy(self, axis: int) -> int:
        if self._data.ndim > 4:
            raise NetError(f"a blob of {self._data.ndim} dimensions has no num, channels, height and width: use shape")
        return self._data.shape[axis] if axis < self._data.ndim else 1

    num = property(lambda self: self._legacy(0))
    channels = property(lambda self: self._legacy(1))
    height = property(lambda self: self._legacy(2))
    width = property(lambda self: self._legacy(3))


class Net:
    """pycaffe's net: ``Net(network_file, phase, level=0, stages=None, weights=None)``, or the older
    ``Net(network_file, weights, phase)``.

    Attributes:
        graph: the ``torch.nn.Module`` beneath.
        blobs: every blob by name, Split copies too, in the order of their making.
        params: each layer's parameter blobs by its name.
    """

    def __init__(
        self,
        network_file: str | PathLike[str] | Any,
        *args: Any,
        phase: int | None = None,
        level: int = 0,
        stages: Sequence[str] | None = None,
        weights: str | None = None,
    ) -> None:
        if args and isinstance(args[0], (str, PathLike)):  # the older order: file, weights, phase
            weights, *args = args  # type: ignore[assignment]
        for name, value in zip(("phase", "level", "stages", "weights"), args, strict=False):
            phase = value if name == "phase" else phase
            level = value if name == "level" else level
            stages = value if name == "stages" else stages
            weights = value if name == "weights" else weights
        graph = network_file if isinstance(network_file, Graph) else Graph(network_file, phase, level, stages or ())
        self.graph = graph
        self.blobs: OrderedDict[str, Blob] = OrderedDict()
        for node in graph.nodes:
            for top in node.tops:
                self.blobs.setdefault(top, Blob(graph.shapes[top]))
        self.params: OrderedDict[str, list[Blob]] = OrderedDict(
            (name, [Blob(parameter=p) for p in blobs]) for name, blobs in graph.params.items()
        )
        for name, weight in graph.loss_weights.items():
            self.blobs[name].diff[...] = weight
        self._tape: dict[str, tuple[list[Tensor], tuple[Tensor, ...]]] = {}
        self._rewritten = {t for node in graph.nodes for t in node.tops if t in node.bottoms}
        if weights is not None:
            self.copy_from(weights)

    # -------------------------------------------------------------------------------------------- what it is made of

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def inputs(self) -> list[str]:
        return self.graph.inputs

    @property
    def outputs(self) -> list[str]:
        return self.graph.outputs

    @property
    def layers(self) -> list[Any]:
        return [node.layer for node in self.graph.nodes]

    @property
    def layer_dict(self) -> OrderedDict[str, Any]:
        return OrderedDict((node.name, node.layer) for node in self.graph.nodes)

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        return OrderedDict((node.name, list(node.tops)) for node in self.graph.nodes)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        return OrderedDict((node.name, list(node.bottoms)) for node in self.graph.nodes)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        weights = self.graph.loss_weights
        return OrderedDict((name, weights.get(name, 0.0)) for name in self.blobs)

    @property
    def _layer_names(self) -> list[str]:
        return [node.name for node in self.graph.nodes]

    @property
    def _blob_names(self) -> list[str]:
        return list(self.blobs)

    # --------------------------------------------------------------------------------------------- forward, backward

    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Run the layers from ``start`` to ``end``, both included.

        Args:
            blobs: names to return beside the outputs.
            start, end: layer names; the whole net without them.
            inputs: values of input blobs; their first axis must have the blob's size.

        Returns:
            Live views of the outputs (with ``end``: of that layer's tops) and of ``blobs``.
        """
        first = self._index(start) if start is not None else 0
        last = self._index(end) if end is not None else len(self.graph.nodes) - 1
        names = list(self.graph.nodes[last].tops) if end is not None else list(self.outputs)
        if inputs:
            if set(inputs) != set(self.inputs):
                raise NetError(f"input blobs are {self.inputs}, {sorted(inputs)} are given")
            for name, value in inputs.items():
                if np.shape(value)[:1] != self.blobs[name].shape[:1]:
                    raise NetError(
                        f'input "{name}" has batch size {np.shape(value)[:1]}, the net {self.blobs[name].shape[:1]}'
                    )
                self.blobs[name].data[...] = value
        for node in self.graph.nodes[first : last + 1]:
            self._forward_node(node)
        return {name: self.blobs[name].data for name in dict.fromkeys(names + list(blobs or ()))}

    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **outputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Run backward from layer ``start`` down to ``end``, both included; parameter gradients add up over calls.

        Args:
            diffs: names of blobs whose diff to return beside the inputs'.
            outputs: top gradients to start from, written into the blobs' diff.
        """
        first = self._index(start) if start is not None else len(self.graph.nodes) - 1
        last = self._index(end) if end is not None else 0
        names = list(self.graph.nodes[last].bottoms) if end is not None else list(self.inputs)
        for name, value in outputs.items():
            if name not in self.blobs:
                raise NetError(f'"{name}" is no blob of net "{self.name}"')
            self.blobs[name].diff[...] = value
        for node in reversed(self.graph.nodes[last : first + 1]):
            if node.need_backward:
                self._backward_node(node)
        return {name: self.blobs[name].diff for name in dict.fromkeys(names + list(diffs or ()))}

    def _index(self, layer: str) -> int:
        for i, node in enumerate(self.graph.nodes):
            if node.name == layer:
                return i
        raise NetError(f'net "{self.name}" has no layer "{layer}"')

    def _forward_node(self, node: Node) -> None:
        if node.type == "Input":
            return
        bottoms = []
        for name, down in zip(node.bottoms, node.propagate_down, strict=True):
            value = self.blobs[name]._data.detach()
            if name in self._rewritten:
                value = value.clone()  # an in-place layer will overwrite the blob, backward still needs this
            bottoms.append(value.requires_grad_() if down and node.need_backward else value)
        for attribute, owner, shape in node.views:
            node.layer.__dict__[attribute] = owner.view(shape)
        # A leaf that wants a gradient must not be overwritten by an in-place layer: it gets a copy to work on.
        given = [b.clone() if node.layer.inplace and b.requires_grad else b for b in bottoms]
        with torch.set_grad_enabled(node.need_backward):
            tops = as_tuple(node.layer(*given))
        self._tape[node.name] = (bottoms, tops)
        for name, top in zip(node.tops, tops, strict=True):
            self.blobs[name].store(top)

    def _backward_node(self, node: Node) -> None:
        if node.name not in self._tape:
            return
        bottoms, tops = self._tape[node.name]
        wanted = [(name, b) for name, b in zip(node.bottoms, bottoms, strict=True) if b.requires_grad]
        owners = {id(o): o for _, o, _ in node.views}
        parameters = [p for p in node.layer.parameters() if p.requires_grad and id(p) not in owners]
        parameters += [o for o in owners.values() if o.requires_grad]
        pairs = [
            (top, self.blobs[name].diff_tensor.to(top.dtype))
            for name, top in zip(node.tops, tops, strict=True)
            if top.requires_grad
        ]
        if not pairs or not (wanted or parameters):
            return
        leaves = [b for _, b in wanted] + parameters
        grads = torch.autograd.grad(
            [t for t, _ in pairs],
            leaves,
            [d.reshape(t.shape) for t, d in pairs],
            retain_graph=True,
            allow_unused=True,
        )
        for (name, leaf), grad in zip(wanted, grads, strict=False):
            self.blobs[name].diff_tensor.copy_(torch.zeros_like(leaf) if grad is None else grad)
        for parameter, grad in zip(parameters, grads[len(wanted) :], strict=True):
            if grad is not None:
                parameter.grad = grad.clone() if parameter.grad is None else parameter.grad.add_(grad)

    # ------------------------------------------------------------------------------------------- parameters and shapes

    def clear_param_diffs(self) -> None:
        """Set every parameter's diff to zero."""
        for blobs in self.params.values():
            for blob in blobs:
                blob.diff_tensor.zero_()

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Hand arrays to the net's first layer, a MemoryData: N x channels x height x width, and N labels.

        Raises:
            NetError: the first layer is another. DataError: the arrays do not fit it.
        """
        first = self.graph.nodes[0]
        if not isinstance(first.layer, MemoryData):
            raise NetError(f"set_input_arrays is for nets that begin with a MemoryData layer: {first.label}")
        first.layer.reset(data, labels)

    def reshape(self) -> None:
        """Propagate the input blobs' shapes through the net."""
        shapes: Mapping[str, Tensor] = {
            name: torch.empty(self.blobs[name].shape, device="meta") for name in self.inputs
        }
        known = dict(shapes)
        for node in self.graph.nodes:
            if node.type != "Input":
                known.update(zip(node.tops, node.layer.infer(*(known[b] for b in node.bottoms)), strict=True))
            for top in node.tops:
                self.blobs[top].reshape(*known[top].shape)

    def copy_from(self, weights: str | PathLike[str]) -> None:
        """Load weights (.caffemodel or .h5) into the layers of the same name."""
        self.graph.load_weights(read_weights(weights), str(weights))

    load_hdf5 = copy_from

    def save(self, path: str | PathLike[str]) -> None:
        """Write the net with its weights as a .caffemodel."""
        write_weights(path, self.graph.param, self.graph.weights())

    def save_hdf5(self, path: str | PathLike[str]) -> None:
        """Write the weights as HDF5; the name must end in .h5."""
        write_weights(path, self.graph.param, self.graph.weights())
