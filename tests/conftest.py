"""Fixtures that every test may ask for, and what makes runs repeatable."""

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    # pytest-xdist starts a process a core: a thread each, or they fight over the cores.
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that: tests that press it would wait.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _folder(variable: str, default: str, what: str) -> Path:
    folder = Path(os.environ.get(variable) or ROOT / default).resolve()
    if not folder.is_dir():
        pytest.skip(f"{what} not found: no folder {folder} (set {variable})")
    return folder


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of numbers and files that the original program wrote; the test is skipped where it is not."""
    return _folder("CAFFE_GOLDEN", "../shared/caffe/golden", "numbers of the original program")


@pytest.fixture(scope="session")
def jpeg_data() -> Path:
    """Folder with the photographs of BSDS500 and LIVE1; the test is skipped where it is not."""
    return _folder("JPEG_DATA", "../shared/data", "BSDS500 and LIVE1")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
