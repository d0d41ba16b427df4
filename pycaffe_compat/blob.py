"""A blob as pycaffe shows it: ``data`` and ``diff`` as live, writable float32 arrays.

Live means: an array once handed out is the blob's memory. It shows what the next forward or backward pass writes, and
what is written into it is what the next layer reads, forward and backward, as long as the blob keeps its shape. Nothing
is copied for arrays that nobody looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import numpy as np
import torch
from torch import Tensor, nn

from .errors import NetError


class _Memory:
    """One of a blob's two arrays. Until somebody looks it is the tensor stored last; then memory of its own."""

    def __init__(self, shape: Sequence[int], fill: float = 0.0) -> None:
        self.shape = tuple(shape)
        self._fill = fill
        self._tensor: Tensor | None = None
        self.is_shown = False

    @property
    def tensor(self) -> Tensor:
        if self._tensor is None:
            self._tensor = torch.full(self.shape, self._fill)
        return self._tensor

    def show(self) -> np.ndarray:
        if not self.is_shown:
            self._tensor = self.tensor.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
            self.is_shown = True
        return self.tensor.numpy()

    def store(self, value: Tensor) -> None:
        value = value.detach()
        if tuple(value.shape) != self.shape:
            self.shape, self.is_shown = tuple(value.shape), False
        if self.is_shown:
            # .data: the tensors that autograd saved of this memory shall see the new contents, as Caffe's layers do.
            self.tensor.data.copy_(value)
        else:
            self._tensor = value

    def adopt(self, value: Tensor) -> None:
        self.store(value)
        # Where numpy can show the tensor as it lies in memory, no copy is needed to show it.
        self.is_shown = value.device.type == "cpu" and value.dtype == torch.float32 and value.is_contiguous()

    def reshape(self, shape: tuple[int, ...]) -> None:
        if shape == self.shape:
            return
        if self._tensor is not None:
            if self._tensor.numel() == int(np.prod(shape)):
                self._tensor = self._tensor.reshape(shape)  # the same memory, as in Caffe
            else:
                self._tensor, self.is_shown = None, False
        self.shape = shape


class Blob:
    """A net's blob.

    Args:
        shape: its first shape.
        loss_weight: what its ``diff`` holds until somebody writes there; Caffe starts backward from it.
    """

    def __init__(self, shape: Sequence[int] = (), loss_weight: float = 0.0) -> None:
        self._data = _Memory(shape)
        self._diff = _Memory(shape, loss_weight)

    @property
    def data(self) -> np.ndarray:
        """The values, writable."""
        return self._data.show()

    @property
    def diff(self) -> np.ndarray:
        """The gradients, writable; zeros (in a loss: its weight) until something is written."""
        self._diff.reshape(self.shape)
        return self._diff.show()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    def reshape(self, *shape: int) -> None:
        """Change the shape. Values stay where the count does; otherwise they are undefined, as in Caffe."""
        self._data.reshape(_dims(shape))

    # ---- for the net that computes with it

    @property
    def data_tensor(self) -> Tensor:
        return self._data.tensor

    @property
    def data_is_shown(self) -> bool:
        """Whether somebody holds the array and may write into it."""
        return self._data.is_shown

    @property
    def diff_tensor(self) -> Tensor:
        self._diff.reshape(self.shape)
        return self._diff.tensor

    def store_data(self, value: Tensor) -> None:
        """Take over new values: into the memory that was handed out, while the shape stays."""
        self._data.store(value)

    def adopt_data(self, value: Tensor) -> None:
        """Be another blob's values: what is written here is written there."""
        self._data.adopt(value)

    def store_diff(self, value: Tensor) -> None:
        """Take over new gradients, likewise."""
        self._diff.reshape(self.shape)
        self._diff.store(value)

    # ---- the shape, by its older names

    @property
    def count(self) -> int:
        return int(np.prod(self.shape))

    def _legacy(self, axis: int) -> int:
        if len(self.shape) > 4:
            raise NetError(f"a blob of {len(self.shape)} dimensions has no num, channels, height and width: use shape")
        return self.shape[axis] if axis < len(self.shape) else 1

    @property
    def num(self) -> int:
        return self._legacy(0)

    @property
    def channels(self) -> int:
        return self._legacy(1)

    @property
    def height(self) -> int:
        return self._legacy(2)

    @property
    def width(self) -> int:
        return self._legacy(3)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of shape {self.shape}>"


class ParameterBlob(Blob):
    """A layer's parameter: its arrays are the memory of the parameter itself, so that writing changes the layer.

    Args:
        layer, name: whose parameter. Looked up each time, because sharing weights puts another net's in its place.
    """

    def __init__(self, layer: nn.Module, name: str) -> None:
        self._layer, self._name = layer, name

    def _find(self) -> tuple[nn.Parameter, tuple[int, ...]]:
        """The parameter, and the shape under which the layer uses it: a shared one may have another."""
        mine = getattr(self._layer, self._name)
        owner = mine if isinstance(mine, nn.Parameter) else mine._base
        return owner, tuple(mine.shape)

    @property
    def data(self) -> np.ndarray:
        """The values, writable."""
        parameter, shape = self._find()
        return parameter.detach().view(shape).numpy()

    @property
    def diff(self) -> np.ndarray:
        """The gradients, writable; after a solver's step the update that it made."""
        return self.diff_tensor.numpy()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._find()[1]

    def reshape(self, *shape: int) -> None:
        """Change the parameter's shape; values stay in their order as far as they go, new ones are zero."""
        parameter, mine = self._find()
        shape = _dims(shape)
        if shape == mine:
            return
        if mine != tuple(parameter.shape):
            raise NetError("this parameter is shared under another shape: reshape its owner")
        values = torch.zeros(int(np.prod(shape)))
        kept = parameter.detach().reshape(-1)[: values.numel()]
        values[: kept.numel()] = kept
        # In place: every layer and solver that holds the parameter goes on with it.
        parameter.grad = None
        parameter.data = values.reshape(shape)

    @property
    def data_tensor(self) -> Tensor:
        parameter, shape = self._find()
        return parameter.detach().view(shape)

    @property
    def diff_tensor(self) -> Tensor:
        parameter, shape = self._find()
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad.view(shape)


class RawBlobVec(list[Blob]):
    """A Python layer's bottoms or tops."""


class BlobVec(list[ParameterBlob]):
    """A layer's parameters, as ``net.params`` and a layer's ``blobs`` show them."""

    def __init__(self, layer: nn.Module, names: Sequence[str] = ()) -> None:
        super().__init__(ParameterBlob(layer, name) for name in names)
        self._layer = layer

    def add_blob(self, *shape: int) -> None:
        """Add one of zeros: what a layer written in Python does in its ``setup``."""
        add = getattr(self._layer, "add_array", None)
        if add is None:
            raise NetError("add_blob: only layers written in Python declare parameters so, in their setup")
        self.append(add(_dims(shape)))


def _dims(shape: Sequence[int]) -> tuple[int, ...]:
    for dim in shape:
        if isinstance(dim, (tuple, list)):
            raise NetError(f"reshape takes the dimensions one by one: reshape(*{dim})")
        if dim < 0:
            raise NetError(f"reshape: dimension {dim} is negative")
    return tuple(index(dim) for dim in shape)  # TypeError for what is no whole number
