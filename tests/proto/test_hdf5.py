"""HDF5 that does what weights never need: refused, with nothing allocated, nothing else opened."""

from __future__ import annotations

import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycaffe_compat.errors import WeightsError
from pycaffe_compat.proto.hdf5 import open_hdf5
from pycaffe_compat.solver.snapshot import read_state
from pycaffe_compat.weights import read_weights

PETA = (2**20, 2**20, 2**8)
ZEROS = np.zeros(4096, np.float32)


def packed(group: h5py.Group, shape: tuple[int, ...], filler: bytes, chunk: tuple[int, ...]) -> None:
    """A dataset of one gzip chunk whose content is ours to choose."""
    data = group.create_dataset("0", shape, np.float32, chunks=chunk, compression="gzip", maxshape=(None,) * len(shape))
    data.id.write_direct_chunk((0,) * len(shape), filler)


def bomb(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


HOSTILE: list[tuple[str, Callable[[h5py.File], object], str]] = [
    ("external link", lambda f: f.__setitem__("data", h5py.ExternalLink("other.h5", "/data")), '"/data" is a link to other.h5'),
    ("soft link", lambda f: f.__setitem__("data/a/0", h5py.SoftLink("/elsewhere")), '"/data/a/0" is a link to /elsewhere'),
    ("external link below", lambda f: f.__setitem__("data/a/0", h5py.ExternalLink("other.h5", "/x")), '"/data/a/0" is a link to other.h5'),
    (
        "values in another file",
        lambda f: f.create_dataset("data/a/0", (4,), np.float32, external=[("other.raw", 0, 16)]),
        '"/data/a/0" keeps its values in another file',
    ),
    (
        "a view of other files",
        lambda f: f.create_virtual_dataset("data/a/0", _virtual()),
        '"/data/a/0" keeps its values in another file',
    ),
    (
        "a petabyte of the fill value",
        lambda f: f.create_dataset("data/a/0", PETA, np.float32, chunks=(1, 1, 256), fillvalue=7),
        '"/data/a/0" claims 1.0 PiB, far more than a file of this size can hold',
    ),
    (
        "a petabyte that is not there",
        lambda f: f.create_dataset("data/a/0", PETA, np.float32),
        '"/data/a/0" claims 1.0 PiB',
    ),
    (
        "many that add up",
        lambda f: [f.create_dataset(f"data/a/{i}", data=np.zeros(2**22, np.float32), compression="gzip") for i in range(6)],
        "claims 16.0 MiB",
    ),
    (
        "a chunk larger than the data",
        lambda f: f.create_dataset("data/a/0", (1,), np.float32, chunks=(2**28,), maxshape=(None,)),
        '"/data/a/0" claims 1.0 GiB',
    ),
    (
        "gzip that unpacks to more than it claims",
        lambda f: packed(f.create_group("data/a"), (4,), bomb(1 << 28), (4,)),
        '"/data/a/0" unpacks to more than it claims',
    ),
    ("broken gzip", lambda f: packed(f.create_group("data/a"), (4,), b"\x78\x9cnonsense", (4,)), "broken gzip"),
    ("lzf", lambda f: f.create_dataset("data/a/0", data=ZEROS, compression="lzf"), "is packed in a way that is not read here"),
    ("nothing", lambda f: f.create_dataset("data/a/0", dtype=np.float32, data=h5py.Empty(np.float32)), "holds nothing"),
    ("values never written", lambda f: f.create_dataset("data/a/0", (4,), np.float32, fillvalue=7), "lacks values"),
    ("chunks never written", lambda f: f.create_dataset("data/a/0", (64,), np.float32, chunks=(8,)).__setitem__(3, 1), "lacks values"),
    ("depth", lambda f: f.create_group("data/" + "a/" * 200 + "b"), "nested too deeply"),
]


def _virtual() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    return layout


@pytest.mark.parametrize(("what", "make", "message"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_hostile_weights(
    what: str, make: Callable[[h5py.File], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("other.h5", "w") as other:  # what links lead to is there: it is not for want of it
        other["x"] = np.zeros(4, np.float32)
        other["data/a/0"] = np.zeros(4, np.float32)
    Path("other.raw").write_bytes(bytes(16))
    with h5py.File("w.h5", "w") as file:
        make(file)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(WeightsError) as caught:
        read_weights("w.h5")
    said = str(caught.value)
    assert said.startswith("w.h5: ") and message in said and said.isprintable()
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


@pytest.mark.parametrize("name", [b"a/b", b".\0\0"])
@pytest.mark.parametrize("group", ["data", "data/c"])
def test_names_that_are_paths(group: str, name: bytes, tmp_path: Path) -> None:
    """Stored so they would lead over links; h5py writes no such name, so it is changed afterwards."""
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file[f"{group}/QZQ/0"] = np.ones(1, np.float32)
    content = path.read_bytes()
    assert content.count(b"QZQ") == 1
    path.write_bytes(content.replace(b"QZQ", name))
    with pytest.raises(WeightsError, match=rf'w\.h5: "/{group}" has a member with the name'):
        read_weights(path)


@pytest.mark.parametrize("count", [0, 2])
def test_an_iteration_that_is_not_one_number(count: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.solverstate.h5", "w") as file:
        file["iter"] = np.zeros(count, np.int32)
    with pytest.raises(WeightsError, match=rf's\.solverstate\.h5: is damaged: "iter" holds {count} values, not one'):
        read_state(str(tmp_path / "s.solverstate.h5"))


@pytest.mark.parametrize("name", ["iter", "history", "history/0", "learned_net", "pycaffe_compat_resume"])
def test_hostile_states(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("other.h5", "w") as other:
        other["x"] = 1
    with h5py.File("s.solverstate.h5", "w") as file:
        if name != "iter":
            file["iter"] = np.int32([3])
        file[name] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(WeightsError, match=rf's\.solverstate\.h5: "/{name}" is a link to other\.h5'):
        read_state("s.solverstate.h5")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (512,)},
        {"chunks": (512,), "fletcher32": True},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "chunks": (512,)},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
    ],
)
@pytest.mark.parametrize("dtype", [">f4", "<f4", "<f8", "<f2"])
def test_what_honest_people_pack(options: dict[str, object], dtype: str, tmp_path: Path) -> None:
    values = np.arange(4096).astype(dtype)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("data/a/0", data=values, **options)
        file["data/zeros/0"] = np.zeros(1 << 20, np.float32)
    assert read_weights(tmp_path / "w.h5")["a"][0].tolist() == values.tolist()


def test_doubles_that_are_no_floats(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["data/a/0"] = np.array([1e300, -1e300, 1])
    assert read_weights(tmp_path / "w.h5")["a"][0].tolist() == [np.inf, -np.inf, 1]


def test_an_object_of_several_names_is_read_once(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["data/a/0"] = np.ones(3, np.float32)
        file["data/b"] = file["data/a"]
        file["data/a/loop"] = file["data"]
    with open_hdf5(tmp_path / "w.h5") as reader:
        assert [name for name, _ in reader.walk(reader.root["data"])] == ["a/0"]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), cut=st.integers(0, 400))
def test_changed_bytes_raise_only_our_error(changes: list[tuple[int, int]], cut: int, tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    if not (tmp_path / "seed.h5").exists():
        with h5py.File(tmp_path / "seed.h5", "w") as file:
            file["data/a/0"] = np.ones((2, 3), np.float32)
            file.create_dataset("data/b/0", data=ZEROS, compression="gzip")
    content = bytearray((tmp_path / "seed.h5").read_bytes())
    for where, value in changes:
        content[where % len(content)] = value
    path.write_bytes(content[: len(content) - cut])
    try:
        read_weights(path)
    except WeightsError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_names_of_several_lines_make_messages_of_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a\nb" * 200] = 1
    with pytest.raises(WeightsError, match=r'there is no group "data", only a ba ba b') as caught:
        read_weights(tmp_path / "w.h5")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(str(tmp_path)) + 320
