"""transform_param against a few lines of numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from pycaffe_compat.data.transform import Transformer
from pycaffe_compat.errors import DataError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary import array_to_blob, write_message

IMAGE = np.random.default_rng(0).integers(0, 256, (3, 7, 10)).astype(np.uint8)
MEAN = np.random.default_rng(1).random((3, 7, 10)).astype(np.float32) * 255
VALUES = np.array([104, 117, 123.5], np.float32)[:, None, None]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_message("mean.binaryproto", array_to_blob(MEAN[None]))
    write_message("flat.binaryproto", array_to_blob(MEAN[0]))
    write_message("two.binaryproto", array_to_blob(np.stack([MEAN, MEAN])))
    Path("text").write_text("a mean?\n")


def transformer(text: str, train: bool = False) -> Transformer:
    return Transformer(text_format.Parse(text, caffe_pb2.TransformationParameter()), train)


f4 = np.float32
TABLE = [
    ("", IMAGE.astype(f4)),
    ("scale: 0.00390625", IMAGE * f4(1 / 256)),
    ("mean_value: 100", IMAGE - f4(100)),
    ("mean_value: 104 mean_value: 117 mean_value: 123.5 scale: 0.017", (IMAGE - VALUES) * f4(0.017)),
    ("mean_file: 'mean.binaryproto' scale: 2", (IMAGE - MEAN) * f4(2)),
    ("crop_size: 4", IMAGE[:, 1:5, 3:7].astype(f4)),
    ("crop_size: 7", IMAGE[:, :, 1:8].astype(f4)),
    ("crop_size: 5 mean_file: 'mean.binaryproto'", (IMAGE - MEAN)[:, 1:6, 2:7]),
]


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_the_formula(text: str, expected: np.ndarray) -> None:
    got = transformer(text)(IMAGE, 5, 0)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("train", [True, False])
def test_mirror_is_a_matter_of_chance_in_both_phases(train: bool) -> None:
    act = transformer("mirror: true mean_file: 'mean.binaryproto'", train)
    results = [act(IMAGE, 5, i) for i in range(60)]
    plain, mirrored = IMAGE - MEAN, (IMAGE - MEAN)[:, :, ::-1]
    count = sum(bool((r == mirrored).all()) for r in results)
    assert all((r == plain).all() or (r == mirrored).all() for r in results)
    assert 15 <= count <= 45


def test_crops_are_random_in_training_and_reach_every_place() -> None:
    act = transformer("crop_size: 5 mirror: true mean_file: 'mean.binaryproto'", train=True)
    wanted = {
        (IMAGE - MEAN)[:, y : y + 5, x : x + 5][:, :, :: -1 if flip else 1].tobytes(): (y, x, flip)
        for y in range(3)
        for x in range(6)
        for flip in (False, True)
    }
    assert {wanted[act(IMAGE, 5, 1, i).tobytes()] for i in range(400)} == set(wanted.values())


def test_the_same_seed_and_key_give_the_same_image() -> None:
    act = transformer("crop_size: 3 mirror: true", train=True)
    np.testing.assert_array_equal(act(IMAGE, 9, 1, 4), act(IMAGE, 9, 1, 4))
    assert any((act(IMAGE, seed, 1, 4) != act(IMAGE, 9, 1, 4)).any() for seed in range(10))


def test_one_image_serves_several_times() -> None:
    before = IMAGE.copy()
    act = transformer("mean_value: 3 scale: 2")
    act(IMAGE.astype(np.float32), 0)
    given = IMAGE.astype(np.float32)
    act(given, 0)
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mean_file: 'none'", "mean_file: none: no such file"),
        ("mean_file: 'text'", "mean_file: text: is not a binary BlobProto but looks like"),
        ("mean_file: 'flat.binaryproto'", "not channels x height x width"),
        ("mean_file: 'two.binaryproto'", "not channels x height x width"),
        ("mean_file: 'mean.binaryproto' mean_value: 1", "mean_file and mean_value exclude each other"),
        ("force_color: true force_gray: true", "force_color and force_gray exclude each other"),
    ],
)
def test_settings_that_cannot_work(text: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        transformer(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("crop_size: 8", (3, 7, 10), "is 10x7, smaller than crop_size 8"),
        ("mean_file: 'mean.binaryproto'", (3, 7, 9), "is of shape 3x7x9, mean_file of 3x7x10"),
        ("mean_file: 'mean.binaryproto' crop_size: 2", (1, 7, 10), "is of shape 1x7x10, mean_file of 3x7x10"),
        ("mean_value: 1 mean_value: 2", (3, 7, 10), "2 mean_value for 3 channels"),
    ],
)
def test_images_that_do_not_fit(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError) as error:
        transformer(text)(np.zeros(shape, np.uint8), 0)
    assert message in str(error.value)
