"""Training on several devices and machines: processes that torch.distributed connects, each with the whole net.

Caffe's rules: every process (a *rank*, numbered from 0) runs the whole batch_size on rows of its own, so that N ranks
train with N times the batch; gradients are averaged over the ranks once an iteration, before clipping and decay, so
that all make the same update; base_lr stays as it is; rank 0 alone tests, logs and writes snapshots.

:func:`joined` connects processes that ``torchrun`` has started (or :func:`launch`, which needs no torchrun). The solver
uses the functions below it. Alone, without a process group, :func:`ranks` is 1 and it calls none of them. A function
that says "together" must be called by all ranks at the same point.

While one rank is busy (tests, a large snapshot) the others wait, at most as long as the timeout that :func:`joined` was
given. A rank that has died is noticed at once, because its connections close.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .. import log
from ..data.prefetch import Source
from ..errors import CaffeError, DataError, NetError, SolverError, describe_os_error, first_line
from ..graph import Graph
from .signals import Action

TIMEOUT = 600.0
"""Seconds that a rank waits for the others, if nothing else is said."""
ANSWER_SECONDS = 3.0
"""How long the ranks that are left listen for each other, to tell which are gone."""
GRACE_SECONDS = 20.0
"""How long :func:`launch` lets the other processes end by themselves when one has failed."""

_MEETING_PLACE = "PYCAFFE_COMPAT_RANKS_MEET_AT"
_LAUNCHER = "PYCAFFE_COMPAT_LAUNCHER"
_PR_SET_PDEATHSIG = 1  # of prctl(2)

T = TypeVar("T")


class RankLost(SolverError):
    """Another rank has ended or does not answer: the training cannot go on."""


class RanksFailed(CaffeError):
    """What went wrong on all ranks, or on which."""


# ------------------------------------------------------------------------------------------------ what there is


def ranks() -> int:
    """How many processes train together; 1 where torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def local_rank() -> int | None:
    """This process's number on its machine, as its launcher says; None if it was started alone."""
    return int(os.environ.get("LOCAL_RANK", os.environ["RANK"])) if _launched() else None


def _launched() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


# --------------------------------------------------------------------------------------------- together, between ranks


@contextmanager
def _talking() -> Iterator[None]:
    # PyTorch and gloo raise several classes and texts of many lines when a connection breaks; all are RuntimeErrors.
    try:
        yield
    except RuntimeError as error:
        raise RankLost(f"lost the connection to another rank ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """What is of use in a message of PyTorch or gloo: without the place in their source and guesses at causes."""
    return re.sub(r"^\[\S+\] |\. This is typically.*", "", first_line(error))[:200].strip(" .") or type(error).__name__


def average(tensors: Sequence[Tensor]) -> None:
    """Together: put in place of each tensor the ranks' mean."""
    if not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _talking():
        dist.all_reduce(flat)
    flat /= ranks()
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])


def from_first(tensors: Sequence[Tensor]) -> None:
    """Together: put in place of each tensor rank 0's."""
    for tensor in tensors:
        whole = tensor.contiguous()
        with _talking():
            dist.broadcast(whole, 0)
        tensor.copy_(whole)


def shared(thing: T) -> T:
    """Together: rank 0's."""
    things = [thing]
    with _talking():
        dist.broadcast_object_list(things, 0)
    return things[0]


def gathered(thing: T) -> list[T]:
    """Together: every rank's, in their order."""
    things = [thing] * ranks()
    with _talking():
        dist.all_gather_object(things, thing)
    return things


@contextmanager
def all_or_none() -> Iterator[None]:
    """Together, where there are ranks: if the block fails on some rank, it fails on all, with one message.

    Nothing within the block may be done together: a rank that fails would leave the others waiting.

    Raises:
        RanksFailed: on rank 0, what went wrong, and on which rank unless it did on all.
        SystemExit: on the others: rank 0 tells.
    """
    if ranks() == 1:
        yield
        return
    mine = ""
    try:
        yield
    except CaffeError as error:
        mine = str(error)
    except OSError as error:
        mine = describe_os_error(error)
    faults = gathered(mine)
    if not any(faults):
        return
    if rank():
        sys.exit(1)
    if len(set(faults)) == 1:
        raise RanksFailed(mine)
    raise RanksFailed("; ".join(f"rank {i}: {fault}" for i, fault in enumerate(faults) if fault))


def share_data(graph: Graph) -> None:
    """Let this rank's training net read its share of the rows.

    Raises:
        DataError: there are more ranks than rows.
        NetError: the net writes to a file, on which ranks cannot take turns.
    """
    for node in graph.nodes:
        if node.layer.writes:
            raise NetError(
                f"{node.label}: every rank would write to {node.layer.writes[0]}: train on one device, or exclude the "
                "layer from the training net"
            )
    for layer in graph.data_layers.values():
        # Not MemoryData and DummyData: their rows are handed over to each rank, or drawn by it.
        if isinstance(layer.source, Source):
            layer.source.share(rank(), ranks())


def align_data(graph: Graph) -> None:
    """Together: read from where rank 0 reads, in its order.  Raises DataError: this rank has another database."""
    first = shared({name: layer.source.state_dict() for name, layer in graph.data_layers.items()})
    for name, layer in graph.data_layers.items():
        try:
            layer.source.load_state_dict(first[name])
        except DataError as error:
            raise DataError(f"{error}: every rank must read the same database") from error


# What ranks that were asked for different things agree on: the last of these that one of them was asked for.
_ACTIONS = (Action.NONE, Action.SNAPSHOT, Action.STOP)


def agreed(request: Action) -> Action:
    """Together: what all are to do when each has been asked for ``request``. Asked every iteration, so it is quick."""
    value = torch.tensor([_ACTIONS.index(request)])
    with _talking():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return _ACTIONS[int(value)]


# ------------------------------------------------------------------------------------------------- start and end


@contextmanager
def joined(timeout: float = TIMEOUT) -> Iterator[None]:
    """Connect this process with the others that its launcher started, while the block runs. Alone it does nothing.

    On ranks other than 0 log lines are silenced. Errors say which rank they are from, and what a rank says when others
    are gone says which these are; of several ranks that are left the first one speaks.

    Args:
        timeout: seconds to wait for a rank before it counts as lost.

    Raises:
        SolverError: the others cannot be reached, or are lost later.
        SystemExit: others are lost, and another rank says so.
    """
    if not _launched() or dist.is_initialized():
        yield
        return
    _end_with_launcher()
    own, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    limit = timedelta(seconds=timeout)
    place = os.environ.get(_MEETING_PLACE, "env://")
    try:
        # Missing in PyTorch's stubs: rendezvous, PrefixStore, Store.
        store, own, count = next(iter(dist.rendezvous(place, own, count, timeout=limit)))  # type: ignore[attr-defined]
        store = _unused(store, own, count, timeout)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo",
            store=dist.PrefixStore("training", store),  # type: ignore[attr-defined]
            rank=own,
            world_size=count,
            timeout=limit,
        )
    except (RuntimeError, ValueError) as error:
        if place == "env://":
            place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        raise SolverError(f"rank {own} of {count}: cannot meet the others at {place} ({_reason(error)})") from error
    try:
        with log.silent() if own else nullcontext():
            yield
        with _talking():
            dist.all_reduce(torch.zeros(1))  # rank 0, whose end others might notice, may be waited for
    except RankLost as error:
        dist.destroy_process_group()  # closes this rank's connections: the others notice too
        lost = _lost(store, own, count)
        if own != min(set(range(count)) - set(lost)):  # one of those that are left speaks
            sys.exit(1)
        names = f"rank{'s' * (len(lost) > 1)} {', '.join(map(str, lost))}"
        raise SolverError(f"rank {own}: {names} of {count} ended or did not answer: {error}") from error
    except RanksFailed:
        raise
    except CaffeError as error:
        raise type(error)(f"rank {own}: {error}") from error
    except OSError as error:
        raise SolverError(f"rank {own}: {describe_os_error(error)}") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _end_with_launcher() -> None:
    """Have the system end this rank when :func:`launch` is killed: nobody else would (Linux only)."""
    launcher = os.environ.get(_LAUNCHER)
    if launcher and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        try:
            os.kill(int(launcher), 0)
        except ProcessLookupError:  # it was killed before
            sys.exit(1)


def _unused(store: Any, own: int, count: int, timeout: float) -> Any:
    """A part of the store that no earlier start of the ranks has used.

    torchrun keeps its store when it restarts ranks, with the addresses of the dead in it. So rank 0 makes up a name and
    tells it to each rank under a word that this rank has made up: nothing that is read can be of an earlier start.

    Raises:
        RuntimeError: not all come in time.
    """
    name = secrets.token_hex(8)
    if own:
        word = name
        store.set(f"hello/{own}", word)
        store.wait([f"welcome/{word}"], timedelta(seconds=timeout))
        name = store.get(f"welcome/{word}").decode()
        store.set(f"ready/{name}/{own}", "")
    missing = list(range(1, count)) if own == 0 else []
    deadline = time.monotonic() + timeout
    while missing:
        for other in missing:
            if store.check([f"hello/{other}"]):  # of an earlier start, perhaps: then it will change
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", name)
        time.sleep(0.02)
        missing = [other for other in missing if not store.check([f"ready/{name}/{other}"])]
        if missing and time.monotonic() > deadline:
            raise RuntimeError(f"rank {', '.join(map(str, missing))} did not come within {timeout:g} seconds")
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


def _lost(store: Any, own: int, count: int) -> list[int]:
    """The ranks that are gone: those that do not sign on, of which there is one at least."""
    missing = [other for other in range(count) if other != own]
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        store.set(f"here/{own}", "")
        while len(missing) > 1 and time.monotonic() < deadline:
            missing = [other for other in missing if not store.check([f"here/{other}"])]
            time.sleep(0.05)
    except RuntimeError:  # the store went with the rank that kept it, the first
        return [0]
    return missing


def launch(command: Sequence[str], count: int) -> int:
    """Run a program as ``count`` ranks on this machine and wait for them: what torchrun does, in the small.

    SIGINT, SIGHUP and SIGTERM are handed to rank 0, from which the others hear. When one fails the others have
    ``GRACE_SECONDS`` to say what they think of it.

    Args:
        command: the program and its arguments; it calls :func:`joined`.

    Returns:
        0, or the exit code of the rank that failed first.

    Raises:
        SolverError: it was ended by a signal.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        common = os.environ | {"WORLD_SIZE": str(count), _MEETING_PLACE: f"file://{folder}/store"}
        common[_LAUNCHER] = str(os.getpid())
        running: dict[int, subprocess.Popen[bytes]] = {}

        def hand_on(number: int, frame: FrameType | None) -> None:
            for process in list(running.values())[:1]:
                process.send_signal(number)

        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        before = {number: signal.signal(number, hand_on) for number in numbers}
        try:
            for i in range(count):
                own = {"RANK": str(i), "LOCAL_RANK": str(i)}
                # A session of its own: a terminal's Ctrl-C would otherwise reach each of them a second time.
                running[i] = subprocess.Popen(command, env=common | own, start_new_session=True)
            return _wait(running)
        finally:
            for process in running.values():
                process.kill()
                process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)


def _wait(running: dict[int, subprocess.Popen[bytes]]) -> int:
    failed: tuple[int, int] | None = None
    deadline = float("inf")
    while running and time.monotonic() < deadline:
        for i, process in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[i]
            if code and failed is None:
                failed, deadline = (i, code), time.monotonic() + GRACE_SECONDS
        time.sleep(0.05)
    if failed is None:
        return 0
    i, code = failed
    if code < 0:
        raise SolverError(f"rank {i} was ended by {signal.Signals(-code).name}")
    return code
