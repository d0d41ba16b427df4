"""Batches from HDF5 files: against the original program's, against a few lines of numpy, and bad input."""

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycaffe_compat.data import hdf5, prefetch
from pycaffe_compat.data.hdf5 import HDF5Source
from pycaffe_compat.data.orders import draws, permutation
from pycaffe_compat.errors import DataError


def write_database(folder: Path, file_rows: list[int], item: tuple[int, ...] = (1, 2, 2), dtype="u1") -> Path:
    """Files whose label is the row's number through all files, and whose data is that number everywhere."""
    start = 0
    for i, rows in enumerate(file_rows):
        numbers = np.arange(start, start + rows)
        with h5py.File(folder / f"part{i}.h5", "w") as h5:
            h5["data"] = np.broadcast_to(numbers.reshape(-1, *[1] * len(item)), (rows, *item)).astype(dtype)
            h5["label"] = numbers.astype("f4")
        start += rows
    source = folder / "list.txt"
    source.write_text("".join(f"part{i}.h5\n" for i in range(len(file_rows))))
    return source


def labels(source: HDF5Source, batches: int) -> list[int]:
    """Row numbers of the next batches; the data must belong to the labels."""
    numbers: list[int] = []
    for _ in range(batches):
        data, label = source.next()
        assert (data.reshape(len(label), -1) == label[:, None]).all()
        numbers += [int(n) for n in label]
    return numbers


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that every file is read in windows of a few rows, and rows in reads of one."""
    monkeypatch.setattr(hdf5, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(hdf5, "WINDOW_BYTES", 24)
    monkeypatch.setattr(hdf5, "SLICE_BYTES", 8)


# The original program


@pytest.mark.parametrize("case", ["two_files", "big", "three", "types"])
def test_batches_of_the_original_program(case: str, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = golden / "layers"
    monkeypatch.chdir(layers)
    expected = np.load(f"hdf5data_{case}_d.npz")
    index = {entry["stem"]: entry for entry in json.loads(Path("index.json").read_text())["cases"]}
    entry = index[f"hdf5data_{case}_d"]
    tops = entry["tops"]["d"]
    batch_size = expected[f"fwd/{tops[0]}"].shape[0]
    with HDF5Source(entry["files"][0], tops, batch_size) as source:
        assert source.shapes == [expected[f"fwd/{top}"].shape for top in tops]
        for i in range(entry["forwards"]):
            for top, array in zip(tops, source.next(), strict=True):
                np.testing.assert_array_equal(array, expected[f"fwd{i + 1 if i else ''}/{top}"])


def test_batches_of_the_solver_runs(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden / "solvers")
    rows = [h5py.File(name)["data"][:] for name in ("L4_a.h5", "L4_b.h5")]
    assert [len(part) for part in rows] == [9, 5]
    endless = np.concatenate(rows * 4)
    with HDF5Source("L4_train.txt", ["data", "label"], 4) as source:
        for start in range(0, 40, 4):
            np.testing.assert_array_equal(source.next()[0], endless[start : start + 4])


# Order


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 20])
@pytest.mark.parametrize("file_rows", [[1], [5], [3, 1, 4], [1, 1, 1]])
def test_stored_order_wraps(tmp_path: Path, file_rows: list[int], batch_size: int) -> None:
    total = sum(file_rows)
    with HDF5Source(write_database(tmp_path, file_rows), ["data", "label"], batch_size) as source:
        assert labels(source, 9) == [i % total for i in range(9 * batch_size)]
        assert source.rows == total


def test_windows_give_the_same_rows(tmp_path: Path, small_memory: None) -> None:
    with HDF5Source(write_database(tmp_path, [11, 3, 20]), ["data", "label"], 7) as source:
        assert labels(source, 20) == [i % 34 for i in range(140)]


@pytest.mark.parametrize("resident", [10**9, 150, 0])
def test_shuffle_covers_each_epoch_and_keeps_files_apart(
    tmp_path: Path, resident: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_rows = [7, 12, 9]
    write_database(tmp_path, file_rows)
    monkeypatch.setattr(hdf5, "WINDOW_BYTES", 40)
    monkeypatch.setattr(hdf5, "RESIDENT_BYTES", 10**9)
    with HDF5Source(tmp_path / "list.txt", ["data", "label"], 4, shuffle=True, seed=3) as source:
        reference = labels(source, 7 * 12)
    monkeypatch.setattr(hdf5, "RESIDENT_BYTES", resident)
    with HDF5Source(tmp_path / "list.txt", ["data", "label"], 4, shuffle=True, seed=3) as source:
        assert labels(source, 7 * 12) == reference  # however the files are read
    members = [set(range(0, 7)), set(range(7, 19)), set(range(19, 28))]
    epochs = [reference[i : i + 28] for i in range(0, len(reference), 28)]
    file_orders = set()
    for epoch in epochs:
        assert sorted(epoch) == list(range(28))
        first = [next(i for i, member in enumerate(members) if number in member) for number in epoch]
        order = tuple(dict.fromkeys(first))
        file_orders.add(order)
        assert first == [i for i in order for _ in members[i]]  # a file is finished before the next begins
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert len(file_orders) > 1


def test_seed_decides(tmp_path: Path) -> None:
    source = write_database(tmp_path, [30])
    orders = []
    for seed in (1, 1, 2, -1, 2**70):
        with HDF5Source(source, ["data", "label"], 30, shuffle=True, seed=seed) as opened:
            orders.append(tuple(labels(opened, 2)))
    assert orders[0] == orders[1]
    assert len(set(orders)) == 4


def test_random_numbers_are_the_same_under_every_numpy() -> None:
    # Written down once; a change would change databases and resumed trainings.
    assert [int(n) for n in draws(3, 1, 2, 3)] == [
        1651299849932390616,
        4218192805844392388,
        17465577037104944027,
    ]
    assert permutation(8, 5, 0).tolist() == [3, 2, 4, 6, 7, 0, 5, 1]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file_rows=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    batch_size=st.integers(1, 12),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    cut=st.integers(0, 12),
    windows=st.booleans(),
)
def test_resumed_order_is_the_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory,
    file_rows: list[int],
    batch_size: int,
    shuffle: bool,
    seed: int,
    cut: int,
    windows: bool,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if windows:
            patch.setattr(hdf5, "RESIDENT_BYTES", 0)
            patch.setattr(hdf5, "WINDOW_BYTES", 20)
        path = write_database(tmp_path_factory.mktemp("database"), file_rows)
        with HDF5Source(path, ["data", "label"], batch_size, shuffle, seed) as source:
            whole = labels(source, 20)
        with HDF5Source(path, ["data", "label"], batch_size, shuffle, seed) as source:
            begun = labels(source, cut)
            state = json.loads(json.dumps(source.state_dict()))
        with HDF5Source(path, ["data", "label"], batch_size, shuffle, seed=0) as source:
            labels(source, 1)  # a source that is in use already
            source.load_state_dict(state)
            assert source.state_dict() == state
            assert begun + labels(source, 20 - cut) == whole


def test_state_is_that_of_the_batches_handed_out(tmp_path: Path) -> None:
    with HDF5Source(write_database(tmp_path, [10]), ["data", "label"], 3) as source:
        assert source.state_dict()["row"] == 0
        source.next()
        assert source.state_dict() == {"seed": 0, "epoch": 0, "file": 0, "row": 3, "files": 1, "rows": 10}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 11}, "database with 1 files and 11 rows; this one has 1 and 10"),
        ({"files": 2}, "database with 2 files"),
        ({"row": 10}, "outside the database"),
        ({"row": -1}, "outside the database"),
        ({"file": 1}, "outside the database"),
        ({"epoch": -1}, "outside the database"),
        ({"seed": "x"}, "incomplete"),
        ({"seed": None}, "incomplete"),
    ],
)
def test_state_of_another_database(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with HDF5Source(write_database(tmp_path, [10]), ["data", "label"], 3) as source:
        labels(source, 1)
        state = source.state_dict()
        with pytest.raises(DataError, match=message):
            source.load_state_dict({**state, **change})
        with pytest.raises(DataError, match="incomplete"):
            source.load_state_dict({})
        assert labels(source, 1) == [3, 4, 5]  # and nothing has happened


# Values


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", ">i4", "i8", "u8", "f2", "f4", ">f4", "f8"])
def test_every_number_type_becomes_float32(tmp_path: Path, dtype: str) -> None:
    values = np.arange(24).reshape(4, 2, 3).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["x"] = values
    (tmp_path / "list.txt").write_text("a.h5")
    with HDF5Source(tmp_path / "list.txt", ["x"], 4) as source:
        (batch,) = source.next()
    assert batch.dtype == np.float32 and batch.flags.c_contiguous and batch.flags.writeable
    np.testing.assert_array_equal(batch, np.arange(24).reshape(4, 2, 3))


def test_doubles_round_and_overflow_as_in_c(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["x"] = np.array([0.1, 1e300, -1e300, np.nan])
    (tmp_path / "list.txt").write_text("a.h5")
    with HDF5Source(tmp_path / "list.txt", ["x"], 4) as source:
        np.testing.assert_array_equal(source.next()[0], np.array([0.1, np.inf, -np.inf, np.nan], "f4"))


def test_each_batch_is_a_new_buffer(tmp_path: Path) -> None:
    with HDF5Source(write_database(tmp_path, [6]), ["data", "label"], 2) as source:
        first = source.next()
        kept = first[1].copy()
        first[0][:] = 255
        for _ in range(6):
            second = source.next()
            assert not np.shares_memory(first[0], second[0])
        np.testing.assert_array_equal(first[1], kept)
        assert labels(source, 3) == [2, 3, 4, 5, 0, 1]


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"chunks": (3, 1)}, {"fletcher32": True}])
def test_chunked_and_compressed(tmp_path: Path, options: dict[str, object], small_memory: None) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_dataset("x", data=np.arange(40, dtype="u1").reshape(20, 2), **options)
    (tmp_path / "list.txt").write_text("a.h5")
    with HDF5Source(tmp_path / "list.txt", ["x"], 20, shuffle=True, seed=1) as source:
        (batch,) = source.next()
    assert batch[np.argsort(batch[:, 0])].reshape(-1).tolist() == list(range(40))


def test_rows_without_elements(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["x"] = np.zeros((3, 0, 2))
    (tmp_path / "list.txt").write_text("a.h5")
    with HDF5Source(tmp_path / "list.txt", ["x"], 2) as source:
        assert source.next()[0].shape == (2, 0, 2)


# The list


@pytest.mark.parametrize("text", ["{0} {1}", "{0}\r\n{1}\r\n", "\n\n {0}\t{1} ", "\ufeff{0}\n{1}"])
def test_list_is_split_at_white_space(tmp_path: Path, text: str) -> None:
    source = write_database(tmp_path, [2, 3])
    source.write_bytes(text.format("part0.h5", "part1.h5").encode())
    with HDF5Source(source, ["data", "label"], 5) as opened:
        assert labels(opened, 1) == [0, 1, 2, 3, 4]


def test_files_are_found_wherever_a_script_goes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_database(tmp_path, [2, 3])
    monkeypatch.chdir(tmp_path)
    with HDF5Source("list.txt", ["data", "label"], 5) as source:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert labels(source, 1) == [0, 1, 2, 3, 4]


def test_working_directory_comes_before_the_lists_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    beside.mkdir()
    here.mkdir()
    write_database(beside, [2])
    write_database(here, [4])
    monkeypatch.chdir(here)
    with HDF5Source("../beside/list.txt", ["data", "label"], 4) as source:
        assert source.rows == 4
    monkeypatch.chdir(tmp_path)
    with HDF5Source("beside/list.txt", ["data", "label"], 4) as source:
        assert source.rows == 2


def test_a_file_may_be_listed_twice(tmp_path: Path) -> None:
    source = write_database(tmp_path, [2])
    source.write_text("part0.h5 part0.h5")
    with HDF5Source(source, ["data", "label"], 5) as opened:
        assert labels(opened, 1) == [0, 1, 0, 1, 0]


# Bad input: each names the list, and what is wrong with what


def _set(name: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with h5py.File(folder / "part1.h5", "a") as h5:
            if name in h5:
                del h5[name]
            if value is not None:
                h5[name] = value

    return change


def _group(folder: Path) -> None:
    with h5py.File(folder / "part1.h5", "a") as h5:
        del h5["label"]
        h5.create_group("label")


def _empty_list(folder: Path) -> None:
    (folder / "list.txt").write_text(" \r\n")


def _no_list(folder: Path) -> None:
    (folder / "list.txt").unlink()


def _folder_as_list(folder: Path) -> None:
    (folder / "list.txt").unlink()
    (folder / "list.txt").mkdir()


def _database_as_list(folder: Path) -> None:
    os.replace(folder / "part0.h5", folder / "list.txt")


def _binary_list(folder: Path) -> None:
    (folder / "list.txt").write_bytes(b"part0.h5\0\xff")


def _missing_file(folder: Path) -> None:
    (folder / "part1.h5").unlink()


def _folder_as_file(folder: Path) -> None:
    (folder / "part1.h5").unlink()
    (folder / "part1.h5").mkdir()


def _truncated(folder: Path) -> None:
    os.truncate(folder / "part1.h5", 700)


def _no_hdf5(folder: Path) -> None:
    (folder / "part1.h5").write_bytes(b"not a database")


def _zero_bytes(folder: Path) -> None:
    (folder / "part1.h5").write_bytes(b"")


def _dangling(folder: Path) -> None:
    _set("label", h5py.SoftLink("/nowhere"))(folder)


def _of_time(folder: Path) -> None:
    with h5py.File(folder / "part1.h5", "r+") as h5:
        del h5["label"]
        h5py.h5d.create(h5.id, b"label", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((3,)))


def _pipe(folder: Path) -> None:
    (folder / "part1.h5").unlink()
    os.mkfifo(folder / "part1.h5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_empty_list, "the list is empty"),
        (_no_list, "cannot be read: No such file"),
        (_folder_as_list, "cannot be read: Is a directory"),
        (_database_as_list, "is an HDF5 file itself"),
        (_binary_list, "is no text file"),
        (_missing_file, r"part1\.h5: no such file"),
        (_folder_as_file, r"part1\.h5: is a folder"),
        (_truncated, r"part1\.h5: not a whole HDF5 file \(.*truncated"),
        (_no_hdf5, r"part1\.h5: not a whole HDF5 file"),
        (_zero_bytes, r"part1\.h5: not a whole HDF5 file"),
        (_set("label", None), r'part1\.h5: no dataset "label" .* holds "data"'),
        (_dangling, r'part1\.h5: (no )?dataset "label"'),
        (_group, r'part1\.h5: "label" is a group'),
        (_set("label", h5py.Empty("f4")), r'part1\.h5: "label" is an empty dataspace'),
        (_set("label", 3.0), r'part1\.h5: dataset "label" is a single value'),
        (_set("label", ["a", "b", "c"]), r'part1\.h5: dataset "label" holds strings'),
        (_set("label", np.array([b"a", b"b", b"c"])), r'part1\.h5: dataset "label" holds strings'),
        (_set("label", np.ones(3, bool)), r'part1\.h5: dataset "label" holds bool'),
        (_set("label", np.ones(3, complex)), r'part1\.h5: dataset "label" holds complex'),
        (_of_time, r'part1\.h5: dataset "label" cannot be opened'),
        (_pipe, r"part1\.h5: not a whole HDF5 file \(.*it is a device or a pipe"),
        (_set("label", np.zeros((0,))), r'part1\.h5: dataset "label" (has no rows|has 0 rows, "data" has 3)'),
        (_set("label", np.zeros(4)), r'part1\.h5: dataset "label" has 4 rows, "data" has 3'),
        (
            _set("label", np.zeros((3, 2))),
            r'part1\.h5: dataset "label" has rows of shape \(2,\), .*part0\.h5 are \(\)',
        ),
        (
            _set("data", np.zeros((3, 1, 2, 3))),
            r'part1\.h5: dataset "data" has rows of shape \(1, 2, 3\), .*part0\.h5 are \(1, 2, 2\)',
        ),
    ],
)
def test_bad_database(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    source = write_database(tmp_path, [2, 3])
    change(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        HDF5Source(source, ["data", "label"], 2, where='net.prototxt:4: layer "d" (HDF5Data)')
    text = str(caught.value)
    assert text.startswith(f'net.prototxt:4: layer "d" (HDF5Data): {source}: ')
    assert "\n" not in text


def test_a_database_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        HDF5Source(write_database(tmp_path, [0]), ["data", "label"], 2)


def test_bad_arguments(tmp_path: Path) -> None:
    source = write_database(tmp_path, [2])
    with pytest.raises(DataError, match="no tops"):
        HDF5Source(source, [], 2)
    with pytest.raises(DataError, match="batch_size is 0"):
        HDF5Source(source, ["data"], 0)


# While it runs


def test_a_file_that_vanishes_is_an_error_of_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "RESIDENT_BYTES", 10)  # so that no file is held for longer than it is used
    with HDF5Source(write_database(tmp_path, [3, 3]), ["data", "label"], 3) as source:
        (tmp_path / "part1.h5").unlink()
        assert labels(source, 1) == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(DataError, match=r"part1\.h5: no such file"):
                source.next()
        state = source.state_dict()
        assert (state["file"], state["row"]) == (1, 0)


def test_a_file_that_changes_is_an_error_of_next(tmp_path: Path) -> None:
    with HDF5Source(write_database(tmp_path, [3]), ["data", "label"], 3) as source:
        write_database(tmp_path, [4])
        with pytest.raises(DataError, match='dataset "data" has changed its shape'):
            source.next()


def test_a_damaged_file_is_an_error_of_next(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as h5:
        h5.create_dataset("x", data=np.arange(64, dtype="f4"), chunks=(64,), fletcher32=True)
        begin = h5["x"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[begin + 5] ^= 1
    path.write_bytes(content)
    (tmp_path / "list.txt").write_text("a.h5")
    with (
        HDF5Source(tmp_path / "list.txt", ["x"], 2) as source,
        pytest.raises(DataError, match=r'a\.h5: dataset "x" is damaged'),
    ):
        source.next()


# The thread


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_close_ends_the_thread(tmp_path: Path) -> None:
    source = HDF5Source(write_database(tmp_path, [5]), ["data", "label"], 2)
    assert not prefetch_threads()  # none before it is needed
    source.next()
    assert len(prefetch_threads()) == 1
    source.close()
    source.close()
    assert not prefetch_threads()
    with pytest.raises(ValueError, match="closed"):
        source.next()


def test_forgetting_a_source_ends_the_thread(tmp_path: Path) -> None:
    source = HDF5Source(write_database(tmp_path, [5]), ["data", "label"], 2)
    source.next()
    (thread,) = prefetch_threads()
    watched = weakref.ref(source)
    del source
    gc.collect()
    assert watched() is None
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_error_ends_the_thread(tmp_path: Path) -> None:
    source = HDF5Source(write_database(tmp_path, [5]), ["data", "label"], 2)
    (tmp_path / "part0.h5").unlink()
    with pytest.raises(DataError):
        source.next()
    source.close()
    assert not prefetch_threads()


def test_no_more_batches_are_made_ahead_than_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_database(tmp_path, [5])
    for bound, expected in ((10**9, prefetch.PREFETCH), (100, 2), (1, 1)):  # a batch is 2 * 5 * 4 bytes
        monkeypatch.setattr(prefetch, "PREFETCH_BYTES", bound)
        with HDF5Source(path, ["data", "label"], 2) as source:
            source.next()
            assert source._prefetcher is not None
            deadline = time.monotonic() + 30
            while source._prefetcher.ready.qsize() < expected and time.monotonic() < deadline:
                pass
            assert source._prefetcher.ready.qsize() == expected
            assert source._prefetcher._room.empty()  # nothing that would allow another one


@pytest.mark.parametrize("end", ["", "source.close()", "del source", "raise SystemExit(3)", "1 / 0"])
def test_interpreter_ends_cleanly(tmp_path: Path, end: str) -> None:
    path = write_database(tmp_path, [50])
    program = (
        "from pycaffe_compat.data import HDF5Source\n"
        f"source = HDF5Source({str(path)!r}, ['data', 'label'], 7, True, 1)\n"
        f"source.next(); source.next()\n{end}\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    expected = {"raise SystemExit(3)": 3, "1 / 0": 1}.get(end, 0)
    assert done.returncode == expected, done.stderr
    if expected != 1:
        assert done.stderr == ""


def test_copies_are_refused(tmp_path: Path) -> None:
    with HDF5Source(write_database(tmp_path, [5]), ["data", "label"], 2) as source:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                attempt(source)


def test_use_in_a_forked_child_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HDF5Source(write_database(tmp_path, [5]), ["data", "label"], 2) as source:
        source.next()
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(RuntimeError, match="fork"):
                source.next()
        assert labels(source, 1) == [2, 3]
