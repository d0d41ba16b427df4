"""What Caffe's data layers do to an image (``transform_param``): crop, mirror, mean, scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycaffe_compat.data.orders import draws
from pycaffe_compat.errors import DataError, WeightsError
from pycaffe_compat.naming import shape_text
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary import blob_to_array, read_message


def read_mean(path: str) -> NDArray[np.float32]:
    """A mean image (a binaryproto file), channels x height x width.

    Raises:
        DataError: no such file, or no image in it.
    """
    try:
        mean = blob_to_array(read_message(path, caffe_pb2.BlobProto))
    except WeightsError as error:
        raise DataError(f"mean_file: {error}") from error
    while mean.ndim > 3 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3:
        raise DataError(f"mean_file: {path}: holds an array of shape {mean.shape}, not channels x height x width")
    return mean


@dataclass(frozen=True)
class Place:
    """Which part of an image the net gets, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


class Transformer:
    """A TransformationParameter at work: (pixel - mean) * scale, of a crop, mirrored or not.

    In TRAIN the crop stands anywhere, in TEST in the middle; ``mirror`` is a matter of chance in both, as in Caffe. The
    mean image is cut where the image is, before the mirror.

    Args:
        param: a TransformationParameter.
        train: whether the phase is TRAIN.

    Raises:
        DataError: a mean file that cannot be read, settings that exclude each other.
    """

    def __init__(self, param: Any, train: bool):
        self.crop: int = param.crop_size
        self.window: tuple[int, int] = (self.crop, self.crop)
        """Height and width of the crop; 0: none."""
        self.mirror: bool = param.mirror
        self.scale = np.float32(param.scale)
        self.train = train
        if param.force_color and param.force_gray:
            raise DataError("transform_param: force_color and force_gray exclude each other")
        self.color: bool | None = True if param.force_color else False if param.force_gray else None
        """How encoded images are decoded: to 3 channels, to 1, or as they are."""
        self.values = np.array(param.mean_value, np.float32)
        self.reads = [param.mean_file] if param.mean_file else []
        self.mean: NDArray[np.float32] | None = None
        if param.mean_file:
            if self.values.size:
                raise DataError("transform_param: mean_file and mean_value exclude each other")
            self.mean = read_mean(param.mean_file)

    def channel_means(self, channels: int) -> NDArray[np.float32] | None:
        """``mean_value``, one a channel, in the shape channels x 1 x 1; None where there is none.

        Raises:
            DataError: there are as many values as fit neither all channels nor each.
        """
        if not self.values.size:
            return None
        if self.values.size not in (1, channels):
            raise DataError(f"{self.values.size} mean_value for {channels} channels: give one, or one a channel")
        return np.broadcast_to(self.values[:, None, None], (channels, 1, 1))

    def __call__(self, image: NDArray[Any], seed: int, *key: int) -> NDArray[np.float32]:
        """One image, channels x height x width, as the net gets it; a new array.

        Args:
            seed, key: what the random numbers of this image are a function of.

        Raises:
            DataError: the image does not fit the crop or the mean.
        """
        return self.cut(image, self.place(image, seed, *key))

    def place(self, image: NDArray[Any], seed: int, *key: int) -> Place:
        """Where the image is cut, and whether it is mirrored; arguments and errors as of a call."""
        _, height, width = image.shape
        window = self.window if self.window[0] else (height, width)
        if window[0] > height or window[1] > width:
            size = f"crop_size {self.crop}" if self.crop else f"the crop, {window[1]}x{window[0]}"
            raise DataError(f"is {width}x{height}, smaller than {size}")
        if self.mean is not None and self.mean.shape != image.shape:
            raise DataError(f"is of shape {shape_text(image.shape)}, mean_file of {shape_text(self.mean.shape)}")
        scattered = bool(self.window[0]) and self.train
        chances = draws(3, seed, *key) if self.mirror or scattered else np.zeros(3, np.uint64)
        spare = (height - window[0], width - window[1])
        if scattered:
            top, left = (int(chance % (room + 1)) for chance, room in zip(chances[1:], spare, strict=True))
        else:
            top, left = (room // 2 for room in spare)
        return Place(top, left, window[0], window[1], self.mirror and bool(chances[0] % 2))

    def cut(self, image: NDArray[Any], place: Place) -> NDArray[np.float32]:
        """The part of an image that the net gets, as it gets it."""
        box = np.s_[:, place.top : place.top + place.height, place.left : place.left + place.width]
        out = image[box].astype(np.float32)
        mean = self.channel_means(image.shape[0]) if self.mean is None else self.mean[box]
        if mean is not None:
            out -= mean
        if self.scale != 1:
            out *= self.scale
        return np.ascontiguousarray(out[:, :, ::-1] if place.mirrored else out)
