"""Atomic writing: the file is whole or as it was, whatever happens in between."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pycaffe_compat.files import atomic_write, new_folder


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel.h5"
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".h5" and not path.exists()
        temporary.write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == [path.name]


def test_an_old_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o640)
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "by_open").write_text("")
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "by_open").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_after_an_exception_all_is_as_before(
    tmp_path: Path, error: type[BaseException], old: str | None
) -> None:
    path = tmp_path / "a"
    if old is not None:
        path.write_text(old)
    before = os.listdir(tmp_path)
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert os.listdir(tmp_path) == before and (old is None or path.read_text() == old)


def test_a_temporary_file_that_was_moved_away_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path, repo_root: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    script = (
        "import os, signal, sys; from pycaffe_compat.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=repo_root, check=False)
    assert done.returncode == -signal.SIGKILL and path.read_text() == "old"


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with atomic_write(link) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text("new")
    assert link.is_symlink() and target.read_text() == "new" and os.listdir(tmp_path / "folder") == ["target"]


def test_a_device_is_written_to_and_not_replaced() -> None:
    with atomic_write(os.devnull) as temporary:
        assert temporary == Path(os.devnull)
        temporary.write_text("x")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, error in (
        (tmp_path, IsADirectoryError),
        (tmp_path / "absent" / "a", FileNotFoundError),
        (tmp_path / "file" / "a", NotADirectoryError),
    ):
        with pytest.raises(error) as caught, atomic_write(path):
            pass
        assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught, new_folder(tmp_path / "absent" / "a"):
        pass
    assert caught.value.filename == str(tmp_path / "absent" / "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a"):
        pass


def test_long_names(tmp_path: Path) -> None:
    for name in ("é" * 120 + ".png", "a." + "b" * 250):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("x")
        assert (tmp_path / name).read_text() == "x"
