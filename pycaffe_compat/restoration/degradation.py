"""Images to luma, and luma to JPEG and back: the degradation that the paper studies.

The paper evaluates and trains on the luma of MATLAB's ``rgb2ycbcr`` (studio swing, 16..235), compressed as a
gray JPEG by libjpeg at quality 10 ... 60 (section 4). Full-range gray would move every score by 0.75 dB.
"""

import glob
import io
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pycaffe_compat.errors import DataError

IMAGE_SUFFIXES = frozenset(
    ".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
"""The suffixes (lower case) by which a file in a folder is taken for an image."""

# ITU-T T.81 Annex K.1, table K.1: the luma quantisation table that libjpeg scales by its quality, in natural
# order.
STANDARD_LUMA_TABLE: NDArray[np.int64] = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def rgb_to_luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of MATLAB's ``rgb2ycbcr``: round(16 + (65.481 R + 128.553 G + 24.966 B) / 255).

    ``rgb`` is uint8 (H, W, 3), red first; the result is uint8 (H, W) in 16..235. Computed in integers, so
    that it is the same on every machine.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"rgb_to_luma wants uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}")
    # In place and one channel at a time: a whole photograph as three int32 planes would be twelve times its
    # size.
    total = rgb[..., 0].astype(np.int32)
    total *= 65481
    for channel, weight in ((1, 128553), (2, 24966)):
        total += rgb[..., channel] * np.int32(weight)
    total += 255000 // 2
    total //= 255000
    total += 16
    return total.astype(np.uint8)


def jpeg(luma: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """What is left of ``luma`` (uint8, (H, W)) after a gray baseline JPEG of libjpeg at ``quality`` (1..100).

    OpenCV's encoder with default options gives the figures of MATLAB's ``imwrite``, which the paper used.
    """
    if luma.dtype != np.uint8 or luma.ndim != 2 or luma.size == 0:
        raise ValueError(f"jpeg wants a non-empty uint8 (H, W) array, not {luma.dtype} {luma.shape}")
    if not 1 <= int(quality) <= 100:
        raise ValueError(f"JPEG quality is 1..100, not {quality}")
    if max(luma.shape) > 65500:
        raise ValueError(
            f"libjpeg's largest side is 65500 pixels, the image is {luma.shape[1]}x{luma.shape[0]}"
        )
    done, code = cv2.imencode(".jpg", luma, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {luma.shape[1]}x{luma.shape[0]} image as JPEG")
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


def quantisation_table(quality: int) -> NDArray[np.int64]:
    """libjpeg's baseline luma quantisation table, (8, 8) in 1..255, for a quality in 1..100.

    Source: libjpeg's ``jpeg_quality_scaling`` and ``jpeg_add_quant_table`` over table K.1 of T.81.
    """
    if not 1 <= int(quality) <= 100:
        raise ValueError(f"JPEG quality is 1..100, not {quality}")
    scale = 5000 // int(quality) if quality < 50 else 200 - 2 * int(quality)
    return np.clip((STANDARD_LUMA_TABLE * scale + 50) // 100, 1, 255)


def estimate_quality(table: NDArray[np.integer]) -> int:
    """The libjpeg quality (1..100) whose luma table is nearest to ``table`` ((8, 8), natural order).

    Exact for tables that libjpeg made. Cameras and editors bring their own tables: for those it is the
    quality of like coarseness, by the mean absolute difference of the logarithms of the steps.
    """
    steps = np.log(np.maximum(np.asarray(table, dtype=np.float64), 1.0))
    distances = [float(np.abs(steps - np.log(quantisation_table(q))).mean()) for q in range(1, 101)]
    return int(np.argmin(distances)) + 1


def open_image(path: str | PathLike[str]) -> Image.Image:
    """The image at ``path``, decoded whole by Pillow; :class:`DataError` names the file if that cannot be
    done."""
    with _damage_named(path):
        # From memory: Pillow holds a file open as long as it may have further frames.
        image = Image.open(io.BytesIO(Path(path).read_bytes()))
        image.load()
    return image


def count_frames(image: Image.Image, path: str | PathLike[str]) -> int:
    """Frames or pages of an open image, 1 for most; :class:`DataError` names the file if a later one is damaged."""
    with _damage_named(path):
        return int(getattr(image, "n_frames", 1))


DAMAGE = (SyntaxError, ValueError, EOFError, LookupError, TypeError, MemoryError, RuntimeError, struct.error)
"""What Pillow's decoders raise for damaged files, besides OSError."""


@contextmanager
def _damage_named(path: str | PathLike[str]) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too many pixels for Pillow's safety limit ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: {_reason(error)}") from error
    except DAMAGE as error:
        raise DataError(f"{path}: damaged image ({type(error).__name__}: {error})") from error


def read_luma(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """The luma of an image file, uint8 (H, W), as the paper's evaluation takes it.

    A gray file is taken as it is; a colour file goes through :func:`rgb_to_luma`. Transparency is dropped,
    16-bit gray is brought to 8 bits, the EXIF orientation is applied. :class:`DataError` for what cannot be
    read, and for colour spaces without a defined luma (CMYK, Lab), names the file.
    """
    with warnings.catch_warnings():
        # Pillow warns on odd metadata and on large images; neither changes a pixel.
        warnings.simplefilter("ignore")
        image = open_image(path)
        with suppress(OSError, *DAMAGE):  # damaged EXIF: the pixels are whole, and stay as they are stored
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        deep = np.asarray(image).astype(np.int64)
        if deep.size and (deep.min() < 0 or deep.max() > 65535):
            raise DataError(f"{path}: 32-bit gray has no defined range; save it with 8 or 16 bits")
        return ((deep * 255 + 32767) // 65535).astype(np.uint8)
    if image.mode in ("L", "LA", "La", "1"):
        return np.array(image.getchannel(0) if image.mode != "1" else image.convert("L"))
    if image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA"):
        return rgb_to_luma(np.asarray(image.convert("RGBA").convert("RGB") if image.mode != "RGB" else image))
    raise DataError(
        f"{path}: colour mode {image.mode} has no defined luma; convert the file to RGB or gray first"
    )


def list_images(paths: str | PathLike[str] | Iterable[str | PathLike[str]]) -> list[Path]:
    """Files, folders and globs -> the image files they mean, sorted by path, each once.

    A file is taken whatever its name; of a folder (not of the folders in it) and of a glob (``**`` goes
    through folders) the files with an image suffix that are not hidden. :class:`DataError` for a path that
    is not there, and if nothing is found at all.
    """
    if isinstance(paths, str | PathLike):
        paths = [paths]
    given = [str(path) for path in paths]
    found: set[Path] = set()
    for text in given:
        path = Path(text)
        if path.is_dir():
            found.update(entry for entry in path.iterdir() if _looks_like_image(entry))
        elif path.exists():
            found.add(path)
        elif glob.has_magic(text):
            found.update(
                Path(match) for match in glob.glob(text, recursive=True) if _looks_like_image(Path(match))
            )
        else:
            raise DataError(f"{text}: no such file or folder")
    if not found:
        raise DataError(f"no image found in {', '.join(given) or 'an empty list of paths'}")
    return sorted(found)


def _looks_like_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _reason(error: OSError) -> str:
    """One line of sense from an OSError of the system or of Pillow."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in any format that Pillow reads"
    return error.strerror or f"damaged image ({error})"
