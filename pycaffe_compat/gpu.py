"""The GPUs that PyTorch sees, as Caffe's programs name and list them."""

from __future__ import annotations

import re

import torch

from .errors import SolverError


def count() -> int:
    """How many there are."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def chosen(text: str) -> list[int]:
    """The GPUs that ``--gpu`` names: numbers with commas between them, or ``all``.

    Raises:
        SolverError: it is neither, or there is no such GPU.
    """
    available = count()
    seen = f"PyTorch sees {available or 'no'} GPU{'s' * (available != 1)} here"
    if text == "all":
        if not available:
            raise SolverError(f"--gpu all: {seen}")
        return list(range(available))
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise SolverError(f"--gpu {text}: give the number of a GPU, several with commas between them, or all")
    numbers = [int(number) for number in text.split(",")]
    if max(numbers) >= available:
        raise SolverError(f"--gpu {text}: {seen}")
    return numbers


def describe(number: int) -> list[tuple[str, str]]:
    """What ``caffe device_query`` tells of a GPU: names and values."""
    p = torch.cuda.get_device_properties(number)
    return [
        ("Device id", str(number)),
        ("Major revision number", str(p.major)),
        ("Minor revision number", str(p.minor)),
        ("Name", str(p.name)),
        ("Total global memory", str(p.total_memory)),
        ("Number of multiprocessors", str(p.multi_processor_count)),
    ]
