"""Training databases: pairs of a distorted and an original patch, cut from photographs (paper, section 4).

Each photograph becomes luma, is compressed as a whole at each quality, and patches are cut from the same
place in what JPEG left (dataset ``data``) and in the original (dataset ``label``), (rows, 1, size, size),
0..255. The places are uniform over the image, so a patch may begin at any phase of the 8x8 block grid.

What is drawn is drawn before anything is cut, image by image, from the seed alone, so the files are the same
byte for byte whatever the number of threads. Every image gives the same number of patches (one more for some,
if the count does not divide): weighted by area, one large photograph would outvote many small ones. Each
quality gives the same share of every image's patches. The rows are in random order over images and qualities,
so a net that reads them in the stored order already sees mixed batches.
"""

import hashlib
import os
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pycaffe_compat.data.orders import draws, permutation
from pycaffe_compat.errors import DataError
from pycaffe_compat.files import atomic_write
from pycaffe_compat.restoration.degradation import jpeg, list_images, read_luma
from pycaffe_compat.version import __version__

TOOL = "pycaffe_compat make_patches"
"""The attribute ``tool`` of each file: by it a database is known as one that may be replaced."""
DATASETS = ("data", "label")
DTYPES: dict[str, np.dtype[Any]] = {"uint8": np.dtype("u1"), "float32": np.dtype("<f4")}

_HEADER_BYTES = 16384  # more than HDF5's structures and our attributes take in a file
_CHUNK_BYTES = 256 * 1024  # of compressed files: small enough to be read one by one, large enough to compress
# What a number is drawn for; one stream of random numbers each.
_SUBSET, _ROWS, _TURN, _PLACES = 0, 1, 2, 3


@dataclass(frozen=True)
class Settings:
    """What a database is made of, apart from the photographs.

    qualities    JPEG qualities, 1..100, in equal shares
    size         side of the square patches, pixels
    count        patches in all
    seed         of places, flips and order, >= 0
    grid         places are multiples of it: with 8, blocks of the JPEG begin where patches do
    augment      each patch is turned into one of the square's eight symmetries, at random
    dtype        "uint8", or "float32" with the same numbers 0..255 at four times the size
    file_size    upper bound of a file, in megabytes (10^6 bytes); with ``compress`` before compression
    compress     gzip inside HDF5: about half the size, slower to read
    skip_images  leave out that many images of a shuffled list of all (to keep them for choosing settings)
    limit        then use at most so many; None: all that are left
    subset_seed  of that shuffle. It is not ``seed``, so that a second database leaves the same images out
    """

    qualities: tuple[int, ...] = (10,)
    size: int = 64
    count: int = 100_000
    seed: int = 0
    augment: bool = True
    dtype: str = "uint8"
    file_size: float = 64
    compress: bool = False
    skip_images: int = 0
    limit: int | None = None
    subset_seed: int = 0
    grid: int = 1

    def __post_init__(self) -> None:
        wrong = [
            (not self.qualities, "no JPEG quality is given"),
            (
                any(not 1 <= q <= 100 for q in self.qualities),
                f"JPEG qualities are 1..100, not {self.qualities}",
            ),
            (
                len(set(self.qualities)) < len(self.qualities),
                f"a JPEG quality is given twice: {self.qualities}",
            ),
            (self.size < 1, f"the patch size must be at least 1 pixel, not {self.size}"),
            (self.grid < 1, f"the grid of places must be at least 1 pixel, not {self.grid}"),
            (self.count < 1, f"the number of patches must be at least 1, not {self.count}"),
            (self.seed < 0 or self.subset_seed < 0, "seeds must not be negative"),
            (self.dtype not in DTYPES, f"storage is {' or '.join(DTYPES)}, not {self.dtype}"),
            (self.skip_images < 0, "skip_images must not be negative"),
            (self.limit is not None and self.limit < 1, "limit must be at least 1"),
        ]
        for is_wrong, message in wrong:
            if is_wrong:
                raise DataError(message)
        if self.rows_per_file < 1:
            raise DataError(
                f"a file of {self.file_size:g} MB holds no pair of {self.size}x{self.size} patches; "
                "use a larger file_size or a smaller size"
            )

    @property
    def patch_bytes(self) -> int:
        """Bytes of one patch as stored."""
        return self.size * self.size * DTYPES[self.dtype].itemsize

    @property
    def rows_per_file(self) -> int:
        """The most rows that fit ``file_size``."""
        return int(self.file_size * 1e6 - _HEADER_BYTES) // (len(DATASETS) * self.patch_bytes)

    @property
    def file_rows(self) -> list[int]:
        """Rows of each file, as equal as can be."""
        files = -(-self.count // self.rows_per_file)
        return [self.count // files + (i < self.count % files) for i in range(files)]


@dataclass(frozen=True)
class Database:
    """What :func:`make_patches` has made."""

    source: Path  # the list for ``hdf5_data_param { source: ... }``
    files: list[Path]
    rows: int
    images: int
    too_small: list[Path] = field(default_factory=list)  # images left out, smaller than a patch


def make_patches(
    images: str | PathLike[str] | Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    settings: Settings = Settings(),  # noqa: B008  (immutable)
    *,
    workers: int | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Database:
    """Cut a database from photographs: ``OUTPUT_000.h5``, ... and ``OUTPUT.txt``, which lists them.

    images    files, folders and globs, as :func:`degradation.list_images` takes them
    output    the common beginning of the files' names; its folder is made if need be. The paths in the list
              are as given here: absolute, or relative to the working directory
    workers   threads; None: one a CPU. The result does not depend on it
    progress  called with the number of rows written since the last call

    A database of that name that this function has made is replaced; other files of that name are an error.
    The files are made in a hidden folder beside, renamed when all are whole, and listed last, so at no time
    does a list name a database that is not whole; whatever a killed run has left is removed by the next run
    of the same name.

    :class:`DataError` for images that cannot be read (a training set should be what one believes it is), if
    all images are smaller than a patch, and if the disk is too full; OSError for a folder that cannot be
    written.
    """
    prefix = os.fspath(output)
    name = os.path.basename(prefix)
    if not name:
        raise DataError(
            f"{prefix}: the output is the beginning of files' names, such as data/train, not a folder"
        )
    if any(character.isspace() for character in prefix):
        raise DataError(
            f'"{prefix}": Caffe splits its list of databases at white space, so the path must have none'
        )
    folder = Path(prefix).parent
    _check_space(folder, settings)
    source = folder / f"{name}.txt"
    rows = settings.file_rows
    targets = [folder / f"{name}_{i:03d}.h5" for i in range(len(rows))]
    old = _replaceable(source, targets)
    part = folder / f".{name}.part"
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="patches")
    try:
        # Readers of images silence their warnings one by one, each restoring what it found: threads doing so
        # at once leave the filters as anyone's. Around them all, the filters are silent and then restored.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                used, too_small, digest = _choose(list_images(images), settings, pool)
                folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                parts = [part / target.name for target in targets]
                attributes = _attributes(settings, len(used), digest)
                offsets = [
                    _create(path, n, settings, attributes) for path, n in zip(parts, rows, strict=True)
                ]
                _cut_all(used, settings, parts, offsets, pool, progress)
            finally:
                pool.shutdown(cancel_futures=True)
        for path in parts:
            if settings.compress:
                _compress(path, settings)
            _sync(path)
        _publish(source, parts, targets)
        for path in old.difference(targets):
            path.unlink(missing_ok=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Database(source, targets, settings.count, len(used), too_small)


def _replaceable(source: Path, targets: list[Path]) -> set[Path]:
    """The files of the database that is to be replaced; :class:`DataError` if anything else is in the way."""
    ours = re.compile(re.escape(source.stem) + r"_\d{3,}\.h5")
    old: set[Path] = set()
    if source.exists():
        names = [Path(os.fsdecode(name)) for name in source.read_bytes().split()]
        old = {source.parent / name.name for name in names if ours.fullmatch(name.name)}
        if len(old) < len(names):
            raise DataError(
                f"{source} exists and is no list that this program has made; choose another output"
            )
    for path in sorted(old.union(targets)):
        if path.exists() and not _made_here(path):
            raise DataError(f"{path} exists and was not made by this program; choose another output")
    return old


def _made_here(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as h5:
            return bool(h5.attrs.get("tool") == TOOL.encode())
    except OSError:
        return False


def _check_space(folder: Path, settings: Settings) -> None:
    """:class:`DataError` if the disk of ``folder``, which need not be there yet, is too full."""
    rows = settings.count
    if settings.compress:  # one file stands there twice for a while
        rows += min(settings.count, settings.rows_per_file)
    needed = rows * len(DATASETS) * settings.patch_bytes
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DataError(
            f"{folder}: the database needs {needed / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB left"
        )


def _publish(source: Path, parts: list[Path], targets: list[Path]) -> None:
    """Give the finished files their names, and list them last: until then that database does not exist."""
    source.unlink(missing_ok=True)
    moved: list[Path] = []
    try:
        for path, target in zip(parts, targets, strict=True):
            moved.append(target)
            os.replace(path, target)
        with atomic_write(source) as temporary:
            temporary.write_bytes(b"".join(os.fsencode(target) + b"\n" for target in targets))
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise


# Which images


def choose_images(images: Sequence[Path], settings: Settings) -> list[Path]:
    """The images that ``skip_images`` and ``limit`` leave, in the given order.

    Sizes are not looked at, so that what is left out does not depend on the patch size. DataError when none is
    left.
    """
    if not settings.skip_images and settings.limit is None:
        return list(images)
    order = permutation(len(images), settings.subset_seed, _SUBSET)
    end = None if settings.limit is None else settings.skip_images + settings.limit
    chosen = [images[i] for i in sorted(order[settings.skip_images : end])]
    if not chosen:
        raise DataError(
            f"{len(images)} images, and {settings.skip_images} of them are to be skipped: none is left"
        )
    return chosen


def _choose(
    images: list[Path], settings: Settings, pool: ThreadPoolExecutor
) -> tuple[list[Path], list[Path], str]:
    """The images to use, those of them that are too small, and a digest of the contents of the former in
    order.
    """
    chosen = choose_images(images, settings)
    used, too_small, broken, digest = [], [], [], hashlib.sha256()
    for path, seen in zip(chosen, pool.map(_look_at, chosen), strict=True):
        if isinstance(seen, DataError):
            broken.append(str(seen))
        elif seen[0] < settings.size:
            too_small.append(path)
        else:
            used.append(path)
            digest.update(seen[1])
    if broken:
        more = f" (the first of {len(broken)} images that cannot be used)" if len(broken) > 1 else ""
        raise DataError(f"{broken[0]}{more}; repair or remove it")
    if not used:
        raise DataError(
            f"all {len(chosen)} images are smaller than a patch of {settings.size}x{settings.size} pixels "
            f"(the first is {chosen[0]})"
        )
    return used, too_small, digest.hexdigest()


def _look_at(path: Path) -> tuple[int, bytes] | DataError:
    """The shorter side of an image and a digest of its luma.

    Every image is decoded once for this alone: a broken one should show before an hour's work, not after.
    """
    try:
        luma = read_luma(path)
    except DataError as error:
        return error
    return min(luma.shape), hashlib.sha256(repr(luma.shape).encode() + luma.tobytes()).digest()


# The files


def _attributes(settings: Settings, images: int, digest: str) -> dict[str, object]:
    """What each file says of itself. Strings are of fixed length: those of variable length lie in a heap
    apart."""
    limit = -1 if settings.limit is None else settings.limit
    return {
        "tool": np.bytes_(TOOL),
        "version": np.bytes_(__version__),
        "images": images,
        "images_sha256": np.bytes_(digest),
        "qualities": np.array(settings.qualities, "<i4"),
        "dtype": np.bytes_(settings.dtype),
        **{name: getattr(settings, name) for name in ("size", "count", "seed", "grid", "augment", "compress")},
        "file_size": float(settings.file_size),
        "skip_images": settings.skip_images,
        "limit": limit,
        "subset_seed": settings.subset_seed,
    }


def read_settings(source: str | PathLike[str]) -> Settings:
    """The settings that a database was made with, by its list: what its files say of themselves.

    :class:`DataError` if the list or a file of it is missing, or was not made by :func:`make_patches`.
    """
    try:
        names = Path(source).read_bytes().split()
    except OSError as error:
        raise DataError(f"{source}: the list of a database cannot be read: {error.strerror or error}") from error
    found = {_read_attributes(Path(os.fsdecode(name)), source) for name in names}
    if len(found) != 1:
        raise DataError(f"{source}: its files were not made together; make the database again")
    return found.pop()


def _read_attributes(path: Path, source: str | PathLike[str]) -> Settings:
    try:
        with h5py.File(path, "r") as h5:
            values = {name: np.asarray(value).tolist() for name, value in h5.attrs.items()}
    except OSError as error:
        raise DataError(f"{path}, which {source} lists: {error}") from error
    if values.get("tool") != TOOL.encode():
        raise DataError(f"{path}, which {source} lists, was not made by this program")
    settings = {f.name: values[f.name] for f in fields(Settings) if f.name in values}
    settings |= {
        "qualities": tuple(values["qualities"]),
        "dtype": values["dtype"].decode(),
        "limit": None if values["limit"] == -1 else values["limit"],
    }
    return Settings(**settings)


def _new_file(path: Path, attributes: dict[str, object]) -> h5py.File:
    # The oldest format, which any HDF5 since 1.8 reads, the one that Caffe was built with included.
    h5 = h5py.File(path, "w-", libver=("earliest", "v108"))
    for name, value in attributes.items():
        h5.attrs[name] = value
    return h5


def _create(path: Path, rows: int, settings: Settings, attributes: dict[str, object]) -> list[int]:
    """A file with unfilled datasets; where in the file each begins, in bytes."""
    offsets = []
    try:
        with _new_file(path, attributes) as h5:
            for name in DATASETS:
                layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                layout.set_layout(h5py.h5d.CONTIGUOUS)
                layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                layout.set_obj_track_times(False)
                space = h5py.h5s.create_simple((rows, 1, settings.size, settings.size))
                kind = h5py.h5t.py_create(DTYPES[settings.dtype])
                offsets.append(h5py.h5d.create(h5.id, name.encode(), kind, space, dcpl=layout).get_offset())
    except (OSError, RuntimeError) as error:
        raise _unwritable(path, error) from error
    return offsets


def _compress(path: Path, settings: Settings) -> None:
    """Put a gzipped copy of a file in its place; a chunk of rows at a time."""
    packed = path.with_suffix(".gzip")
    row_shape = (1, settings.size, settings.size)
    try:
        with h5py.File(path, "r") as plain, _new_file(packed, dict(plain.attrs)) as h5:
            for name in DATASETS:
                rows = len(plain[name])
                step = min(rows, max(1, _CHUNK_BYTES // settings.patch_bytes))
                dataset = h5.create_dataset(
                    name,
                    (rows, *row_shape),
                    DTYPES[settings.dtype],
                    chunks=(step, *row_shape),
                    compression="gzip",
                    shuffle=settings.dtype
                    != "uint8",  # of float32 most bytes are zero: brought together they vanish
                    track_times=False,
                )
                for begin in range(0, rows, step):
                    dataset[begin : begin + step] = plain[name][begin : begin + step]
    except (OSError, RuntimeError) as error:
        raise _unwritable(packed, error) from error
    os.replace(packed, path)


def _unwritable(path: Path, error: Exception) -> DataError:
    # HDF5 tells a full disk in a line of its own making; the errno, if it gives one, says it shorter.
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return DataError(f"{path}: cannot be written ({reason})")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The rows


def _cut_all(
    images: list[Path],
    settings: Settings,
    parts: list[Path],
    offsets: list[list[int]],
    pool: ThreadPoolExecutor,
    progress: Callable[[int], object],
) -> None:
    """Write every row of every file.

    The rows of an image lie all over the files: they go by pwrite where HDF5 has said that its datasets
    begin, so that each image is decoded once, memory holds no more than an image a thread, and a full disk is
    an ordinary error.
    """
    first = np.cumsum([0, *settings.file_rows])
    order = permutation(settings.count, settings.seed, _ROWS)
    turn = permutation(len(images), settings.seed, _TURN)
    stop = threading.Event()
    descriptors: list[int] = []

    def cut(number: int) -> int:
        """All patches of the image whose turn it is; how many."""
        path = images[turn[number]]
        rows = order[number :: len(images)]
        file = np.searchsorted(first, rows, side="right") - 1
        place = rows - first[file]
        luma = read_luma(path)
        if min(luma.shape) < settings.size:
            raise DataError(f"{path}: has changed since it was first looked at")
        y_draw, x_draw, symmetry = draws(3 * len(rows), settings.seed, _PLACES, number).reshape(3, -1)
        places = [np.uint64((length - settings.size) // settings.grid + 1) for length in luma.shape]
        y = (y_draw % places[0]).astype(np.intp) * settings.grid
        x = (x_draw % places[1]).astype(np.intp) * settings.grid
        turned = (symmetry % np.uint64(8)).astype(np.intp) if settings.augment else np.zeros_like(y)
        for share, quality in enumerate(settings.qualities):
            # Each image begins with another quality, so that the shares are equal over the images too.
            mine = range((share - number) % len(settings.qualities), len(rows), len(settings.qualities))
            if not mine:
                continue
            distorted = jpeg(luma, quality)
            for i in mine:
                if stop.is_set():
                    return 0
                window = np.s_[y[i] : y[i] + settings.size, x[i] : x[i] + settings.size]
                for whole, offset in zip((distorted, luma), offsets[file[i]], strict=True):
                    patch = symmetric(whole[window], turned[i]).astype(DTYPES[settings.dtype], copy=False)
                    at = offset + int(place[i]) * settings.patch_bytes
                    _write(descriptors[file[i]], patch.tobytes(), at, parts[file[i]])
        return len(rows)

    try:
        for path in parts:
            descriptors.append(os.open(path, os.O_WRONLY))
        for done in as_completed([pool.submit(cut, n) for n in range(min(len(images), settings.count))]):
            progress(done.result())
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)  # before the files are closed under the threads
        for descriptor in descriptors:
            os.close(descriptor)


def symmetric(patch: NDArray[np.uint8], which: int) -> NDArray[np.uint8]:
    """One of the square's eight symmetries of ``patch`` (H, W): ``which`` 0..3 quarter turns, + 4 mirrored
    before."""
    return np.rot90(patch[:, ::-1] if which & 4 else patch, which & 3)


def _write(descriptor: int, content: bytes, offset: int, path: Path) -> None:
    """pwrite until all is written: a disk that fills up takes a part first."""
    try:
        while content:
            written = os.pwrite(descriptor, content, offset)
            content, offset = content[written:], offset + written
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
