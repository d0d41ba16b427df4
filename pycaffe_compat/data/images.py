"""Image files and lists of them, and the batches of ImageData.

Images are read by OpenCV, as Caffe does: uint8, height x width x channels, the channels in the order blue, green, red.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from pycaffe_compat.data.orders import draws, permutation
from pycaffe_compat.data.prefetch import Source
from pycaffe_compat.data.records import Item, RecordReader
from pycaffe_compat.data.transform import Transformer
from pycaffe_compat.errors import DataError
from pycaffe_compat.files import regular
from pycaffe_compat.memory import physical_memory, shown_bytes
from pycaffe_compat.naming import one_line

Image = NDArray[np.uint8]
_PNG = b"\x89PNG\r\n\x1a\n"


def decode_image(content: bytes, color: bool | None = True) -> Image:
    """An image file's bytes as pixels, height x width [x channels].

    Args:
        color: True gives 3 channels, False one, None what the file has.

    Raises:
        DataError: the bytes are no image that OpenCV reads, have more than 8 bits a channel, or claim a size that is
            beyond Pillow's limit (179 million pixels). Says why, not which.
    """
    _check_claims(content)
    flags = {True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE, None: cv2.IMREAD_UNCHANGED}[color]
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:  # larger than OpenCV's limit, for one
        image = None
    if image is None:
        raise DataError("is empty" if not content else "is no image that OpenCV reads, or is damaged")
    if image.dtype != np.uint8:
        raise DataError(f"holds {image.dtype} pixels: Caffe reads 8 bits a channel")
    return np.asarray(image, np.uint8)


def _check_claims(content: bytes) -> None:
    """Refuses what claims to be larger than it can be: OpenCV takes the memory first, and then finds out."""
    if content.startswith(_PNG):
        at = len(_PNG)
        while at + 8 <= len(content):  # chunks: length, type, data, checksum
            length = int.from_bytes(content[at : at + 4], "big")
            at += 8 + length
            if at > len(content):
                raise DataError("is a PNG image that is cut off or damaged")
            at += 4
    try:
        PillowImage.open(io.BytesIO(content)).close()  # reads the header only
    except PillowImage.DecompressionBombError as error:
        raise DataError(f"is too large an image ({one_line(error)})") from None
    except (OSError, ValueError, SyntaxError):
        return  # OpenCV has other formats, and says what is wrong


def read_image(path: str | os.PathLike[str], color: bool = True, height: int = 0, width: int = 0) -> Image:
    """An image file, resized (bilinearly) to height x width where these are not 0.

    Raises:
        DataError: no such file, or no image; names it.
    """
    try:
        content = regular(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{os.fspath(path)}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise DataError(f"{os.fspath(path)}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        image = decode_image(content, color)
        return np.asarray(resized(image, height, width), np.uint8) if height and width else image
    except DataError as error:
        raise DataError(f"{os.fspath(path)}: {error}") from None


def resized(image: NDArray[Any], height: int, width: int, how: int = cv2.INTER_LINEAR) -> NDArray[Any]:
    """An image, height x width [x channels], in another size.

    Raises:
        DataError: no memory has room for it, or OpenCV cannot.
    """
    check_room(height, width, image[:1, :1].nbytes)
    try:
        return np.asarray(cv2.resize(image, (width, height), interpolation=how))
    except cv2.error as error:
        raise DataError(f"cannot be resized to {width}x{height}: {one_line(error.err or error)}") from None


def check_room(height: int, width: int, pixel_bytes: int) -> None:
    """Raises DataError where an image of this size is larger than the memory."""
    if height * width * pixel_bytes > physical_memory():
        size = shown_bytes(height * width * pixel_bytes)
        there = shown_bytes(physical_memory())
        raise DataError(f"cannot be made {width}x{height}: that takes {size} of memory, there are {there}")


def to_channels_first(image: NDArray[Any]) -> NDArray[Any]:
    """height x width [x channels] as channels x height x width."""
    return image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))


@dataclass(frozen=True)
class ListedImage:
    """A line of an image list."""

    path: str
    label: int
    line: int
    """Counted from 1."""


def read_image_list(path: str | os.PathLike[str]) -> list[ListedImage]:
    """A list of images: on each line a path, white space, a whole number. Paths may hold spaces; empty lines are
    skipped.

    Raises:
        DataError: the list cannot be read, is empty or has a line without a label; ``path:line: message``.
    """
    shown = os.fspath(path)
    entries = []
    for number, line in enumerate(read_lines(path, "the list of images"), 1):
        words = line.rsplit(maxsplit=1)
        if not words:
            continue
        if len(words) < 2 or not re.fullmatch(r"[+-]?\d{1,10}", words[1]) or not -(2**31) <= int(words[1]) < 2**31:
            raise DataError(f"{shown}:{number}: {line[:100]!r} is no path followed by a label, a whole number")
        entries.append(ListedImage(words[0].lstrip(), int(words[1]), number))
    if not entries:
        raise DataError(f"{shown}: the list is empty; each line must hold the path of an image and its label")
    return entries


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a text file.

    Raises:
        DataError: it cannot be read, or is no text; ``what`` says what it is.
    """
    shown = os.fspath(path)
    try:
        content = regular(path).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{shown}: {what} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if b"\0" in content:
        raise DataError(f"{shown}: is no text file; `source` must be {what}")
    return os.fsdecode(content.removeprefix(b"\xef\xbb\xbf")).splitlines()


class _Reader(RecordReader[ListedImage]):
    """The images of a list, in its order or in a new random one each epoch."""

    def __init__(
        self,
        source: str,
        root: str,
        size: tuple[int, int],
        color: bool,
        shuffle: bool,
        rand_skip: int,
        **shared: Any,
    ):
        self.root, self.size, self.color, self.shuffle = root, size, color, shuffle
        self.images = read_image_list(source)
        self.rows = len(self.images)
        super().__init__(source, **shared)
        if rand_skip > self.rows:
            self.fail(f"rand_skip {rand_skip} is more than the {self.rows} images of the list")
        self.first = int(draws(1, self.seed, 2)[0] % rand_skip) if rand_skip else 0
        self.begin()

    def start(self) -> int:
        return self.first

    def records(self, at: int) -> Iterator[ListedImage]:
        epoch, place = divmod(at, self.rows)
        while True:
            order = permutation(self.rows, self.seed, epoch, 0) if self.shuffle else range(self.rows)
            for row in order[place:]:
                yield self.images[row]
            epoch, place = epoch + 1, 0

    def place(self, record: ListedImage) -> str:
        return f"{self.source}:{record.line}"

    def decode(self, record: ListedImage) -> Item:
        image = read_image(self.root + record.path, self.color, *self.size)
        return to_channels_first(image), record.label


class ImageSource(Source[int]):
    """Endless batches of the images that a text file lists with their labels.

    source      the list: a path and a label on each line
    transformer what is done to each image
    batch_size  images a batch
    tops        1: images only; 2: images and labels
    root        put in front of each path as it is (``root_folder``, with its slash)
    size        (height, width) that images are resized to; (0, 0): as they are
    color       3 channels, else 1
    shuffle     a new random order for each epoch
    rand_skip   begin at a random image below this number
    seed        of all that is random
    where       what errors begin with

    Images of different sizes need a size, a crop, or a batch of 1. A missing or damaged image is a
    :class:`DataError` with the list's line, when its turn comes.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        transformer: Transformer,
        batch_size: int,
        tops: int = 2,
        *,
        root: str = "",
        size: tuple[int, int] = (0, 0),
        color: bool = True,
        shuffle: bool = False,
        rand_skip: int = 0,
        seed: int = 0,
        where: str = "",
    ):
        shared = {"transformer": transformer, "batch_size": batch_size, "tops": tops, "seed": seed, "where": where}
        super().__init__(_Reader(os.fspath(source), root, size, color, shuffle, rand_skip, **shared))
