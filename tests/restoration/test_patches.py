"""Databases of patches: every row is traced back to its place in a photograph and in what JPEG left of it."""

import errno
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pycaffe_compat.data.hdf5 import HDF5Source
from pycaffe_compat.errors import DataError
from pycaffe_compat.restoration import patches
from pycaffe_compat.restoration.patches import Database, Settings, make_patches, symmetric

SIZE = 8
SMALL = Settings(qualities=(10,), size=SIZE, count=60, seed=1)


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    """Gray noise, smooth enough for JPEG: no window of it occurs twice."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (3, 3), 0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for i, (height, width) in enumerate([(33, 40), (40, 33), (64, 25), (SIZE, SIZE)]):
        Image.fromarray(photograph(i, height, width)).save(folder / f"photo{i}.png")
    return folder


class Place(NamedTuple):
    image: str
    y: int
    x: int
    symmetry: int


@functools.cache
def index(folder: Path, size: int) -> dict[bytes, Place]:
    """Where each patch of the photographs, turned in each way, comes from."""
    found = {}
    for path in sorted(folder.iterdir()):
        luma = np.array(Image.open(path))
        for y in range(luma.shape[0] - size + 1):
            for x in range(luma.shape[1] - size + 1):
                patch = luma[y : y + size, x : x + size]
                for symmetry in range(8):
                    turned = np.rot90(np.fliplr(patch) if symmetry >= 4 else patch, symmetry % 4)
                    found.setdefault(turned.tobytes(), Place(path.name, y, x, symmetry))
    return found


def rows(database: Database) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for path in database.files:
        with h5py.File(path) as h5:
            yield from zip(h5["data"][:, 0], h5["label"][:, 0], strict=True)


def compressed(path: Path, quality: int) -> np.ndarray:
    """By Pillow's libjpeg, which is not the one that OpenCV brings."""
    code = io.BytesIO()
    Image.open(path).save(code, "JPEG", quality=quality)
    return np.array(Image.open(code))


def trace(database: Database, folder: Path, settings: Settings) -> list[tuple[Place, int]]:
    """Place and quality of each row, in order; fails for a row whose two patches do not belong together."""
    places = index(folder, settings.size)
    left = {(path.name, q): compressed(path, q) for path in folder.iterdir() for q in settings.qualities}
    traced = []
    for data, label in rows(database):
        assert label.shape == data.shape == (settings.size, settings.size)
        place = places[label.astype("u1").tobytes()]
        fitting = []
        for quality in settings.qualities:
            window = left[place.image, quality][
                place.y : place.y + settings.size, place.x : place.x + settings.size
            ]
            turned = np.rot90(np.fliplr(window) if place.symmetry >= 4 else window, place.symmetry % 4)
            if (turned == data).all():
                fitting.append(quality)
        assert fitting, f"row {len(traced)} holds no patch of {place}"
        traced.append((place, fitting[0]))
    return traced


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What is in it


def test_rows_are_patches_of_the_photographs(images: Path, tmp_path: Path) -> None:
    wanted = replace(SMALL, count=1200, qualities=(10, 40, 90))
    made = make_patches(images, tmp_path / "db", wanted)
    traced = trace(made, images, wanted)
    assert len(traced) == made.rows == 1200
    assert made.images == 4
    assert Counter(place.image for place, _ in traced) == {f"photo{i}.png": 300 for i in range(4)}
    # photo3 is one single patch; the symmetries of the others are told apart, and so are the qualities.
    large = [(place, quality) for place, quality in traced if place.image != "photo3.png"]
    assert Counter(quality for _, quality in large) == {10: 300, 40: 300, 90: 300}
    symmetries = Counter(place.symmetry for place, _ in large)
    assert len(symmetries) == 8 and min(symmetries.values()) > 70
    phases = Counter((place.y % 8, place.x % 8) for place, _ in large)
    assert len(phases) == 64
    first = [place for place, _ in large if place.image == "photo0.png"]
    assert {place.y for place in first} == set(range(33 - SIZE + 1))
    assert {place.x for place in first} == set(range(40 - SIZE + 1))
    # In random order: neighbours are of the same image about a quarter of the time.
    same = sum(a[0].image == b[0].image for a, b in zip(traced, traced[1:], strict=False))
    assert 200 < same < 400


def test_places_on_a_grid(images: Path, tmp_path: Path) -> None:
    wanted = replace(SMALL, count=400, grid=8)
    traced = trace(make_patches(images, tmp_path / "db", wanted), images, wanted)
    places = {(place.y, place.x) for place, _ in traced if place.image == "photo0.png"}  # 33x40
    assert places == {(y, x) for y in range(0, 33 - SIZE + 1, 8) for x in range(0, 40 - SIZE + 1, 8)}


def test_counts_that_do_not_divide_are_as_equal_as_can_be(images: Path, tmp_path: Path) -> None:
    wanted = replace(SMALL, count=211, qualities=(20, 80))
    traced = trace(make_patches(images, tmp_path / "db", wanted), images, wanted)
    assert sorted(Counter(place.image for place, _ in traced).values()) == [52, 53, 53, 53]
    large = Counter(quality for place, quality in traced if place.image != "photo3.png")
    assert abs(large[20] - large[80]) <= 3


def test_fewer_patches_than_images(images: Path, tmp_path: Path) -> None:
    made = make_patches(images, tmp_path / "db", replace(SMALL, count=2))
    assert made.rows == 2 and len(trace(made, images, SMALL)) == 2


def test_without_augmentation(images: Path, tmp_path: Path) -> None:
    wanted = replace(SMALL, augment=False, count=100)
    assert {
        place.symmetry for place, _ in trace(make_patches(images, tmp_path / "db", wanted), images, wanted)
    } == {0}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.sampled_from([3, 8]),
    count=st.integers(1, 40),
    qualities=st.lists(st.integers(1, 100), min_size=1, max_size=3, unique=True),
    dtype=st.sampled_from(["uint8", "float32"]),
    rows_per_file=st.integers(1, 50),
    compress=st.booleans(),
    augment=st.booleans(),
    seed=st.integers(0, 2**63),
    workers=st.integers(1, 3),
)
def test_any_settings(
    images: Path,
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    rows_per_file: int,
    workers: int,
    **others: object,
) -> None:
    bytes_per_row = 2 * size * size * (4 if others["dtype"] == "float32" else 1)
    file_size = (patches._HEADER_BYTES + rows_per_file * bytes_per_row + 0.5) / 1e6
    wanted = Settings(size=size, file_size=file_size, **others)  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            patches.os, "fsync", lambda descriptor: None
        )  # many small files, and none of them matters
        made = make_patches(images, folder / "db", wanted, workers=workers)
    assert sum(wanted.file_rows) == wanted.count and max(wanted.file_rows) <= rows_per_file
    with HDF5Source(made.source, ["data", "label"], wanted.count) as source:
        assert source.shapes == [(wanted.count, 1, size, size)] * 2
        data, label = source.next()
    stored = list(rows(made))
    np.testing.assert_array_equal(data[:, 0], [row for row, _ in stored])
    np.testing.assert_array_equal(label[:, 0], [row for _, row in stored])
    assert all(path.stat().st_size <= file_size * 1e6 for path in made.files if not wanted.compress)
    where = index(images, size)
    assert all(row.astype("u1").tobytes() in where for _, row in stored)


def test_colour_becomes_luma(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "in" / "red.png")
    made = make_patches(tmp_path / "in", tmp_path / "db", replace(SMALL, count=3))
    for _, label in rows(made):
        assert (label == round(16 + 65.481)).all()


def test_symmetries_are_the_eight_of_the_square() -> None:
    corner = np.arange(9, dtype=np.uint8).reshape(3, 3)
    seen = {symmetric(corner, which).tobytes() for which in range(8)}
    assert len(seen) == 8
    assert corner.T.tobytes() in seen and corner[::-1].tobytes() in seen and corner[:, ::-1].tobytes() in seen


# How it is stored


def test_files_list_and_attributes(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = replace(SMALL, file_size=0.02, qualities=(10, 30), limit=3)
    made = make_patches(images, "deep/er/db", wanted)
    assert len(made.files) == 3 and wanted.file_rows == [20, 20, 20]
    assert Path("deep/er/db.txt").read_text() == "".join(f"deep/er/db_{i:03d}.h5\n" for i in range(3))
    assert names(tmp_path / "deep/er") == {"db.txt", "db_000.h5", "db_001.h5", "db_002.h5"}
    for path in made.files:
        assert path.stat().st_size <= 20000
        with h5py.File(path) as h5:
            assert sorted(h5) == ["data", "label"]
            for dataset in h5.values():
                assert dataset.shape == (20, 1, SIZE, SIZE) and dataset.dtype == np.uint8
            attributes = dict(h5.attrs)
        assert attributes["qualities"].tolist() == [10, 30]
        assert (attributes["size"], attributes["count"], attributes["seed"]) == (SIZE, 60, 1)
        assert (attributes["images"], attributes["limit"], attributes["skip_images"]) == (3, 3, 0)
        assert attributes["version"].decode().count(".") == 2
        assert len(attributes["images_sha256"]) == 64
        assert bool(attributes["augment"]) and attributes["dtype"] == b"uint8"


def test_float32_holds_the_same_numbers(images: Path, tmp_path: Path) -> None:
    small = list(rows(make_patches(images, tmp_path / "u1", SMALL)))
    large = list(rows(make_patches(images, tmp_path / "f4", replace(SMALL, dtype="float32"))))
    assert large[0][0].dtype == np.float32
    np.testing.assert_array_equal(small, large)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_compressed_holds_the_same_numbers(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (64, 1))).save(tmp_path / "in" / "ramp.png")
    wanted = replace(SMALL, size=48, dtype=dtype, file_size=1)
    plain = make_patches(tmp_path / "in", tmp_path / "plain", wanted)
    packed = make_patches(tmp_path / "in", tmp_path / "packed", replace(wanted, compress=True))
    np.testing.assert_array_equal(list(rows(plain)), list(rows(packed)))
    assert packed.files[0].stat().st_size < 0.3 * plain.files[0].stat().st_size


# Reproducible


@pytest.mark.parametrize("compress", [False, True])
def test_same_bytes(images: Path, tmp_path: Path, compress: bool) -> None:
    """Whatever the number of threads, the place of the photographs and the time of day."""
    wanted = replace(SMALL, count=500, qualities=(10, 20), file_size=0.05, compress=compress)
    shutil.copytree(images, tmp_path / "elsewhere")
    made = []
    for i, (source, workers) in enumerate([(images, 1), (images, 4), (tmp_path / "elsewhere", 2)]):
        (tmp_path / str(i)).mkdir()
        database = make_patches(source, tmp_path / str(i) / "db", wanted, workers=workers)
        made.append([path.read_bytes() for path in database.files])
    assert len(made[0]) > 1
    assert made[0] == made[1] == made[2]
    for changed in (replace(wanted, seed=2), replace(wanted, augment=False), replace(wanted, count=501)):
        assert [path.read_bytes() for path in make_patches(images, tmp_path / "db", changed).files] != made[0]


def test_no_time_is_recorded(images: Path, tmp_path: Path) -> None:
    made = make_patches(images, tmp_path / "db", SMALL)
    with h5py.File(made.files[0]) as h5:
        for name in ("data", "label"):
            assert h5py.h5o.get_info(h5[name].id).mtime == 0


# Which photographs


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """20 images, each of one gray level, so that a patch tells its image."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(20):
        Image.new("L", (16, 16), 10 * i).save(folder / f"{i:02d}.png")
    return folder


def used(database: Database) -> set[int]:
    return {int(label[0, 0]) // 10 for _, label in rows(database)}


def test_subsets_are_nested_and_apart(flat: Path, tmp_path: Path) -> None:
    def of(**change: object) -> set[int]:
        return used(make_patches(flat, tmp_path / "db", replace(SMALL, **change)))  # type: ignore[arg-type]

    assert of() == set(range(20))
    four, ten = of(limit=4), of(limit=10)
    assert len(four) == 4 and len(ten) == 10 and four < ten
    assert of(skip_images=4) == set(range(20)) - four
    assert of(skip_images=4, limit=6) == ten - four
    assert of(limit=4, seed=99) == four  # another database leaves the same images out
    assert of(limit=4, size=3) == four
    assert of(limit=4, subset_seed=1) != four
    assert of(limit=50) == set(range(20))
    with pytest.raises(DataError, match="20 images, and 20 of them are to be skipped"):
        of(skip_images=20)


def test_small_images_do_not_move_the_subsets(flat: Path, tmp_path: Path) -> None:
    held_out = used(make_patches(flat, tmp_path / "db", replace(SMALL, limit=5)))
    Image.new("L", (16, 7), 0).save(flat / "00.png")
    rest = make_patches(flat, tmp_path / "db", replace(SMALL, skip_images=5))
    assert not used(rest) & held_out
    left_out = make_patches(flat, tmp_path / "db", SMALL)
    assert left_out.too_small == [flat / "00.png"] and left_out.images == 19


def test_all_images_too_small(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 20 images are smaller than a patch of 17x17 pixels"):
        make_patches(flat, tmp_path / "db", replace(SMALL, size=17))
    assert names(tmp_path) == {"flat"}


def test_broken_images_stop_it_before_anything_is_made(flat: Path, tmp_path: Path) -> None:
    (flat / "07.png").write_bytes((flat / "07.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"07\.png: .*; repair or remove it"):
        make_patches(flat, tmp_path / "db", SMALL)
    (flat / "03.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"03\.png: .*the first of 2 images that cannot be used"):
        make_patches(flat, tmp_path / "db", SMALL)
    assert names(tmp_path) == {"flat"}


def test_images_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        make_patches(tmp_path / "nowhere", tmp_path / "db", SMALL)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qualities": ()}, "no JPEG quality"),
        ({"qualities": (0,)}, "1..100"),
        ({"qualities": (10, 101)}, "1..100"),
        ({"qualities": (10, 10)}, "twice"),
        ({"size": 0}, "at least 1 pixel"),
        ({"grid": 0}, "at least 1 pixel"),
        ({"count": 0}, "at least 1"),
        ({"seed": -1}, "negative"),
        ({"subset_seed": -1}, "negative"),
        ({"dtype": "float64"}, "uint8 or float32, not float64"),
        ({"skip_images": -1}, "negative"),
        ({"limit": 0}, "at least 1"),
        ({"file_size": 0.0164}, "holds no pair of 8x8 patches"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(SMALL, **change)  # type: ignore[arg-type]


# Whole or not at all


@pytest.mark.parametrize("output", ["a b/db", "d\tb", "folder/"])
def test_names_that_a_list_cannot_hold(images: Path, tmp_path: Path, output: str) -> None:
    with pytest.raises(DataError, match="white space|not a folder"):
        make_patches(images, f"{tmp_path}/{output}", SMALL)


def test_replaces_its_own_database_whole(images: Path, tmp_path: Path) -> None:
    make_patches(images, tmp_path / "db", replace(SMALL, file_size=0.02))
    make_patches(images, tmp_path / "other", SMALL)
    assert "db_002.h5" in names(tmp_path)
    make_patches(images, tmp_path / "db", replace(SMALL, seed=2))
    assert names(tmp_path) == {"db.txt", "db_000.h5", "other.txt", "other_000.h5"}
    fresh = make_patches(images, tmp_path / "fresh", replace(SMALL, seed=2))
    assert (tmp_path / "db_000.h5").read_bytes() == fresh.files[0].read_bytes()


@pytest.mark.parametrize("name", ["db.txt", "db_000.h5"])
def test_what_others_have_made_is_not_touched(images: Path, tmp_path: Path, name: str) -> None:
    if name.endswith(".txt"):
        (tmp_path / name).write_text("cat.jpg 3\n")
    else:
        with h5py.File(tmp_path / name, "w") as h5:
            h5["data"] = np.zeros(3)
    before = content(tmp_path)
    with pytest.raises(DataError, match="choose another output"):
        make_patches(images, tmp_path / "db", SMALL)
    assert content(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("earlier", [False, True])
def test_interrupted_while_cutting(images: Path, tmp_path: Path, error: BaseException, earlier: bool) -> None:
    if earlier:
        make_patches(images, tmp_path / "db", replace(SMALL, seed=5))
    before = content(tmp_path)

    def interrupt(rows: int) -> None:
        raise error

    with pytest.raises(type(error)):
        make_patches(images, tmp_path / "db", SMALL, progress=interrupt)
    assert content(tmp_path) == before


def test_interrupted_while_renaming(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def second_fails(source: Path, target: Path) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(target)
        os.rename(source, target)

    monkeypatch.setattr(patches.os, "replace", second_fails)
    with pytest.raises(KeyboardInterrupt):
        make_patches(images, tmp_path / "db", replace(SMALL, file_size=0.02))
    assert done and names(tmp_path) == set()


def test_disk_that_fills_up(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(patches.os, "pwrite", full)
    with pytest.raises(OSError, match=r"No space left on device: .*db_000\.h5"):
        make_patches(images, tmp_path / "db", SMALL)
    assert names(tmp_path) == set()


def test_partial_writes_are_continued(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_patches(images, tmp_path / "whole", SMALL).files[0].read_bytes()
    pwrite = os.pwrite
    monkeypatch.setattr(patches.os, "pwrite", lambda fd, data, at: pwrite(fd, data[:13], at))
    assert make_patches(images, tmp_path / "parts", SMALL).files[0].read_bytes() == expected


def test_disk_that_is_too_small_is_told_beforehand(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(DataError, match="needs 128 MB and the disk has 1 MB"):
        make_patches(images, tmp_path / "db", replace(SMALL, count=10**6))
    assert names(tmp_path) == set()


def test_output_below_a_file(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make_patches(images, tmp_path / "file" / "db", SMALL)
    assert names(tmp_path) == {"file"}


CHILD = """
import os, signal, sys
from pycaffe_compat.restoration import patches
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
replace = os.replace
def die_at_second(source, target, done=[]):
    if done:
        die()
    done.append(target)
    replace(source, target)
moment, images, output = sys.argv[1:]
if moment == "renaming":
    patches.os.replace = die_at_second
if moment == "listing":
    patches.atomic_write = die
settings = patches.Settings(size=8, count=60, seed=1, file_size=0.02)
patches.make_patches(images, output, settings, progress=die if moment == "cutting" else lambda rows: None)
"""


@pytest.mark.parametrize("moment", ["cutting", "renaming", "listing"])
@pytest.mark.parametrize("earlier", [False, True])
def test_killed(images: Path, tmp_path: Path, moment: str, earlier: bool) -> None:
    """A list that is there names a whole database, always; the next run makes it and leaves nothing else."""
    wanted = replace(SMALL, file_size=0.02)
    if earlier:
        make_patches(images, tmp_path / "db", replace(wanted, seed=5))
    before = content(tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, moment, str(images), str(tmp_path / "db")],
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    if moment == "cutting":
        assert ".db.part" in names(tmp_path)
        shutil.move(tmp_path / ".db.part", tmp_path.parent / f"{tmp_path.name}.part")
        assert content(tmp_path) == before
        shutil.move(tmp_path.parent / f"{tmp_path.name}.part", tmp_path / ".db.part")
    else:
        assert "db.txt" not in names(tmp_path)
    made = make_patches(images, tmp_path / "db", wanted)
    assert names(tmp_path) == {"db.txt", *(path.name for path in made.files)}
    assert len(trace(made, images, wanted)) == 60


def test_threads_end(images: Path, tmp_path: Path) -> None:
    make_patches(images, tmp_path / "db", SMALL, workers=3)
    deadline = time.monotonic() + 30
    while any(t.name.startswith("patches") for t in threading.enumerate()) and time.monotonic() < deadline:
        pass
    assert not [t for t in threading.enumerate() if t.name.startswith("patches")]


@pytest.mark.data
def test_bsds500(jpeg_data: Path, tmp_path: Path) -> None:
    """Patches of real photographs are as much worse than their originals as the photographs themselves."""
    made = make_patches(
        [jpeg_data / "bsds500" / "val"],
        tmp_path / "db",
        Settings(size=48, count=2000, qualities=(10,), seed=3),
    )
    assert made.images == 100
    error = np.mean([np.square(data.astype(float) - label).mean() for data, label in rows(made)])
    assert abs(10 * np.log10(255**2 / error) - 26.0) < 1.5
    darkest = min(int(label.min()) for _, label in rows(made))
    assert darkest >= 16  # studio swing
