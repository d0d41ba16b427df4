"""Processes that share a database: together they read what one reads, and any number of them can go on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import h5py
import lmdb
import numpy as np
import pytest

from pycaffe_compat.data import HDF5Source, ImageSource, LMDBSource, WindowSource, hdf5
from pycaffe_compat.data.datum import image_to_datum
from pycaffe_compat.data.prefetch import Source
from pycaffe_compat.data.transform import Transformer
from pycaffe_compat.errors import DataError
from pycaffe_compat.proto import caffe_pb2

ROWS = 11
Make = Callable[[Path, int], Source[Any]]


def transformer(crop: int = 3) -> Transformer:
    return Transformer(caffe_pb2.TransformationParameter(crop_size=crop, mirror=True), True)


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6, 7, 3)).astype(np.uint8)


def from_hdf5(folder: Path, batch_size: int, shuffle: bool = False) -> HDF5Source:
    begin = 0
    for i, rows in enumerate((2, 5, 4)):
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file["data"] = np.arange(begin, begin + rows)
        begin += rows
    (folder / "files.txt").write_text("0.h5 1.h5 2.h5")
    return HDF5Source(folder / "files.txt", ["data"], batch_size, shuffle, seed=5)


def from_shuffled_hdf5(folder: Path, batch_size: int) -> HDF5Source:
    return from_hdf5(folder, batch_size, shuffle=True)


def from_lmdb(folder: Path, batch_size: int) -> LMDBSource:
    if not (folder / "db").exists():
        with lmdb.open(str(folder / "db"), map_size=2**24) as env, env.begin(write=True) as transaction:
            for i in range(ROWS):
                transaction.put(b"%04d" % i, image_to_datum(image(i), i).SerializeToString())
    return LMDBSource(folder / "db", transformer(), batch_size, seed=5)


def from_list(folder: Path, batch_size: int, **options: Any) -> ImageSource:
    for i in range(ROWS):
        cv2.imwrite(str(folder / f"{i}.png"), image(i))
    (folder / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(ROWS)))
    return ImageSource(folder / "list.txt", transformer(), batch_size, root=f"{folder}/", seed=5, **options)


def from_shuffled_list(folder: Path, batch_size: int) -> ImageSource:
    return from_list(folder, batch_size, shuffle=True, rand_skip=6)


MAKERS: list[Make] = [from_hdf5, from_shuffled_hdf5, from_lmdb, from_list, from_shuffled_list]


def rows_of(source: Source[Any], batches: int) -> list[bytes]:
    """The rows of the next batches, whatever they hold."""
    rows = []
    for _ in range(batches):
        rows += [b"".join(part.tobytes() for part in row) for row in zip(*source.next(), strict=True)]
    return rows


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 1), (2, 4), (3, 2), (11, 3)])
@pytest.mark.parametrize("windows", [False, True])
def test_ranks_read_what_one_reads(
    make: Make, ranks: int, batch_size: int, windows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if windows:  # files read a few rows at a time
        monkeypatch.setattr(hdf5, "RESIDENT_BYTES", 0)
        monkeypatch.setattr(hdf5, "WINDOW_BYTES", 24)
    count = 5
    with make(tmp_path, 1) as one:
        first = one.state_dict().get("offset", 0)
        whole = rows_of(one, ranks * batch_size * count)
        end = one.state_dict()
    states = []
    for rank in range(ranks):
        with make(tmp_path, batch_size) as source:
            source.share(rank, ranks)
            mine = rows_of(source, count)
            states.append(source.state_dict())
        # Row number i, counted over all epochs, belongs to rank i mod ranks.
        assert mine == list(islice(whole, (rank - first) % ranks, None, ranks))
    assert all(state == end for state in states)


@pytest.mark.parametrize("make", MAKERS)
def test_another_number_of_ranks_goes_on_at_the_same_row(make: Make, tmp_path: Path) -> None:
    with make(tmp_path, 1) as one:
        first = one.state_dict().get("offset", 0)
        whole = rows_of(one, 3 * 2 * 3 + 2 * 2 * 2)
    with make(tmp_path, 2) as source:
        source.share(1, 3)
        rows_of(source, 3)
        state = source.state_dict()
    seen = []
    for rank in range(2):
        with make(tmp_path, 2) as source:
            source.share(rank, 2)
            source.load_state_dict(state)
            mine = rows_of(source, 2)
        assert mine == whole[18 + (rank - first - 18) % 2 :: 2]
        seen += mine
    assert sorted(seen) == sorted(whole[18:])


def test_windows_are_shared_by_the_batch(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), image(0))
    boxes = "".join(f"{i % 2} {i % 2} {i % 4} {i % 3} 6 5\n" for i in range(8))
    (tmp_path / "windows.txt").write_text(f"# 0\n{tmp_path}/0.png\n3 6 7\n8\n{boxes}")

    def source() -> WindowSource:
        return WindowSource(tmp_path / "windows.txt", transformer(4), 4, fg_fraction=0.5, seed=5)

    with source() as one:
        whole = [one.next() for _ in range(6)]
    for rank in range(3):
        with source() as shared:
            shared.share(rank, 3)
            for i in range(2):
                for ours, theirs in zip(shared.next(), whole[3 * i + rank], strict=True):
                    np.testing.assert_array_equal(ours, theirs)
            assert shared.state_dict()["batch"] == 6


@pytest.mark.parametrize("make", MAKERS)
def test_fewer_rows_than_ranks(make: Make, tmp_path: Path) -> None:
    with make(tmp_path, 1) as source:
        with pytest.raises(DataError, match=rf"has {ROWS} rows for 12 processes: start fewer of them"):
            source.share(0, 12)
        with pytest.raises(ValueError, match="rank 2 of 2"):
            source.share(2, 2)
        source.next()  # it is as it was
