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
        module = name
        if name.endswith(".py"):
            folder, module = os.path.split(os.path.abspath(name)[: -len(".py")])
            if folder not in sys.path:
                sys.path.append(folder)
        try:
            if module != name:
                _check_free(module, name)
            importlib.import_module(module)
        except CaffeError as error:
            raise type(error)(f"--import {name}: {error}") from error
        except ModuleNotFoundError as error:
            if error.name != module:
                raise CaffeError(f"--import {name}: {error}") from error
            raise CaffeError(
                f"--import {name}: no such module: give its name (its folder on PYTHONPATH, or the working directory) "
                "or the path of its .py file"
            ) from None
        except Exception as error:  # whatever the user's own module does when it is imported
            raise CaffeError(f"--import {name}: {type(error).__name__}: {error}") from error


def _check_free(module: str, path: str) -> None:
    """CaffeError if a file's name as a module means another one, which would be imported in its place."""
    if not os.path.isfile(path):
        raise CaffeError("no such file")
    spec = importlib.util.find_spec(module)
    origin = (spec and spec.origin) or "built in"
    if not (os.path.isfile(origin) and os.path.samefile(origin, path)):
        raise CaffeError(f"Python knows another module {module} ({origin}): rename the file")
