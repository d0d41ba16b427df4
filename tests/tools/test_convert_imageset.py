"""tools/convert_imageset.py and tools/compute_image_mean.py as a user runs them."""

from __future__ import annotations

from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from pycaffe_compat import cli
from pycaffe_compat.data import imageset
from pycaffe_compat.data.datum import datum_to_array, parse_datum
from pycaffe_compat.data.transform import read_mean
from pycaffe_compat.proto import caffe_pb2
from tools import compute_image_mean, convert_imageset


def pixels(number: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("im").mkdir()
    for i in range(5):
        cv2.imwrite(f"im/{i}.png", pixels(i))
    Path("list.txt").write_text("".join(f"{i}.png {10 * i}\n" for i in range(5)))


def call(tool: object, *args: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda _: tool.main([str(a) for a in args]))  # type: ignore[attr-defined]
    return int(end.value.code or 0)


def records(path: str = "db") -> dict[str, caffe_pb2.Datum]:
    with lmdb.open(path, readonly=True, lock=False) as env, env.begin() as transaction:
        return {key.decode(): parse_datum(value) for key, value in transaction.cursor()}


def test_images_become_records_in_the_lists_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(convert_imageset, "im/", "list.txt", "db") == 0
    assert capsys.readouterr().out == "db: 5 images, 0 left out\n"
    found = records()
    assert list(found) == [f"{i:08d}_{i}.png" for i in range(5)]
    for i, datum in enumerate(found.values()):
        assert (datum.label, datum.encoded) == (10 * i, False)
        np.testing.assert_array_equal(datum_to_array(datum), pixels(i).transpose(2, 0, 1))
    assert sorted(p.name for p in Path().iterdir()) == ["db", "im", "list.txt"]


def test_resized_and_grey() -> None:
    assert call(convert_imageset, "--gray", "--resize_height=4", "--resize_width", 5, "im/", "list.txt", "db") == 0
    want = cv2.resize(cv2.imread("im/3.png", cv2.IMREAD_GRAYSCALE), (5, 4))
    np.testing.assert_array_equal(datum_to_array(records()["00000003_3.png"])[0], want)


def test_shuffled_by_its_seed() -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call(convert_imageset, "--shuffle", "--seed", seed, "im/", "list.txt", name) == 0
    a, b, c = ([d.label for d in records(name).values()] for name in "abc")
    assert a == b != c
    assert sorted(a) == sorted(c) == [0, 10, 20, 30, 40]


def test_encoded_keeps_the_file_where_nothing_is_done_to_it() -> None:
    assert call(convert_imageset, "--encoded", "im/", "list.txt", "db") == 0
    for i, datum in enumerate(records().values()):
        assert datum.encoded
        assert datum.data == Path(f"im/{i}.png").read_bytes()
    assert call(convert_imageset, "--encode_type", "jpg", "im/", "list.txt", "jpg") == 0
    datum = records("jpg")["00000000_0.png"]
    assert datum.data[:2] == b"\xff\xd8"
    assert (datum.channels, datum.height, datum.width) == (3, 6, 8)
    assert call(convert_imageset, "--encoded", "--resize_height=3", "--resize_width=4", "im/", "list.txt", "small") == 0
    assert datum_to_array(records("small")["00000000_0.png"]).shape == (3, 3, 4)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--gray=true", "--shuffle=false", "a"], ["--gray", "a"]),
        (["-gray", "--noshuffle", "--encoded=1"], ["--gray", "--encoded"]),
        (["--nocheck_size=false", "--gray=no", "gray"], ["--check_size", "gray"]),
        (["-backend=lmdb", "-resize_height", "8", "-7", "-gray=F"], ["--backend=lmdb", "--resize_height", "8", "-7"]),
    ],
)
def test_flags_as_caffe_writes_them(words: list[str], expected: list[str]) -> None:
    assert cli.gflags(words, convert_imageset.FLAGS, convert_imageset.SWITCHES) == expected


def test_a_script_of_caffes_examples() -> None:
    """With single dashes, as examples/cifar10/create_cifar10.sh."""
    call(convert_imageset, "-backend=lmdb", "-resize_height=4", "-resize_width", "4", "-gray", "im/", "list.txt", "one")
    assert datum_to_array(records("one")["00000000_0.png"]).shape == (1, 4, 4)
    assert compute_image_mean.main(["-backend=lmdb", "one", "mean.binaryproto"]) == 0


def test_images_that_cannot_be_read_are_left_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("im/1.png").write_bytes(b"junk")
    Path("im/3.png").unlink()
    assert call(convert_imageset, "im/", "list.txt", "db") == 0
    out, err = capsys.readouterr()
    assert out == "db: 3 images, 2 left out\n"
    assert "warning: list.txt:2: im/1.png: is no image that OpenCV reads, or is damaged; left out\n" in err
    assert "warning: list.txt:4: im/3.png: no such file; left out\n" in err
    assert list(records()) == ["00000000_0.png", "00000002_2.png", "00000004_4.png"]


def test_the_database_grows_as_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imageset, "FIRST_SIZE", 2**15)
    monkeypatch.setattr(imageset, "COMMIT", 3)
    for i in range(5):
        cv2.imwrite(f"im/{i}.png", pixels(i, 100, 100))
    assert call(convert_imageset, "im/", "list.txt", "db") == 0
    assert len(records()) == 5


BAD = [
    (["im/", "none.txt", "db"], 1, "none.txt: the list of images cannot be read"),
    (["x/", "list.txt", "db"], 1, "list.txt: no image could be read; the first: list.txt:1: x/0.png: no such file"),
    (["im/", "list.txt", "im"], 1, "im: exists already"),
    (["im/", "list.txt", "none/db"], 1, "none/"),
    (["--resize_height=3", "im/", "list.txt", "db"], 1, "resize_height and resize_width go together"),
    (["--encode_type=zip", "im/", "list.txt", "db"], 1, 'OpenCV has no encoder "zip"'),
    (["--check_size", "im/", "mixed.txt", "db"], 1, "mixed.txt:2: im/wide.png: is of shape 3x6x9, the first is of 3x6x8"),
    (["--backend=leveldb", "im/", "list.txt", "db"], 2, "leveldb"),
    (["im/", "list.txt"], 2, "DB_NAME"),
]


@pytest.mark.parametrize(("args", "code", "message"), BAD)
def test_bad_input_gives_one_line_and_no_database(
    args: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite("im/wide.png", pixels(0, 6, 9))
    Path("mixed.txt").write_text("0.png 0\nwide.png 1\n")
    before = sorted(Path().iterdir())
    assert call(convert_imageset, *args) == code
    error = capsys.readouterr().err
    assert message in error
    if code == 1:
        assert error.splitlines()[-1].startswith("error: ")
    assert sorted(Path().iterdir()) == before


def test_the_mean_is_that_of_numpy(capsys: pytest.CaptureFixture[str]) -> None:
    call(convert_imageset, "--encoded", "im/", "list.txt", "db")
    capsys.readouterr()
    assert call(compute_image_mean, "db", "mean.binaryproto") == 0
    want = np.mean([pixels(i).transpose(2, 0, 1) for i in range(5)], axis=0)
    np.testing.assert_allclose(read_mean("mean.binaryproto"), want, rtol=1e-6)
    blob = caffe_pb2.BlobProto.FromString(Path("mean.binaryproto").read_bytes())
    assert (blob.num, blob.channels, blob.height, blob.width) == (1, 3, 6, 8)
    lines = capsys.readouterr().out.splitlines()
    assert [float(line.split("]: ")[1]) for line in lines] == pytest.approx(want.mean((1, 2)), rel=1e-5)
    assert call(compute_image_mean, "db") == 0


@pytest.mark.parametrize(("name", "message"), [("none", "none: no such LMDB"), ("im", "im: is no LMDB"), ("mixed", 'mixed: record "00000001_wide.png": is of shape 3x6x9')])
def test_a_mean_that_cannot_be_computed(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("im/wide.png", pixels(0, 6, 9))
    Path("mixed.txt").write_text("0.png 0\nwide.png 1\n")
    call(convert_imageset, "im/", "mixed.txt", "mixed")
    capsys.readouterr()
    assert call(compute_image_mean, name, "mean.binaryproto") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not Path("mean.binaryproto").exists()
