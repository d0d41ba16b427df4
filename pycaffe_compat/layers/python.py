"""Layers written in Python for Caffe: classes with setup, reshape, forward and backward on numpy arrays."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import NetError
from .base import Layer, register


class ArrayBlob:
    """What a Python layer sees of a bottom or top: writable float32 ``data`` and ``diff``, and ``reshape``."""

    def __init__(self, data: np.ndarray | None = None) -> None:
        self.data = np.zeros((), np.float32) if data is None else data
        self._diff: np.ndarray | None = None

    @property
    def diff(self) -> np.ndarray:
        if self._diff is None or self._diff.shape != self.data.shape:
            self._diff = np.zeros(self.data.shape, np.float32)
        return self._diff

    def reshape(self, *shape: int) -> None:
        if self.data.shape != shape:
            self.data = np.zeros(shape, np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def count(self) -> int:
        return self.data.size

    def _axis(self, i: int) -> int:
        return self.data.shape[i] if i < self.data.ndim else 1

    @property
    def num(self) -> int:
        return self._axis(0)

    @property
    def channels(self) -> int:
        return self._axis(1)

    @property
    def height(self) -> int:
        return self._axis(2)

    @property
    def width(self) -> int:
        return self._axis(3)


class PythonLayer:
    """Base of layers written in Python (``caffe.Layer`` there).

    Attributes:
        param_str: the string that the net gives.
        phase: TRAIN (0) or TEST (1).
    """

    param_str: str = ""
    phase: int = 1

    def setup(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        """Called once when the net is built."""

    def reshape(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        """Give the tops their shapes; called before every forward."""

    def forward(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        """Write ``top[i].data``."""

    def backward(self, top: Sequence[ArrayBlob], propagate_down: Sequence[bool], bottom: Sequence[ArrayBlob]) -> None:
        """Write ``bottom[i].diff`` where ``propagate_down[i]``."""


class _Bridge(torch.autograd.Function):
    """Runs a Python layer's numpy protocol inside autograd."""

    @staticmethod
    def forward(ctx: Any, layer: Python, *bottoms: Tensor) -> tuple[Tensor, ...]:
        bottom = [ArrayBlob(np.array(b.detach().cpu().numpy(), np.float32)) for b in bottoms]
        layer.user.reshape(bottom, layer.top_blobs)
        layer.user.forward(bottom, layer.top_blobs)
        ctx.layer, ctx.bottom = layer, bottom
        device = bottoms[0].device if bottoms else torch.device("cpu")
        return tuple(torch.from_numpy(np.array(t.data, np.float32)).to(device) for t in layer.top_blobs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, bottom = ctx.layer, ctx.bottom
        for blob, grad in zip(layer.top_blobs, grads, strict=True):
            blob.diff[...] = grad.detach().cpu().numpy()
        wanted = list(ctx.needs_input_grad[1:])
        layer.user.backward(layer.top_blobs, wanted, bottom)
        diffs = (
            torch.from_numpy(b.diff).to(grads[0].device) if w else None for b, w in zip(bottom, wanted, strict=True)
        )
        return (None, *diffs)


@register("Python", param="python_param", bottoms=(0, None), tops=(0, None), inplace=True)
class Python(Layer):
    """A layer of the user's own: ``module`` is imported and its class ``layer`` built."""

    no_onnx = "it runs Python code of the user's own"
    gradient = "the user's"

    def setup(self, *bottoms: Tensor) -> None:
        s = self.settings
        try:
            module = importlib.import_module(s.module)
        except ImportError as error:
            raise NetError(f'module "{s.module}" cannot be imported ({error}): is its folder on PYTHONPATH?') from error
        try:
            cls = getattr(module, s.layer)
        except AttributeError:
            raise NetError(f'module "{s.module}" ({module.__file__}) has no class "{s.layer}"') from None
        self.default_loss_weight = 0.0
        self.user = cls()
        self.user.param_str, self.user.phase = s.param_str, self.phase
        self.top_blobs = [ArrayBlob() for _ in self.param.top]
        self.user.setup([ArrayBlob(np.zeros(tuple(b.shape), np.float32)) for b in bottoms], self.top_blobs)

    def infer(self, *bottoms: Tensor) -> Sequence[Tensor]:
        self.user.reshape([ArrayBlob(np.zeros(tuple(b.shape), np.float32)) for b in bottoms], self.top_blobs)
        return [torch.empty(top.shape, device="meta") for top in self.top_blobs]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return _Bridge.apply(self, *bottoms)
