"""Layers that bring data into the net."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import log
from ..data import AnnotatedSource, HDF5Source, ImageSource, LMDBSource, MemorySource, WindowSource
from ..data.augment import FIELDS, AnnotatedTransformer
from ..data.prefetch import Batches
from ..data.transform import Transformer
from ..errors import DataError, NetError
from ..memory import physical_memory
from ..proto import caffe_pb2
from ..proto.dialects import settings_of
from ..proto.fields import given
from . import fillers
from .base import Layer, register


@register("Input", param="input_param", bottoms=0, tops=(1, None))
class Input(Layer):
    """Blobs that the caller fills: their shapes are what the net is built for; other sizes may be given later. Without
    a shape a blob has no dimensions until then."""

    gradient = "no"

    def infer(self, *bottoms: Tensor) -> Sequence[Tensor]:
        shapes, tops = self.settings.shape, len(self.param.top)
        if len(shapes) not in (0, 1, tops):
            raise NetError(f"{len(shapes)} shape for {tops} tops: give input_param one shape, or one a top")
        if any(d < 0 for shape in shapes for d in shape.dim):
            raise NetError("input_param: a dimension is negative")
        dims = [tuple(shape.dim) for shape in shapes] or [()]
        return [torch.empty(dims[i % len(dims)], device="meta") for i in range(tops)]


class DataLayer(Layer):
    """Base of layers that read a source of their own: ``source.next()`` gives a batch, one array a top."""

    gradient = "no"
    no_onnx = "it reads a source of its own: choose the phase and stage whose data come from an Input layer"
    source: Batches

    def path(self) -> str:
        """Where the data are.

        Raises:
            NetError: the file does not say.
        """
        if not self.settings.source:
            raise NetError("source is missing: say where the data are")
        return str(self.settings.source)

    def open(self, source: Batches) -> None:
        self.source = source
        self.reads += source.reads

    def seed(self) -> int:
        """Drawn from the generator that random_seed sets, so that a seeded run shuffles, crops and mirrors alike."""
        return int(torch.randint(2**31, ()))

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
        self.open(HDF5Source(self.path(), list(self.param.top), s.batch_size, s.shuffle, self.seed(), self.label))


class ImageLayer(DataLayer):
    """Base of the layers whose images go through ``transform_param``."""

    moved: tuple[str, ...] = ("scale", "mean_file", "crop_size", "mirror")
    """Fields of the layer's own message that Caffe of before 2014 had instead."""

    def transformer(self) -> Transformer:
        """The transformation, after a check of the settings."""
        self.check_settings()
        for name in FIELDS:
            if given(self.param.transform_param, name) is not None:
                raise NetError(f"transform_param: {name} is for AnnotatedData layers")
        return Transformer(self.param.transform_param, self.phase == caffe_pb2.TRAIN)

    def warn(self, message: str) -> None:
        log.warning(f"{self.label}: {message}", "base_data_layer.cpp:22")

    def check_settings(self) -> None:
        for name in self.moved:
            if self.settings.HasField(name):
                target = "force_color" if name == "force_encoded_color" else name
                self.warn(
                    f"{name} is not read from here, by Caffe neither: write transform_param {{ {target}: ... }}, or "
                    "delete it"
                )
        if self.settings.batch_size < 1:
            raise NetError(f"batch_size {self.settings.batch_size} is not positive")


class DatabaseLayer(ImageLayer):
    """Base of the layers with a ``data_param``.

    What lies at ``source`` is read, whatever ``backend`` says (Caffe's default is LEVELDB): a LevelDB is to be copied
    into an LMDB once. ``rand_skip`` is deprecated in Caffe's schema and not read, as in the last Caffe; nor is
    ``prefetch``: some batches are always made ahead.
    """

    moved = (*ImageLayer.moved, "force_encoded_color")


@register("Data", param="data_param", bottoms=0, tops=(1, 2))
class Data(DatabaseLayer):
    """Records of an LMDB in the order of their keys, round and round: images and, with a second top, labels."""

    def setup(self, *bottoms: Tensor) -> None:
        s, tops = self.settings, len(self.param.top)
        transformer = self.transformer()
        self.open(LMDBSource(self.path(), transformer, s.batch_size, tops, seed=self.seed(), where=self.label))


@register("AnnotatedData", param="data_param", bottoms=0, tops=(1, 2), fork="SSD")
class AnnotatedData(DatabaseLayer):
    """Records of an LMDB of AnnotatedDatum, round and round: images and, with a second top, their objects, see
    :class:`~pycaffe_compat.data.annotated.AnnotatedSource`.

    What is done to them, by ``transform_param`` and ``batch_sampler``, stands in :mod:`pycaffe_compat.data.augment`.
    ``label_map_file`` is not read, as in the original: the records hold the labels' numbers.
    """

    def setup(self, *bottoms: Tensor) -> None:
        s, more = self.settings, settings_of(self.param, "annotated_data_param")
        self.check_settings()
        train = self.phase == caffe_pb2.TRAIN
        self.open(
            AnnotatedSource(
                self.path(),
                AnnotatedTransformer(self.param.transform_param, train, more.batch_sampler),
                s.batch_size,
                len(self.param.top),
                boxes=more.HasField("anno_type"),
                seed=self.seed(),
                where=self.label,
            )
        )


@register("ImageData", param="image_data_param", bottoms=0, tops=2)
class ImageData(ImageLayer):
    """Images that a text file lists with their labels, in its order or shuffled for each epoch."""

    def setup(self, *bottoms: Tensor) -> None:
        s = self.settings
        transformer = self.transformer()
        if bool(s.new_height) != bool(s.new_width):
            raise NetError("image_data_param: new_height and new_width go together: give both or none")
        self.open(
            ImageSource(
                self.path(),
                transformer,
                s.batch_size,
                len(self.param.top),
                root=s.root_folder,
                size=(s.new_height, s.new_width),
                color=s.is_color,
                shuffle=s.shuffle,
                rand_skip=s.rand_skip,
                seed=self.seed(),
                where=self.label,
            )
        )


@register("WindowData", param="window_data_param", bottoms=0, tops=2)
class WindowData(ImageLayer):
    """Windows cut from images, warped to ``crop_size``: background windows first, then foreground ones.

    Crop, mirror and mean are those of ``transform_param``, the scale that of ``window_data_param``.
    """

    moved = ("mean_file", "crop_size", "mirror")

    def setup(self, *bottoms: Tensor) -> None:
        s = self.settings
        transformer = self.transformer()
        if transformer.scale != 1:
            self.warn("scale is not read from transform_param, by Caffe neither: write it in window_data_param")
        self.open(
            WindowSource(
                self.path(),
                transformer,
                s.batch_size,
                scale=s.scale,
                thresholds=(s.fg_threshold, s.bg_threshold),
                fg_fraction=s.fg_fraction,
                context_pad=s.context_pad,
                crop_mode=s.crop_mode,
                root=s.root_folder,
                cache_images=s.cache_images,
                seed=self.seed(),
                where=self.label,
            )
        )


@register("MemoryData", param="memory_data_param", bottoms=0, tops=2)
class MemoryData(DataLayer):
    """Arrays that the caller hands over (``net.set_input_arrays``), a batch at a time, round and round.

    They are taken as they are: ``transform_param`` does not touch them, as in Caffe.
    """

    source: MemorySource

    def setup(self, *bottoms: Tensor) -> None:
        s = self.settings
        try:
            self.open(MemorySource((s.batch_size, s.channels, s.height, s.width), self.label))
        except DataError as error:
            raise NetError(f"memory_data_param: {str(error).removeprefix(f'{self.label}: ')}") from error

    def reset(self, data: Any, labels: Any) -> None:
        """Read from these arrays from now on: data N x channels x height x width, N labels.  Raises DataError."""
        self.source.reset(data, labels)


class _Fillings:
    """DummyData's source: its tops filled anew for each batch, from PyTorch's global generator."""

    reads: list[str] = []

    def __init__(self, shapes: Sequence[tuple[int, ...]], settings: Sequence[Any]) -> None:
        self.shapes, self.fillers = list(shapes), settings
        if all(4 * prod(shape) <= physical_memory() for shape in shapes):  # else the graph refuses it
            self.next()  # what is wrong with a filler shows now

    def next(self) -> list[Any]:
        return [fillers.fill(f, shape).numpy() for f, shape in zip(self.fillers, self.shapes, strict=True)]

    def state_dict(self) -> dict[str, int]:
        return {}  # the generator's state is saved with the training

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@register("DummyData", param="dummy_data_param", bottoms=0, tops=(1, None))
class DummyData(DataLayer):
    """Blobs filled by fillers (constant 0 without one): random ones anew for each batch."""

    source: _Fillings

    def setup(self, *bottoms: Tensor) -> None:
        s = self.settings
        old = {name: list(getattr(s, name)) for name in ("num", "channels", "height", "width")}
        if s.shape and any(old.values()):
            raise NetError("dummy_data_param: shape excludes the older num, channels, height, width")
        if any(old.values()):
            shapes = list(zip(*(self._a_top(dims, name) for name, dims in old.items()), strict=True))
        else:
            shapes = self._a_top([tuple(shape.dim) for shape in s.shape], "shape")
        if any(d < 0 for shape in shapes for d in shape):
            raise NetError("dummy_data_param: a dimension is negative")
        self.open(_Fillings(shapes, self._a_top(list(s.data_filler) or [None], "data_filler")))

    def _a_top(self, given: list[Any], what: str) -> list[Any]:
        """One value a top, of which one for all may be given."""
        tops = len(self.param.top)
        if len(given) not in (1, tops):
            raise NetError(f"dummy_data_param: {len(given)} {what} for {tops} tops: give one, or one a top")
        return given * tops if len(given) == 1 else given

    def constant(self, top: int) -> bool:
        """Whether this top is filled once, when a Net is built."""
        filler = self.source.fillers[top]
        return filler is None or filler.type == "constant"

    def filled(self, top: int, shape: tuple[int, ...]) -> Tensor:
        """New values for this top, in a shape that may be another than the file's."""
        return fillers.fill(self.source.fillers[top], shape)
