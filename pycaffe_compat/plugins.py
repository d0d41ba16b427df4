"""Modules of the user's own that register layer types, imported by name before a net is read.

A custom layer is one class under ``pycaffe_compat.layers.register`` (CONTRIBUTING.md shows one): once its module is
imported, nets may use the type, in every program that takes ``--import``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable

from .alias import install_as_caffe
from .errors import CaffeError


def import_modules(names: Iterable[str] = ()) -> None:
    """Makes this process ready for users' code: ``import caffe`` finds this library, then the modules are imported.

    The working directory is searched too, behind everything else, so that a module there shadows nothing.

    Args:
        names: dotted names (``my_layers``), or paths of files (``lib/my_layers.py``).

    Raises:
        CaffeError: a module cannot be imported, or a type it registers exists already; one line that names it.
    """
    install_as_caffe()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(name)
            else:
                importlib.import_module(name)
        except CaffeError as error:
            raise type(error)(f"--import {name}: {error}") from error
        except ModuleNotFoundError as error:
            if error.name != name:
                raise CaffeError(f"--import {name}: {error}") from error
            raise CaffeError(
                f"--import {name}: no such module: give its name (its folder on PYTHONPATH, or the working directory) "
                "or the path of its .py file"
            ) from None
        except Exception as error:  # whatever the user's own module does when it is imported
            raise CaffeError(f"--import {name}: {type(error).__name__}: {error}") from error


def _import_file(path: str) -> None:
    """Import a file as the module of its name; its folder is searched for what it imports itself."""
    folder, module = os.path.split(os.path.abspath(path)[: -len(".py")])
    if not os.path.isfile(path):
        raise CaffeError("no such file")
    there = getattr(sys.modules.get(module), "__file__", None)
    if there and os.path.exists(there) and os.path.samefile(there, path):
        return
    if module in sys.stdlib_module_names or module in sys.modules:
        raise CaffeError(f"Python knows another module {module} ({there or 'its own'}): rename the file")
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None:
        raise CaffeError("Python cannot load it")
    if folder not in sys.path:
        sys.path.append(folder)
    loaded = sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[module]
        raise
