"""tools/resize_and_crop_images.py, against OpenCV and Pillow."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pycaffe_compat import cli
from tools import resize_and_crop_images


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/a").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, height, width in (("a/tall.png", 50, 31), ("wide one.png", 20, 44), ("even.png", 24, 24)):
        smooth = cv2.resize(random.integers(0, 256, (6, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "in" / name), smooth)
    (tmp_path / "in/broken.jpg").write_bytes(b"\xff\xd8\xff no")
    return tmp_path


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda _: resize_and_crop_images.main(words))
    return int(end.value.code or 0)


def test_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("-input_folder=in", "--output_folder", "out", "-output_side_length", "16") == 0
    told = capsys.readouterr()
    assert told.out == "out: 3 images, 1 left out\n"
    assert "warning: in/broken.jpg: is no image that OpenCV reads, or is damaged; left out" in told.err
    # Tall: 50 x 31 becomes 25 x 16, rows 4 to 20 of it stay.
    tall = cv2.resize(cv2.imread("in/a/tall.png"), (16, 16 * 50 // 31))[4:20]
    np.testing.assert_array_equal(cv2.imread("out/a/tall.png"), tall)
    wide = cv2.resize(cv2.imread("in/wide one.png"), (16 * 44 // 20, 16))[:, 9:25]
    np.testing.assert_array_equal(cv2.imread("out/wide one.png"), wide)
    assert cv2.imread("out/even.png").shape == (16, 16, 3)


def test_names_that_begin_as_their_folder_does() -> None:
    Path("in/even.png").rename("in/in_even.png")
    assert call("--input_folder", "in", "--output_folder", "out") == 0
    assert Path("out/in_even.png").exists()


def test_an_image_beyond_pillows_limit_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/wide one.png").unlink()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert call("--input_folder", "in", "--output_folder", "out", "--image_lib", "pil") == 0
    assert "warning: in/a/tall.png: is no image that Pillow reads" in capsys.readouterr().err


def test_a_list_and_pillow(capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("in/a/tall.png 3\n\neven.png\n../list.txt\nabsent.png 1\n")
    words = ["--input", "list.txt", "--input_folder", "in", "--output_folder", "out", "--output_side_length", "12"]
    assert call(*words, "--image_lib", "PIL", "--num_clients", "8") == 0
    told = capsys.readouterr()
    assert told.out == "out: 2 images, 2 left out\n"
    assert "../list.txt: leads out of the folder" in told.err and "in/absent.png: cannot be read" in told.err
    with Image.open("out/a/tall.png") as image:
        assert (image.format, image.size) == ("JPEG", (12, 12))
        got = np.asarray(image)
    with Image.open("in/a/tall.png") as image:
        want = image.convert("RGB").crop((0, 9, 31, 40)).resize((12, 12), Image.Resampling.LANCZOS)
    want.save("want.jpg", quality=75)
    with Image.open("want.jpg") as image:
        np.testing.assert_allclose(got.astype(int), np.asarray(image).astype(int), atol=1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--input_folder no --output_folder out", 1, "error: no: no such folder"),
        ("--input_folder in --output_folder in", 1, "error: in: is the input folder too"),
        ("--input_folder in --output_folder ./a/../in", 1, "is the input folder too"),
        ("--input no --input_folder in --output_folder out", 1, "no: "),
        ("--input bad.txt --input_folder in --output_folder out", 1, "error: no image could be read; the first: in/broken.jpg"),
        ("--input_folder in", 2, "the following arguments are required: --output_folder"),
        ("--input_folder in --output_folder out --output_side_length 0", 2, "'0' is less than 1"),
        ("--input_folder in --output_folder out --image_lib magick", 2, "invalid choice: 'magick'"),
    ],
)
def test_refused(words: str, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.txt").write_text("broken.jpg 1\n")
    Path("a").mkdir()
    assert call(*words.split()) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not Path("out").exists()
