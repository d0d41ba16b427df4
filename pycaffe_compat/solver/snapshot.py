"""The solver's state on disk, in both of Caffe's formats.

A snapshot is a pair: ``<prefix>_iter_<N>.caffemodel`` (the weights) and ``.solverstate`` (the rest), or both
with ``.h5`` behind. This module reads and writes the second:

    iter          how many updates have been made
    learned_net   the path of the weights, as it was written
    history       the update rule's tensors: one a parameter, or two (first moments, then second)
    current_step  how many steps the learning rate has taken

What Caffe has no place for (where the data sources stand, the random generators) goes into one more field,
JSON text: number 5000 of the binary message, which other readers skip as protobuf demands, and the dataset
``pycaffe_compat_resume`` of the HDF5 form. A state without it is Caffe's own.
"""

import json
import mmap
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from ..errors import WeightsError
from ..naming import shape_text
from ..proto import caffe_pb2
from ..proto.binary import BYTES, array_to_blob, blob_to_array, check_size, fields, header, read_message, same_shape
from ..proto.hdf5 import SIGNATURE, new_hdf5, open_hdf5

_RESUME_FIELD = 5000
_RESUME_DATASET = "pycaffe_compat_resume"


@dataclass
class State:
    """What a .solverstate holds."""

    iteration: int
    learned_net: str
    history: list[np.ndarray]
    current_step: int = 0
    resume: dict[str, Any] = field(default_factory=dict)
    """What Caffe's format has no place for; empty in a file of Caffe's own."""


def snapshot_path(prefix: str, iteration: int, kind: str, hdf5: bool) -> str:
    """``<prefix>_iter_<iteration>.<kind>[.h5]``; kind is "caffemodel" or "solverstate"."""
    return f"{prefix}_iter_{iteration}.{kind}{'.h5' if hdf5 else ''}"


def resolve_prefix(prefix: str, solver_path: str) -> str:
    """Where snapshots go: an empty prefix means the solver file's stem, a directory that stem within it."""
    stem = os.path.splitext(solver_path)[0] or "snapshot"
    if not prefix:
        return stem
    if os.path.isdir(prefix) or prefix.endswith("/"):
        return os.path.join(prefix, os.path.basename(stem))
    return prefix


def newest_state(prefix: str) -> str | None:
    """The state of the most iterations among those with this prefix, of either format; None: there is none."""
    directory, stem = os.path.split(prefix)
    found = []
    for name in os.listdir(directory or ".") if os.path.isdir(directory or ".") else ():
        match = re.fullmatch(re.escape(stem) + r"_iter_(\d+)\.solverstate(\.h5)?", name)
        if match:
            path = os.path.join(directory, name)
            found.append((int(match[1]), os.stat(path).st_mtime, path))
    return max(found)[2] if found else None


def probe_prefix(prefix: str) -> None:
    """Find out now, not after hours of training, whether snapshots can be written; makes their directory.

    Raises OSError, naming the directory or file, where they cannot.
    """
    directory = os.path.dirname(prefix)
    if directory:
        os.makedirs(directory, exist_ok=True)
    probe = f"{prefix}.tempfile"
    created = not os.path.exists(probe)
    with open(probe, "ab"):
        pass
    if created:
        os.remove(probe)


def write_state(path: str, state: State, shown: str = "") -> None:
    """Write a state into ``path`` (a temporary name, to be renamed); HDF5 if it ends in ``.h5``.

    shown: what errors call it. WeightsError for more than a .solverstate can hold.
    """
    resume = json.dumps(state.resume, separators=(",", ":"))
    if path.endswith(".h5"):
        _write_hdf5(path, state, resume)
        return
    check_size(shown or path, sum(array.nbytes for array in state.history))
    message = caffe_pb2.SolverState(
        iter=state.iteration, learned_net=state.learned_net, current_step=state.current_step
    )
    message.history.extend(array_to_blob(array) for array in state.history)
    body = resume.encode()
    with open(path, "wb") as file:
        file.write(message.SerializeToString() + header(_RESUME_FIELD, len(body)) + body)


def read_state(path: str) -> State:
    """Read a state of either format, by its content.

    Raises WeightsError (one line that names the file) where there is none or it is broken.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(len(SIGNATURE))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    if head == SIGNATURE:
        return _read_hdf5(path)
    message = read_message(path, caffe_pb2.SolverState)
    if not message.HasField("iter"):
        raise WeightsError(f"{path}: is not a .solverstate: it holds no iteration")
    try:
        history = [blob_to_array(blob) for blob in message.history]
        with open(path, "rb") as file:
            resume = _find_resume(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (ValueError, WeightsError) as error:
        raise WeightsError(f"{path}: is damaged: {error}") from error
    return State(
        message.iter,
        message.learned_net,
        history,
        message.current_step,
        _parse_resume(path, resume),
    )


def _parse_resume(path: str, text: bytes | str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        resume = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is damaged: what resumes the data does not parse: {error}") from error
    return resume if isinstance(resume, dict) else {}


# ---------------------------------------------------------------------------------------------- protobuf form


def _find_resume(content: mmap.mmap) -> bytes:
    """Our extra field of a serialised SolverState; b"" when it has none.  Raises WireError.

    By hand, because protobuf's access to unknown fields changes with its major versions.
    """
    buffer = memoryview(content)
    for number, wire_type, at, stop in fields(buffer, 0, len(buffer)):
        if number == _RESUME_FIELD and wire_type == BYTES:
            return bytes(buffer[at:stop])
    return b""


# -------------------------------------------------------------------------------------------------- HDF5 form


def _write_hdf5(path: str, state: State, resume: str) -> None:
    with new_hdf5(path) as file:
        # Caffe reads the numbers as arrays of one and the text as a string with an end mark within its
        # length.
        file.create_dataset("iter", data=np.array([state.iteration], np.int32))
        file.create_dataset("current_step", data=np.array([state.current_step], np.int32))
        _write_text(file, "learned_net", state.learned_net)
        _write_text(file, _RESUME_DATASET, resume)
        history = file.create_group("history")
        for i, array in enumerate(state.history):
            history.create_dataset(str(i), data=np.ascontiguousarray(array, np.float32))


def _write_text(file: h5py.File, name: str, text: str) -> None:
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(text.encode()) + 1)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(text.encode(), dtype=kind.dtype), kind)


def _read_hdf5(path: str) -> State:
    with open_hdf5(path) as reader:

        def dataset(name: str) -> h5py.Dataset | None:
            item = reader.get(reader.root, name)
            return item if isinstance(item, h5py.Dataset) else None

        def number(name: str) -> int:
            item = dataset(name)
            if item is None:
                return 0
            reader.check(item)
            if item.size != 1:  # scalar or array of one: releases of Caffe differ
                raise WeightsError(f'{path}: is damaged: "{name}" holds {item.size} values, not one')
            return int(np.ravel(item[()])[0])

        def text(name: str) -> str:
            item = dataset(name)
            if item is None:
                return ""
            reader.check(item)
            value = item[()]
            return value.decode() if isinstance(value, bytes) else str(value)

        if dataset("iter") is None:
            raise WeightsError(f"{path}: is not a .solverstate: it holds no iteration")
        history = reader.get(reader.root, "history")
        arrays = dict(reader.walk(history)) if isinstance(history, h5py.Group) else {}
        return State(
            number("iter"),
            text("learned_net"),
            [reader.read(arrays[str(i)]) for i in range(len(arrays))],
            number("current_step"),
            _parse_resume(path, text(_RESUME_DATASET)),
        )


def fit_history(
    path: str, rule: str, slots: int, history: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]
) -> None:
    """Check that a history belongs to a rule with ``slots`` tensors for each of these parameter shapes.

    Old files give every shape four dimensions, with ones in front: that fits.

    Raises:
        WeightsError: it does not; says how.
    """
    expected = slots * len(shapes)
    if len(history) != expected:
        raise WeightsError(
            f"{path}: holds {len(history)} history blobs; {rule} needs {expected} for the {len(shapes)} "
            "parameters of this net: was it written by another solver type or net?"
        )
    for i, array in enumerate(history):
        shape = shapes[i % len(shapes)]
        if not same_shape(array.shape, shape):
            raise WeightsError(
                f"{path}: history blob {i} has shape {shape_text(array.shape)}, the net's parameter "
                f"{shape_text(shape)}: was it written with another net?"
            )


def locate_weights(learned_net: str, state_path: str) -> str:
    """The weights that a state names: as written, or else beside the state (a folder that was moved).

    Raises:
        WeightsError: in neither place.
    """
    beside = os.path.join(os.path.dirname(state_path), os.path.basename(learned_net))
    for path in (learned_net, beside):
        if os.path.isfile(path):
            return path
    raise WeightsError(f"{state_path}: its weights {learned_net} are not there, nor beside it as {beside}")
