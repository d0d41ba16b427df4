"""Databases made of image lists, and their mean: what Caffe's convert_imageset and compute_image_mean do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from pycaffe_compat.data.datum import datum_to_array, encoded_datum, image_to_datum, parse_datum
from pycaffe_compat.data.images import read_image, read_image_list, to_channels_first
from pycaffe_compat.data.lmdb import key_text, open_database
from pycaffe_compat.data.orders import permutation
from pycaffe_compat.errors import DataError
from pycaffe_compat.files import new_folder
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary import array_to_blob, write_message

COMMIT = 1000
"""Records written at once."""
FIRST_SIZE = 2**26
"""Bytes that the database may hold at first; doubled as often as it takes."""
MAX_KEY = 511
"""Bytes of an LMDB key."""

Progress = Callable[[int], None]


@dataclass
class Converted:
    """What :func:`convert_imageset` made."""

    records: int = 0
    left_out: list[str] = field(default_factory=list)
    """Why images of the list are not in the database: ``list:line: message``."""


def convert_imageset(
    root: str,
    image_list: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    gray: bool = False,
    shuffle: bool = False,
    seed: int = 0,
    size: tuple[int, int] = (0, 0),
    check_size: bool = False,
    encoded: bool = False,
    encode_type: str = "",
    progress: Progress = lambda _: None,
) -> Converted:
    """Write the images of a list into a new LMDB of Datum records, keys "00000000_path", in the list's order.

    The database appears under its name when it is complete; a killed run leaves a hidden folder beside it.

    Args:
        root: put in front of each path as it is.
        output: the database's folder, which must not exist.
        size: (height, width) that images are resized to; (0, 0): as they are.
        check_size: an image of another size than the first is an error.
        encoded: keep images as files: the file itself where nothing has to be done to it, else encoded anew.
        encode_type: as what ("png", "jpg"); without it as the file's name says. Implies ``encoded``.
        progress: called with 1 for each line of the list.

    Raises:
        DataError: the list cannot be read, the output exists, or no image could be read. An image that cannot is left
            out, as Caffe does, and told in the result.
    """
    if bool(size[0]) != bool(size[1]):
        raise DataError("resize_height and resize_width go together: give both or none")
    images = read_image_list(image_list)
    order = permutation(len(images), seed, 0) if shuffle else range(len(images))
    done = Converted()
    first: tuple[int, ...] = ()

    def records() -> Iterator[tuple[bytes, bytes]]:
        nonlocal first
        for number, row in enumerate(order):
            entry = images[row]
            progress(1)
            where = f"{os.fspath(image_list)}:{entry.line}"
            kind = encode_type or (Path(entry.path).suffix[1:].lower() if encoded else "")
            try:
                datum, shape = _datum(root + entry.path, entry.label, gray, size, kind)
            except DataError as error:
                done.left_out.append(f"{where}: {error}")
                continue
            first = first or shape
            if check_size and shape != first:
                sizes = f"{'x'.join(map(str, shape))}, the first is of {'x'.join(map(str, first))}"
                raise DataError(f"{where}: {root}{entry.path}: is of shape {sizes}")
            done.records += 1
            yield f"{number:08d}_{entry.path}".encode(errors="surrogateescape")[:MAX_KEY], datum.SerializeToString()
        if not done.records:
            raise DataError(f"{os.fspath(image_list)}: no image could be read; the first: {done.left_out[0]}")

    with new_folder(output) as folder:
        write_lmdb(folder, records(), output)
    return done


def _datum(
    path: str, label: int, gray: bool, size: tuple[int, int], kind: str
) -> tuple[caffe_pb2.Datum, tuple[int, ...]]:
    image = read_image(path, not gray, *size)
    shape = to_channels_first(image).shape
    suffix = Path(path).suffix[1:].lower()
    if kind and not any(size) and not gray and (suffix == kind.lower() or (suffix, kind.lower()) == ("jpeg", "jpg")):
        return encoded_datum(Path(path).read_bytes(), label), shape
    return image_to_datum(image, label, kind), shape


def write_lmdb(folder: Path, records: Iterator[tuple[bytes, bytes]], shown: str | os.PathLike[str]) -> None:
    """Write records into a new LMDB in an empty folder; shown: what errors call it.

    Raises:
        DataError: they cannot be written; and what ``records`` raises.
    """
    try:
        with lmdb.open(str(folder), map_size=FIRST_SIZE) as env:
            chunk: list[tuple[bytes, bytes]] = []
            for record in records:
                chunk.append(record)
                if len(chunk) == COMMIT:
                    _put(env, chunk)
                    chunk = []
            _put(env, chunk)
    except lmdb.Error as error:
        raise DataError(f"{os.fspath(shown)}: cannot be written: {' '.join(str(error).split())}") from error


def _put(env: lmdb.Environment, records: list[tuple[bytes, bytes]]) -> None:
    while True:
        try:
            with env.begin(write=True) as transaction:
                for key, value in records:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()["map_size"])


def compute_image_mean(source: str, progress: Progress = lambda _: None) -> NDArray[np.float32]:
    """The mean of an LMDB's images, channels x height x width.

    Raises:
        DataError: the database or a record of it cannot be read, or an image has another size than the first.
    """
    database = open_database(source)
    total: NDArray[np.float64] | None = None
    for record in database.records():
        try:
            image = datum_to_array(parse_datum(record.value))
            if total is None:
                total = np.zeros(image.shape)
            if image.shape != total.shape:
                shapes = f"{'x'.join(map(str, image.shape))}, the first is of {'x'.join(map(str, total.shape))}"
                raise DataError(f"is of shape {shapes}: a mean needs images of one size")
        except DataError as error:
            raise DataError(f"{source}: record {key_text(record.key)}: {error}") from error
        total += image
        progress(1)
    assert total is not None  # an empty database does not open
    return (total / database.rows).astype(np.float32)


def write_mean(path: str | os.PathLike[str], mean: NDArray[np.float32]) -> None:
    """Write a mean image as a binaryproto file, with the four dimensions that all versions of Caffe read."""
    blob = array_to_blob(mean[None])
    blob.ClearField("shape")
    blob.num, blob.channels, blob.height, blob.width = 1, *mean.shape
    write_message(path, blob)
