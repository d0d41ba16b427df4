"""NCCL as Caffe's test_nccl.py has it, and the other names that do nothing but must be there; see conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

import pycaffe_compat as caffe
from pycaffe_compat import SolverError, pycaffe


@pytest.fixture(autouse=True)
def _as_at_the_start() -> Iterator[None]:
    pycaffe._say_once.cache_clear()
    yield
    pycaffe._say_once.cache_clear()
    pycaffe._told.update(count=1, rank=0)


def test_newuid() -> None:
    assert caffe.has_nccl() is torch.distributed.is_nccl_available()
    assert isinstance(caffe.NCCL.new_uid(), bytes)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (caffe.set_mode_gpu, "set_mode_gpu"),
        (lambda: caffe.set_device(0), "set_device"),
        (lambda: caffe.set_solver_count(2), "set_solver_count"),
        (lambda: caffe.set_multiprocess(True), "set_multiprocess"),
        (lambda: caffe.NCCL(None, b""), "NCCL"),  # type: ignore[arg-type]
    ],
)
def test_what_does_nothing_says_so_once(call: Callable[[], object], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    call()
    call()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("W")
    assert f"{word} does nothing" in lines[0]


def test_what_it_is_told_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    assert (caffe.solver_count(), caffe.solver_rank()) == (1, 0)
    caffe.set_solver_count(1)
    caffe.set_multiprocess(False)
    caffe.set_mode_cpu()
    assert capsys.readouterr().err == ""
    caffe.set_solver_count(3)
    caffe.set_solver_rank(2)
    assert (caffe.solver_count(), caffe.solver_rank()) == (3, 2)


def test_several_solvers_cannot_be_linked() -> None:
    caffe.set_solver_count(2)
    with pytest.raises(SolverError, match="2 solvers cannot train together"):
        caffe.NCCL(None, b"")  # type: ignore[arg-type]
