"""Weights as .safetensors, the file that PyTorch's users exchange.

The tensors bear the keys of ``Graph.state_dict``, so that ``load_state_dict(safetensors.torch.load_file(path))`` takes
them. What Caffe's own files say besides is in the metadata, so that the way back loses nothing:

    net             the net's text, a prototxt
    net_sha256      of that text
    blobs           JSON: layer name -> [key, shape] of each of its parameter blobs, in Caffe's order
    pycaffe_compat  the version that wrote it
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import WeightsError, first_line
from .files import atomic_write
from .memory import unpacked_limit
from .proto.source import NetSource
from .proto.text import format_message, parse_net
from .version import __version__

SUFFIX = ".safetensors"
Places: TypeAlias = Mapping[str, Sequence[tuple[str, tuple[int, ...]]]]
"""Layer name -> (key, shape) of each of its parameter blobs."""


def is_tensor_file(head: bytes) -> bool:
    """Whether a file with these first 9 bytes is one: a length that fits, then JSON. No protobuf message begins so."""
    return len(head) == 9 and head[5:] == b"\0\0\0{"


def write_tensor_file(
    path: str | os.PathLike[str], net_param: Any, tensors: Mapping[str, Tensor], blobs: Places
) -> None:
    """Writes a file, whole or not at all; tensors that share memory are written under each of their keys.

    Raises:
        OSError: it cannot be written.
    """
    text = format_message(net_param)
    metadata = {
        "format": "pt",
        "net": text,
        "net_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "blobs": json.dumps({layer: list(places) for layer, places in blobs.items()}),
        "pycaffe_compat": __version__,
    }
    alone: dict[str, Tensor] = {}
    memory: set[int] = set()
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        alone[key] = tensor.clone() if place in memory else tensor
        memory.add(place)
    with atomic_write(path) as temporary:
        try:
            save_file(alone, temporary, metadata)
        except SafetensorError as error:  # the system's reason stands in its text alone
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from None


def read_tensor_file(path: str | os.PathLike[str]) -> dict[str, list[npt.NDArray[np.float32]]]:
    """Reads a file that :func:`write_tensor_file` wrote: layer name -> its arrays, float32, in Caffe's order.

    Raises:
        WeightsError: it is damaged, or comes from elsewhere and says nothing of layers.
    """
    shown = os.fspath(path)
    blobs = _metadata(path, "blobs")
    try:
        with safe_open(shown, framework="pt") as file:
            found: dict[str, list[npt.NDArray[np.float32]]] = {}
            room = unpacked_limit(os.path.getsize(shown))
            for layer, places in json.loads(blobs).items():
                arrays = found[layer] = []
                for key, shape in places:
                    arrays.append(np.array(file.get_tensor(key).float().numpy()).reshape(shape))
                    room -= arrays[-1].nbytes
                    if room < 0:  # it names the same tensors again and again
                        raise ValueError("its layers take far more memory than a file of this size can hold")
            return found
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        raise _damaged(path, error) from None


def read_tensor_file_net(path: str | os.PathLike[str]) -> NetSource:
    """The net that such a file carries.

    Raises:
        WeightsError, PrototxtError: it carries none, or one that does not parse.
    """
    return parse_net(_metadata(path, "net"), os.fspath(path))


def _metadata(path: str | os.PathLike[str], name: str) -> str:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if name not in metadata:
        raise WeightsError(
            f"{os.fspath(path)}: does not say which layers its tensors belong to: it was not written by "
            "pycaffe_compat.save; if its keys are those of the net's state_dict, use load_state_dict and save"
        )
    return str(metadata[name])


def _damaged(path: str | os.PathLike[str], error: Exception) -> WeightsError:
    return WeightsError(f"{os.fspath(path)}: is not a {SUFFIX} file, or damaged: {first_line(error)}")
