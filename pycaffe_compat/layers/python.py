"""Layers written in Python for Caffe: classes with setup, reshape, forward and backward on numpy arrays."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..blob import Blob, BlobVec, ParameterBlob, RawBlobVec
from ..errors import CaffeError, NetError
from ..proto import caffe_pb2
from .base import Layer, register


class _Phase(int):
    """A number as in Caffe, which calls itself TRAIN or TEST as in the fork that py-faster-rcnn's layers are for."""

    def __str__(self) -> str:
        return caffe_pb2.Phase.Name(int(self))


class PythonLayer:
    """Base of layers written in Python (``caffe.Layer`` there).

    Attributes:
        param_str: the string that the net gives. (``param_str_`` in layers of before 2015.)
        phase: TRAIN (0) or TEST (1).
        blobs: the parameters; ``add_blob(*shape)`` in ``setup`` adds one of zeros.
    """

    type = "Python"
    param_str: str = ""
    param_str_: str = ""
    phase: int = 1
    blobs: BlobVec

    def __init__(self, param: Any = None) -> None:
        """param: the LayerParameter, for classes that look at it in a constructor of their own."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Called once when the net is built."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes; called before every forward."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write ``top[i].data``."""

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Write ``bottom[i].diff`` where ``propagate_down[i]``; add to ``self.blobs[i].diff``."""


class _Bridge(torch.autograd.Function):
    """Runs a Python layer's numpy protocol inside autograd. The parameters are inputs only to be asked about: the
    layer adds to their diff itself."""

    @staticmethod
    def forward(ctx: Any, layer: Python, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        bottom = RawBlobVec(Blob() for _ in range(count))
        for name, blob, tensor in zip(layer.param.bottom, bottom, tensors, strict=False):
            if name in layer.param.top:
                blob.store_data(tensor)
            else:
                blob.adopt_data(tensor)  # what the layer writes into its bottoms stays there, as in Caffe
        top = layer.tops_for(bottom)
        with layer.users_code():
            layer.user.reshape(bottom, top)
            layer.user.forward(bottom, top)
        ctx.layer, ctx.bottom, ctx.top = layer, bottom, top
        device = tensors[0].device if tensors else torch.device("cpu")
        return tuple(torch.from_numpy(blob.data.copy()).to(device) for blob in top)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, bottom, top = ctx.layer, ctx.bottom, ctx.top
        for blob, grad in zip(top, grads, strict=True):
            blob.diff[...] = grad.detach().cpu().numpy()
        wanted = list(ctx.needs_input_grad[2 : 2 + len(bottom)])
        with layer.users_code():
            layer.user.backward(top, wanted, bottom)
        diffs = [b.diff_tensor.to(grads[0].device) if w else None for b, w in zip(bottom, wanted, strict=True)]
        return (None, None, *diffs, *[None] * (len(ctx.needs_input_grad) - 2 - len(bottom)))


@register("Python", param="python_param", bottoms=(0, None), tops=(0, None), inplace=True)
class Python(Layer):
    """A layer of the user's own: ``module`` is imported and its class ``layer`` built."""

    no_onnx = "it runs Python code of the user's own"
    gradient = "the user's"
    user: PythonLayer

    def setup(self, *bottoms: Tensor) -> None:
        s = self.settings
        try:
            module = importlib.import_module(s.module)
        except ImportError as error:
            missing_caffe = error.name == "caffe"
            cure = "call pycaffe_compat.install_as_caffe()" if missing_caffe else "is its folder on PYTHONPATH?"
            raise NetError(f'module "{s.module}" cannot be imported ({error}): {cure}') from error
        cls = getattr(module, s.layer, None)
        if cls is None:
            raise NetError(f'module "{s.module}" ({module.__file__}) has no class "{s.layer}"')
        self.top_blobs = [Blob() for _ in self.param.top]
        bottom = RawBlobVec(Blob(b.shape) for b in bottoms)
        with self.users_code():
            self.user = cls(self.param)
            self.user.param_str = self.user.param_str_ = s.param_str
            self.user.phase, self.user.blobs = _Phase(self.phase), BlobVec(self)
            self.user.setup(bottom, self.tops_for(bottom))

    def add_array(self, shape: Sequence[int]) -> ParameterBlob:
        """A new parameter of zeros, as the user's class sees it. Unlike other layers' it is real at once."""
        name = f"blob{len(self.blob_names)}"
        self.add_blob(name, shape)
        self.register_parameter(name, nn.Parameter(torch.zeros(tuple(shape))))
        return ParameterBlob(self, name)

    def fill(self) -> None:
        """Nothing to do: the user's ``setup`` has written its values already."""

    def tops_for(self, bottom: Sequence[Blob]) -> RawBlobVec:
        """The top blobs; one that works in place is the bottom itself."""
        own = dict(zip(self.param.bottom, bottom, strict=True))
        return RawBlobVec(own.get(name, blob) for name, blob in zip(self.param.top, self.top_blobs, strict=True))

    @contextmanager
    def users_code(self) -> Iterator[None]:
        """What goes wrong in the user's own code stays what it is, and says in which layer of which net."""
        try:
            yield
        except CaffeError as error:
            raise type(error)(f"{self.label}: {error}") from error
        except Exception as error:
            if self.label not in getattr(error, "__notes__", ()):
                error.add_note(self.label)
            raise

    def infer(self, *bottoms: Tensor) -> Sequence[Tensor]:
        bottom = RawBlobVec(Blob(b.shape) for b in bottoms)
        top = self.tops_for(bottom)
        with self.users_code():
            self.user.reshape(bottom, top)
        return [torch.empty(blob.shape, device="meta") for blob in top]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return _Bridge.apply(self, len(bottoms), *bottoms, *self.blobs)
