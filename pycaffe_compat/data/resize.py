"""Images made square: the shorter side resized, the middle cut out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image as PillowImage

from pycaffe_compat.data.images import Image, decode_image, resized
from pycaffe_compat.errors import DataError
from pycaffe_compat.files import atomic_write

Library = Literal["opencv", "pil"]


@dataclass
class Resized:
    """What :func:`resize_and_crop` did: how many images it wrote, and why it left others out."""

    images: int = 0
    left_out: list[str] = field(default_factory=list)


def square(image: Image, side: int) -> Image:
    """An image whose shorter side is resized to ``side`` (bilinearly), cut to ``side`` x ``side`` in the middle."""
    height, width = image.shape[:2]
    if height > width:
        height, width = side * height // width, side
    else:
        height, width = side, side * width // height
    image = np.asarray(resized(image, height, width), np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def resize_and_crop(
    files: Sequence[str],
    input_folder: str,
    output_folder: str,
    side: int = 256,
    library: Library = "opencv",
    progress: Callable[[int], object] = lambda n: None,
) -> Resized:
    """Writes each image as a square of ``side`` pixels into another folder, under the same name.

    Args:
        files: names within ``input_folder``, which may stand in front.
        library: "opencv" (bilinear, the file's own format), or "pil" (Lanczos, JPEG of quality 75 whatever the name).
        progress: called with 1 for each file.

    Raises:
        DataError: the folders are one, or no image could be read. An image that cannot be is left out, and told.
        OSError: an image cannot be written.
    """
    if os.path.realpath(input_folder) == os.path.realpath(output_folder):
        raise DataError(f"{output_folder}: is the input folder too: the images there would be overwritten")
    done = Resized()
    for file in files:
        name = file.removeprefix(os.path.join(input_folder, "")).lstrip("/")
        source, target = Path(input_folder, name), Path(output_folder, name)
        progress(1)
        try:
            if ".." in Path(name).parts:
                raise DataError(f"{name}: leads out of the folder")
            content = source.read_bytes()
            encoded = _with_pillow(content, source, side) if library == "pil" else _with_opencv(content, source, side)
        except DataError as error:
            done.left_out.append(str(error))
            continue
        except OSError as error:
            done.left_out.append(f"{source}: cannot be read: {error.strerror or error}")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            temporary.write_bytes(encoded)
        done.images += 1
    if not done.images:
        raise DataError(f"no image could be read; the first: {(done.left_out or ['the list is empty'])[0]}")
    return done


def _with_opencv(content: bytes, path: Path, side: int) -> bytes:
    try:
        image = square(decode_image(content), side)
        _, encoded = cv2.imencode(path.suffix or ".jpg", image)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except cv2.error as error:
        raise DataError(f"{path}: cannot be written as {path.suffix}: {error.err or error}") from None
    return encoded.tobytes()


def _with_pillow(content: bytes, path: Path, side: int) -> bytes:
    try:
        with PillowImage.open(BytesIO(content)) as image:
            width, height = image.size
            edge = min(width, height)
            left, top = (width - edge) // 2, (height - edge) // 2
            cut = image.convert("RGB").resize(
                (side, side), PillowImage.Resampling.LANCZOS, (left, top, left + edge, top + edge)
            )
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise DataError(f"{path}: is no image that Pillow reads, or is damaged ({error})") from None
    out = BytesIO()
    cut.save(out, "JPEG", quality=75)
    return out.getvalue()
