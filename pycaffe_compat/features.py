"""Blobs of a net written into databases, for other programs to learn from: what Caffe's extract_features does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import torch
from torch import Tensor

from .data.imageset import write_lmdb
from .errors import DataError, NetError
from .files import new_folder
from .graph import Graph, to_device
from .naming import did_you_mean
from .proto import caffe_pb2


def extract_features(
    graph: Graph,
    blobs: Sequence[str],
    databases: Sequence[str | os.PathLike[str]],
    batches: int,
    device: torch.device | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> list[int]:
    """Runs a net forward and writes a new LMDB for each of some blobs, a Datum of floats a row of the batch.

    Keys are the rows' numbers in ten digits. A Datum is channels x height x width of the blob, 1 for axes that it does
    not have; it has no label. The databases appear when all of them are complete.

    Args:
        progress: called with 1 after each batch.

    Returns:
        how many records each database holds.

    Raises:
        NetError: a blob is not in the net, or has no rows. DataError: a database exists already, or cannot be written.
    """
    if len(blobs) != len(databases):
        raise DataError(f"{len(blobs)} blobs but {len(databases)} databases: give one database for each blob")
    for name in blobs:
        if name not in graph.shapes:
            raise NetError(f'{graph.path or "net"}: has no blob "{name}"{did_you_mean(name, graph.shapes)}')
        if not 1 <= len(graph.shapes[name]) <= 4:
            raise NetError(
                f'{graph.path or "net"}: blob "{name}" has {len(graph.shapes[name])} axes: a Datum takes 1 to 4'
            )
    targets = [Path(path) for path in databases]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            raise DataError(f"{target}: is given twice: give each blob a database of its own")
    device = device or torch.device("cpu")
    to_device(graph, device)
    inputs = {name: torch.zeros(graph.shapes[name], device=device) for name in graph.inputs}
    with ExitStack() as stack:
        folders = [stack.enter_context(new_folder(target)) for target in targets]
        # A database is written in one go, and all blobs come with each batch: they wait in files meanwhile.
        spools = [_Spool(stack.enter_context(TemporaryFile(prefix="features_"))) for _ in blobs]
        for _ in range(batches):
            with torch.no_grad():
                values = graph.run(**inputs)
            for name, spool in zip(blobs, spools, strict=True):
                spool.add(values[name])
            progress(1)
        for folder, spool, target in zip(folders, spools, targets, strict=True):
            write_lmdb(folder, spool.records(), target)
    return [spool.count for spool in spools]


class _Spool:
    """Rows of one blob in a temporary file; batches may have other shapes than the first."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.count = file, 0
        self.shapes: list[tuple[int, ...]] = []

    def add(self, blob: Tensor) -> None:
        array = np.ascontiguousarray(blob.detach().float().cpu().numpy())
        self.shapes.append(array.shape)
        self.count += len(array)
        self.file.write(array.tobytes())

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        self.file.seek(0)
        number = 0
        for rows, *axes in self.shapes:
            size = int(np.prod(axes, dtype=int))
            channels, height, width = (*axes, 1, 1, 1)[:3]
            for _ in range(rows):
                datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
                datum.float_data.extend(np.frombuffer(self.file.read(4 * size), np.float32).tolist())
                yield f"{number:010d}".encode(), datum.SerializeToString()
                number += 1
