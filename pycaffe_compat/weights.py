"""Weights files, .caffemodel and .caffemodel.h5, to and from NumPy arrays by layer name (.safetensors: tensor_file).

A .caffemodel is a binary NetParameter whose layers carry their arrays. It is not parsed by protobuf here but
walked in a memory map: the arrays are then the only copy, so that half a gigabyte of weights takes half a
gigabyte.

An .h5 holds ``data/<layer>/<index>``, with an empty group for a layer that has no parameters, and where asked
for ``diff/<layer>/<index>``. A parameter that is shared is stored under its owner only, its diff under each of
its layers.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from pycaffe_compat.errors import WeightsError
from pycaffe_compat.files import atomic_write
from pycaffe_compat.naming import one_line
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary import (
    BYTES,
    VARINT,
    Piece,
    WireError,
    blob_bytes_to_array,
    blob_pieces,
    check_size,
    fields,
    file_size,
    header,
    not_a_message,
)
from pycaffe_compat.proto.hdf5 import SIGNATURE, new_hdf5, open_hdf5
from pycaffe_compat.tensor_file import is_tensor_file, read_tensor_file

Weights: TypeAlias = dict[str, list[npt.NDArray[np.float32]]]

_LAYER, _V1_LAYERS = 100, 2  # NetParameter's fields
_BLOBS = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name["blobs"].number
# where a layer's name and arrays are: (name, blobs) of LayerParameter, V1LayerParameter, V0LayerParameter
_LAYER_FIELDS, _V1_FIELDS, _V0_FIELDS, _V0_IN_V1 = (1, 7), (4, 6), (1, 50), 1


def read_weights(path: str | os.PathLike[str], empty: bool = False) -> Weights:
    """Reads a weights file of any format (.safetensors too), told apart by content and not by name.

    Args:
        path: the file.
        empty: name the layers without arrays too (a .safetensors does not know of them).

    Returns:
        layer name -> its arrays (float32, own memory, writable). In a .caffemodel the layers come in the file's
        order; of two with one name the later that has arrays counts. Formats of before 2014 are read too. From an
        .h5 a layer's parameters that another layer owns are missing; one in front of a parameter that is there is an
        array of shape (0,).

    Raises:
        WeightsError: the file cannot be read, is truncated or is something else; one line that names it.
    """
    size = file_size(path)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
            if head.startswith(SIGNATURE):
                return _read_hdf5(path, empty)
            if is_tensor_file(head):
                return read_tensor_file(path)
            check_size(path, size)
            # not closed by hand: an exception's traceback may still hold views of it
            content = _Map(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from None
    return _read_caffemodel(path, content, empty)


def write_weights(
    path: str | os.PathLike[str],
    net_param: caffe_pb2.NetParameter,
    blobs: Mapping[str, Sequence[npt.ArrayLike]],
    diffs: Mapping[str, Sequence[npt.ArrayLike]] | None = None,
    hdf5: bool | None = None,
) -> None:
    """Writes a weights file, whole or not at all: HDF5 where the name ends in ``.h5``, else a .caffemodel.

    Args:
        path: the file.
        net_param: the network, Split layers included; a .caffemodel holds all of it (arrays that it carries
            itself are left out), an .h5 its layers' names.
        blobs: layer name -> arrays. A shared parameter is given under each of its layers.
        diffs: the same for the gradients, where they are to be stored.
        hdf5: the format, whatever the name ends in.

    Raises:
        WeightsError: a layer in ``blobs`` is not in the network; it gets larger than 2 GiB (.caffemodel).
        OSError: the file cannot be written.
    """
    shown = os.fspath(path)
    names = {layer.name for layer in net_param.layer}
    for kind in (blobs, diffs or {}):
        strange = sorted(set(kind) - names)
        if strange:
            raise WeightsError(f'{shown}: weights for layer "{strange[0]}", not in net "{net_param.name}"')
    for name, arrays in (diffs or {}).items():
        have, want = ([np.shape(array) for array in group] for group in (arrays, blobs.get(name, ())))
        if have != want:
            raise WeightsError(f'{shown}: layer "{name}": diffs of shapes {have} for data of shapes {want}')
    if shown.endswith(".h5") if hdf5 is None else hdf5:
        _write_hdf5(path, net_param, blobs, diffs)
    else:
        _write_caffemodel(path, net_param, blobs, diffs)


# ------------------------------------------------------------------------------------------------ .caffemodel


class _Map(mmap.mmap):
    """A file as memory, whose pages can be given back."""

    def release(self, start: int, end: int) -> None:
        """Gives back the pages of ``[start, end)``: they would count as the process's own until it ends."""
        start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED") and end > start:
            self.madvise(mmap.MADV_DONTNEED, start, end - start)


def _read_caffemodel(path: str | os.PathLike[str], content: _Map, empty: bool) -> Weights:
    buffer = memoryview(content)
    weights: Weights = {}
    recognised = False
    try:
        for number, wire_type, start, end in fields(buffer, 0, len(buffer)):
            if number == 1 and wire_type == VARINT:  # a NetParameter has its name there
                raise WeightsError(
                    f"{os.fspath(path)}: is not a NetParameter but looks like a solver state or a mean image"
                )
            if number in (_LAYER, _V1_LAYERS) and wire_type == BYTES:
                recognised = True
                numbers = _LAYER_FIELDS if number == _LAYER else _V1_FIELDS
                name, blobs = _layer_blobs(buffer, start, end, numbers)
                if not blobs:
                    if empty:
                        weights.setdefault(name, [])
                    continue
                weights[name] = []
                for index, (at, stop) in enumerate(blobs):
                    weights[name].append(_blob(buffer, (at, stop), path, name, index))
                    content.release(at, stop)
    except (WireError, UnicodeDecodeError) as error:
        raise not_a_message(path, "NetParameter", bytes(buffer[:4096]), error) from None
    if not recognised:
        raise not_a_message(path, "NetParameter", bytes(buffer[:4096]), "it holds no layers")
    return weights


def _layer_blobs(
    buffer: memoryview, start: int, end: int, numbers: tuple[int, int]
) -> tuple[str, list[tuple[int, int]]]:
    """A layer's name and where its arrays are."""
    name, blobs = "", []
    for number, wire_type, at, stop in fields(buffer, start, end):
        if wire_type != BYTES:
            continue
        if number == numbers[0]:
            name = str(buffer[at:stop], "utf-8")
        elif number == numbers[1]:
            blobs.append((at, stop))
        elif number == _V0_IN_V1 and numbers == _V1_FIELDS:
            name, blobs = _layer_blobs(buffer, at, stop, _V0_FIELDS)
    return name, blobs


def _blob(
    buffer: memoryview, span: tuple[int, int], path: str | os.PathLike[str], layer: str, index: int
) -> npt.NDArray[np.float32]:
    try:
        return blob_bytes_to_array(buffer, *span)
    except WeightsError as error:
        raise WeightsError(f'{os.fspath(path)}: layer "{one_line(layer)}", blob {index}: {error}') from None


def _write_caffemodel(
    path: str | os.PathLike[str],
    net_param: caffe_pb2.NetParameter,
    blobs: Mapping[str, Sequence[npt.ArrayLike]],
    diffs: Mapping[str, Sequence[npt.ArrayLike]] | None,
) -> None:
    """Writes the bytes that protobuf would, without a copy of the arrays in messages and another as bytes."""
    missing: list[str] = net_param.FindInitializationErrors()  # type: ignore[attr-defined]  # not in the stubs
    if missing:
        raise WeightsError(f"{os.fspath(path)}: {missing[0]} must be set")
    frame = type(net_param)()
    frame.CopyFrom(net_param)
    frame.ClearField("layer")
    pieces: list[Piece] = [frame.SerializeToString()]
    for layer in net_param.layer:
        before, after = _around_blobs(layer)
        body: list[Piece] = [before]
        for array, diff in _with_diffs(layer.name, blobs, diffs):
            blob = blob_pieces(array, diff)
            body += [header(_BLOBS, sum(map(len, blob))), *blob]
        body.append(after)
        pieces += [header(_LAYER, sum(map(len, body))), *body]
    check_size(path, sum(map(len, pieces)))
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.writelines(pieces)


def _with_diffs(
    layer: str,
    blobs: Mapping[str, Sequence[npt.ArrayLike]],
    diffs: Mapping[str, Sequence[npt.ArrayLike]] | None,
) -> Iterator[tuple[npt.ArrayLike, npt.ArrayLike | None]]:
    arrays = blobs.get(layer, ())
    gradients: Sequence[npt.ArrayLike | None] = (diffs or {}).get(layer) or [None] * len(arrays)
    return zip(arrays, gradients, strict=True)


def _around_blobs(layer: caffe_pb2.LayerParameter) -> tuple[bytes, bytes]:
    """The bytes of a layer without arrays, cut where they belong: fields are written in order of number."""
    before, after = type(layer)(), type(layer)()
    after.CopyFrom(layer)
    before.CopyFrom(layer)
    before.DiscardUnknownFields()  # they come last
    for field, _ in layer.ListFields():
        if field.number >= _BLOBS:
            before.ClearField(field.name)
        if field.number <= _BLOBS:
            after.ClearField(field.name)
    return before.SerializeToString(), after.SerializeToString()


# -------------------------------------------------------------------------------------------------------- .h5


def _read_hdf5(path: str | os.PathLike[str], empty: bool) -> Weights:
    shown = os.fspath(path)
    found: dict[str, dict[int, npt.NDArray[np.float32]]] = {}
    with open_hdf5(path) as reader:
        data = reader.get(reader.root, "data")
        if not isinstance(data, h5py.Group):
            raise WeightsError(f"{shown}: is HDF5 but not Caffe weights: {_what_instead(reader.root)}")
        for name, item in reader.walk(data):
            layer, _, index = name.rpartition("/")
            if not layer or not (index.isascii() and index.isdigit()) or item.dtype.kind != "f":
                raise WeightsError(f'{shown}: is HDF5 but not Caffe weights: "data/{name}" is no layer\'s array')
            if len(index) > 3:
                raise WeightsError(f'{shown}: is HDF5 but not Caffe weights: "data/{name}"')
            found.setdefault(layer, {})[int(index)] = reader.read(item)
        for name in data if empty else ():
            item = reader.get(data, name)
            if isinstance(item, h5py.Group) and not len(item):
                found[name] = {}
    return {
        layer: [arrays.get(i, np.empty(0, np.float32)) for i in range(max(arrays, default=-1) + 1)]
        for layer, arrays in found.items()
    }


def _what_instead(file: h5py.File) -> str:
    names = sorted(file)
    if "history" in names:
        return "it is a solver state"
    if "data" in names:
        return '"data" is a dataset, as in a training database'
    return f'there is no group "data", only {", ".join(names[:4]) or "nothing"}'


def _write_hdf5(
    path: str | os.PathLike[str],
    net_param: caffe_pb2.NetParameter,
    blobs: Mapping[str, Sequence[npt.ArrayLike]],
    diffs: Mapping[str, Sequence[npt.ArrayLike]] | None,
) -> None:
    owned = set()  # names of shared parameters that have an owner
    with atomic_write(path) as temporary, new_hdf5(temporary) as file:
        data = file.create_group("data")
        diff = file.create_group("diff") if diffs is not None else None
        for layer in net_param.layer:
            groups = [(_layer_group(path, data, layer.name), blobs)]
            if diff is not None and diffs is not None:
                groups.append((_layer_group(path, diff, layer.name), diffs))
            for index in range(len(blobs.get(layer.name, ()))):
                shared_name = layer.param[index].name if index < len(layer.param) else ""
                for group, arrays in groups:
                    if layer.name not in arrays or (arrays is blobs and shared_name in owned):
                        continue
                    if str(index) in group:
                        raise _name_error(path, layer.name)
                    group.create_dataset(str(index), data=np.asarray(arrays[layer.name][index], np.float32))
                if shared_name:
                    owned.add(shared_name)


def _layer_group(path: str | os.PathLike[str], parent: h5py.Group, layer: str) -> h5py.Group:
    """The group of a layer; a ``/`` in its name makes nested groups, which Caffe itself cannot write."""
    # HDF5 drops empty parts and ".", and a leading "/" means the file's root
    if any(part in ("", ".") for part in layer.split("/")) or "\0" in layer:
        raise _name_error(path, layer)
    if isinstance(parent.get(layer, None), h5py.Dataset):
        raise _name_error(path, layer)
    try:
        return parent.require_group(layer)
    except (TypeError, ValueError):  # a part of the name is an array of another layer
        raise _name_error(path, layer) from None


def _name_error(path: str | os.PathLike[str], layer: str) -> WeightsError:
    return WeightsError(
        f'{os.fspath(path)}: layer "{layer}" has no place in HDF5 (its name is no path there, or is that of '
        "another layer or its array): rename it or use a .caffemodel"
    )
