"""Weights from one form to another: a module's into a file, and files among themselves.

    graph = pycaffe_compat.load("deploy.prototxt", "weights.caffemodel")
    ...                                                        # train it, edit it
    pycaffe_compat.save(graph, "mine.caffemodel")              # or .h5, or .safetensors
    pycaffe_compat.save(graph, "mine.caffemodel", torch.load("checkpoint.pt"))     # a state_dict's values
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from .errors import CaffeError, WeightsError
from .graph import Graph
from .naming import did_you_mean, shape_text
from .proto.binary_net import read_binary_net
from .proto.dialects import Dialect
from .proto.hdf5 import SIGNATURE
from .proto.source import NetSource
from .tensor_file import SUFFIX, is_tensor_file, read_tensor_file_net, write_tensor_file
from .weights import read_weights, write_weights

SUFFIXES = (".caffemodel", ".h5", SUFFIX)


def save(graph: Graph, path: str | os.PathLike[str], state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Write a module's weights, whole or not at all; the name's end says how.

    Args:
        graph: the net.
        path: ``.caffemodel`` and ``.h5`` are Caffe's files (float32); ``.safetensors`` holds the state_dict in its own
            types, and the net's text. ``load`` and ``read_weights`` take all three.
        state_dict: values to write in place of the module's own; the module is left alone.

    Raises:
        WeightsError: another ending; the state_dict lacks a key, has a strange one or one of another shape.
        OSError: the file cannot be written.
    """
    _check_suffix(path)
    own = graph.state_dict()
    state = own if state_dict is None else state_dict
    for key in state:
        if key not in own:
            raise WeightsError(f'the state_dict has a key "{key}", which the net has not{did_you_mean(key, own)}')
    for key, tensor in own.items():
        if key not in state:
            raise WeightsError(f'the state_dict lacks the key "{key}" of the net')
        if state[key].shape != tensor.shape:
            given, want = shape_text(state[key].shape), shape_text(tensor.shape)
            raise WeightsError(f'"{key}" has shape {given} in the state_dict, {want} in the net')
    graph.check_names()
    keys, shapes = graph.blob_keys, {name: [tuple(b.shape) for b in blobs] for name, blobs in graph.params.items()}
    blobs = {name: list(zip(keys[name], shapes[name], strict=True)) for name in keys}
    if os.fspath(path).endswith(SUFFIX):
        write_tensor_file(path, graph.param, state, blobs)
        return
    arrays = {
        name: [state[key].detach().cpu().float().contiguous().numpy().reshape(shape) for key, shape in places]
        for name, places in blobs.items()
    }
    write_weights(path, graph.param, arrays)


def convert_weights(
    source: str | os.PathLike[str], target: str | os.PathLike[str], graph: Graph | None = None
) -> list[str]:
    """Write a weights file in another form; the target's name says which, the source's content what it is.

    Args:
        source, target: .caffemodel, .h5 or .safetensors.
        graph: the net. Without it the one that the source carries is taken (an .h5 carries none), which for
            .safetensors must be one that can be built here.

    Returns:
        Names of the source's layers that the net does not have: they are left out.

    Raises:
        WeightsError, NetError: a file cannot be read, there is no net, or it does not fit; nothing is written then.
    """
    _check_suffix(target)
    weights = read_weights(source)
    if graph is None:
        net = carried_net(source)
        if net is None:
            raise WeightsError(f"{os.fspath(source)}: HDF5 weights carry no net: name its prototxt (--net)")
        if not os.fspath(target).endswith(SUFFIX):
            write_weights(target, net.param, weights)
            return []
        try:
            graph = Graph(net)
        except CaffeError as error:
            raise type(error)(f"{error}; name a net that can be built here (--net)") from error
    filled = graph.load_weights(weights, os.fspath(source))
    empty = graph.unfilled(filled)
    if empty:
        raise WeightsError(f'{os.fspath(source)} holds no weights for layer "{empty[0]}" of the net')
    save(graph, target)
    return [name for name in weights if name not in filled]


def carried_net(
    path: str | os.PathLike[str], dialect: str | os.PathLike[str] | Dialect | None = None
) -> NetSource | None:
    """The net that a weights file carries; None if it is HDF5, which carries none. dialect: of a binary file."""
    with open(path, "rb") as file:
        head = file.read(9)
    if head.startswith(SIGNATURE):
        return None
    return read_tensor_file_net(path) if is_tensor_file(head) else read_binary_net(path, dialect)


def _check_suffix(path: str | os.PathLike[str]) -> None:
    if not os.fspath(path).endswith(SUFFIXES):
        raise WeightsError(f"{os.fspath(path)}: weights are written as {', '.join(SUFFIXES)}, by the name's end")
