"""Tables of scores: several ways of restoration over several sets of images at several JPEG qualities.

The protocol is the paper's (section 4): luma of ``rgb2ycbcr``, gray JPEG by libjpeg, the restored image
rounded and clipped to 8 bits, every pixel counted, the score of a set the mean of its images' scores.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycaffe_compat.errors import DataError
from pycaffe_compat.files import atomic_write
from pycaffe_compat.restoration.baselines import spp, spp_threshold
from pycaffe_compat.restoration.degradation import jpeg, list_images, quantisation_table, read_luma
from pycaffe_compat.restoration.metrics import Scores, ipsnr, score
from pycaffe_compat.restoration.restore import Restorer
from pycaffe_compat.restoration.sadct import sa_dct

Method = Callable[[NDArray[np.uint8], int], NDArray[Any]]
"""A way of restoration: the decoded JPEG (H, W) and its quality -> restored luma (H, W), any real type."""

COLUMNS = {
    "psnr": "PSNR", "psnr_b": "PSNR-B", "ssim": "SSIM 8x8", "ssim_gaussian": "SSIM Gauss", "ipsnr": "IPSNR",
}  # fmt: skip
_DECIMALS = {"psnr": 2, "psnr_b": 2, "ssim": 3, "ssim_gaussian": 3, "ipsnr": 2}


@dataclass(frozen=True)
class ImageResult:
    """Scores of one restored image; ``ipsnr`` is its gain of PSNR over the JPEG, in decibels."""

    image: str
    scores: Scores
    ipsnr: float

    def values(self) -> dict[str, float]:
        """The scores under the names of :data:`COLUMNS`."""
        return asdict(self.scores) | {"ipsnr": self.ipsnr}


@dataclass(frozen=True)
class Result:
    """One row of a table: a method on a set of images at a quality."""

    dataset: str
    quality: int
    method: str
    images: tuple[ImageResult, ...]

    def values(self) -> dict[str, float]:
        """Means over the images, under the names of :data:`COLUMNS`."""
        means = asdict(Scores.mean([image.scores for image in self.images]))
        return means | {"ipsnr": float(np.mean([image.ipsnr for image in self.images]))}


def distorted(luma: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The JPEG as it is: what every other row has to beat."""
    return luma


def _with_table(restore: Callable[..., NDArray[np.float32]], *settings: int | str) -> Method:
    """A method that wants the file's quantisation table after the image, and its settings after that."""

    def method(luma: NDArray[np.uint8], quality: int) -> NDArray[np.float32]:
        return restore(luma, quantisation_table(quality), *settings)

    return method


BASELINES: dict[str, Method] = {
    "distorted": distorted,
    "spp": _with_table(spp, 64),
    "spp8": _with_table(spp, 8),
    "spp_hard": _with_table(spp_threshold, 64, "hard"),
    "spp_hard8": _with_table(spp_threshold, 8, "hard"),
    "spp_soft": _with_table(spp_threshold, 64, "soft"),
    "spp_soft8": _with_table(spp_threshold, 8, "soft"),
    "sadct": _with_table(sa_dct),
}
"""Rows that need no network, by name."""


def network(restorer: Restorer) -> Method:
    """A network as a way of restoration; it is not told the quality."""

    def restore(luma: NDArray[np.uint8], quality: int) -> NDArray[Any]:
        return restorer.restore_luma(luma)

    return restore


def apply(method: Method, degraded: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """What a method makes of a degraded image, as 8 bits, which scores are of."""
    return np.clip(np.rint(method(degraded, quality)), 0, 255).astype(np.uint8)


def datasets(paths: Iterable[str | PathLike[str]]) -> dict[str, list[Path]]:
    """Sets of images by name: each folder or glob is one, called after the folder; single files together
    make one.

    Raises:
        DataError: a path that is not there, a folder without images.
    """
    sets: dict[str, list[Path]] = {}
    files: list[Path] = []
    met: set[str] = set()
    for path in paths:
        if Path(path).is_file():
            files.append(Path(path))
            continue
        images = list_images(path)
        folder = Path(path).resolve() if Path(path).is_dir() else Path(path).parent.resolve()
        if fspath(path) not in met:  # the same again
            sets[folder.name if folder.name not in sets else fspath(Path(path).resolve())] = images
        met.add(fspath(path))
    if files:
        name = "files" if sets else "images"
        sets[name if name not in sets else "single files"] = list_images(files)
    return sets


def evaluate(
    sets: Mapping[str, Sequence[str | PathLike[str]]],
    qualities: Sequence[int],
    methods: Mapping[str, Method],
    progress: Callable[[int], object] | None = None,
) -> list[Result]:
    """Every method on every set at every quality; rows in the order set, quality, method.

    ``progress`` is called with 1 after each image at each quality by each method.

    Raises:
        DataError: an image that cannot be read or compressed: a mean over the others would be another set's
            score.
    """
    results = []
    for dataset, paths in sets.items():
        rows: dict[tuple[int, str], list[ImageResult]] = {(q, m): [] for q in qualities for m in methods}
        for path in paths:
            luma = read_luma(path)
            for quality in qualities:
                try:
                    degraded = jpeg(luma, quality)
                except (ValueError, RuntimeError) as error:
                    raise DataError(f"{fspath(path)}: {error}") from error
                for name, method in methods.items():
                    restored = apply(method, degraded, quality)
                    row = ImageResult(fspath(path), score(restored, luma), ipsnr(restored, degraded, luma))
                    rows[quality, name].append(row)
                    if progress is not None:
                        progress(1)
        results += [Result(dataset, quality, name, tuple(images)) for (quality, name), images in rows.items()]
    return results


def table(results: Sequence[Result], per_image: bool = False) -> str:
    """The results as aligned text: a block a set and quality; with ``per_image`` a line an image below each
    row."""
    blocks: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        blocks.setdefault((result.dataset, result.quality), []).append(result)
    first = max([len("method"), *(len(result.method) for result in results)])
    if per_image:
        first = max(
            [first, *(len(Path(image.image).name) + 2 for result in results for image in result.images)]
        )
    head = "method".ljust(first) + "".join(f"  {title:>{_width(key)}}" for key, title in COLUMNS.items())
    lines = []
    for (dataset, quality), rows in blocks.items():
        count = len(rows[0].images)
        lines += [
            f"{dataset}: {count} image{'s' * (count != 1)}, JPEG quality {quality}",
            head,
            "-" * len(head),
        ]
        for result in rows:
            lines.append(_line(result.method.ljust(first), result.values()))
            if per_image:
                lines += [_line(f"  {Path(i.image).name}".ljust(first), i.values()) for i in result.images]
        lines.append("")
    return "\n".join(lines).rstrip()


def _width(key: str) -> int:
    return max(len(COLUMNS[key]), 6)


def _line(label: str, values: Mapping[str, float]) -> str:
    return label + "".join(f"  {values[key]:{_width(key)}.{_DECIMALS[key]}f}" for key in COLUMNS)


def write_csv(path: str | PathLike[str], results: Sequence[Result], per_image: bool = False) -> None:
    """The results as CSV in full precision, whole or not at all.

    Columns: dataset, quality, method, image, images, then the scores. ``image`` is empty in a set's row (the
        means); with
    ``per_image`` the rows of its images follow it.
    """
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["dataset", "quality", "method", "image", "images", *COLUMNS])
        for result in results:
            lead = [result.dataset, result.quality, result.method]
            writer.writerow([*lead, "", len(result.images), *map(repr, result.values().values())])
            if per_image:
                for image in result.images:
                    writer.writerow([*lead, image.image, 1, *map(repr, image.values().values())])


def write_json(
    path: str | PathLike[str], results: Sequence[Result], about: Mapping[str, Any], per_image: bool = False
) -> None:
    """The results as JSON in full precision, whole or not at all: ``about``'s keys, then ``results``, a list
    of objects with dataset, quality, method, images (their number) and the scores; ``per_image`` adds
    ``image_scores``.

    An infinite PSNR (equal images) has no number in JSON and becomes null.
    """
    rows = []
    for result in results:
        row: dict[str, Any] = {
            "dataset": result.dataset,
            "quality": result.quality,
            "method": result.method,
            "images": len(result.images),
            **_finite(result.values()),
        }
        if per_image:
            row["image_scores"] = [
                {"image": image.image, **_finite(image.values())} for image in result.images
            ]
        rows.append(row)
    text = json.dumps({**about, "results": rows}, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
