"""Window files: what is cut and how it is warped, sampling, resuming, and files that do not keep to the form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from pycaffe_compat.data import WindowSource
from pycaffe_compat.data.transform import Transformer
from pycaffe_compat.data.windows import WindowFile, cut_window
from pycaffe_compat.errors import DataError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary import array_to_blob, write_message

HEIGHT, WIDTH = 40, 60
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
TEXT = """# 0
{folder}/0.png
3
40
60
4
3 0.8 10 5 30 35
5 1.0 0 0 59 39
9 0.49 20 20 40 39
2 0.1 50 30 59 39
# 1
{folder}/1.png 3 40 60
2
1 0.5 7 7 7 7
0 0 3 4 25 30
"""


def transformer(text: str = "crop_size: 8") -> Transformer:
    return Transformer(text_format.Parse(text, caffe_pb2.TransformationParameter()), train=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), IMAGE if i == 0 else 255 - IMAGE)
    (tmp_path / "windows.txt").write_text(TEXT.format(folder=tmp_path))
    return tmp_path / "windows.txt"


def test_windows_are_sorted_by_their_overlap(source: Path) -> None:
    found = WindowFile(str(source), 0.5, 0.3)
    assert found.images == [f"{source.parent}/0.png", f"{source.parent}/1.png"]
    assert found.fg.tolist() == [[0, 3, 10, 5, 30, 35], [0, 5, 0, 0, 59, 39], [1, 1, 7, 7, 7, 7]]
    assert found.bg.tolist() == [[0, 0, 50, 30, 59, 39], [1, 0, 3, 4, 25, 30]]  # 0.49 is neither


def warp(image: np.ndarray, x1: int, y1: int, x2: int, y2: int, width: int, height: int) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(image[y1 : y2 + 1, x1 : x2 + 1]), (width, height))


def test_a_window_is_warped_to_the_crop() -> None:
    part, top, left = cut_window(IMAGE, (10, 5, 30, 35), 8)
    assert (top, left) == (0, 0)
    np.testing.assert_array_equal(part, warp(IMAGE, 10, 5, 30, 35, 8, 8))


# box, size, pad, square -> the region that is warped, its size there, and where it stands
CONTEXT = [
    # 21 x 31 around (20.5, 20.5), grown by 16 / 12: 14 and 20.67 on each side
    ((10, 5, 30, 35), 16, 2, False, (7, 0, 35, 39), (16, 15), (0, 0)),
    # the whole image: a border of 2 pixels is outside on each side, at 16 / 81 and 16 / 54 of its size
    ((0, 0, 59, 39), 16, 2, False, (0, 0, 59, 39), (12, 12), (2, 2)),
    # 11 x 5: squared to 11 x 11
    ((20, 20, 30, 24), 11, 0, True, (20, 17, 31, 28), (11, 11), (0, 0)),
    # at the right border: a column and rows beyond it
    ((50, 30, 59, 39), 10, 0, True, (50, 30, 59, 39), (9, 9), (0, 0)),
]


@pytest.mark.parametrize(("box", "size", "pad", "square", "region", "warped", "place"), CONTEXT)
def test_context_and_squares(
    box: Any, size: int, pad: int, square: bool, region: Any, warped: tuple[int, int], place: tuple[int, int]
) -> None:
    part, top, left = cut_window(IMAGE, box, size, pad, square)
    np.testing.assert_array_equal(part, warp(IMAGE, *region, *warped))
    assert (top, left) == place


@settings(deadline=None, max_examples=200)
@given(
    x=st.tuples(st.integers(0, WIDTH - 1), st.integers(0, WIDTH - 1)),
    y=st.tuples(st.integers(0, HEIGHT - 1), st.integers(0, HEIGHT - 1)),
    size=st.integers(5, 30),
    pad=st.integers(0, 2),
    square=st.booleans(),
)
def test_every_window_fits_and_its_mirror_mirrors(x: Any, y: Any, size: int, pad: int, square: bool) -> None:
    box = (min(x), min(y), max(x), max(y))
    try:
        part, top, left = cut_window(IMAGE, box, size, pad, square)
        flipped, flipped_top, flipped_left = cut_window(IMAGE, box, size, pad, square, mirror=True)
    except DataError as error:  # nothing of a long, narrow square is left after rounding
        assert "does not lie in the image" in str(error)
        return
    assert top + part.shape[0] <= size
    assert left + part.shape[1] <= size
    assert flipped_top == top
    assert abs(flipped_left - (size - left - part.shape[1])) <= 2  # each border is rounded by itself
    if flipped.shape == part.shape:
        np.testing.assert_array_equal(flipped, part[:, ::-1])


@pytest.mark.parametrize("settings", ["crop_size: 8", "crop_size: 8 mean_value: 9", "crop_size: 8 mirror: true", "crop_size: 8 mean_file: 'mean'"])
def test_a_batch_is_background_then_foreground(source: Path, settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    mean = np.random.default_rng(3).random((3, 10, 12)).astype(np.float32) * 255
    write_message("mean", array_to_blob(mean[None]))
    offset = {"mean_v": np.float32(9), "mean_f": mean[:, 2:10, 2:10]}.get(settings[13:19], np.float32(0))
    images = [IMAGE, 255 - IMAGE]
    found = WindowFile(str(source), 0.5, 0.5)
    with WindowSource(source, transformer(settings), 10, fg_fraction=0.37, scale=0.5, seed=1) as opened:
        assert opened.shapes == [(10, 3, 8, 8), (10,)]
        for _ in range(5):
            data, labels = opened.next()
            assert (labels[:7] == 0).all()
            assert (labels[7:] > 0).all()  # int(10 * 0.37)
            for i, (pixels, label) in enumerate(zip(data, labels, strict=True)):
                candidates = []
                for window in (found.bg if i < 7 else found.fg).tolist():
                    if window[1] == label:
                        whole = warp(images[window[0]], *window[2:], 8, 8).transpose(2, 0, 1)
                        candidates += [(side - offset) * np.float32(0.5) for side in (whole, whole[:, :, ::-1])]
                assert any(np.array_equal(pixels, c) for c in candidates)


def test_what_lies_outside_the_image_is_zero_whatever_the_mean(source: Path) -> None:
    source.write_text(f"# 0 {source.parent}/0.png 3 40 60 1 4 1 0 0 59 39")
    with WindowSource(source, transformer("crop_size: 16 mean_value: 100"), 1, fg_fraction=1, context_pad=2) as opened:
        data, labels = opened.next()
    assert labels.tolist() == [4]
    inside = warp(IMAGE, 0, 0, 59, 39, 12, 12).transpose(2, 0, 1) - np.float32(100)
    want = np.zeros((3, 16, 16), np.float32)
    want[:, 2:14, 2:14] = inside
    np.testing.assert_array_equal(data[0], want)


@pytest.mark.parametrize("cache", [False, True])
def test_a_resumed_source_gives_the_bytes_of_the_uninterrupted_one(source: Path, cache: bool) -> None:
    def open_source(seed: int) -> WindowSource:
        act = transformer("crop_size: 8 mirror: true")
        return WindowSource(source, act, 6, seed=seed, context_pad=1, cache_images=cache)

    with open_source(7) as opened:
        whole = [opened.next() for _ in range(6)]
    with open_source(7) as opened:
        for _ in range(2):
            opened.next()
        state = json.loads(json.dumps(opened.state_dict()))
    with open_source(0) as opened:
        opened.next()
        opened.load_state_dict(state)
        for expected in whole[2:]:
            for got, want in zip(opened.next(), expected, strict=True):
                np.testing.assert_array_equal(got, want)
        with pytest.raises(DataError, match="7 windows; this one has 6"):
            opened.load_state_dict({**state, "rows": 7})
        with pytest.raises(DataError, match="outside"):
            opened.load_state_dict({**state, "batch": -1})


def test_root_folder_is_put_in_front(source: Path) -> None:
    source.write_text(source.read_text().replace(f"{source.parent}/", ""))
    with WindowSource(source, transformer(), 4, root=f"{source.parent}/") as opened:
        assert opened.next()[0].any()


HEAD = "# 0\n{folder}/0.png\n3\n40\n60\n"
BAD_FILES = [
    (None, ": the window file cannot be read: No such file"),
    ("", ": the window file is empty"),
    ("0\n", ":1: '0' stands where an image must begin with #"),
    ("# x\n", ":1: 'x' stands where an image's number must"),
    ("# 1\n", ":1: image 1 stands where image 0 must: they are numbered from 0 on"),
    ("# 0\n", ":1: the file ends where an image's path must stand"),
    ("# 0\na.png\n3\n4.5\n", ":4: '4.5' stands where the height must"),
    (HEAD + "2\n1 0.5 0 0 1 1\n", ":7: the file ends within the 2 windows of image 0"),
    (HEAD + "2\n1 0.5 0 0 1 1\n1 half 0 0 1 1\n", ":8: window 1 of image 0 is not made of"),
    (HEAD + "2\n1 0.5 0 0 1 1\n1 0.5 0 0 1.5 1\n", ":8: window 1 of image 0 is not made of"),
    (HEAD + "1\n1 nan 0 0 1 1\n", ":7: window 0 of image 0 is not made of"),
    (HEAD + "1\n0 0.5 0 0 1 1\n", ":7: a foreground window of image 0 has class 0 or less"),
    (HEAD + "1\n1 0.5 0 0 1 1\n1 0.2 0 0 1 1\n", ":8: '1' stands where an image must begin with #"),
    (HEAD + "1\n1 0.5 0 0 1 1\n", ": has no background windows, and a batch must hold 3"),
    (HEAD + "1\n1 0.1 0 0 1 1\n", ": has no foreground windows, and a batch must hold 1"),
    (HEAD.replace("3", "1") + "2\n1 0.5 0 0 1 1\n1 0 0 0 1 1\n", ": its last image has 1 channels"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_a_file_that_does_not_keep_to_the_form(source: Path, content: str | None, message: str) -> None:
    source.unlink() if content is None else source.write_text(content.format(folder=source.parent))
    with pytest.raises(DataError) as error:
        WindowSource(source, transformer(), 4)
    assert f"{source}{message}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ("", {}, "give transform_param a crop_size"),
        ("crop_size: 8", {"context_pad": 4}, "context_pad 4 leaves nothing of crop_size 8"),
        ("crop_size: 8", {"crop_mode": "round"}, 'crop_mode "round" is neither warp nor square'),
        ("crop_size: 8", {"fg_fraction": 1.5}, "fg_fraction 1.5 is not within 0..1"),
        ("crop_size: 8 mean_value: 1 mean_value: 2", {}, "2 mean_value for 3 channels"),
    ],
)
def test_settings_that_cannot_work(source: Path, settings: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        WindowSource(source, transformer(settings), 4, **options)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("1 0.5 0 0 60 39", "window 0 0 60 39 does not lie in the image, 60x40"),
        ("1 0.5 -1 0 5 5", "window -1 0 5 5 does not lie in the image"),
        ("1 0.5 5 5 4 5", "window 5 5 4 5 does not lie in the image"),
        ("1 0.5 2000000000 5 2000000001 6", "does not lie in the image"),
    ],
)
@pytest.mark.parametrize("pad", [0, 2])
def test_windows_outside_the_image(source: Path, window: str, message: str, pad: int) -> None:
    if pad and window in ("1 0.5 0 0 60 39", "1 0.5 -1 0 5 5"):
        return  # context reaches beyond the border anyway, and the rest is filled
    source.write_text(f"# 0 {source.parent}/0.png 3 40 60 1 {window}")
    with WindowSource(source, transformer(), 1, fg_fraction=1, context_pad=pad) as opened:
        with pytest.raises(DataError) as error:
            opened.next()
    assert message in str(error.value)
    assert f"{source}: image 0: {source.parent}/0.png: " in str(error.value)


@pytest.mark.parametrize("cache", [False, True])
def test_missing_and_damaged_images(source: Path, cache: bool) -> None:
    (source.parent / "0.png").write_bytes(b"junk")
    (source.parent / "1.png").unlink()
    seen = set()
    for seed in range(8):
        with WindowSource(source, transformer(), 1, fg_fraction=0, seed=seed, cache_images=cache) as opened:
            with pytest.raises(DataError) as error:
                opened.next()
            seen.add(str(error.value))
    root = source.parent
    assert seen == {
        f"{source}: image 0: {root}/0.png: is no image that OpenCV reads, or is damaged",
        f"{source}: image 1: {root}/1.png: no such file",
    }
