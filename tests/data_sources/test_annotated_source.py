"""AnnotatedData: images and their boxes, and what SSD does to them at random.

The oracle for boxes is the picture: an object is a rectangle of a colour of its own, and wherever a transformation puts
it, its box must be where its colour is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
from google.protobuf import text_format

from pycaffe_compat import CaffeError, DataError
from pycaffe_compat.data import AnnotatedSource
from pycaffe_compat.data.augment import AnnotatedTransformer, Distortion, Resizing, Sampler
from pycaffe_compat.data.datum import image_to_datum
from pycaffe_compat.data.orders import Chances
from pycaffe_compat.graph import TEST, TRAIN, Graph
from pycaffe_compat.proto.dialects import find_dialect
from pycaffe_compat.proto.text import parse_net

SSD = find_dialect("ssd")
HEIGHT, WIDTH = 80, 120
COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]])  # of the objects; the ground is (60, 60, 60)


def parse(name: str, text: str) -> Any:
    return text_format.Parse(text, SSD[name]())


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """An image and its 3 objects (label, instance, box in pixels, difficult), which do not overlap."""
    rng = np.random.default_rng(number)
    image = np.full((height, width, 3), 60, np.uint8)
    rows = []
    for k in range(3):
        w, h = rng.integers(width // 8, width // 4), rng.integers(height // 4, height // 2)
        x, y = k * width // 3 + rng.integers(0, width // 3 - w), rng.integers(0, height - h)
        image[y : y + h, x : x + w] = COLOURS[k]
        rows.append([k + 1, k % 2, x, y, x + w, y + h, k == 2])
    return image, np.array(rows, np.float32)


def record(number: int, boxes: bool = True, encoding: str = "png", typed: bool = True) -> Any:
    image, rows = picture(number)
    result = SSD["AnnotatedDatum"]()
    result.datum.ParseFromString(image_to_datum(image, number, encoding).SerializeToString())
    if typed:
        result.type = 0
    for label, instance, x1, y1, x2, y2, difficult in rows if boxes else []:
        one = result.annotation_group.add(group_label=int(label)).annotation.add(instance_id=int(instance))
        one.bbox.xmin, one.bbox.ymin, one.bbox.xmax, one.bbox.ymax = x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT
        one.bbox.difficult = bool(difficult)
    return result


def write(path: Path, records: list[Any]) -> Path:
    with lmdb.open(str(path), map_size=2**24) as env, env.begin(write=True) as transaction:
        for i, one in enumerate(records):
            transaction.put(b"%08d" % i, one if isinstance(one, bytes) else one.SerializeToString())
    return path


def act(transform: str = "", samplers: str = "", train: bool = True) -> AnnotatedTransformer:
    chosen = parse("AnnotatedDataParameter", samplers).batch_sampler
    return AnnotatedTransformer(parse("TransformationParameter", transform), train, chosen)


def fractions(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rows = picture(number, height, width)[1]
    rows[:, 2:6] /= [width, height, width, height]
    return rows


# ---------------------------------------------------------------------------------------------------- plain batches


def test_batches_are_the_images_and_a_row_an_object(tmp_path: Path) -> None:
    path = write(tmp_path / "db", [record(0), record(1, boxes=False), record(2, encoding=""), record(3)])
    source = AnnotatedSource(path, act("mean_value: 100 scale: 0.5"), 2)
    assert source.shapes == [(2, 3, HEIGHT, WIDTH), (1, 1, 3, 8)]
    for first in (0, 2, 0):
        data, label = source.next()
        for item in range(2):
            image = picture(first + item)[0].transpose(2, 0, 1)
            np.testing.assert_array_equal(data[item], (image - np.float32(100)) * np.float32(0.5))
        want = [[i, *row] for i in range(2) if first + i != 1 for row in fractions(first + i)]
        assert label.dtype == np.float32 and label.shape == (1, 1, len(want), 8)
        np.testing.assert_allclose(label[0, 0], want, rtol=1e-6)


def test_a_batch_without_objects_is_one_row_of_minus_1(tmp_path: Path) -> None:
    source = AnnotatedSource(write(tmp_path / "db", [record(i, boxes=False) for i in range(2)]), act(), 2)
    assert source.shapes[1] == (1, 1, 1, 8)
    np.testing.assert_array_equal(source.next()[1], np.full((1, 1, 1, 8), -1))


def test_records_without_a_type_give_their_label(tmp_path: Path) -> None:
    path = write(tmp_path / "db", [record(i, typed=False) for i in range(4)])
    source = AnnotatedSource(path, act(), 2)
    assert source.shapes[1] == (2,)
    assert [source.next()[1].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    assert AnnotatedSource(path, act(), 2, boxes=True).next()[1].shape == (1, 1, 6, 8)
    assert len(AnnotatedSource(path, act(), 2, tops=1).next()) == 1


AUGMENTED = """
    mirror: true mean_value: 104 mean_value: 117 mean_value: 123
    resize_param { prob: 1 resize_mode: WARP height: 40 width: 40 interp_mode: LINEAR interp_mode: AREA interp_mode: NEAREST interp_mode: CUBIC interp_mode: LANCZOS4 }
    emit_constraint { emit_type: CENTER }
    distort_param { brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 contrast_lower: 0.5 contrast_upper: 1.5 hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 saturation_lower: 0.5 saturation_upper: 1.5 random_order_prob: 0.1 }
    expand_param { prob: 0.5 max_expand_ratio: 4.0 }
"""  # fmt: skip
SAMPLERS = "batch_sampler { max_sample: 1 max_trials: 1 }" + "".join(
    "batch_sampler { sampler { min_scale: 0.3 max_scale: 1.0 min_aspect_ratio: 0.5 max_aspect_ratio: 2.0 } "
    f"sample_constraint {{ {constraint} }} max_sample: 1 max_trials: 50 }}"
    for constraint in ("min_jaccard_overlap: 0.1", "min_jaccard_overlap: 0.5", "min_jaccard_overlap: 0.9", "max_jaccard_overlap: 1.0")
)  # fmt: skip


def test_ssds_own_settings_resume_where_they_stopped(tmp_path: Path) -> None:
    path = write(tmp_path / "db", [record(i) for i in range(5)])

    def opened(seed: int = 7) -> AnnotatedSource:
        return AnnotatedSource(path, act(AUGMENTED, SAMPLERS), 2, seed=seed)

    source = opened()
    batches = [source.next() for _ in range(4)]
    state = json.loads(json.dumps(source.state_dict()))
    later = [source.next() for _ in range(3)]
    other = opened(0)
    other.load_state_dict(state)
    for got, want in zip([opened().next(), *(other.next() for _ in range(3))], [batches[0], *later], strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
    assert batches[0][0].shape == (2, 3, 40, 40)
    assert any((a[0] != b[0]).any() for a, b in zip(batches[:2], (opened(8).next(), opened(8).next()), strict=True))


# --------------------------------------------------------------------------- where the colours are, there the boxes are


def seen(image: np.ndarray, colour: np.ndarray) -> list[float] | None:
    """The box of the pixels of a colour, in fractions; of an image channels x height x width."""
    mask = (np.abs(image - colour[:, None, None]) < 60).all(0)
    if mask.sum() < 12:
        return None
    ys, xs = np.nonzero(mask)
    return [xs.min() / mask.shape[1], ys.min() / mask.shape[0], (xs.max() + 1) / mask.shape[1], (ys.max() + 1) / mask.shape[0]]


GEOMETRY = [
    ("", ""),
    ("mirror: true", ""),
    ("crop_size: 60", ""),
    ("crop_h: 50 crop_w: 90 mirror: true", ""),
    ("expand_param { prob: 1 max_expand_ratio: 3 } mean_value: 30", ""),
    ("resize_param { height: 64 width: 96 resize_mode: WARP }", ""),
    ("resize_param { height: 96 width: 64 resize_mode: WARP } mirror: true crop_size: 50", ""),
    ("resize_param { height: 90 width: 90 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_value: 7 }", ""),
    ("resize_param { height: 60 width: 150 resize_mode: FIT_LARGE_SIZE_AND_PAD } mirror: true", ""),
    ("resize_param { height: 90 width: 70 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_mode: CONSTANT pad_value: 1 pad_value: 2 pad_value: 3 }", ""),
    ("resize_param { height: 60 width: 60 resize_mode: FIT_SMALL_SIZE } crop_size: 60", ""),
    ("resize_param { height: 90 width: 160 resize_mode: FIT_SMALL_SIZE }", ""),
    ("", "batch_sampler { sampler { min_scale: 0.3 max_scale: 0.9 min_aspect_ratio: 0.5 max_aspect_ratio: 2 } max_sample: 1 }"),
    ("mirror: true resize_param { height: 96 width: 96 } expand_param { max_expand_ratio: 2 }", SAMPLERS),
    ("mirror: true resize_param { height: 96 width: 96 interp_mode: NEAREST } emit_constraint { }", SAMPLERS),
]  # fmt: skip


@pytest.mark.parametrize(("transform", "samplers"), GEOMETRY)
@pytest.mark.parametrize("train", [True, False])
def test_boxes_are_where_the_objects_are(transform: str, samplers: str, train: bool) -> None:
    transformer = act(transform, samplers, train)
    mean = np.float32(30 if "mean_value" in transform else 0)
    found = 0
    full = (8 * HEIGHT, 8 * WIDTH) if samplers else (HEIGHT, WIDTH)  # a sample is cut at whole pixels
    for number in range(25):
        image, rows = picture(number % 5, *full)[0], fractions(number % 5, *full)
        data, objects = transformer.annotated(image.transpose(2, 0, 1), rows, 3, number)
        assert objects.shape[1] == 7 and (objects[:, 2:6] >= 0).all() and (objects[:, 2:6] <= 1).all()
        kept = {int(row[0]): row for row in objects}
        size = np.array([data.shape[2], data.shape[1]] * 2)
        for k, colour in enumerate(COLOURS):
            box = seen(data + mean, colour)
            if box is None:
                continue
            if k + 1 not in kept:
                assert "emit" in transform or (box[2] - box[0]) * size[0] < 4 or (box[3] - box[1]) * size[1] < 4
                continue
            row = kept[k + 1]
            assert row[1] == k % 2 and row[6] == (k == 2)
            np.testing.assert_allclose(row[2:6] * size, box * size, atol=3)
            found += 1
    assert found > 25


def test_what_there_is_of_objects_at_the_edge() -> None:
    """A crop in the middle, 60 x 60 of 120 x 80: an object half in it is cut, one outside it is gone."""
    rows = np.array([[1, 0, 20, 20, 40, 60, 0], [2, 0, 0, 0, 30, 80, 0], [3, 0, 80, 0, 100, 9, 0]], np.float32)
    rows[:, 2:6] /= [120, 80, 120, 80]
    image = np.zeros((3, 80, 120), np.uint8)
    _, got = act("crop_size: 60", train=False).annotated(image, rows, 0, 0)
    np.testing.assert_allclose(got, [[1, 0, 0, 1 / 6, 1 / 6, 5 / 6, 0]], atol=1e-6)  # the third ends above the crop
    assert not len(act("crop_size: 60 emit_constraint { emit_type: CENTER }", train=False).annotated(image, rows[1:], 0, 0)[1])
    half = "crop_size: 60 emit_constraint { emit_type: MIN_OVERLAP emit_overlap: %g }"
    assert len(act(half % 0.49, train=False).annotated(image, rows[:1], 0, 0)[1]) == 1
    assert len(act(half % 0.51, train=False).annotated(image, rows[:1], 0, 0)[1]) == 0


def test_boxes_in_units_of_another_size() -> None:
    """height_scale and width_scale: of an 80 x 120 image resized to 60 x 90, boxes in units of 30 x 45 pixels."""
    text = "resize_param { height: 60 width: 60 resize_mode: FIT_SMALL_SIZE height_scale: 30 width_scale: 45 }"
    rows = fractions(0)
    _, got = act(text).annotated(picture(0)[0].transpose(2, 0, 1), rows, 0, 0)
    np.testing.assert_allclose(got[:, 2:6], rows[:, 2:6] * 2, rtol=1e-6)


# ------------------------------------------------------------------------------------------------- pixels, by OpenCV

PHOTO = np.random.default_rng(0).integers(0, 256, (31, 47, 3)).astype(np.uint8)


@pytest.mark.parametrize("mode", ["LINEAR", "AREA", "NEAREST", "CUBIC", "LANCZOS4"])
@pytest.mark.parametrize(
    ("settings", "size", "border"),
    [
        ("height: 20 width: 64", (20, 64), None),
        ("height: 20 width: 64 resize_mode: FIT_SMALL_SIZE", (42, 64), None),
        ("height: 64 width: 20 resize_mode: FIT_SMALL_SIZE", (64, 97), None),
        ("height: 40 width: 40 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_value: 9", (26, 40), (7, 7, 0, 0, cv2.BORDER_CONSTANT)),
        ("height: 20 width: 51 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_mode: MIRRORED", (20, 30), (0, 0, 10, 11, cv2.BORDER_REFLECT_101)),
        ("height: 40 width: 43 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_mode: REPEAT_NEAREST", (28, 43), (6, 6, 0, 0, cv2.BORDER_REPLICATE)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_opencvs(mode: str, settings: str, size: tuple[int, int], border: Any, channels: int) -> None:
    image = PHOTO[:, :, :channels]
    want = cv2.resize(image, size[::-1], interpolation=getattr(cv2, f"INTER_{mode}"))
    if border:
        want = cv2.copyMakeBorder(want, *border, value=(9, 9, 9))
    got = Resizing(parse("ResizeParameter", f"{settings} interp_mode: {mode}"))(image, Chances(0))
    np.testing.assert_array_equal(got, want.reshape(*want.shape[:2], channels))


def test_one_of_several_interpolations_is_taken_by_chance() -> None:
    resize = Resizing(parse("ResizeParameter", "height: 20 width: 20 interp_mode: NEAREST interp_mode: AREA"))
    wanted = [cv2.resize(PHOTO, (20, 20), interpolation=how) for how in (cv2.INTER_NEAREST, cv2.INTER_AREA)]
    got = [resize(PHOTO, Chances(i)) for i in range(60)]
    counts = [sum(bool((g == w).all()) for g in got) for w in wanted]
    assert sum(counts) == 60 and 15 < counts[0] < 45


def in_hsv(image: np.ndarray, channel: int, factor: float, shift: float) -> np.ndarray:
    planes = list(cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV)))
    planes[channel] = cv2.addWeighted(planes[channel], factor, planes[channel], 0, shift)
    return cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2BGR)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ("", PHOTO),
        ("contrast_prob: 1 contrast_lower: 1.25 contrast_upper: 1.25", cv2.addWeighted(PHOTO, 1.25, PHOTO, 0, 0)),
        ("saturation_prob: 1 saturation_lower: 0.5 saturation_upper: 0.5", in_hsv(PHOTO, 1, 0.5, 0)),
        ("saturation_prob: 1 saturation_lower: 1.5 saturation_upper: 1.5", in_hsv(PHOTO, 1, 1.5, 0)),
        ("brightness_prob: 1 hue_prob: 1", in_hsv(PHOTO, 0, 1, 0)),
    ],
)
def test_colours_are_opencvs(settings: str, want: np.ndarray) -> None:
    got = Distortion(parse("DistortionParameter", settings))(PHOTO, Chances(1))
    np.testing.assert_array_equal(got, want)


def test_brightness_and_hue_are_shifted_by_up_to_their_delta() -> None:
    grey = np.full((2, 2, 3), 100, np.uint8)
    bright = Distortion(parse("DistortionParameter", "brightness_prob: 0.5 brightness_delta: 30"))
    shifts = [int(bright(grey, Chances(i))[0, 0, 0]) - 100 for i in range(300)]
    assert len(set(bright(grey, Chances(5)).ravel().tolist())) == 1
    assert min(shifts) < -25 and max(shifts) > 25 and max(map(abs, shifts)) <= 30 and 100 < shifts.count(0) < 200
    red = np.full((2, 2, 3), (0, 0, 255), np.uint8)
    hue = Distortion(parse("DistortionParameter", "hue_prob: 1 hue_delta: 18"))
    hues = [int(cv2.cvtColor(hue(red, Chances(i)), cv2.COLOR_BGR2HSV)[0, 0, 0]) for i in range(100)]
    assert max(hues) > 14 and max(hues) <= 18 and hues.count(0) > 30  # below 0 it stays at 0


def test_contrast_comes_before_or_after_the_other_colours() -> None:
    settings = "contrast_prob: 1 contrast_lower: 2 contrast_upper: 2 saturation_prob: 1 saturation_lower: 0.5 saturation_upper: 0.5"
    double = cv2.addWeighted(PHOTO, 2, PHOTO, 0, 0)
    first, last = in_hsv(double, 1, 0.5, 0), cv2.addWeighted(in_hsv(PHOTO, 1, 0.5, 0), 2, PHOTO, 0, 0)
    got = [Distortion(parse("DistortionParameter", settings))(PHOTO, Chances(i)) for i in range(40)]
    counts = [sum(bool((g == w).all()) for g in got) for w in (first, last)]
    assert sum(counts) == 40 and 8 < counts[0] < 32


def test_channels_are_put_in_every_order() -> None:
    one = Distortion(parse("DistortionParameter", "random_order_prob: 1"))
    image = np.arange(3, dtype=np.uint8).reshape(1, 1, 3)
    assert len({tuple(one(image, Chances(i)).ravel().tolist()) for i in range(80)}) == 6


def test_an_expanded_image_stands_on_the_mean() -> None:
    image = np.full((3, 10, 20), 200, np.uint8)
    sizes = []
    for at in range(40):
        text = "expand_param { prob: 0.5 max_expand_ratio: 3 } mean_value: 104 mean_value: 117 mean_value: 123"
        data, _ = act(text).annotated(image, np.zeros((0, 7), np.float32), 0, at)
        inside = (data == (200 - np.array([104, 117, 123]))[:, None, None]).all(0)
        assert inside.sum() == 200 and not data[:, ~inside].any()
        sizes.append(data.shape[1] / 10)
    assert 8 < sizes.count(1) < 32 and max(sizes) > 2.2 and max(sizes) < 3


# ----------------------------------------------------------------------------------------------------------- samplers


def iou_and_parts(a: Any, b: Any) -> tuple[float, float, float]:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    sizes = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return common / (sum(sizes) - common), common / sizes[0], common / sizes[1]


@pytest.mark.parametrize(
    ("constraint", "rule"),
    [
        ("", lambda iou, sample, thing: True),
        ("min_jaccard_overlap: 0.3", lambda iou, sample, thing: iou >= 0.3),
        ("max_jaccard_overlap: 0.1", lambda iou, sample, thing: iou <= 0.1),
        ("min_jaccard_overlap: 0.1 max_jaccard_overlap: 0.2", lambda iou, sample, thing: 0.1 <= iou <= 0.2),
        ("min_sample_coverage: 0.2", lambda iou, sample, thing: sample >= 0.2),
        ("min_object_coverage: 1", lambda iou, sample, thing: thing >= 1 - 1e-5),
        ("max_object_coverage: 0.5 min_sample_coverage: 0.1", lambda iou, sample, thing: thing <= 0.5 and sample >= 0.1),
    ],
)  # fmt: skip
def test_samples_meet_their_constraint(constraint: str, rule: Any) -> None:
    settings = "sampler { min_scale: 0.2 max_scale: 0.8 min_aspect_ratio: 0.5 max_aspect_ratio: 2 } max_trials: 200 "
    settings += f"sample_constraint {{ {constraint} }}" if constraint else ""
    objects = fractions(1)[1:2, 2:6]
    samples = Sampler(parse("BatchSampler", settings))(objects, Chances(1))
    assert samples and (len(samples) == 200) == (not constraint)
    for s in samples:
        assert min(s) >= 0 and max(s) <= 1 + 1e-6
        w, h = s[2] - s[0], s[3] - s[1]
        assert 0.2 - 1e-5 < (w * h) ** 0.5 < 0.8 + 1e-5 and 0.5 - 1e-4 < w / h < 2 + 1e-4
        assert any(rule(*iou_and_parts(s, thing)) for thing in objects)
    alone = Sampler(parse("BatchSampler", settings))(objects[:0], Chances(1))
    assert bool(alone) == (not constraint)  # without objects there is none that meets it


def test_samples_are_as_many_as_allowed_and_stretch_no_further_than_the_image() -> None:
    objects = fractions(1)[:, 2:6]
    assert len(Sampler(parse("BatchSampler", "max_sample: 3"))(objects, Chances(0))) == 3
    assert len(Sampler(parse("BatchSampler", ""))(objects, Chances(0))) == 100
    assert not Sampler(parse("BatchSampler", "use_original_image: false"))(objects, Chances(0))
    wide = "sampler { min_scale: 0.9 max_scale: 0.9 min_aspect_ratio: 4 max_aspect_ratio: 4 } max_sample: 1"
    ((x1, y1, x2, y2),) = Sampler(parse("BatchSampler", wide))(objects, Chances(0))
    assert x1 == pytest.approx(0, abs=1e-6) and x2 == pytest.approx(1) and y2 - y1 == pytest.approx(0.81, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------- errors


def net(settings: str, kind: str = "AnnotatedData") -> str:
    return f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {settings} }}'


DB = 'data_param { source: "db" backend: LMDB batch_size: 2 }'
BAD = [
    (net('data_param { source: "db" backend: LMDB batch_size: 0 }'), "batch_size 0 is not positive"),
    (net('data_param { source: "no" backend: LMDB batch_size: 1 }'), "no: no such LMDB"),
    (net(DB + "transform_param { noise_param { } }"), "transform_param: noise_param is not supported: remove it"),
    (net(DB + "transform_param { crop_h: 3 }"), "transform_param: give both of crop_h and crop_w"),
    (net(DB + "transform_param { crop_size: 300 }"), 'db: record "00000000": is 120x80, smaller than crop_size 300'),
    (net(DB + "transform_param { crop_h: 90 crop_w: 100 }"), "is 120x80, smaller than the crop, 100x90"),
    (net(DB + "transform_param { resize_param { height: 3 } }"), "resize_param: height and width must be given and positive"),
    (net(DB + "transform_param { resize_param { height: 4294967295 width: 4294967295 } }"), "cannot be made 4294967295x4294967295"),
    (net(DB + "transform_param { resize_param { height: 4294967295 width: 1 } }"), "cannot be resized to 1x4294967295"),
    (net(DB + "transform_param { resize_param { height: 4 width: 4294967295 resize_mode: FIT_LARGE_SIZE_AND_PAD } }"), 'db: record "00000000": cannot be made 4294967295x4'),
    (net(DB + "transform_param { expand_param { max_expand_ratio: inf } }"), "max_expand_ratio inf must be more than 1, and less than 65536"),
    (net(DB + "transform_param { resize_param { height: 3 width: 4 prob: 0.5 } }"), "resize_param: prob is not read"),
    (net(DB + "transform_param { resize_param { height: 3 width: 4 height_scale: 5 width_scale: 6 } }"), "height_scale and width_scale are for FIT_SMALL_SIZE"),
    (net(DB + "transform_param { resize_param { height: 3 width: 4 height_scale: 5 resize_mode: FIT_SMALL_SIZE } }"), "give both of height_scale and width_scale"),
    (net(DB + "transform_param { resize_param { height: 8 width: 9 resize_mode: FIT_SMALL_SIZE height_scale: 10 width_scale: 6 } }"), "is 12x8 when resized and cropped, smaller than 6x10"),
    (net(DB + "transform_param { resize_param { height: 30 width: 9 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_value: 1 pad_value: 2 } }"), "2 pad_value for 3 channels"),
    (net(DB + "transform_param { expand_param { max_expand_ratio: 1 } }"), "expand_param: max_expand_ratio 1 must be more than 1"),
    (net(DB + 'transform_param { expand_param { max_expand_ratio: 2 } mean_file: "mean" }'), "mean_file: mean: "),
    (net(DB + "transform_param { distort_param { hue_delta: -1 } }"), "distort_param: hue_delta -1 is negative"),
    (net(DB + "transform_param { distort_param { contrast_lower: 2 contrast_upper: 1 } }"), "distort_param: contrast from 2 to 1 is no range of factors"),
    (net(DB + "annotated_data_param { batch_sampler { sampler { min_scale: 0 } } }"), "batch_sampler: sampler: scales from 0 to 1 must be in 0..1"),
    (net(DB + "annotated_data_param { batch_sampler { sampler { max_aspect_ratio: 0.5 } } }"), "batch_sampler: sampler: aspect ratios from 1 to 0.5 must be positive"),
    (net(DB + "transform_param { resize_param { height: 3 width: 4 } }", "Data"), "transform_param: resize_param is for AnnotatedData layers"),
    (net('data_param { source: "plain" backend: LMDB batch_size: 1 }'), 'plain: record "00000000": is no AnnotatedDatum: it has no image'),
    (net('data_param { source: "broken" backend: LMDB batch_size: 1 }'), 'broken: record "00000000": is no AnnotatedDatum'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_settings(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "db", [record(i) for i in range(3)])
    write(tmp_path / "plain", [image_to_datum(picture(0)[0], 1)])
    write(tmp_path / "broken", [b"\x0a\x05ab"])
    with pytest.raises(CaffeError) as error:
        Graph(parse_net(text, "net.prototxt"), TRAIN)
    assert str(error.value).startswith('net.prototxt:1: layer "d"') and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("records", "transform", "message"),
    [
        ([record(0), record(1, typed=False)], "", 'record "00000001": has no type of annotations, unlike the first record'),
        ([record(0), b"\xff\xff"], "", 'record "00000001": is no AnnotatedDatum, or is damaged'),
        ([record(0)], "mean_value: 1 mean_value: 2", 'record "00000000": 2 mean_value for 3 channels'),
    ],
)  # fmt: skip
def test_bad_records(records: list[Any], transform: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "db", records)
    with pytest.raises(DataError) as error:
        AnnotatedSource(tmp_path / "db", act(transform), 2, where="here").next()
    assert str(error.value).startswith(f"here: {tmp_path}/db: ") and message in str(error.value)


def test_images_that_cannot_be_distorted_are_named() -> None:
    rows = np.zeros((0, 7), np.float32)
    with pytest.raises(DataError, match="^has 1 channels: distort_param needs 3"):
        act("distort_param { hue_prob: 1 }").annotated(np.zeros((1, 4, 4), np.uint8), rows, 0, 0)
    with pytest.raises(DataError, match="^holds float32 pixels: distort_param is for 8 bits a channel"):
        act("distort_param { hue_prob: 1 }").annotated(np.zeros((3, 4, 4), np.float32), rows, 0, 0)


def test_the_layer_reads_what_a_net_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """label_map_file is not opened; a net with none of SSD's fields is fine, too."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "db", [record(i) for i in range(3)])
    graph = Graph(parse_net(net(DB + 'annotated_data_param { label_map_file: "nowhere" } transform_param { crop_size: 70 }')), TEST)
    assert graph.shapes == {"data": (2, 3, 70, 70), "label": (1, 1, 3, 8)}
    blobs = graph.run()
    assert blobs["data"].shape == (2, 3, 70, 70) and blobs["label"].shape[3] == 8
    assert Graph(parse_net(net(DB)), TRAIN).run()["label"][0, 0, :, 0].tolist() == [0, 0, 0, 1, 1, 1]
