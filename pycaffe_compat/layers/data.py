"""Layers that bring data into the net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.hdf5 import HDF5Source
from ..errors import NetError
from .base import Layer, register


@register("Input", param="input_param", bottoms=0, tops=(1, None))
class Input(Layer):
    """Blobs that the caller fills: their shapes are what the net is built for; other sizes may be given later."""

    gradient = "no"

    def infer(self, *bottoms: Tensor) -> Sequence[Tensor]:
        shapes, tops = self.settings.shape, len(self.param.top)
        if len(shapes) not in (1, tops):
            raise NetError(f"{len(shapes)} shape for {tops} tops: give input_param one shape, or one a top")
        if any(d < 0 for shape in shapes for d in shape.dim):
            raise NetError("input_param: a dimension is negative")
        return [torch.empty(tuple(shapes[i % len(shapes)].dim), device="meta") for i in range(tops)]


class DataLayer(Layer):
    """Base of layers that read a source of their own: ``source.next()`` gives a batch, one array a top."""

    gradient = "no"
    no_onnx = "it reads a source of its own: choose the phase and stage whose data come from an Input layer"
    source: HDF5Source

    def infer(self, *bottoms: Tensor) -> Sequence[Tensor]:
        return [torch.empty(shape, device="meta") for shape in self.source.shapes]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array) for array in self.source.next())


@register("HDF5Data", param="hdf5_data_param", bottoms=0, tops=(1, None))
class HDF5Data(DataLayer):
    """Rows of HDF5 files: the source file lists them, the dataset named as a top fills it."""

    def setup(self, *bottoms: Tensor) -> None:
        s = self.settings
        if self.param.HasField("transform_param"):
            raise NetError("transform_param does not apply to HDF5Data: scale by a Power layer behind it")
        if s.batch_size < 1:
            raise NetError(f"hdf5_data_param: batch_size {s.batch_size} is not positive")
        # Drawn from the generator that random_seed sets, so that a seeded run shuffles alike.
        seed = int(torch.randint(2**31, ()))
        self.source = HDF5Source(s.source, list(self.param.top), s.batch_size, s.shuffle, seed, self.label)
