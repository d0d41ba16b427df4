"""Lets ``import caffe`` and ``import caffe.io`` find this package, as one and the same modules.

A second name alone (``sys.modules["caffe"]``) would not do: importing a module below it would load a second copy, with
a second registry of layers and classes that are not the first ones.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

from .errors import CaffeError

_PACKAGE, _ALIAS = __package__, "caffe"


class _AliasFinder(MetaPathFinder, Loader):
    """Finds ``caffe.X`` as ``pycaffe_compat.X``; what is not there, in folders named caffe on sys.path."""

    def __init__(self) -> None:
        self._own: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{_ALIAS}."):
            return None
        own, _, name = fullname.rpartition(".")
        if own == _ALIAS and find_spec(f"{_PACKAGE}.{name}") is None:
            # A fork's own module, such as SSD's caffe/model_libs.py: its scripts put the fork's folder on sys.path.
            found = PathFinder.find_spec(fullname, [os.path.join(folder, _ALIAS) for folder in sys.path])
            if found is not None:
                return found
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        name = _PACKAGE + spec.name.removeprefix(_ALIAS)
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ModuleNotFoundError(f"No module named {spec.name!r} ({_PACKAGE} has none)", name=spec.name) from None
        self._own[module.__name__] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own[module.__name__]  # importing by a second name must not change what the module is


def install_as_caffe() -> None:
    """Let ``import caffe``, ``from caffe.proto import caffe_pb2``, ``import caffe.io`` and so on find this package.

    Scripts and Python layers that say so then run unchanged. Calling it again does nothing.

    Raises:
        CaffeError: another module of the name caffe is imported already.
    """
    package = sys.modules[_PACKAGE]
    present = sys.modules.setdefault(_ALIAS, package)
    if present is not package:
        where = getattr(present, "__file__", None) or "somewhere else"
        raise CaffeError(f"a module named caffe is imported already, from {where}: install_as_caffe() before it")
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())
