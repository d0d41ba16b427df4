"""pycaffe's ``Net`` over a graph: layer by layer, every blob's data and diff at hand.

The graph computes; this module keeps what a Caffe user looks at between the steps (see ``blob``), and gives the steps:
any range of layers forward or backward, from what the blobs hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import debug, inplace, log
from .blob import Blob, BlobVec
from .errors import NetError
from .graph import Graph, Node, located, share_values
from .layers.data import DummyData
from .layers.python import Python
from .legacy import NetOf2014
from .naming import shape_text
from .weights import write_weights

# What a layer's backward reads from its bottoms again, in Caffe: those from this one on. Other layers, and a loss's
# predictions, go by what forward kept: a mask, an index, a probability.
_READ_AGAIN = {
    **dict.fromkeys("Convolution Deconvolution InnerProduct Embed Scale ReLU PReLU AbsVal BNLL Reduction".split(), 0),
    **dict.fromkeys("ConvolutionDepthwise DepthwiseConvolution MultinomialLogisticLoss".split(), 0),
    **dict.fromkeys("SoftmaxWithLoss SigmoidCrossEntropyLoss HingeLoss InfogainLoss".split(), 1),
    "ContrastiveLoss": 2,
}

Callback = Callable[[int], object]
"""Called with a layer's number."""


class _Blobs(OrderedDict[str, Blob]):
    """``net.blobs``. In pycaffe an array put in a blob's place is never read: the net computes on with old values."""

    def __setitem__(self, name: str, value: Blob) -> None:
        if not isinstance(value, Blob):
            raise NetError(f'net.blobs["{name}"] = ... changes no blob: write net.blobs["{name}"].data[...] = ...')
        super().__setitem__(name, value)


class _NoSuchName(NetError, ValueError, KeyError):
    """NetError, and for scripts what pycaffe raised: ValueError for a layer, KeyError for a blob."""

    __str__ = Exception.__str__  # KeyError's would quote the message


class NetLayer:
    """A layer as ``net.layers`` shows it. (For a Python layer the user's own object stands there.)

    Attributes:
        type: as in the net file.
        blobs: its parameters, those of ``net.params``.
    """

    def __init__(self, kind: str, blobs: BlobVec) -> None:
        self.type, self.blobs = kind, blobs


class Net(NetOf2014):
    """pycaffe's net: ``Net(network_file, phase, level=0, stages=None, weights=None)``, or the older
    ``Net(network_file, weights, phase)``.

    Args:
        network_file: path of the prototxt, or a Graph.
        phase: TRAIN or TEST; without it, what the file's ``state`` says, else TEST.
        level, stages: they choose among ``include``/``exclude`` rules.
        weights: path of a .caffemodel or .h5.

    Attributes:
        graph: the ``torch.nn.Module`` beneath.
        blobs: every blob by name, Split copies too, in the order of their making.
        params: each layer's parameter blobs by its name.
        layers: every layer, with ``type`` and ``blobs``.
    """

    def __init__(
        self,
        network_file: str | PathLike[str] | Any,
        *args: Any,
        phase: int | None = None,
        level: int = 0,
        stages: Sequence[str] | None = None,
        weights: str | PathLike[str] | None = None,
    ) -> None:
        if args and isinstance(args[0], (str, PathLike)):
            weights, *args = args  # type: ignore[assignment]
            log.warning(
                f"Net(file, weights, phase) is the old order: write Net('{network_file}', "
                f"{args[0] if args else 'phase'}, weights='{fspath(weights)}')",
                "_caffe.cpp:174",
            )
        if args and args[0] is None:
            raise TypeError("Net(file, phase, ...): the phase is caffe.TRAIN or caffe.TEST, not None")
        if len(args) > 4:
            raise TypeError(f"Net takes a file, phase, level, stages and weights: {len(args) + 1} arguments are given")
        given = dict(zip(("phase", "level", "stages", "weights"), args, strict=False))
        phase, level = given.get("phase", phase), given.get("level", level)
        stages, weights = given.get("stages", stages), given.get("weights", weights)
        graph = network_file if isinstance(network_file, Graph) else Graph(network_file, phase, level, stages or ())
        self.graph = graph
        losses = graph.loss_weights
        self.blobs: OrderedDict[str, Blob] = _Blobs()
        for node in graph.nodes:
            for top in node.tops:
                self.blobs.setdefault(top, Blob(graph.shapes[top], losses.get(top, 0.0)))
        self.layers: list[Any] = [_shown(node) for node in graph.nodes]
        self.params: OrderedDict[str, BlobVec] = OrderedDict(
            (node.name, layer.blobs) for node, layer in zip(graph.nodes, self.layers, strict=True) if len(layer.blobs)
        )
        self._debug_info: bool = graph.param.debug_info
        self._tape: dict[Node, tuple[list[Tensor], tuple[Tensor, ...]]] = {}
        self._rewritten = {t for node in graph.nodes for t in node.tops if t in node.bottoms}
        self._read_again: dict[Node, list[int]] = {}
        later: set[str] = set()
        for node in reversed(graph.nodes):
            later.update(node.tops)  # a blob that is written in place from here on holds something else by then
            first = _READ_AGAIN.get(node.type, len(node.bottoms))
            self._read_again[node] = [k for k, b in enumerate(node.bottoms) if k >= first and b not in later]
        self._before_forward: list[Callback] = []
        self._after_forward: list[Callback] = []
        self._before_backward: list[Callback] = []
        self._after_backward: list[Callback] = []
        for node in graph.nodes:
            if isinstance(node.layer, DummyData):
                # Constants are filled now and never again, as in Caffe: what a script writes there stays.
                self._fill(node.layer, node.tops, constant=True)
        if weights is not None:
            self.copy_from(weights)

    # -------------------------------------------------------------------------------------------- what it is made of

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def inputs(self) -> list[str]:  # type: ignore[override]
        """The blobs that the caller fills: tops of Input layers."""
        return self.graph.inputs

    @property
    def outputs(self) -> list[str]:
        """The blobs that no layer reads, in alphabetical order."""
        return self.graph.outputs

    @property
    def layer_dict(self) -> OrderedDict[str, Any]:
        return OrderedDict(zip(self._layer_names, self.layers, strict=True))

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        return OrderedDict((node.name, list(node.tops)) for node in self.graph.nodes)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        return OrderedDict((node.name, list(node.bottoms)) for node in self.graph.nodes)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        return OrderedDict(zip(self.blobs, self._blob_loss_weights, strict=True))

    # What pycaffe's own wrapper is made of; scripts use it too.

    @property
    def _layer_names(self) -> list[str]:
        return [node.name for node in self.graph.nodes]

    @property
    def _blob_names(self) -> list[str]:
        return list(self.blobs)

    @property
    def _blobs(self) -> list[Blob]:
        return list(self.blobs.values())

    @property
    def _blob_loss_weights(self) -> list[float]:
        weights = self.graph.loss_weights
        return [weights.get(name, 0.0) for name in self.blobs]

    @property
    def _inputs(self) -> list[int]:
        return self._ids(self.inputs)

    @property
    def _outputs(self) -> list[int]:
        return self._ids(self.outputs)

    @property
    def _input_list(self) -> list[str]:
        return self.inputs

    @property
    def _output_list(self) -> list[str]:
        return self.outputs

    def _top_ids(self, layer: int) -> list[int]:
        return self._ids(self.graph.nodes[layer].tops)

    def _bottom_ids(self, layer: int) -> list[int]:
        return self._ids(self.graph.nodes[layer].bottoms)

    def _ids(self, names: Sequence[str]) -> list[int]:
        order = list(self.blobs)
        return [order.index(name) for name in names]

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
                self._write("input", name, self.blobs[name].data, value)
        self._forward(first, last)
        return {name: self._blob(name).data for name in dict.fromkeys(names + list(blobs or ()))}

    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **outputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Run backward from layer ``start`` down to ``end``, both included; parameter gradients add up over calls.

        Args:
            diffs: names of blobs whose diff to return beside the inputs' (with ``end``: that layer's bottoms').
            outputs: top gradients to start from, one for each of the net's outputs, written into the blobs' diff;
                without them those that are there (a loss's weight).
        """
        first = self._index(start) if start is not None else len(self.graph.nodes) - 1
        last = self._index(end) if end is not None else 0
        names = list(self.graph.nodes[last].bottoms) if end is not None else list(self.inputs)
        if outputs and set(outputs) != set(self.outputs):
            raise NetError(
                f'output blobs are {self.outputs}, {sorted(outputs)} are given: write others into net.blobs["..."].diff'
            )
        for name, value in outputs.items():
            self._write("diff of", name, self.blobs[name].diff, value)
        self._backward(first, last)
        return {name: self._blob(name).diff for name in dict.fromkeys(names + list(diffs or ()))}

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """``forward`` over any number of rows, in batches of the net's size; the last is filled up with zeros."""
        outputs, _ = self._in_batches(blobs, None, inputs, {}, backward=False)
        return outputs

    def forward_backward_all(
        self,
        blobs: Sequence[str] | None = None,
        diffs: Sequence[str] | None = None,
        **arrays: np.ndarray,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """``forward`` and ``backward`` over any number of rows: all outputs, and all inputs' diffs.

        Args:
            arrays: input blobs by name, and output blobs' gradients by name; others are not read.
        """
        forward = {name: arrays[name] for name in self.inputs if name in arrays}
        backward = {name: arrays[name] for name in self.outputs if name in arrays}
        for name in sorted(set(arrays) - set(forward) - set(backward)):
            log.warning(f'"{name}" is neither an input {self.inputs} nor an output {self.outputs}', "pycaffe.py:216")
        return self._in_batches(blobs, diffs, forward, backward, backward=True)

    def _in_batches(
        self,
        blobs: Sequence[str] | None,
        diffs: Sequence[str] | None,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        backward: bool,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        rows = {len(array) for array in (*inputs.values(), *outputs.values())}
        if len(rows) != 1:
            raise NetError(f"arrays of one length are needed, these have {sorted(rows) or 'none'}")
        (count,) = rows
        all_outputs: dict[str, list[np.ndarray]] = {name: [] for name in (*self.outputs, *(blobs or ()))}
        all_diffs: dict[str, list[np.ndarray]] = {name: [] for name in (*self.inputs, *(diffs or ()))}
        nothing: dict[str, np.ndarray] = {}
        for into, out in zip_longest(self._batch(inputs), self._batch(outputs), fillvalue=nothing):
            for name, array in self.forward(blobs, None, None, **into).items():
                all_outputs[name].extend(array.copy())
            if backward:
                for name, array in self.backward(diffs, None, None, **out).items():
                    all_diffs[name].extend(array.copy())
        # Cutting all of them to the rows that came in; the original forgets some where outputs and inputs differ in
        # number.
        cut = [{name: np.asarray(rows)[:count] for name, rows in each.items()} for each in (all_outputs, all_diffs)]
        return cut[0], cut[1]

    def _batch(self, arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """The arrays in batches of the net's size (its first blob's), the last one filled up with zeros."""
        if not arrays:
            return
        size = next(iter(self.blobs.values())).shape[0]
        for start in range(0, len(next(iter(arrays.values()))), size):
            parts = {name: np.asarray(array[start : start + size]) for name, array in arrays.items()}
            yield {
                name: np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
                for name, part in parts.items()
            }

    def _write(self, what: str, name: str, memory: np.ndarray, value: np.ndarray) -> None:
        if np.shape(value)[:1] != memory.shape[:1]:
            raise NetError(f'{what} "{name}" has batch size {np.shape(value)[:1]}, the net {memory.shape[:1]}')
        memory[...] = value

    def _blob(self, name: str) -> Blob:
        if name not in self.blobs:
            raise _NoSuchName(f'"{name}" is no blob of net "{self.name}"')
        return self.blobs[name]

    def _index(self, layer: str) -> int:
        for i, node in enumerate(self.graph.nodes):
            if node.name == layer:
                return i
        raise _NoSuchName(f'net "{self.name}" has no layer "{layer}"')

    def _forward(self, start: int, end: int) -> float:
        """Run layers number ``start`` to ``end``; what they add to the loss."""
        loss = 0.0
        for i in range(start, end + 1):
            node = self.graph.nodes[i]
            for call in self._before_forward:
                call(i)
            self._forward_node(node)
            if self._debug_info:
                debug.log_forward(node, [self.blobs[top].data_tensor for top in node.tops])
            for top, weight in zip(node.tops, node.loss_weights, strict=True):
                if weight:
                    loss += weight * float(self.blobs[top].data_tensor.float().sum())
            for call in self._after_forward:
                call(i)
        return loss

    def _backward(self, start: int, end: int) -> None:
        """Run layers number ``start`` down to ``end`` backward."""
        for i in range(start, end - 1, -1):
            node = self.graph.nodes[i]
            for call in self._before_backward:
                call(i)
            if node.need_backward:
                self._backward_node(node)
                if self._debug_info:
                    debug.log_backward(node, [self.blobs[bottom].diff_tensor for bottom in node.bottoms])
            for call in self._after_backward:
                call(i)

    def _forward_node(self, node: Node) -> None:
        if isinstance(node.layer, DummyData):
            self._fill(node.layer, node.tops, constant=False)
        elif node.type != "Input":
            for name, top in zip(node.tops, self._compute(node), strict=True):
                self.blobs[name].store_data(top)

    def _fill(self, layer: DummyData, tops: Sequence[str], constant: bool) -> None:
        for k, name in enumerate(tops):
            if layer.constant(k) == constant:
                self.blobs[name].store_data(layer.filled(k, self.blobs[name].shape))

    def _compute(self, node: Node) -> tuple[Tensor, ...]:
        """A layer's tops from what its bottoms hold; remembered for backward."""
        bottoms = []
        for k, (name, down) in enumerate(zip(node.bottoms, node.propagate_down, strict=True)):
            value = self.blobs[name].data_tensor.data
            if name in self._rewritten or (k in self._read_again[node] and self.blobs[name].data_is_shown):
                value = value.clone()  # an in-place layer or a script may overwrite the blob: this is what was read
            wants = down and node.need_backward and value.is_floating_point()
            bottoms.append(value.requires_grad_() if wants else value)
        # A leaf that wants a gradient must not be overwritten by an in-place layer: it gets a copy to work on.
        given = [b.clone() if node.layer.inplace and b.requires_grad else b for b in bottoms]
        with torch.set_grad_enabled(node.need_backward):
            blobs = dict(zip(node.bottoms, given, strict=True))
            node.compute(blobs)
        tops = tuple(blobs[name] for name in node.tops)
        self._tape[node] = (bottoms, tops)
        return tops

    def _backward_node(self, node: Node) -> None:
        if not (node.bottoms or node.layer.blob_names):
            return
        if node not in self._tape or self._overwritten(node):
            self._compute(node)  # backward goes by what the blobs hold now, as in Caffe
        bottoms, tops = self._tape[node]
        wanted = [(name, b) for name, b in zip(node.bottoms, bottoms, strict=True) if b.requires_grad]
        rule = inplace.rule_of(node, self._rewritten)
        if rule is not None:
            top = self.blobs[node.tops[0]]
            for name, x in wanted:
                value = top.data_tensor if name == node.tops[0] else x
                with torch.no_grad():
                    self.blobs[name].store_diff(rule(node.layer, x, value, top.data_tensor, top.diff_tensor))
            return
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
            self.blobs[name].store_diff(torch.zeros_like(leaf) if grad is None else grad)
        for parameter, grad in zip(parameters, grads[len(wanted) :], strict=True):
            if grad is not None:
                parameter.grad = grad.clone() if parameter.grad is None else parameter.grad.add_(grad)

    def _overwritten(self, node: Node) -> bool:
        """Whether a bottom that backward reads again holds other values than those that forward read."""
        used, _ = self._tape[node]
        pairs = ((self.blobs[node.bottoms[k]].data_tensor, used[k]) for k in self._read_again[node])
        return any(
            now.data_ptr() != then.data_ptr() and now.shape == then.shape and not torch.equal(now.to(then.dtype), then)
            for now, then in pairs
        )

    def before_forward(self, call: Callback) -> None:
        """Call this with the number of each layer before it runs."""
        self._before_forward.append(call)

    def after_forward(self, call: Callback) -> None:
        """Call this with the number of each layer after it ran."""
        self._after_forward.append(call)

    def before_backward(self, call: Callback) -> None:
        """Call this with the number of each layer before it runs backward (or is passed over)."""
        self._before_backward.append(call)

    def after_backward(self, call: Callback) -> None:
        """Call this with the number of each layer after it ran backward (or was passed over)."""
        self._after_backward.append(call)

    # ------------------------------------------------------------------------------------------- parameters and shapes

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Give the MemoryData layer that begins the net its rows: (N, C, H, W) and N labels, both float32.

        They are not copied: what is written into them later is seen. So other arrays are refused.
        """
        if not self.graph.nodes or self.graph.nodes[0].type != "MemoryData":
            first = f": {self.graph.nodes[0].label}" if self.graph.nodes else ""
            raise NetError(f"set_input_arrays is for nets that begin with a MemoryData layer{first}")
        layer: Any = self.graph.nodes[0].layer
        layer.reset(data, labels)

    _set_input_arrays = set_input_arrays

    def clear_param_diffs(self) -> None:
        """Set every parameter's diff to zero."""
        for blobs in self.params.values():
            for blob in blobs:
                blob.diff_tensor.zero_()

    def reshape(self) -> None:
        """Propagate the shapes of the blobs that Input and DummyData give through the net, without computing.

        Raises:
            NetError: a layer cannot work on its bottoms' new shapes.
        """
        known: dict[str, Tensor] = {}
        for node in self.graph.nodes:
            if node.type in ("Input", "DummyData"):
                known.update((top, torch.empty(self.blobs[top].shape, device="meta")) for top in node.tops)
                continue
            bottoms = [known[name] for name in node.bottoms]
            shapes = ", ".join(shape_text(bottom.shape) for bottom in bottoms)
            with located(node, f"cannot work on bottoms of shapes {shapes}"):
                known.update(zip(node.tops, node.infer(*bottoms), strict=True))
        for name, like in known.items():
            self.blobs[name].reshape(*like.shape)

    def copy_from(self, weights: str | PathLike[str]) -> None:
        """Load weights (.caffemodel or .h5) into the layers of the same name."""
        self.graph.copy_from(weights)

    load_hdf5 = copy_from

    def share_with(self, other: Net) -> None:
        """Use the values of another net's parameters, in the layers of the same names; diffs stay each net's own."""
        share_values(other.graph, self.graph)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the net with its weights as a .caffemodel, whatever the name ends in."""
        write_weights(path, self.graph.param, self.graph.weights(), hdf5=False)

    def save_hdf5(self, path: str | PathLike[str]) -> None:
        """Write the weights as HDF5, whatever the name ends in."""
        write_weights(path, self.graph.param, self.graph.weights(), hdf5=True)


def _shown(node: Node) -> Any:
    if isinstance(node.layer, Python):
        return node.layer.user
    return NetLayer(node.type, BlobVec(node.layer, node.layer.blob_names))
