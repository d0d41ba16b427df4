"""LMDB databases and image lists: order, wrap-around, shuffling, resuming, and everything that may be damaged."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycaffe_compat.data import ImageSource, LMDBSource
from pycaffe_compat.data.datum import array_to_datum, image_to_datum
from pycaffe_compat.data.lmdb import Database
from pycaffe_compat.data.prefetch import Source
from pycaffe_compat.data.transform import Transformer
from pycaffe_compat.errors import DataError
from pycaffe_compat.proto import caffe_pb2

ROWS = 7


def transformer(text: str = "", train: bool = True) -> Transformer:
    return Transformer(text_format.Parse(text, caffe_pb2.TransformationParameter()), train)


def image(number: int, height: int = 4, width: int = 5, channels: int = 3) -> np.ndarray:
    """An image that no other number has."""
    return np.random.default_rng(number).integers(0, 256, (height, width, channels)).astype(np.uint8)


def write_lmdb(path: Path, records: dict[bytes, bytes]) -> Path:
    with lmdb.open(str(path), map_size=2**24) as env, env.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key, value)
    return path


def plain_lmdb(path: Path, rows: int = ROWS) -> Path:
    """Records in another order than that of their keys."""
    return write_lmdb(path, {b"%08d_x" % i: image_to_datum(image(i), i).SerializeToString() for i in reversed(range(rows))})


def image_list(folder: Path, rows: int = ROWS) -> Path:
    lines = []
    for i in range(rows):
        name = f"with space {i}.png" if i % 2 else f"{i}.png"
        cv2.imwrite(str(folder / name), image(i))
        lines.append(f"{name} {i}")
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


def labels(source: Source[Any], batches: int) -> list[int]:
    return [int(n) for _ in range(batches) for n in source.next()[1]]


def from_lmdb(folder: Path, act: Transformer, batch_size: int, **options: Any) -> LMDBSource:
    path = folder / "db"
    return LMDBSource(path if path.exists() else plain_lmdb(path), act, batch_size, **options)


def from_list(folder: Path, act: Transformer, batch_size: int, **options: Any) -> ImageSource:
    path = folder / "list.txt"
    return ImageSource(path if path.exists() else image_list(folder), act, batch_size, root=f"{folder}/", **options)


def from_shuffled_list(folder: Path, act: Transformer, batch_size: int, **options: Any) -> ImageSource:
    return from_list(folder, act, batch_size, shuffle=True, **options)


MAKERS: list[Callable[..., Source[Any]]] = [from_lmdb, from_list, from_shuffled_list]


@pytest.mark.parametrize("make", MAKERS[:2])
@pytest.mark.parametrize("batch_size", [1, 3, ROWS, 2 * ROWS + 1])
def test_batches_run_in_order_and_over_the_end(make: Callable[..., Source[Any]], batch_size: int, tmp_path: Path) -> None:
    with make(tmp_path, transformer(), batch_size) as source:
        assert source.rows == ROWS
        assert source.shapes == [(batch_size, 3, 4, 5), (batch_size,)]
        seen = 0
        for _ in range(4):
            data, label = source.next()
            assert data.dtype == label.dtype == np.float32
            for pixels, number in zip(data, label, strict=True):
                assert number == seen % ROWS
                np.testing.assert_array_equal(pixels, image(int(number)).transpose(2, 0, 1))
                seen += 1


@pytest.mark.parametrize("make", MAKERS)
def test_labels_are_left_out_where_nobody_wants_them(make: Callable[..., Source[Any]], tmp_path: Path) -> None:
    with make(tmp_path, transformer(), 2, tops=1) as source:
        assert source.shapes == [(2, 3, 4, 5)]
        assert len(source.next()) == 1


@pytest.mark.parametrize("make", MAKERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 10), cut=st.integers(0, 8), seed=st.integers(0, 2**64 - 1))
def test_a_resumed_source_gives_the_bytes_of_the_uninterrupted_one(
    make: Callable[..., Source[Any]], tmp_path: Path, batch_size: int, cut: int, seed: int
) -> None:
    def open_source(seed: int) -> Source[Any]:
        return make(tmp_path, transformer("crop_size: 3 mirror: true"), batch_size, seed=seed)

    with open_source(seed) as source:
        whole = [source.next() for _ in range(8)]
    with open_source(seed) as source:
        for _ in range(cut):
            source.next()
        state = json.loads(json.dumps(source.state_dict()))
    with open_source(0) as source:
        source.next()
        source.load_state_dict(state)
        assert source.state_dict() == state
        for expected in whole[cut:]:
            for got, want in zip(source.next(), expected, strict=True):
                np.testing.assert_array_equal(got, want)


def test_shuffle_covers_each_epoch_in_another_order(tmp_path: Path) -> None:
    with from_shuffled_list(tmp_path, transformer(), ROWS, seed=3) as source:
        epochs = [tuple(labels(source, 1)) for _ in range(5)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len(set(epochs)) == 5


def test_rand_skip_begins_below_its_number_and_skips_nothing_later(tmp_path: Path) -> None:
    starts = set()
    for seed in range(40):
        with from_list(tmp_path, transformer(), ROWS, rand_skip=4, seed=seed) as source:
            got = labels(source, 2)
        starts.add(got[0])
        assert got == [(got[0] + i) % ROWS for i in range(2 * ROWS)]
    assert starts == {0, 1, 2, 3}


def test_ranks_share_the_records(tmp_path: Path) -> None:
    seen = []
    for rank in range(3):
        with from_lmdb(tmp_path, transformer("mirror: true"), 2, seed=1, rank=rank, ranks=3) as source:
            seen.append([source.next() for _ in range(7)])
    with from_lmdb(tmp_path, transformer("mirror: true"), 1, seed=1) as source:
        whole = [source.next() for _ in range(42)]
    for rank, batches in enumerate(seen):
        for i, (data, label) in enumerate((d, n) for batch in batches for d, n in zip(*batch, strict=True)):
            want = whole[3 * i + rank]
            assert label == want[1][0]
            np.testing.assert_array_equal(data, want[0][0])


def test_images_are_resized_and_read_in_grey(tmp_path: Path) -> None:
    with from_list(tmp_path, transformer(), 1, size=(6, 9), color=False) as source:
        (data, _) = source.next()
    want = cv2.resize(cv2.imread(str(tmp_path / "0.png"), cv2.IMREAD_GRAYSCALE), (9, 6))
    np.testing.assert_array_equal(data, want[None, None])


@pytest.mark.parametrize("make", MAKERS)
def test_sizes_may_vary_with_a_crop_or_a_batch_of_one(make: Callable[..., Source[Any]], tmp_path: Path) -> None:
    sizes = [(4, 5), (6, 5), (4, 9)]
    pictures = [image(i, *size) for i, size in enumerate(sizes)]
    if make is from_lmdb:
        write_lmdb(tmp_path / "db", {b"%d" % i: image_to_datum(p, i).SerializeToString() for i, p in enumerate(pictures)})
    else:
        for i, picture in enumerate(pictures):
            cv2.imwrite(str(tmp_path / f"{i}.png"), picture)
        (tmp_path / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(3)))
    with make(tmp_path, transformer("crop_size: 4", train=False), 3) as source:
        assert source.next()[0].shape == (3, 3, 4, 4)
    with make(tmp_path, transformer(), 1) as source:
        for _ in range(5):
            data, label = source.next()
            assert data.shape[2:] == sizes[int(label[0])]
    with make(tmp_path, transformer(), 3) as source, pytest.raises(DataError, match="the batch's first of 3x"):
        source.next()


def test_encoded_records_are_decoded_and_forced(tmp_path: Path) -> None:
    records = {b"%d" % i: image_to_datum(image(i), i, "png").SerializeToString() for i in range(2)}
    path = write_lmdb(tmp_path / "db", records)
    with LMDBSource(path, transformer(), 2) as source:
        np.testing.assert_array_equal(source.next()[0][1], image(1).transpose(2, 0, 1))
    with LMDBSource(path, transformer("force_gray: true"), 2) as source:
        assert source.next()[0].shape == (2, 1, 4, 5)
    write_lmdb(tmp_path / "grey", {b"0": image_to_datum(image(0, channels=1), 0, "png").SerializeToString()})
    with LMDBSource(tmp_path / "grey", transformer("force_color: true"), 2) as source:
        assert source.next()[0].shape == (2, 3, 4, 5)


def test_float_records(tmp_path: Path) -> None:
    values = np.array([[[0.5, -1.25]]], np.float32)
    path = write_lmdb(tmp_path / "db", {b"0": array_to_datum(values, -3).SerializeToString()})
    with LMDBSource(path, transformer("mean_value: 1 scale: 2"), 1) as source:
        data, label = source.next()
    assert data.tolist() == [[[[-1.0, -4.5]]]]
    assert label.tolist() == [-3.0]


def test_two_nets_share_a_database(tmp_path: Path) -> None:
    with from_lmdb(tmp_path, transformer(), 2) as train, from_lmdb(tmp_path, transformer(), 3) as test:
        assert labels(train, 2) == [0, 1, 2, 3]
        assert labels(test, 1) == [0, 1, 2]
        assert labels(train, 1) == [4, 5]


def test_a_database_is_opened_while_its_last_reader_is_closing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that read ahead closes its LMDB a moment after the net is gone, and LMDB opens a file once only."""
    plain_lmdb(tmp_path / "db")
    closing = lmdb.open(str(tmp_path / "db"), readonly=True, lock=False, create=False)
    timer = threading.Timer(0.2, closing.close)
    timer.start()
    with LMDBSource(tmp_path / "db", transformer(), 2) as source:
        assert labels(source, 1) == [0, 1]
    timer.join()

    monkeypatch.setattr("pycaffe_compat.data.lmdb._CLOSING_SECONDS", 0.05)
    plain_lmdb(tmp_path / "other")
    kept = lmdb.open(str(tmp_path / "other"), readonly=True, lock=False, create=False)
    with pytest.raises(DataError, match="already open in this process"):
        LMDBSource(tmp_path / "other", transformer(), 2)
    kept.close()


def test_a_database_that_was_made_anew_is_not_mistaken_for_the_old_one(tmp_path: Path) -> None:
    with from_lmdb(tmp_path, transformer(), 2) as source:
        source.next()
    del source
    for file in (tmp_path / "db").iterdir():
        file.unlink()
    plain_lmdb(tmp_path / "db", rows=3)
    with from_lmdb(tmp_path, transformer(), 2) as source:
        assert source.rows == 3


def test_the_file_itself_may_be_named(tmp_path: Path) -> None:
    with LMDBSource(plain_lmdb(tmp_path / "db") / "data.mdb", transformer(), 2) as source:
        assert labels(source, 1) == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rows": 8}, "a database with 8 rows; this one has 7"), ({"offset": -1}, "outside the database"), ({"offset": "x"}, "incomplete")],
)
@pytest.mark.parametrize("make", MAKERS)
def test_the_position_of_another_database(
    make: Callable[..., Source[Any]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with make(tmp_path, transformer(), 2) as source:
        first = labels(source, 1)
        with pytest.raises(DataError, match=message):
            source.load_state_dict({**source.state_dict(), **change})
        with pytest.raises(DataError, match="incomplete"):
            source.load_state_dict({})
        for number in (float("inf"), 10**400, [0]):
            with pytest.raises(DataError, match="incomplete"):
                source.load_state_dict({**source.state_dict(), "seed": number})
        assert len({*first, *labels(source, 1)}) == 4  # and nothing has happened


# ------------------------------------------------------------------------------------------------------------ bad input


def bad_lmdb(folder: Path, kind: str) -> Path:
    path = folder / "db"
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "leveldb":
        path.mkdir()
        (path / "CURRENT").write_text("MANIFEST-000001\n")
    elif kind == "no records":
        write_lmdb(path, {})
    elif kind == "junk":
        path.mkdir()
        (path / "data.mdb").write_bytes(b"junk" * 5000)
    elif kind == "empty file":
        path.mkdir()
        (path / "data.mdb").write_bytes(b"")
    else:
        plain_lmdb(path, 500)
        content = (path / "data.mdb").read_bytes()
        (path / "data.mdb").write_bytes(content[: {"half": len(content) // 2, "page": 100, "one byte": len(content) - 1}[kind]])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such LMDB"),
        ("folder", "is no LMDB: there is no data.mdb in this folder"),
        ("leveldb", "is a LevelDB: copy it into an LMDB, which is read whatever backend the net names: tools/convert_leveldb.py "),
        ("no records", "holds no records"),
        ("junk", "cannot be opened as an LMDB"),
        ("empty file", "cannot be opened as an LMDB"),
        ("page", "cannot be opened as an LMDB"),
        ("half", "is cut off"),
        ("one byte", "is cut off"),
    ],
)
def test_a_database_that_cannot_be_read(kind: str, message: str, tmp_path: Path) -> None:
    path = bad_lmdb(tmp_path, kind)
    with pytest.raises(DataError) as error:
        LMDBSource(path, transformer(), 2, where='net.prototxt:3: layer "db" (Data)')
    assert str(error.value).startswith(f'net.prototxt:3: layer "db" (Data): {path}: ')
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_record_that_reaches_beyond_the_file(tmp_path: Path) -> None:
    """Reading it is no error of LMDB's but ends the process."""
    value = array_to_datum(np.zeros((3, 60, 60), np.uint8), 0).SerializeToString()
    path = write_lmdb(tmp_path / "db", {b"%03d" % i: value for i in range(4)})
    content = (path / "data.mdb").read_bytes()
    size, false = ((n & 0xFFFF, n >> 16) for n in (len(value), len(content) - 5000))
    there = struct.pack("<4H", *size, 1, 3) + b"003"  # the head of a node whose value has pages of its own
    assert there in content
    (path / "data.mdb").write_bytes(content.replace(there, struct.pack("<4H", *false, 1, 3) + b"003"))
    with LMDBSource(path, transformer(), 3) as source:
        source.next()
        with pytest.raises(DataError, match=rf'db: record "003": is damaged: its size is {len(content) - 5000} bytes'):
            source.next()


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.dictionaries(st.binary(min_size=1, max_size=511), st.integers(0, 9000), min_size=1, max_size=200),
    first=st.integers(0, 250),
)
def test_records_are_lmdbs(records: dict[bytes, int], first: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_lmdb(tmp_path_factory.mktemp("d") / "db", {key: (key * size)[:size] for key, size in records.items()})
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        want = list(transaction.cursor())
    assert [tuple(record) for record in Database(str(path)).records(first)] == want[first:]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_damaged_database_is_an_error_or_other_records(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_lmdb(tmp_path_factory.mktemp("d") / "db", {b"%03d" % i: bytes(i * 40) for i in range(200)})
    content = bytearray((path / "data.mdb").read_bytes())
    for at, byte in changes:  # the first two pages are LMDB's to read
        content[2 * 4096 + at % (len(content) - 2 * 4096)] = byte
    (path / "data.mdb").write_bytes(content)
    try:
        assert sum(len(record.value) for record in Database(str(path)).records()) <= 200 * len(content)
    except DataError as error:
        assert str(error).startswith(f"{path}: ") and str(error).isprintable()


def test_sources_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list.txt").write_text("pipe 0\n")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path / "list.txt"):
        with pytest.raises(DataError, match="(zero|pipe): .*cannot be read: it is a device or a pipe"):
            ImageSource(path, transformer(), 2, root=f"{tmp_path}/")
        with pytest.raises(DataError, match="(zero: is no LMDB|pipe: is no LMDB|cannot be opened as an LMDB)"):
            LMDBSource(path, transformer(), 2)


@pytest.mark.parametrize(("height", "width"), [(2**32 - 1, 2**32 - 1), (2**31, 1), (2**20, 2**20)])
def test_images_resized_beyond_all_measure(height: int, width: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"list.txt:1: .*0\.png: cannot be (made|resized to) {width}x{height}"):
        ImageSource(image_list(tmp_path), transformer(), 2, root=f"{tmp_path}/", size=(height, width))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"junk", "is no Datum, or is damaged"),
        (b"", "is no Datum"),
        (caffe_pb2.Datum(channels=3, height=4, width=5, data=b"1").SerializeToString(), "holds 1 numbers; 3x4x5 needs 60"),
        (caffe_pb2.Datum(data=b"1", encoded=True).SerializeToString(), "is no image that OpenCV reads"),
        (image_to_datum(image(0, 3, 5), 0).SerializeToString(), "is of shape 3x3x5, the batch's first of 3x4x5"),
    ],
)
def test_a_damaged_record_is_named_when_its_turn_comes(value: bytes, message: str, tmp_path: Path) -> None:
    records = {b"%03d" % i: image_to_datum(image(i), i).SerializeToString() for i in range(4)}
    path = write_lmdb(tmp_path / "db", records | {b"002/\xff\n": value})
    with LMDBSource(path, transformer(), 2, where='net.prototxt:3: layer "db" (Data)') as source:
        source.next()
        for _ in range(2):  # who asks again gets the same answer
            with pytest.raises(DataError) as error:
                source.next()
            assert str(error.value).startswith(rf'net.prototxt:3: layer "db" (Data): {path}: record "002/\\xff\n": ')
            assert message in str(error.value)
            assert "\n" not in str(error.value)


def test_a_damaged_first_record_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='record "0": is no Datum'):
        LMDBSource(write_lmdb(tmp_path / "db", {b"0": b"junk"}), transformer(), 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the list of images cannot be read: No such file"),
        ("", "the list is empty"),
        ("\n \n", "the list is empty"),
        ("0.png 0\n\n1.png\n", ":3: '1.png' is no path followed by a label, a whole number"),
        ("0.png 0\n1.png x\n", ":2: '1.png x' is no path"),
        ("0.png 0.5\n", ":1: '0.png 0.5' is no path"),
        ("0.png 3000000000\n", ":1: "),
        ("7\n", ":1: '7' is no path"),
        ("0.png 0\n\0", "is no text file"),
        ("none.png 0\n", ":1: {folder}/none.png: no such file"),
        ("list.txt 0\n", ":1: {folder}/list.txt: is no image that OpenCV reads, or is damaged"),
        (" 0\n", ":1: ' 0' is no path"),
    ],
)
def test_a_list_that_cannot_be_read(content: str | None, message: str, tmp_path: Path) -> None:
    image_list(tmp_path, 2)
    path = tmp_path / "list.txt"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError) as error:
        from_list_at(path, tmp_path)
    assert f"{path}" in str(error.value)
    assert message.format(folder=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def from_list_at(path: Path, root: Path) -> ImageSource:
    return ImageSource(path, transformer(), 2, root=f"{root}/")


@pytest.mark.parametrize("text", ["0.png\t0\r\n1.png 1 \r\n", "  0.png   0\n1.png +1", "\ufeff0.png 0\n1.png 01\n"])
def test_lists_are_read_kindly(text: str, tmp_path: Path) -> None:
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image(i))
    (tmp_path / "list.txt").write_bytes(text.encode())
    with from_list_at(tmp_path / "list.txt", tmp_path) as source:
        assert labels(source, 1) == [0, 1]


def test_a_missing_image_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    with from_list(tmp_path, transformer(), 2, where='net.prototxt:3: layer "im" (ImageData)') as source:
        (tmp_path / "2.png").unlink()
        source.next()
        with pytest.raises(DataError) as error:
            source.next()
    where = f'net.prototxt:3: layer "im" (ImageData): {tmp_path}/list.txt:3: {tmp_path}/2.png: no such file'
    assert str(error.value) == where


def test_rand_skip_beyond_the_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rand_skip 8 is more than the 7 images"):
        from_list(tmp_path, transformer(), 2, rand_skip=8)
