"""Batches of windows cut from images, foreground and background in a fixed proportion: WindowData (R-CNN's training).

A window file names images and their windows, separated by white space:

    # 0                      number of the image, from 0 on
    /path/of/image.jpg
    3 500 353                channels, height, width
    2                        number of windows, then for each:
    7 0.83 48 240 195 371    class, overlap with an object, left, top, right, bottom (both within)
    0 0.21 8 12 352 498

A window whose overlap reaches fg_threshold is foreground and keeps its class, one below bg_threshold is background,
class 0; those between are not used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pycaffe_compat.data.images import Image, decode_image, read_image, resized, to_channels_first
from pycaffe_compat.data.orders import draws
from pycaffe_compat.data.prefetch import Batch, Reader, Source
from pycaffe_compat.data.transform import Transformer
from pycaffe_compat.errors import DataError
from pycaffe_compat.files import regular


class WindowFile:
    """What a window file says: the images' paths, foreground and background windows.

    Raises:
        DataError: it cannot be read or does not keep to the form; ``path:line: message``.
    """

    def __init__(self, path: str, fg_threshold: float, bg_threshold: float):
        self.path = path
        self.images: list[str] = []
        self.channels = 0
        self._read = 0  # words so far, to find the line of a wrong one
        fg: list[NDArray[Any]] = []
        bg: list[NDArray[Any]] = []
        try:
            with open(regular(path), encoding="utf-8-sig", errors="surrogateescape") as file:
                words = (word for line in file for word in line.split())
                while (word := next(words, None)) is not None:
                    self._read += 1
                    if word != "#":
                        self.fail(f"{word[:50]!r} stands where an image must begin with #")
                    rows = self._image(words)
                    overlap = rows[:, 2].astype(np.float32)
                    fore = overlap >= np.float32(fg_threshold)
                    back = ~fore & (overlap < np.float32(bg_threshold))
                    if (rows[fore, 1] <= 0).any():
                        self.fail(f"a foreground window of image {len(self.images) - 1} has class 0 or less")
                    rows[back, 1] = 0
                    fg.append(rows[fore])
                    bg.append(rows[back])
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            raise DataError(
                f"{path}: the window file cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from None
        if not self.images:
            raise DataError(f"{path}: the window file is empty")
        columns = [0, 1, 3, 4, 5, 6]
        self.fg, self.bg = (np.concatenate(part)[:, columns].astype(np.int64) for part in (fg, bg))

    def fail(self, message: str, word: int | None = None) -> NoReturn:
        """Raise DataError with the line of the word that was read last, or of number ``word`` (from 1)."""
        wanted = self._read if word is None else word
        line = count = 0
        with open(self.path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for text in file:
                line, count = line + 1, count + len(text.split())
                if count >= wanted:
                    break
        raise DataError(f"{self.path}:{line}: {message}")

    def _word(self, words: Iterator[str], what: str) -> str:
        word = next(words, None)
        if word is None:
            self.fail(f"the file ends where {what} must stand")
        self._read += 1
        return word

    def _number(self, words: Iterator[str], what: str) -> int:
        word = self._word(words, what)
        if not word.isdecimal() or len(word) > 9:
            self.fail(f"{word[:50]!r} stands where {what} must")
        return int(word)

    def _image(self, words: Iterator[str]) -> NDArray[np.float64]:
        """The rest of an image's entry: rows of image, class, overlap, left, top, right, bottom."""
        number = self._number(words, "an image's number")
        if number != len(self.images):
            self.fail(f"image {number} stands where image {len(self.images)} must: they are numbered from 0 on")
        self.images.append(self._word(words, "an image's path"))
        self.channels = self._number(words, "the number of channels")
        self._number(words, "the height")
        self._number(words, "the width")
        count = self._number(words, "the number of windows")
        given = list(islice(words, 6 * count))
        try:
            values = np.array(given, np.float64)
            wrong = np.flatnonzero(~np.isfinite(values))
        except ValueError:
            wrong = np.array([i for i, word in enumerate(given) if not _is_number(word)])
        if not wrong.size and len(given) == 6 * count:
            rows = values.reshape(-1, 6)
            whole = np.delete(rows, 1, axis=1)
            odd = (whole != np.floor(whole)) | (np.abs(whole) > 2**31 - 1)
            wrong = np.flatnonzero(odd.any(1)) * 6
        if wrong.size:
            at = int(wrong[0])
            place = f"window {at // 6} of image {number}"
            self.fail(f"{place} is not made of a class, an overlap and four whole numbers", self._read + at + 1)
        self._read += len(given)
        if len(given) < 6 * count:
            self.fail(f"the file ends within the {count} windows of image {number}")
        return np.column_stack([np.full(count, float(number)), rows])


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _round(value: Any) -> int:
    """To the nearest whole number, halves away from zero, as C's round does."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))


def cut_window(
    image: Image, box: tuple[int, int, int, int], size: int, pad: int = 0, square: bool = False, mirror: bool = False
) -> tuple[Image, int, int]:
    """A window warped to ``size`` x ``size``, or the part of it that lies within the image.

    Args:
        box: left, top, right, bottom, all within.
        pad: pixels of context on each side of the warped window: the box grows accordingly, beyond the image's
            border if need be.
        square: grow the shorter side to the longer one instead of changing the proportions.
        mirror: left to right.

    Returns:
        The warped part, and the row and column of the size x size window where it stands.

    Raises:
        DataError: the window does not lie in the image.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    outside = DataError(f"window {' '.join(map(str, box))} does not lie in the image, {width}x{height}")
    if x2 < x1 or y2 < y1:
        raise outside
    top = left = 0
    warped_width = warped_height = size
    f4 = np.float32
    if pad or square:
        # In float32, step by step as Caffe computes: what is rounded decides which pixels are seen.
        grow = f4(size) / f4(size - 2 * pad)
        half_height, half_width = f4((y2 - y1 + 1) / 2), f4((x2 - x1 + 1) / 2)
        center_x, center_y = f4(x1) + half_width, f4(y1) + half_height
        if square:
            half_height = half_width = max(half_height, half_width)
        x1, x2 = _round(center_x - half_width * grow), _round(center_x + half_width * grow)
        y1, y2 = _round(center_y - half_height * grow), _round(center_y + half_height * grow)
        scale_x, scale_y = f4(size) / f4(x2 - x1 + 1), f4(size) / f4(y2 - y1 + 1)
        out_left, out_top = max(0, -x1), max(0, -y1)
        out_right, out_bottom = max(0, x2 - width + 1), max(0, y2 - height + 1)
        x1, y1, x2, y2 = x1 + out_left, y1 + out_top, x2 - out_right, y2 - out_bottom
        top = _round(f4(out_top) * scale_y)
        left = _round(f4(out_right if mirror else out_left) * scale_x)
        # Rounding might give a pixel more than there is room for.
        warped_width = min(_round(f4(x2 - x1 + 1) * scale_x), size - left)
        warped_height = min(_round(f4(y2 - y1 + 1) * scale_y), size - top)
    if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height) or warped_width < 1 or warped_height < 1:
        raise outside
    part = resized(image[y1 : y2 + 1, x1 : x2 + 1], warped_height, warped_width)
    return np.asarray(part[:, ::-1] if mirror else part, np.uint8), top, left


class _Reader(Reader[int]):
    """Batches of windows drawn at random. The position counts batches: where processes share the file, a batch belongs
    to one of them."""

    def __init__(
        self,
        source: str,
        transformer: Transformer,
        batch_size: int,
        scale: float,
        thresholds: tuple[float, float],
        fg_fraction: float,
        context_pad: int,
        crop_mode: str,
        root: str,
        cache_images: bool,
        seed: int,
        where: str,
    ):
        self.source, self.where, self.seed = source, where, seed % 2**64
        self.label = f"{where}: {source}" if where else source
        self.size = size = transformer.crop
        if batch_size < 1:
            self.fail(f"batch_size is {batch_size}; it must be at least 1")
        if size < 1:
            self.fail("windows have no size: give transform_param a crop_size")
        if crop_mode not in ("warp", "square"):
            self.fail(f'crop_mode "{crop_mode}" is neither warp nor square')
        if 2 * context_pad >= size:
            self.fail(f"context_pad {context_pad} leaves nothing of crop_size {size}")
        if not 0 <= fg_fraction <= 1:
            self.fail(f"fg_fraction {fg_fraction:g} is not within 0..1")
        self.transformer, self.batch_size = transformer, batch_size
        self.scale, self.pad, self.square = np.float32(scale), context_pad, crop_mode == "square"
        self.root = root
        self.cache: dict[str, bytes] | None = {} if cache_images else None
        self.windows = WindowFile(source, *thresholds)
        if self.windows.channels != 3:
            self.fail(f"its last image has {self.windows.channels} channels: images are read in colour, with 3")
        foreground = int(np.float32(batch_size) * np.float32(fg_fraction))
        self.parts = [(self.windows.bg, batch_size - foreground), (self.windows.fg, foreground)]
        for (windows, count), name in zip(self.parts, ("background", "foreground"), strict=True):
            if count and not len(windows):
                self.fail(f"has no {name} windows, and a batch must hold {count}: look at the thresholds")
        self.mean = self._mean()
        self.rows = len(self.windows.fg) + len(self.windows.bg)
        self.reads = [source, *transformer.reads]
        self.shapes = [(batch_size, 3, size, size), (batch_size,)]

    def _mean(self) -> NDArray[np.float32] | None:
        """What is subtracted at each place of the window: the middle of the mean image, or a value a channel."""
        mean = self.transformer.mean
        if mean is None:
            return self.transformer.channel_means(3)
        begin = (mean.shape[2] - self.size) // 2
        if mean.shape[0] != 3 or begin < 0 or begin + self.size > mean.shape[1]:
            self.fail(f"mean_file of shape {mean.shape} is too small for 3x{self.size}x{self.size}")
        return mean[:, begin : begin + self.size, begin : begin + self.size]

    def start(self) -> int:
        return 0

    def batches(self, at: int) -> Iterator[tuple[Batch, int]]:
        while True:
            data = np.zeros(self.shapes[0], np.float32)  # what lies outside an image stays 0, whatever the mean
            labels = np.empty(self.batch_size, np.float32)
            chances = iter(draws(2 * self.batch_size, self.seed, 0, at + self.first_of_ours(at)))
            item = 0
            for windows, count in self.parts:
                for _ in range(count):
                    window = windows[int(next(chances) % len(windows))]
                    mirror = self.transformer.mirror and bool(next(chances) % 2)
                    self._put(data[item], window, mirror)
                    labels[item] = window[1]
                    item += 1
            at += self.ranks
            yield [data, labels], at

    def _put(self, target: NDArray[np.float32], window: NDArray[np.int64], mirror: bool) -> None:
        path = self.root + self.windows.images[window[0]]
        box = tuple(int(n) for n in window[2:])
        try:
            image = self._image(path)
            part, top, left = cut_window(image, box, self.size, self.pad, self.square, mirror)  # type: ignore[arg-type]
        except DataError as error:
            name = "" if path in str(error) else f"{path}: "
            self.fail(f"image {window[0]}: {name}{error}", error)
        values = to_channels_first(part).astype(np.float32)
        place = np.s_[:, top : top + part.shape[0], left : left + part.shape[1]]
        if self.mean is not None:
            values -= self.mean[place] if self.transformer.mean is not None else self.mean
        target[place] = values * self.scale

    def _image(self, path: str) -> Image:
        if self.cache is None:
            return read_image(path)
        if path not in self.cache:
            read_image(path)  # says what is wrong
            with open(path, "rb") as file:
                self.cache[path] = file.read()
        return decode_image(self.cache[path])

    def position_dict(self, at: int) -> dict[str, int]:
        return {"batch": at, "rows": self.rows}

    def parse_position(self, values: dict[str, int], seed: int) -> int:
        if values["rows"] != self.rows:
            self.fail(f"the saved data position is of a file with {values['rows']} windows; this one has {self.rows}")
        if values["batch"] < 0:
            self.fail(f"the saved data position lies outside the database (batch {values['batch']})")
        return values["batch"]

    def release(self) -> None:
        if self.cache is not None:
            self.cache.clear()


class WindowSource(Source[int]):
    """Endless batches of windows drawn at random from a window file: first the background ones, then the others.

    source       the window file
    transformer  its crop is the windows' size; its mirror and mean are used, its scale is not (Caffe's rule)
    batch_size   windows a batch, of which batch_size * fg_fraction, rounded down, are foreground
    scale        what pixels are multiplied by, after the mean is taken off
    thresholds   (foreground, background): overlap from which, and below which, a window is one
    context_pad  pixels around the window, see :func:`cut_window`
    crop_mode    "warp" or "square"
    root         put in front of each path as it is
    cache_images keep the image files in memory
    seed         of all that is random
    where        what errors begin with
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        transformer: Transformer,
        batch_size: int,
        *,
        scale: float = 1,
        thresholds: tuple[float, float] = (0.5, 0.5),
        fg_fraction: float = 0.25,
        context_pad: int = 0,
        crop_mode: str = "warp",
        root: str = "",
        cache_images: bool = False,
        seed: int = 0,
        where: str = "",
    ):
        super().__init__(
            _Reader(
                os.fspath(source),
                transformer,
                batch_size,
                scale,
                thresholds,
                fg_fraction,
                context_pad,
                crop_mode,
                root,
                cache_images,
                seed,
                where,
            )
        )
