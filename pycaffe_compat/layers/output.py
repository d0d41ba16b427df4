"""Layers that write what reaches them to a file."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from math import prod
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, NetError
from ..naming import one_line, shape_text
from ..proto.hdf5 import SIGNATURE, grown_hdf5, new_hdf5
from .base import Layer, register


@register("HDF5Output", param="hdf5_output_param", bottoms=2, tops=0)
class HDF5Output(Layer):
    """Writes its bottoms to the datasets "data" and "label" of an HDF5 file, float32, four dimensions each.

    The first forward replaces the file, each later one adds its rows (the original ends with an error at the second).
    A file that is there must be HDF5: a net shall not destroy what no such net has written.

    Between forwards the file holds all rows so far and is closed; while rows are written it bears a hidden name beside
    its own. So a run that is killed leaves a whole file, or, if killed within a write, none (and the hidden ``.tmp``,
    which may be damaged). Where the disk has no room for more rows, those of before stay.
    """

    no_onnx = "it writes a file of its own"
    gradient = "no"

    def setup(self, data: Tensor, label: Tensor) -> None:  # type: ignore[override]
        name = self.settings.file_name
        if not name:
            raise NetError("hdf5_output_param: give a file_name")
        if not _replaceable(name):
            raise NetError(
                f'hdf5_output_param: file_name "{one_line(name)}" is no HDF5 file, which this layer could replace: '
                "give another name"
            )
        for blob, bottom in zip(self.param.bottom, (data, label), strict=True):
            if not 1 <= bottom.ndim <= 4:
                raise NetError(f'bottom "{blob}" of shape {shape_text(bottom.shape)} must have 1 to 4 dimensions')
        self._check_rows(data, label)
        self.path = Path(name).absolute()  # wherever a script goes meanwhile
        self.writes.append(name)
        self.begun = False

    def infer(self, *bottoms: Tensor) -> Sequence[Tensor]:
        return ()

    def forward(self, data: Tensor, label: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        self._write(data, label)
        return ()

    def _check_rows(self, data: Tensor, label: Tensor) -> None:
        if data.shape[0] != label.shape[0]:
            raise NetError(f"{data.shape[0]} items of data, {label.shape[0]} of label: they must be equal")

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _write(self, data: Tensor, label: Tensor) -> None:
        self._check_rows(data, label)
        rows = {
            name: np.asarray(bottom.detach().cpu().float().reshape([*bottom.shape, 1, 1, 1][:4]))
            for name, bottom in (("data", data), ("label", label))
        }
        hidden = self.path.with_name(f".{self.path.name[:40]}.{secrets.token_hex(4)}.tmp")
        try:
            if self.begun:
                self._append(hidden, rows)
            else:
                self._begin(hidden, rows)
        except DataError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError) as error:  # h5py's, of a file that was changed
            reason = getattr(error, "strerror", None) or one_line(error)
            raise DataError(f"{self.label}: {self.settings.file_name}: cannot be written: {reason}") from error
        self.begun = True

    def _begin(self, hidden: Path, rows: dict[str, np.ndarray]) -> None:
        try:
            with new_hdf5(hidden) as h5:
                for name, values in rows.items():
                    h5.create_dataset(name, data=values, chunks=True, maxshape=(None, *values.shape[1:]))
            os.replace(hidden, self.path)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise

    def _append(self, hidden: Path, rows: dict[str, np.ndarray]) -> None:
        with h5py.File(self.path, "r") as h5:
            for name, values in rows.items():
                if h5[name].shape[1:] != values.shape[1:]:
                    shapes = f"{shape_text(values.shape[1:])} after {shape_text(h5[name].shape[1:])}"
                    place = f"{self.label}: {self.settings.file_name}"
                    raise DataError(f'{place}: rows of "{name}" have changed their shape: {shapes}')
            room = sum(_room(h5[name].chunks, values.shape) for name, values in rows.items())
        os.replace(self.path, hidden)
        try:
            with grown_hdf5(hidden, room) as h5:
                for name, values in rows.items():
                    dataset = h5[name]
                    begin = dataset.shape[0]
                    dataset.resize(begin + len(values), axis=0)
                    dataset[begin:] = values
        finally:
            os.replace(hidden, self.path)


def _room(chunk: Sequence[int], shape: Sequence[int]) -> int:
    """The bytes that so many more float32 values take at most, with the list of their chunks."""
    count = prod(-(-length // step) for length, step in zip(shape[1:], chunk[1:], strict=True))
    count *= shape[0] // chunk[0] + 2
    return count * (4 * prod(chunk) + 512) + 65536


def _replaceable(name: str) -> bool:
    """Whether a file of this name may be made: nothing is there, or HDF5."""
    if "\0" in name:
        return False
    if not os.path.lexists(name):
        return True
    try:
        if not stat.S_ISREG(os.lstat(name).st_mode):
            return False
        with open(name, "rb") as file:
            return file.read(len(SIGNATURE)) in (b"", SIGNATURE)
    except OSError:
        return False
