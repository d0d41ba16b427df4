"""What every layer type shares: the base class and the registry.

A layer type is a registry row and a small class. The row says what the net file may write (the parameter message, how
many bottoms and tops, whether the layer may work in place); the class creates its parameters in :meth:`Layer.setup`
and computes its tops in :meth:`Layer.forward`. Gradients come from autograd, shapes from running ``forward`` on
PyTorch's meta device, ONNX from PyTorch's exporter: a layer's meaning is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..naming import unknown
from ..proto.dialects import settings_of
from . import fillers


@dataclass(frozen=True)
class LayerType:
    """One row of the registry: what a net file may write for this type."""

    name: str
    cls: type[Layer]
    param: str | None
    """Name of its message in LayerParameter, e.g. ``convolution_param``; None when it has none."""
    bottoms: tuple[int, int | None]
    """Least and largest number of bottoms (None: no limit)."""
    tops: tuple[int, int | None]
    same_count: bool
    """As many tops as bottoms, the i-th computed from the i-th (Convolution)."""
    inplace: bool
    """Whether a top may bear its bottom's name."""
    fork: str = ""
    """Which fork of Caffe has the type; empty for stock Caffe's."""


REGISTRY: dict[str, LayerType] = {}
UNSUPPORTED: dict[str, str] = {
    "VideoData": "cameras and video files are not read: give its frames to an Input layer",
}
"""Known types that are not here, and what to do instead."""


def register(
    name: str,
    *,
    param: str | None = None,
    bottoms: int | tuple[int, int | None] = 1,
    tops: int | tuple[int, int | None] = 1,
    same_count: bool = False,
    inplace: bool = False,
    fork: str = "",
) -> Callable[[type[Layer]], type[Layer]]:
    """Class decorator: adds a layer type to the registry.

    Raises:
        NetError: the type is registered already.
    """

    def add(cls: type[Layer]) -> type[Layer]:
        if name in REGISTRY:
            raise NetError(f'layer type "{name}" is registered already, by {REGISTRY[name].cls.__qualname__}')
        REGISTRY[name] = LayerType(name, cls, param, _range(bottoms), _range(tops), same_count, inplace, fork)
        return cls

    return add


def _range(n: int | tuple[int, int | None]) -> tuple[int, int | None]:
    return (n, n) if isinstance(n, int) else n


def lookup(name: str) -> LayerType:
    """The registry row of a type; NetError with the nearest known name, or why it is missing, when there is none."""
    if name in UNSUPPORTED and name not in REGISTRY:
        raise NetError(f'layer type "{name}" is not supported: {UNSUPPORTED[name]}')
    if name not in REGISTRY:
        raise NetError(unknown("layer type", name, sorted(REGISTRY)))
    return REGISTRY[name]


class Layer(nn.Module):
    """Base of all layers.

    ``setup`` reads the messages, ``check`` the bottoms' shapes; ``forward`` uses plain attributes only, so that
    ``torch.compile`` can follow it.

    Attributes:
        settings: the layer's own message (``convolution_param``, ...), or None.
        inplace: the graph sets it where overwriting the bottom is safe; a layer may use it to save memory.
        label: how messages name the layer, with file and line; for errors that come up after the net is built.
        reads, writes: files that the layer reads (or has read, when it was built) and writes; none may be in both.
    """

    default_loss_weight = 0.0
    """1 in loss layers: what each first top weighs when the net file does not say."""
    auto_tops = False
    """Whether the file may leave out tops that nobody reads (a loss's): the graph names them ``(automatic)``."""
    gradient = "yes"
    """Whether a gradient goes through it: yes, no, or whose."""
    no_onnx = ""
    """Why the type has no form in ONNX; empty when it has one."""
    keeps_shape = False
    """The top is like the bottom in shape and type: nothing has to be run to know it."""
    axes_of_one_behind = False
    """Whether weights fit its blobs whatever number of axes of 1 they have at the end."""
    fresh_output = False
    """The output is newly allocated and not needed for this layer's own gradient: the next layer may overwrite it."""
    forced_bottoms: Callable[[int], bool] = staticmethod(lambda index: True)
    """Whether ``force_backward`` reaches bottom number ``index`` (it does not reach a loss layer's label)."""
    refuses_gradient = False
    """Whether training must not need a gradient for the other bottoms (without a gradient: for any). Caffe stops in
    backward; where this is False it goes on without one."""

    def __init__(self, param: Any, phase: int) -> None:
        super().__init__()
        row = lookup(param.type)
        self.param = param
        self.phase = phase
        self.settings: Any = settings_of(param, row.param) if row.param else None
        self.inplace = False
        self.label = f'layer "{param.name}" ({param.type})'
        self.reads: list[str] = []
        self.writes: list[str] = []
        self.blob_names: list[str] = []
        self._fillers: list[Any] = []

    def add_blob(self, name: str, shape: Sequence[int], filler: Any = None) -> None:
        """Declare the next parameter blob; it is filled when the shapes of the whole layer are known to work."""
        self.register_parameter(name, nn.Parameter(torch.empty(tuple(shape), device="meta")))
        self.blob_names.append(name)
        self._fillers.append(filler)

    def fill(self) -> None:
        """Allocate the declared parameters and fill them from PyTorch's global random generator."""
        for name, filler in zip(self.blob_names, self._fillers, strict=True):
            shape = tuple(getattr(self, name).shape)
            setattr(self, name, nn.Parameter(fillers.fill(filler, shape)))

    @property
    def blobs(self) -> list[Tensor]:
        """The parameter blobs, in Caffe's order."""
        return [getattr(self, name) for name in self.blob_names]

    def setup(self, *bottoms: Tensor) -> None:
        """Check the settings and declare the parameters. ``bottoms`` are meta tensors: only their shapes are real."""

    def check(self, *bottoms: Tensor) -> None:
        """Refuse shapes that do not go together, where ``forward`` would compute something else than an error.

        Called behind ``setup``, and before ``forward`` where the bottoms have come in other shapes (not inside
        ``torch.compile``, whose graphs are for the shapes that they were made with). Only the shapes may be read, and
        nothing be kept: ``forward`` may be called with others.
        """

    def infer(self, *bottoms: Tensor) -> Sequence[Tensor]:
        """Shapes of the tops, as meta tensors: by running ``forward`` there, on copies of the blobs without values."""
        if self.keeps_shape:
            return (torch.empty_like(bottoms[0]),)
        own = [*self.named_parameters(), *self.named_buffers()]
        meta = {name: torch.empty_like(value, device="meta") for name, value in own}
        with torch.no_grad():
            return as_tuple(torch.func.functional_call(self, meta, bottoms))

    def gives_gradient(self, index: int) -> bool:
        """Whether training may need a gradient for bottom number ``index``."""
        return not self.refuses_gradient or (self.gradient != "no" and self.forced_bottoms(index))

    def forget(self) -> None:
        """Forget what earlier forwards left behind (the state of LSTM and RNN)."""

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        raise NotImplementedError(f"{type(self).__name__} does not say what it computes")


def as_tuple(tops: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One tensor or several, as a tuple."""
    return (tops,) if isinstance(tops, Tensor) else tuple(tops)


def canonical_axis(axis: int, ndim: int) -> int:
    """A possibly negative axis as 0..ndim-1.

    Raises:
        NetError: the blob has no such axis.
    """
    if not -ndim <= axis < ndim:
        raise NetError(f"axis {axis} does not exist in a blob of {ndim} dimensions")
    return axis % ndim


def fixed(sizes: Sequence[int]) -> list[int]:
    """The sizes as plain numbers. A net that is exported with sizes left open is fixed to these."""
    return [int(n) for n in sizes]


