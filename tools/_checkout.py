"""Makes ``tools/train_net.py ...`` work as typed from a clone: `make` once, and nothing to activate.

Every program here begins with::

    if not __package__:  # started as a file of a checkout, not as an installed module
        import _checkout  # noqa: F401

Importing this puts the repository first on the path; if this interpreter lacks what the programs need
(PyTorch, say), the same command starts again under the interpreter that `make` installed into .venv. Written
for old Pythons too, so that a too old one gets the message and not a syntax error.
"""

import importlib.util
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEEDED = (
    "torch", "numpy", "h5py", "lmdb", "cv2", "google.protobuf", "matplotlib", "PIL", "tqdm", "safetensors",
    "onnx", "onnxruntime", "onnxscript",
)  # fmt: skip
STARTED = "PYCAFFE_COMPAT_STARTED"


def missing():
    """Names of what this interpreter lacks, in a list; nothing is imported to find out."""
    names = [] if sys.version_info >= (3, 11) else ["Python 3.11 or newer"]
    for name in NEEDED:
        try:
            found = importlib.util.find_spec(name) is not None
        except ImportError:  # the parent of a dotted name is missing
            found = False
        if not found:
            names.append(name)
    return names


def prepare():
    """Put the repository on the path, under an interpreter that has what the programs need."""
    # Not this folder, where Python looks first for a script's imports: `import caffe` must not find caffe.py.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [ROOT] + [path for path in sys.path if os.path.abspath(path) not in (ROOT, here)]
    lacking = missing()
    if not lacking:
        return
    python = os.path.join(ROOT, ".venv", "bin", "python")
    if os.path.exists(python) and os.environ.get(STARTED) != python:
        os.environ[STARTED] = python  # once only: a half made .venv would start itself for ever
        command = getattr(sys, "orig_argv", [sys.executable] + sys.argv)[1:]  # interpreter flags kept (3.10+)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(python, [python] + command)
    sys.exit(
        "error: {} lacks {}: run `make` in {} first (it makes .venv), or install requirements.lock".format(
            sys.executable or "this Python", ", ".join(lacking), ROOT
        )
    )


prepare()
