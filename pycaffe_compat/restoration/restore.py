"""A trained network applied to whole images of any size, and to files.

restorer = Restorer("prototxt/l4.prototxt", "models/l4_residual_q10/weights.caffemodel")
restored = restorer.restore_luma(luma)            # (H, W) in, float32 (H, W) out
restore_file("in.jpg", "out.png", restorer)       # colour, alpha, orientation and ICC profile kept
"""

import copy
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile

from pycaffe_compat import resources
from pycaffe_compat.cpu import PRECISIONS
from pycaffe_compat.errors import DataError, NetError, WeightsError
from pycaffe_compat.files import atomic_write
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.restoration.degradation import DAMAGE, count_frames, estimate_quality, open_image
from pycaffe_compat.weights import read_weights

# Side of the squares that images are cut into. Small enough for the activations to stay in a core's cache and for
# memory to be bounded, large enough for the overlap not to cost much.
TILE = 256
# The convolution kernels of oneDNN for very narrow images add up in another order. Nothing narrower than
# this is given to the network, so that no bit of a pixel's value depends on where the cuts are.
SMALLEST_TILE = 64

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Full-range luma of JFIF (ITU-R BT.601), the plane that a JPEG file holds; see :func:`restore_picture`."""


class Restorer:
    """A restoration network with its weights, ready to be applied to luma of any size.

    Args:
        net: path of the prototxt (or what else :class:`Graph` takes), built for phase TEST and stage
            ``deploy``: one input blob (N, 1, H, W) of luma in 0..255 and one output blob of the same,
            smaller by a border.
        weights: path of the .caffemodel or .h5, or weights by layer name; None keeps the fillers' values.
        precision: ``float32``, or ``bfloat16`` (autocast), which is faster where the CPU has instructions
            for it.
        tile: side of the output squares that an image is cut into, in pixels; the result does not depend on
            it.
        device: where to compute.

    Attributes:
        border: pixels that the output lacks on each side, measured.
        radius: how far from a pixel the input matters to it, measured; larger than the border in a net that
            pads.

    Raises:
        NetError: a net of another form. WeightsError: weights that do not fit, or lack a layer.
    """

    def __init__(
        self,
        net: str | PathLike[str] | Any,
        weights: str | PathLike[str] | dict[str, list[NDArray[np.float32]]] | None = None,
        *,
        precision: str = "float32",
        tile: int = TILE,
        device: str | torch.device = "cpu",
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
        if tile < SMALLEST_TILE:
            raise ValueError(f"tile is at least {SMALLEST_TILE}, not {tile}")
        self.precision, self.tile, self.device = precision, tile, torch.device(device)
        self.graph = Graph(net, phase=TEST, stages=["deploy"])
        self.label = self.graph.path or f'net "{self.graph.name}"'
        self.input, self.output = _ends(self.graph, self.label)
        if weights is not None:
            self._load(weights)
        self.border, self.radius = _measure(self.graph, self.input, self.output, self.label)
        # Channels-last is the layout that the CPU's convolutions are fastest in: 1.5 to 2 times.
        self.graph.eval().to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _load(self, weights: str | PathLike[str] | dict[str, list[NDArray[np.float32]]]) -> None:
        if isinstance(weights, dict):
            source, blobs = "the weights", weights
        else:
            source, blobs = os.fspath(weights), read_weights(os.fspath(weights))
        filled = self.graph.load_weights(blobs, source=source)
        missing = self.graph.unfilled(filled)
        if missing:
            raise WeightsError(
                f'{source}: holds nothing for layer "{missing[0]}" of {self.label}: weights of another net?'
            )

    def restore_luma(
        self,
        luma: NDArray[np.uint8] | NDArray[np.floating],
        out: NDArray[Any] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> NDArray[Any]:
        """The restored luma, float32 (H, W), not rounded and not clipped.

        The image is continued by reflection, so that every pixel is restored, and cut into overlapping
        squares of equal size: memory beyond input and output does not grow with the image.

        Args:
            luma: (H, W) in 0..255, any real type, at least 1x1.
            out: where to write the result; float32, or uint8, which is rounded and clipped. Not the input
                itself.
            progress: called with the number of pixels done since the last call.

        Raises:
            WeightsError: the network computed something that is no number.
        """
        if luma.ndim != 2 or luma.size == 0:
            raise ValueError(f"restore_luma wants a non-empty (H, W) array, not {luma.shape}")
        if out is None:
            out = np.empty(luma.shape, dtype=np.float32)
        elif out.shape != luma.shape or out.dtype not in (np.float32, np.uint8):
            raise ValueError(f"out must be float32 or uint8 {luma.shape}, not {out.dtype} {out.shape}")
        elif np.may_share_memory(out, luma):
            raise ValueError("out must not share memory with the image: tiles overlap")
        overlap = max(self.border, self.radius)
        crop = overlap - self.border
        tall, rows = _cuts(luma.shape[0], self.tile)
        wide, columns = _cuts(luma.shape[1], self.tile)
        column_indices = [_reflected(x - overlap, wide + 2 * overlap, luma.shape[1]) for x in columns]
        with torch.inference_mode(), self._autocast():
            bottom = 0
            for y in rows:
                above, bottom, right = bottom, min(y + tall, luma.shape[0]), 0
                band = luma[_reflected(y - overlap, tall + 2 * overlap, luma.shape[0])]
                for x, indices in zip(columns, column_indices, strict=True):
                    tile = np.ascontiguousarray(band[:, indices], dtype=np.float32)
                    given = torch.from_numpy(tile).to(self.device)[None, None]
                    result = self.graph(given)[self.output]
                    square = result[0, 0, crop : crop + tall, crop : crop + wide].float().cpu().numpy()
                    if not np.isfinite(square).all():
                        raise WeightsError(
                            f"{self.label}: computes values that are not finite: damaged weights?"
                        )
                    place = out[y : y + tall, x : x + wide]
                    part = square[: place.shape[0], : place.shape[1]]
                    place[...] = part if out.dtype == np.float32 else np.clip(np.rint(part), 0, 255)
                    left, right = right, min(x + wide, luma.shape[1])
                    if progress is not None:
                        progress((bottom - above) * (right - left))
        return out

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield


def _ends(graph: Graph, label: str) -> tuple[str, str]:
    """Names of the net's input and output blob."""
    if len(graph.inputs) != 1:
        raise NetError(
            f'{label}: a restoration net has one input blob in phase TEST with stage "deploy", '
            f"this has {len(graph.inputs)}"
        )
    outputs = ["restored"] if "restored" in graph.outputs else graph.outputs
    if len(outputs) != 1:
        raise NetError(f'{label}: which of the outputs {", ".join(outputs)} is the image? Name it "restored"')
    for name in (graph.inputs[0], outputs[0]):
        shape = graph.shapes[name]
        if len(shape) != 4 or shape[1] != 1:
            raise NetError(f'{label}: blob "{name}" is {"x".join(map(str, shape))}, a luma image is Nx1xHxW')
    return graph.inputs[0], outputs[0]


def _measure(graph: Graph, source: str, target: str, label: str) -> tuple[int, int]:
    """Border and receptive radius of a net, found by running it.

    The border is what the output lacks. The radius shows in the gradient of one output pixel, taken in a
    copy of the net whose weights are all positive, so that nothing cancels and no ReLU is shut.
    """
    shape = graph.shapes[source]
    border = shape[2] - graph.shapes[target][2]
    if border < 0 or border % 2 or border != shape[3] - graph.shapes[target][3]:
        raise NetError(
            f'{label}: output "{target}" is {"x".join(map(str, graph.shapes[target]))} for an input of '
            f"{'x'.join(map(str, shape))}: it must be smaller by the same even number in height and width"
        )
    border //= 2
    probe = copy.deepcopy(graph).double()
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.fill_(len(parameter) / parameter.numel() if parameter.numel() and parameter.ndim else 1.0)
    side = 2 * border + 33
    while side < 1024:
        image = torch.full((1, 1, side, side + 1), 255.0, dtype=torch.float64, requires_grad=True)
        try:
            result = probe(image)[target]
        except RuntimeError as error:
            raise NetError(f"{label}: does not run on an image of {side + 1}x{side}: {error}") from error
        if tuple(result.shape[2:]) != (side - 2 * border, side + 1 - 2 * border):
            raise NetError(
                f"{label}: its output does not grow with its input pixel by pixel (strides, a fixed size?)"
            )
        centre = result.shape[2] // 2
        (gradient,) = torch.autograd.grad(result[0, 0, centre, centre], image)
        touched = gradient[0, 0].nonzero() - (centre + border)
        radius = int(touched.abs().max()) if len(touched) else 0
        if radius < side // 2:
            return border, radius
        side *= 2
    raise NetError(
        f"{label}: an output pixel depends on the input over {side // 2} pixels away: cannot be tiled"
    )


def _cuts(length: int, tile: int) -> tuple[int, list[int]]:
    """Size and positions of the equal pieces, no larger than ``tile``, that cover 0..length on an axis."""
    size = max(math.ceil(length / math.ceil(length / tile)), min(SMALLEST_TILE, tile))
    return size, [max(min(start, length - size), 0) for start in range(0, length, size)]


def _reflected(start: int, count: int, length: int) -> NDArray[np.intp]:
    """Indices from ``start`` on, reflected at 0 and ``length - 1`` as often as needed."""
    period = max(2 * (length - 1), 1)
    indices = np.arange(start, start + count) % period
    return np.minimum(indices, period - indices) if length > 1 else np.zeros(count, dtype=np.intp)


# ---- Trained models ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A folder of trained weights with its card: what it is called, what it was trained for."""

    name: str
    net: Path
    weights: Path
    qualities: tuple[int, ...]
    """JPEG qualities it was trained on, several if on a range. Empty when the card does not say."""
    gains: dict[int, float] = field(default_factory=dict)
    """What it gained over the JPEG, by quality, as its card says: PSNR [dB], mean over the sets it was scored on."""

    def distance(self, quality: int) -> int:
        """Quality points from what the model was trained on to ``quality``.

        Positive for a finer file, negative for a coarser one, 0 inside the range.
        """
        nearest = min(max(quality, min(self.qualities)), max(self.qualities))
        return quality - nearest

    def rank(self, quality: int) -> tuple[float, float]:
        """How well it fits a file of this quality: the smallest is best.

        First how far the quality is from what it was trained on, where a network for a range counts as one that was
        trained 5 points away (paper, figure 5: it is nearly as good everywhere, and best nowhere); then what it
        gained at the nearest of its own qualities.
        """
        spread = 5 if len(self.qualities) > 1 else 0
        nearest = min(self.gains, key=lambda q: abs(q - quality), default=0)
        return (abs(self.distance(quality)) + spread, -self.gains.get(nearest, 0.0))

    def restorer(self, **options: Any) -> Restorer:
        """A :class:`Restorer` of this model."""
        return Restorer(self.net, self.weights, **options)


def find_model(name: str | PathLike[str]) -> Model:
    """The model of a folder, or of a name in ``models/``.

    Raises:
        WeightsError: there is none, or its files are not complete.
    """
    found = os.fspath(name) if os.path.isdir(name) else resources.find("models", name)
    if found is None or not os.path.isdir(found):
        known = ", ".join(model.name for model in list_models()) or "none"
        raise WeightsError(f'no model "{os.fspath(name)}"; there are: {known}')
    return _read_model(Path(found))


def list_models() -> list[Model]:
    """All models that came with the library, by name; a folder that is being filled gets its scores last."""
    cards = sorted(Path(resources.root(), "models").glob("*/scores.json"))
    return [_read_model(card.parent) for card in cards]


def nearest_model(quality: int) -> Model | None:
    """The model of the library that fits a JPEG quality best (`Model.rank`); None if there is none."""
    models = [model for model in list_models() if model.qualities]
    return min(models, key=lambda model: (*model.rank(quality), model.name), default=None)


def _read_model(folder: Path) -> Model:
    card, weights = folder / "scores.json", folder / "weights.caffemodel"
    try:
        scores = json.loads(card.read_text(encoding="utf-8"))
        net_name = str(scores["model"])
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WeightsError(
            f"{card}: {reason}; a model folder has weights.caffemodel and scores.json"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f'{card}: does not name the network (key "model"): {error}') from error
    if not weights.is_file():
        raise WeightsError(f"{weights}: no such file; a model folder has weights.caffemodel and scores.json")
    beside = folder / net_name
    net = beside if beside.is_file() else resources.find("prototxt", Path(net_name).name)
    if net is None:
        raise WeightsError(f'{card}: network "{net_name}" is neither beside it nor in prototxt/')
    name = folder.resolve().name
    return Model(name, Path(net), weights, _training_qualities(scores, name), _gains(scores, name))


def _training_qualities(scores: dict[str, Any], name: str) -> tuple[int, ...]:
    """From the card's ``trained_on_quality`` (number or list), else from a name like l4_q10, l4_q10-q60."""
    said = scores.get("trained_on_quality")
    if isinstance(said, int):
        return (said,)
    if isinstance(said, list) and said and all(isinstance(q, int) for q in said):
        return tuple(said)
    match = re.search(r"_q(\d+)(?:[-_]q?(\d+))?$", name)
    return tuple(int(group) for group in match.groups() if group) if match else ()


def _gains(scores: dict[str, Any], name: str) -> dict[int, float]:
    """From the card's rows of this network: {quality: mean over the sets}. Empty for a card without scores."""
    rows = [row for row in scores.get("results") or [] if isinstance(row, dict) and row.get("method") == name]
    found: dict[int, list[float]] = {}
    for row in rows:
        quality, gain = row.get("quality"), row.get("ipsnr")
        if isinstance(quality, int) and isinstance(gain, int | float):
            found.setdefault(quality, []).append(float(gain))
    return {quality: sum(gains) / len(gains) for quality, gains in found.items()}


# ---- Files ---------------------------------------------------------------------------------------

WRITERS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
"""What the suffix of an output means."""


@dataclass
class Picture:
    """An image file, decoded, with what has to survive."""

    path: Path
    image: Image.Image
    """Of mode L, LA, RGB, RGBA or I;16."""
    quality: int | None
    """Of a JPEG: its quality on libjpeg's scale, estimated from the luma quantisation table."""
    icc_profile: bytes | None
    exif: bytes | None


def read_picture(path: str | PathLike[str]) -> Picture:
    """Decode an image file for restoration.

    Gray (also 16-bit) and RGB with and without alpha are taken, palettes are resolved.

    Raises:
        DataError: unreadable, or of a kind that has no luma to restore (CMYK, Lab, animations); names the
            file.
    """
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which is not what is read here.
        warnings.simplefilter("ignore")
        image = open_image(path)
        quality = None
        tables = getattr(image, "quantization", None)
        if image.format in ("JPEG", "MPO") and tables:
            quality = estimate_quality(np.reshape(tables[min(tables)], (8, 8)))
        # MPO is a camera's JPEG with a second picture behind it (depth, gain map): the first is the
        # photograph.
        if image.format != "MPO" and count_frames(image, path) > 1:
            raise DataError(f"{path}: holds several frames or pages; save them one by one first")
        return Picture(Path(path), _plain(image, path), quality, image.info.get("icc_profile"), _exif(image))


def _plain(image: Image.Image, path: str | PathLike[str]) -> Image.Image:
    """The image in one of the modes that :class:`Picture` names."""
    if image.mode.startswith("I;16"):
        return image
    if _depth(image, path) == 16:
        raise DataError(f"{path}: its 16-bit samples would be cut to 8 bits; save it with 8 bits, or as 16-bit gray")
    if image.mode in ("1", "L", "LA", "La"):
        alpha = image.mode in ("LA", "La") or image.has_transparency_data
        return image.convert("LA" if alpha else "L")
    if image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA"):
        return image.convert("RGBA" if image.mode != "RGBX" and image.has_transparency_data else "RGB")
    raise DataError(
        f"{path}: colour mode {image.mode} cannot be restored; save the file as RGB or gray first"
    )


def _depth(image: Image.Image, path: str | PathLike[str]) -> int:
    """Bits a sample as the file has them: Pillow cuts 16 bits to 8 without a word, but for gray alone."""
    if image.format == "PNG":
        with open(path, "rb") as file:
            return file.read(25)[24]  # in a PNG's first chunk
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(Tag.BitsPerSample, (8,)))
    return 8


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF block as JPEG has it.

    None for TIFF: Pillow has turned its pixels upright already, and its own tags (positions of strips) must
    not travel. None for a damaged one too, which no program reads.
    """
    if image.format == "TIFF":
        return None
    try:
        tags = image.getexif()  # also what older programs hid in a PNG's text
    except (OSError, *DAMAGE):
        return None
    raw = image.info.get("exif") or tags.tobytes()
    if not isinstance(raw, bytes) or not tags:
        return None
    return raw if raw.startswith(b"Exif\0\0") else b"Exif\0\0" + raw


def _orientation(exif: bytes) -> Image.Exif:
    """The orientation alone. Pillow's TIFF writer takes the block for the file's own tags: positions of a camera's
    and a GPS receiver's it cannot write, sizes and colour spaces of another picture it would."""
    whole, found = Image.Exif(), Image.Exif()
    whole.load(exif)
    if Tag.Orientation in whole:
        found[Tag.Orientation] = whole[Tag.Orientation]
    return found


def restore_picture(
    picture: Picture, restorer: Restorer, progress: Callable[[int], object] | None = None
) -> Image.Image:
    """The restored image, of the picture's own mode and size.

    The luma is restored, chroma and alpha are kept. Luma here is JFIF's Y = 0.299 R + 0.587 G + 0.114 B, as
    that is the plane which a JPEG file holds and whose coefficients were quantised; the studio-swing luma of
    the paper's figures is that of its evaluation, where the file compressed was itself made of such luma.
    With Cb and Cr fixed, a change of Y changes R, G and B alike, so the difference is added to each: no
    rounding of chroma, and what the network leaves alone stays as it was bit for bit.
    """
    mode = picture.image.mode
    if mode.startswith("I;16"):
        deep = np.asarray(picture.image).astype(np.float32)
        deep *= np.float32(255 / 65535)
        restored = restorer.restore_luma(deep, progress=progress)
        restored *= np.float32(65535 / 255)
        return Image.fromarray(np.clip(np.rint(restored), 0, 65535).astype(np.uint16))
    if mode in ("L", "LA"):
        luma = np.asarray(picture.image.getchannel(0))
        gray = restorer.restore_luma(luma, out=np.empty_like(luma), progress=progress)
        result = Image.fromarray(gray)
    else:
        rgb = np.array(picture.image.convert("RGB"))
        full = np.empty(rgb.shape[:2], dtype=np.float32)
        for rows in _strips(rgb):
            np.matmul(rgb[rows].astype(np.float32), np.array(LUMA_WEIGHTS, dtype=np.float32), out=full[rows])
        restored = restorer.restore_luma(full, progress=progress)
        restored -= full
        for rows in _strips(rgb):
            rgb[rows] = np.clip(np.rint(rgb[rows] + restored[rows, :, None]), 0, 255)
        result = Image.fromarray(rgb)
    if mode in ("LA", "RGBA"):
        result.putalpha(picture.image.getchannel("A"))
    return result


def _strips(pixels: NDArray[np.uint8], height: int = 256) -> Iterator[slice]:
    """Rows a few at a time, so that temporary arrays stay small."""
    return (slice(y, y + height) for y in range(0, pixels.shape[0], height))


def write_picture(
    image: Image.Image, picture: Picture, target: str | PathLike[str], quality: int = 95
) -> None:
    """Write a restored image in the format of the target's suffix, with the picture's ICC profile and EXIF (of which
    TIFF keeps the orientation).

    The file appears whole or not at all. ``quality`` is that of JPEG and WebP; JPEG's chroma is not subsampled
    again.

    Raises:
        DataError: the format cannot hold the image (transparency in JPEG, size), names the target. OSError:
            as written.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in WRITERS:
        raise DataError(f"{target}: unknown format; the suffix must be one of {', '.join(WRITERS)}")
    form = WRITERS[suffix]
    options: dict[str, Any] = {}
    if form == "JPEG":
        if "A" in image.getbands():
            if image.getchannel("A").getextrema() != (255, 255):
                raise DataError(
                    f"{target}: JPEG cannot hold transparency ({picture.path}); write .png, .webp or .tif"
                )
            image = image.convert("RGB" if image.mode == "RGBA" else "L")
        options = {"quality": quality, "subsampling": 0, "optimize": True}
    elif form == "WEBP":
        options = {"quality": quality, "method": 4}
    elif form == "TIFF":
        options = {"compression": "tiff_adobe_deflate"}
    if form in ("JPEG", "WEBP") and image.mode == "I;16":
        image = Image.fromarray(np.rint(np.asarray(image) * np.float32(255 / 65535)).astype(np.uint8))
    if picture.icc_profile:
        options["icc_profile"] = picture.icc_profile
    if picture.exif is not None:
        options["exif"] = _orientation(picture.exif) if form == "TIFF" else picture.exif
    with atomic_write(target) as temporary:
        try:
            image.save(temporary, format=form, **options)
        except (ValueError, SyntaxError, TypeError, KeyError, RuntimeError) as error:
            raise DataError(f"{target}: cannot be written as {form}: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise DataError(f"{target}: cannot be written as {form}: {error}") from error


def restore_file(
    source: str | PathLike[str],
    target: str | PathLike[str],
    restorer: Restorer,
    *,
    quality: int = 95,
    overwrite: bool = False,
    keep: Sequence[str | PathLike[str]] = (),
) -> None:
    """Restore one image file into another; see :func:`read_picture`, :func:`restore_picture`,
    :func:`write_picture`.

    Raises:
        DataError: unreadable input, unusable output, and see :func:`check_target`.
    """
    check_target(target, [source, *keep], overwrite)
    picture = read_picture(source)
    write_picture(restore_picture(picture, restorer), picture, target, quality)


def check_target(target: str | PathLike[str], keep: Sequence[str | PathLike[str]], overwrite: bool) -> None:
    """Refuse a target that is one of the files to keep, under whatever name (link, case, other spelling),
    and one that exists unless ``overwrite``.

    Raises:
        DataError: names the target and what it is.
    """
    for path in keep if os.path.exists(target) else ():
        if os.path.exists(path) and os.path.samefile(target, path):  # an input may be gone by now
            raise DataError(f"{target}: is the input {path} itself; inputs are never overwritten")
    if os.path.isdir(target):
        raise DataError(f"{target}: is a folder")
    if os.path.lexists(target) and not overwrite:
        raise DataError(f"{target}: exists already; --overwrite replaces it")
