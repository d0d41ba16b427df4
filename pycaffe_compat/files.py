"""Files that are either whole or not there, and what tells one from another."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DataError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path to write to, and puts it in the place of ``path`` when the block ends well.

    The temporary file is in the same directory (a rename within a file system is atomic) and has the same
    suffix (some writers choose their format by it). At the end of the block it is synced and renamed, and the
    directory is synced, so that after a power cut or ``kill -9`` there is the old file or the new one and
    never a part. After an exception, Ctrl-C included, the temporary file is removed and the old file is as it
    was.

    A symbolic link stays one: the file it points to is replaced. A path that is no regular file
    (``/dev/stdout``, a pipe) cannot be replaced and is given as it is. A new file has the permissions that
    ``open`` would give it, a replaced one keeps its own.

    Raises:
        OSError: where the directory is missing or not writable or the disk is full, and where ``path`` is a
        directory. It names ``path``.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if mode is not None and not stat.S_ISREG(mode):
        yield Path(path)
        return

    temporary = _new_file_beside(target, os.fspath(path))
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary), temporary):
            error.filename = os.fspath(path)  # writing to an open file gives no name, and the hidden one tells nobody
        raise
    _sync_directory(target.parent)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary folder to fill, and gives it its name when the block ends well: whole, or not there.

    It is in the same directory; after an exception, Ctrl-C included, it is removed.

    Raises:
        DataError: there is something of that name already. OSError: the directory is missing, not writable or full.
    """
    target = Path(path)
    if os.path.lexists(target):
        raise DataError(f"{target}: exists already: remove it, or give another name")
    hidden = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        hidden.mkdir()
        yield hidden
        os.rename(hidden, target)
    except OSError as error:
        if error.filename == str(hidden) or error.filename == hidden:
            error.filename, error.filename2 = os.fspath(path), None  # the hidden name tells nobody
        raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _new_file_beside(target: Path, shown: str) -> Path:
    """Creates an empty hidden file in the target's directory; errors name the path as the caller wrote it."""
    stem, suffix = target.stem[:40], target.suffix if len(target.suffix) <= 20 else ""
    while True:
        temporary = target.with_name(f".{stem}.{secrets.token_hex(4)}.tmp{suffix}")
        try:
            # 0o666 less the umask, which the kernel applies: what open() gives a new file
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        except OSError as error:
            raise type(error)(error.errno, error.strerror, shown) from None
        return temporary


def _sync_directory(directory: Path) -> None:
    """Makes the rename itself durable, where directories can be opened (not on Windows) and synced."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not read: no more can be done
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot: no more can be done
            raise
    finally:
        os.close(descriptor)


def regular(path: str | os.PathLike[str]) -> Path:
    """The path of a regular file, or of nothing or a folder, which to open is an error already.

    For what a net names and a program reads whole: a device or a pipe may never end.

    Raises:
        OSError: it is something else, or not to be reached. ValueError: a name with a null byte.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file", os.fspath(path))
    return Path(path)


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as hexadecimal digits: which net, which weights, whatever they are called."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
