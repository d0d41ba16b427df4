"""What SSD does to an image and the boxes of its objects before Caffe's own transformation (weiliu89/caffe).

In this order: colours distorted (``distort_param``), the image put somewhere on a larger canvas (``expand_param``), a
part of it cut out (``batch_sampler``), resized (``resize_param``); then cropped, mirrored, mean and scale. Images are
height x width x channels here, blue, green, red.

Between these steps the original writes encoded images as JPEG and reads them again; here pixels stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pycaffe_compat.data.annotations import Boxes, areas, coverages, intersections, overlaps, seen_from
from pycaffe_compat.data.images import check_room, resized, to_channels_first
from pycaffe_compat.data.orders import Chances
from pycaffe_compat.data.transform import Transformer
from pycaffe_compat.errors import DataError
from pycaffe_compat.proto.fields import given, word

Picture = NDArray[Any]
FIELDS = ("resize_param", "noise_param", "emit_constraint", "crop_h", "crop_w", "distort_param", "expand_param")
"""What SSD adds to Caffe's TransformationParameter."""
INTERPOLATIONS = {
    "LINEAR": cv2.INTER_LINEAR,
    "AREA": cv2.INTER_AREA,
    "NEAREST": cv2.INTER_NEAREST,
    "CUBIC": cv2.INTER_CUBIC,
    "LANCZOS4": cv2.INTER_LANCZOS4,
}
PADDINGS: dict[str, Any] = {"MIRRORED": "reflect", "REPEAT_NEAREST": "edge"}
WHOLE = np.array([0, 0, 1, 1], np.float32)
LABEL, INSTANCE, BOX, DIFFICULT = 0, 1, slice(2, 6), 6
"""Columns of the objects of an image, (n, 7)."""


def _check(good: bool, message: str) -> None:
    if not good:
        raise DataError(message)


def _bytes(values: Any) -> Picture:
    """As 8-bit pixels: rounded, and cut to 0..255, as OpenCV does."""
    return np.rint(values).clip(0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------ colours


class Distortion:
    """``distort_param``: brightness, contrast, saturation, hue, each by chance; contrast comes first or last."""

    def __init__(self, param: Any):
        self.param = param
        for name in ("brightness", "hue"):
            delta = getattr(param, f"{name}_delta")
            _check(delta >= 0, f"distort_param: {name}_delta {delta:g} is negative")
        for name in ("contrast", "saturation"):
            lower, upper = getattr(param, f"{name}_lower"), getattr(param, f"{name}_upper")
            _check(0 <= lower <= upper, f"distort_param: {name} from {lower:g} to {upper:g} is no range of factors")
        self.colours = param.saturation_prob > 0 or param.hue_prob > 0 or param.random_order_prob > 0

    def __call__(self, image: Picture, chance: Chances) -> Picture:
        if image.dtype != np.uint8:
            raise DataError(f"holds {image.dtype} pixels: distort_param is for 8 bits a channel")
        if self.colours and image.shape[2] != 3:
            raise DataError(f"has {image.shape[2]} channels: distort_param needs 3 for saturation, hue and order")
        p = self.param
        contrast_first = chance.uniform() > 0.5
        if chance.uniform() < p.brightness_prob:
            image = _bytes(image + np.float32(chance.uniform(-p.brightness_delta, p.brightness_delta)))
        if contrast_first:
            image = self._contrast(image, chance)
        if chance.uniform() < p.saturation_prob:
            image = _in_hsv(image, 1, chance.uniform(p.saturation_lower, p.saturation_upper), 0)
        if chance.uniform() < p.hue_prob:
            image = _in_hsv(image, 0, 1, chance.uniform(-p.hue_delta, p.hue_delta))
        if not contrast_first:
            image = self._contrast(image, chance)
        if chance.uniform() < p.random_order_prob:
            image = image[:, :, np.argsort([chance.uniform() for _ in range(3)], kind="stable")]
        return image

    def _contrast(self, image: Picture, chance: Chances) -> Picture:
        p = self.param
        if chance.uniform() >= p.contrast_prob:
            return image
        return _bytes(image * np.float32(chance.uniform(p.contrast_lower, p.contrast_upper)))


def _in_hsv(image: Picture, channel: int, factor: float, shift: float) -> Picture:
    """A channel of hue (0..179), saturation and value times a factor, plus a shift; limited to 0..255."""
    hsv = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2HSV))
    hsv[:, :, channel] = _bytes(hsv[:, :, channel] * np.float32(factor) + np.float32(shift))
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))


# ----------------------------------------------------------------------------------------------- larger, smaller, parts


class Expansion:
    """``expand_param``: the image somewhere on a canvas up to ``max_expand_ratio`` times its size, filled with the
    mean."""

    def __init__(self, param: Any):
        self.probability, self.largest = param.prob, param.max_expand_ratio
        _check(
            1 < self.largest < 2**16,
            f"expand_param: max_expand_ratio {self.largest:g} must be more than 1, and less than 65536",
        )

    def __call__(self, image: Picture, fill: Picture | None, chance: Chances) -> tuple[Picture, Boxes]:
        """The new image, and what the canvas is in fractions of the old one."""
        if chance.uniform() > self.probability or abs(self.largest - 1) < 1e-2:
            return image, WHOLE
        ratio = np.float32(chance.uniform(1, self.largest))
        height, width, channels = image.shape
        tall, wide = int(height * ratio), int(width * ratio)
        check_room(tall, wide, image[:1, :1].nbytes)
        top, left = int(chance.uniform(0, tall - height)), int(chance.uniform(0, wide - width))
        canvas = np.empty((tall, wide, channels), image.dtype)
        colour = np.zeros(channels) if fill is None else fill
        canvas[:] = _bytes(colour) if image.dtype == np.uint8 else colour
        canvas[top : top + height, left : left + width] = image
        corners = np.array([-left, -top, wide - left, tall - top], np.float32)
        return canvas, corners / np.array([width, height] * 2, np.float32)


class Sampler:
    """A ``batch_sampler``: parts of an image that meet a constraint.

    A part is a square of min_scale..max_scale of the image, stretched to an aspect ratio. One of the image's objects at
    least must meet all that ``sample_constraint`` says of the part and it (the original looks at the first of overlap,
    sample coverage and object coverage alone): their intersection over union, the part of the sample that the object
    covers, the part of the object that the sample covers.
    """

    def __init__(self, param: Any):
        self.param, s = param, param.sampler
        name = "batch_sampler: sampler"
        _check(
            0 < s.min_scale <= s.max_scale <= 1,
            f"{name}: scales from {s.min_scale:g} to {s.max_scale:g} must be in 0..1 (0 excluded), the smaller first",
        )
        _check(
            0 < s.min_aspect_ratio <= s.max_aspect_ratio < np.inf,
            f"{name}: aspect ratios from {s.min_aspect_ratio:g} to {s.max_aspect_ratio:g} must be positive, the "
            "smaller first",
        )

    def __call__(self, objects: Boxes, chance: Chances) -> list[Boxes]:
        """Samples (4,), in fractions of the image; objects are (n, 4)."""
        p = self.param
        found: list[Boxes] = []
        for _ in range(p.max_trials if p.use_original_image else 0):
            if p.HasField("max_sample") and len(found) >= p.max_sample:
                break
            sample = self._sample(chance)
            if self._good(sample, objects):
                found.append(sample)
        return found

    def _sample(self, chance: Chances) -> Boxes:
        s = self.param.sampler
        scale = chance.uniform(s.min_scale, s.max_scale)
        ratio = chance.uniform(s.min_aspect_ratio, s.max_aspect_ratio)
        ratio = min(max(ratio, scale**2), 1 / scale**2)
        width, height = min(scale * ratio**0.5, 1), min(scale / ratio**0.5, 1)
        x, y = chance.uniform(0, 1 - width), chance.uniform(0, 1 - height)
        return np.array([x, y, x + width, y + height], np.float32)

    def _good(self, sample: Boxes, objects: Boxes) -> bool:
        c = self.param.sample_constraint
        if not c.ListFields():
            return True
        meets = np.ones(len(objects), bool)
        for name, values in (
            ("jaccard_overlap", overlaps(sample, objects)),
            ("sample_coverage", intersections(sample, objects) / areas(sample)),
            ("object_coverage", coverages(objects, sample)),
        ):
            least, most = given(c, f"min_{name}"), given(c, f"max_{name}")
            if least is not None:
                meets &= values >= np.float32(least)
            if most is not None:
                meets &= values <= np.float32(most)
        return bool(meets.any())


def part(image: Picture, view: Boxes) -> Picture:
    """The part of an image that a view (4,), in fractions of it, cuts out; a pixel at least."""
    height, width = image.shape[:2]
    left, top, right, bottom = view.clip(0, 1) * np.array([width, height] * 2, np.float32)
    x, y = min(int(left), width - 1), min(int(top), height - 1)
    return image[y : y + max(int(bottom - top), 1), x : x + max(int(right - left), 1)]


class Resizing:
    """``resize_param``: to height x width (WARP), to cover it (FIT_SMALL_SIZE), or to fit into it, the rest filled
    (FIT_LARGE_SIZE_AND_PAD). Of several ``interp_mode`` one is taken by chance."""

    def __init__(self, param: Any):
        self.param, self.mode, self.padding = param, word(param, "resize_mode"), word(param, "pad_mode")
        self.height, self.width = int(param.height), int(param.width)
        _check(min(self.height, self.width) > 0, "resize_param: height and width must be given and positive")
        _check(param.prob == 1, "resize_param: prob is not read, by the original neither: remove it")
        self.units = (int(param.width_scale), int(param.height_scale))
        _check(
            not any(self.units) or self.mode == "FIT_SMALL_SIZE",
            "resize_param: height_scale and width_scale are for FIT_SMALL_SIZE",
        )
        _check(bool(self.units[0]) == bool(self.units[1]), "resize_param: give both of height_scale and width_scale")
        self.interpolations = [INTERPOLATIONS[word(param, "interp_mode", m)] for m in param.interp_mode]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to, before it is padded."""
        aspect = np.float32(width) / np.float32(height)
        wanted = np.float32(self.width) / np.float32(self.height)
        if self.mode == "WARP":
            return self.height, self.width
        if aspect > wanted if self.mode == "FIT_LARGE_SIZE_AND_PAD" else aspect < wanted:
            return max(int(np.float32(self.width) / aspect), 1), self.width
        return self.height, max(int(np.float32(self.height) * aspect), 1)

    def __call__(self, image: Picture, chance: Chances) -> Picture:
        check_room(self.height, self.width, image[:1, :1].nbytes)  # of the canvas, larger than what is resized
        height, width = self.size(*image.shape[:2])
        how = cv2.INTER_LINEAR
        if self.interpolations:
            how = self.interpolations[chance.below(len(self.interpolations))]
        picture: Picture = resized(np.ascontiguousarray(image), height, width, how).reshape(height, width, -1)
        if self.mode != "FIT_LARGE_SIZE_AND_PAD":
            return picture
        tall, wide = self.height - height, self.width - width
        margins = ((tall // 2, tall - tall // 2), (wide // 2, wide - wide // 2), (0, 0))
        if self.padding != "CONSTANT":
            return np.pad(picture, margins, mode=PADDINGS[self.padding])
        fill, channels = np.array(self.param.pad_value or [0]), image.shape[2]
        if fill.size not in (1, channels):
            raise DataError(f"{fill.size} pad_value for {channels} channels: give one, or one a channel")
        canvas = np.empty((self.height, self.width, channels), image.dtype)
        canvas[:] = _bytes(fill) if image.dtype == np.uint8 else fill
        canvas[margins[0][0] : margins[0][0] + height, margins[1][0] : margins[1][0] + width] = picture
        return canvas

    def boxes(self, boxes: Boxes, height: int, width: int) -> Boxes:
        """Boxes of an image of this size, as fractions of the resized one."""
        size = np.array([self.width, self.height], np.float32)
        margin = np.zeros(2, np.float32)
        if self.mode == "FIT_LARGE_SIZE_AND_PAD":
            aspect = np.float32(width) / np.float32(height)
            if aspect > size[0] / size[1]:
                margin[1] = (size[1] - size[0] / aspect) / 2
            else:
                margin[0] = (size[0] - aspect * size[1]) / 2
        low, high = (boxes[:, k : k + 2] * (size - 2 * margin) for k in (0, 2))
        low, high = margin + np.maximum(low, 0), margin + np.minimum(high, size)
        return np.concatenate([low, high], 1) / np.tile(size, 2)

    def in_units(self, boxes: Boxes, height: int, width: int) -> Boxes:
        """Boxes of a crop of this size, in units of ``width_scale`` and ``height_scale`` where these are given."""
        if not self.units[0]:
            return boxes
        crop = np.array([width, height], np.float32)
        if (crop < self.units).any():
            raise DataError(
                f"is {width}x{height} when resized and cropped, smaller than {self.units[0]}x{self.units[1]}, "
                "width_scale and height_scale"
            )
        return boxes * np.tile(crop / np.array(self.units, np.float32), 2)


def seen_through(resizing: Resizing | None, boxes: Boxes, height: int, width: int) -> Boxes:
    """Boxes (n, 4) of a resized image, in pixels of the image of this size that it was made of; cut at its edges."""
    pixels = np.tile(np.array([width, height], np.float32), 2)
    if resizing is not None and resizing.units[0]:
        units = np.tile(np.array(resizing.units, np.float32), 2)
        return np.minimum((boxes * units).clip(0), pixels)
    if resizing is not None and resizing.mode == "FIT_LARGE_SIZE_AND_PAD":
        image = resizing.boxes(WHOLE[None], height, width)[0]
        there = (boxes[:, :2] < image[2:]).all(1) & (boxes[:, 2:] > image[:2]).all(1)
        boxes = np.where(there[:, None], seen_from(boxes, image)[0], boxes)
    return boxes.clip(0, 1) * pixels


# ------------------------------------------------------------------------------------------------------ all of it


@dataclass(frozen=True)
class Emission:
    """``emit_constraint``: which objects stay when a part of the image does: those whose centre is in it, or (least is
    a number) more than that part of them."""

    least: float | None

    def __call__(self, boxes: Boxes, view: Boxes) -> NDArray[np.bool_]:
        if self.least is not None:
            return np.asarray(coverages(boxes, view) > np.float32(self.least))
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        return np.asarray(((centre >= view[:2]) & (centre <= view[2:])).all(1))


class AnnotatedTransformer(Transformer):
    """A TransformationParameter of SSD's and batch samplers at work, on an image and its objects.

    Objects are rows of label, instance, xmin, ymin, xmax, ymax, difficult, their boxes in fractions of the image. Those
    outside what the net sees are left out, those at its edge cut.

    Raises:
        DataError: settings that are no range, exclude each other, or are not supported.
    """

    def __init__(self, param: Any, train: bool, samplers: Sequence[Any] = ()):
        super().__init__(param, train)
        _check(given(param, "noise_param") is None, "transform_param: noise_param is not supported: remove it")
        height, width = (given(param, name) or 0 for name in ("crop_h", "crop_w"))
        _check(bool(height) == bool(width), "transform_param: give both of crop_h and crop_w")
        if height and not self.crop:
            self.window = (height, width)
        distort, expand, resize = (given(param, name) for name in ("distort_param", "expand_param", "resize_param"))
        self.distortion = None if distort is None else Distortion(distort)
        self.expansion = None if expand is None else Expansion(expand)
        self.resizing = None if resize is None else Resizing(resize)
        _check(
            self.expansion is None or self.mean is None,
            "transform_param: expand_param fills its canvas with mean_value: give that instead of mean_file",
        )
        emit = given(param, "emit_constraint")
        self.emission: Emission | None = None
        if emit is not None:
            self.emission = Emission(emit.emit_overlap if word(emit, "emit_type") == "MIN_OVERLAP" else None)
        self.samplers = [Sampler(sampler) for sampler in samplers]

    def annotated(self, image: NDArray[Any], objects: Boxes, seed: int, at: int) -> tuple[NDArray[np.float32], Boxes]:
        """An image, channels x height x width, and its objects (n, 7), as the net gets them.

        Args:
            seed, at: what is random is a function of these.

        Raises:
            DataError: the image does not fit the settings.
        """
        chance = Chances(seed, 3, at)
        picture: Picture = image.transpose(1, 2, 0)
        if self.distortion:
            picture = self.distortion(picture, chance)
        if self.expansion:
            fill = self.channel_means(picture.shape[2])
            picture, view = self.expansion(picture, None if fill is None else fill[:, 0, 0], chance)
            if view is not WHOLE:
                objects = self._seen(objects, view)
        samples = [sample for sampler in self.samplers for sample in sampler(objects[:, BOX], chance)]
        if samples:
            sample = samples[chance.below(len(samples))].clip(0, 1)
            picture, objects = part(picture, sample), self._seen(objects, sample)
        boxes = objects[:, BOX]
        if self.resizing:
            boxes = self.resizing.boxes(boxes, *picture.shape[:2])
            picture = self.resizing(picture, chance)
        height, width = picture.shape[:2]
        final = to_channels_first(picture)
        place = self.place(final, seed, 1, at)
        corners = np.array([place.left, place.top, place.left + place.width, place.top + place.height], np.float32)
        objects = self._seen(_with(objects, boxes), corners / np.array([width, height] * 2, np.float32))
        if place.mirrored:
            left, top, right, bottom = objects[:, BOX].T
            objects = _with(objects, np.stack([1 - right, top, 1 - left, bottom], 1))
        if self.resizing:
            objects = _with(objects, self.resizing.in_units(objects[:, BOX], place.height, place.width))
        return self.cut(final, place), objects

    def _seen(self, objects: Boxes, view: Boxes) -> Boxes:
        boxes, there = seen_from(objects[:, BOX], view)
        if self.emission:
            there &= self.emission(objects[:, BOX], view)
        return _with(objects, boxes)[there]


def _with(objects: Boxes, boxes: Boxes) -> Boxes:
    """The objects with other boxes."""
    return np.concatenate([objects[:, :2], boxes, objects[:, 6:]], 1).astype(np.float32)
