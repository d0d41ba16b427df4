"""Layers that write what reaches them to a file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, NetError
from .base import Layer, register, shape_text


@register("HDF5Output", param="hdf5_output_param", bottoms=2, tops=0)
class HDF5Output(Layer):
    """Writes its bottoms to the datasets "data" and "label" of an HDF5 file, float32, four dimensions each.

    The first forward replaces the file, each later one adds its rows (the original ends with an error at the second).
    Between forwards the file holds all rows so far and is closed; while rows are written it bears a hidden name beside
    its own. So a run that is killed leaves a whole file, or, if killed within a write, none (and the hidden ``.tmp``,
    which may be damaged).
    """

    no_onnx = "it writes a file of its own"
    gradient = "no"

    def setup(self, data: Tensor, label: Tensor) -> None:  # type: ignore[override]
        if not self.settings.file_name:
            raise NetError("hdf5_output_param: give a file_name")
        for name, bottom in zip(self.param.bottom, (data, label), strict=True):
            if not 1 <= bottom.ndim <= 4:
                raise NetError(f'bottom "{name}" of shape {shape_text(bottom.shape)} must have 1 to 4 dimensions')
        self._check_rows(data, label)
        self.path = Path(self.settings.file_name)
        self.writes.append(self.settings.file_name)
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
                os.replace(self.path, hidden)
            try:
                with h5py.File(hidden, "r+" if self.begun else "w") as h5:
                    if self.begun:
                        self._append(h5, rows)
                    else:
                        for name, values in rows.items():
                            h5.create_dataset(name, data=values, chunks=True, maxshape=(None, *values.shape[1:]))
            except DataError:
                os.replace(hidden, self.path)  # nothing was written
                raise
            os.replace(hidden, self.path)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            raise DataError(f"{self.label}: {self.path}: cannot be written: {reason}") from error
        self.begun = True

    def _append(self, h5: h5py.File, rows: dict[str, np.ndarray]) -> None:
        for name, values in rows.items():
            if h5[name].shape[1:] != values.shape[1:]:
                shapes = f"{shape_text(values.shape[1:])} after {shape_text(h5[name].shape[1:])}"
                raise DataError(f'{self.label}: {self.path}: rows of "{name}" have changed their shape: {shapes}')
        for name, values in rows.items():
            dataset = h5[name]
            begin = dataset.shape[0]
            dataset.resize(begin + len(values), axis=0)
            dataset[begin:] = values
