"""The restorer against plain PyTorch on the reflected image; files against Pillow and NumPy."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageOps
from PIL.ExifTags import GPS, IFD
from PIL.ExifTags import Base as Tag
from PIL.PngImagePlugin import PngInfo

from pycaffe_compat.errors import CaffeError, DataError, NetError, WeightsError
from pycaffe_compat.graph import TEST, Graph
from pycaffe_compat.proto.text import parse_net
from pycaffe_compat.restoration.degradation import read_luma
from pycaffe_compat.restoration.restore import (
    Restorer,
    _cuts,
    _reflected,
    list_models,
    nearest_model,
    read_picture,
    restore_file,
    restore_picture,
    write_picture,
)
from pycaffe_compat.weights import write_weights

SHAPE = "shape { dim: 1 dim: 1 dim: 32 dim: 32 }"
INPUT = (
    f'layer {{ name: "data" type: "Input" top: "data" include {{ stage: "deploy" }} '
    f"input_param {{ {SHAPE} }} }}"
)


def conv(name: str, bottom: str, top: str, settings: str) -> str:
    filler = 'weight_filler { type: "gaussian" std: 0.05 } bias_filler { type: "uniform" min: -1 max: 1 }'
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{top}" '
        f"convolution_param {{ {settings} {filler} }} }}"
    )


NET = "\n".join(
    [
        'name: "small"',
        INPUT,
        conv("c1", "data", "h", "num_output: 8 kernel_size: 5"),
        'layer { name: "r1" type: "ReLU" bottom: "h" top: "h" }',
        conv("c2", "h", "restored", "num_output: 1 kernel_size: 3"),
    ]
)
PADDED = NET.replace("kernel_size: 5", "kernel_size: 5 pad: 2").replace(
    "kernel_size: 3", "kernel_size: 3 pad: 1"
)


def expected(restorer: Restorer, luma: np.ndarray, pad: int) -> np.ndarray:
    """The whole image at once, by torch's own functions."""
    (w1, b1), (w2, b2) = (
        [torch.from_numpy(a).double() for a in blobs] for blobs in restorer.graph.weights().values()
    )
    x = torch.from_numpy(np.pad(luma.astype(np.float64), pad, mode="reflect"))[None, None]
    return F.conv2d(F.relu(F.conv2d(x, w1, b1)), w2, b2)[0, 0].numpy()


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 70), (2, 3), (3, 1), (5, 64), (64, 64), (65, 63), (200, 131), (129, 257)]
)
def test_any_size_is_the_reflected_image(shape: tuple[int, int]) -> None:
    restorer = Restorer(parse_net(NET), tile=64)
    assert (restorer.border, restorer.radius) == (3, 3)
    luma = picture(*shape)
    restored = restorer.restore_luma(luma)
    assert restored.shape == shape and restored.dtype == np.float32
    np.testing.assert_allclose(restored, expected(restorer, luma, 3), atol=2e-3)
    rounded = restorer.restore_luma(luma.astype(np.float32), out=np.empty(shape, np.uint8))
    assert np.array_equal(rounded, np.clip(np.rint(restored), 0, 255))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("net", ["prototxt/l4.prototxt", "prototxt/l8.prototxt", "prototxt/arcnn.prototxt"])
def test_no_bit_depends_on_the_tile(repo_root: Path, net: str, precision: str) -> None:
    restorer = Restorer(repo_root / net, precision=precision)
    luma = picture(201, 150)
    whole = restorer.restore_luma(luma)
    for tile in (64, 77, 128):
        restorer.tile = tile
        assert np.array_equal(restorer.restore_luma(luma), whole)


@pytest.mark.parametrize(("net", "border"), [("l4", 9), ("l8", 12), ("arcnn", 9)])
def test_the_border_is_measured(repo_root: Path, net: str, border: int) -> None:
    restorer = Restorer(repo_root / "prototxt" / f"{net}.prototxt")
    assert (restorer.border, restorer.radius) == (border, border)


def test_progress_counts_every_pixel_once() -> None:
    """Tiles are of one size, so the last of them lies over the one before it."""
    restorer = Restorer(parse_net(NET), tile=64)
    for shape in ((1, 1), (64, 128), (130, 200), (65, 700)):
        seen: list[int] = []
        restorer.restore_luma(np.zeros(shape, np.uint8), progress=seen.append)
        assert sum(seen) == shape[0] * shape[1] and min(seen) > 0


def test_a_net_that_pads_is_tiled_by_its_radius() -> None:
    restorer = Restorer(parse_net(PADDED), tile=64)
    assert (restorer.border, restorer.radius) == (0, 3)
    luma = picture(100, 150)
    np.testing.assert_allclose(restorer.restore_luma(luma), expected(restorer, luma, 3), atol=2e-3)


def test_parameters_of_one_number_and_shared_ones(tmp_path: Path) -> None:
    """A PReLU with one slope for all channels; and an HDF5 file, which holds a shared parameter once."""
    slope = 'type: "PReLU" bottom: "h" top: "h" prelu_param { channel_shared: true }'
    assert Restorer(parse_net(NET.replace('type: "ReLU" bottom: "h" top: "h"', slope))).radius == 3
    share = 'param { name: "w" } param { name: "b" } convolution_param'
    text = PADDED.replace("num_output: 8 kernel_size: 5 pad: 2", "num_output: 1 kernel_size: 3 pad: 1")
    graph = Graph(parse_net(text.replace("convolution_param", share)), TEST, stages=["deploy"])
    write_weights(tmp_path / "w.h5", graph.param, graph.weights())
    restorer = Restorer(parse_net(text.replace("convolution_param", share)), tmp_path / "w.h5")
    luma = picture(20, 20)
    np.testing.assert_allclose(restorer.restore_luma(luma), expected(restorer, luma, 2), rtol=1e-4, atol=1e-3)


def test_bfloat16_is_near() -> None:
    torch.manual_seed(3)
    exact = Restorer(parse_net(NET))
    rough = Restorer(parse_net(NET), exact.graph.weights(), precision="bfloat16")
    luma = picture(70, 80)
    a, b = exact.restore_luma(luma), rough.restore_luma(luma)
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.03 * np.abs(a).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kernel_size: 5", "kernel_size: 4"), "even number"),
        (("kernel_size: 5", "kernel_size: 5 stride: 2"), "restoration|even number|pixel by pixel"),
        (("num_output: 1", "num_output: 2"), "Nx1xHxW"),
        (('type: "Input"', 'type: "Inptu"'), "Inptu"),
        ((INPUT, INPUT.replace('"deploy"', '"train"')), "data"),
    ],
)
def test_nets_of_another_form(change: tuple[str, str], message: str) -> None:
    with pytest.raises(NetError, match=message):
        Restorer(parse_net(NET.replace(*change)))


def test_weights_that_do_not_fit() -> None:
    weights = Restorer(parse_net(NET)).graph.weights()
    with pytest.raises(WeightsError, match="c2"):
        Restorer(parse_net(NET), {"c1": weights["c1"]})
    weights["c1"][0][...] = np.nan
    with pytest.raises(WeightsError, match="finite"):
        Restorer(parse_net(NET), weights).restore_luma(picture(9, 9))


def test_bad_arguments() -> None:
    restorer = Restorer(parse_net(NET))
    luma = picture(20, 20).astype(np.float32)
    with pytest.raises(ValueError, match="share memory"):
        restorer.restore_luma(luma, out=luma)
    with pytest.raises(ValueError, match="non-empty"):
        restorer.restore_luma(luma[:0])
    with pytest.raises(ValueError, match="precision"):
        Restorer(parse_net(NET), precision="float16")


@pytest.mark.parametrize("length", [1, 2, 3, 7, 100])
def test_reflection_is_numpys(length: int) -> None:
    line = np.arange(length)
    assert np.array_equal(_reflected(-30, length + 75, length), np.pad(line, (30, 45), mode="reflect"))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 1000])
@pytest.mark.parametrize("tile", [64, 100, 256])
def test_cuts_cover_and_are_equal(length: int, tile: int) -> None:
    size, starts = _cuts(length, tile)
    covered = {i for start in starts for i in range(start, start + size)}
    assert covered >= set(range(length)) and 64 <= size <= tile and min(starts) == 0
    assert length <= size or max(starts) + size == length


def test_models_that_come_with_the_library() -> None:
    for model in list_models():
        assert model.net.is_file() and model.weights.is_file()
        assert model.restorer().restore_luma(picture(30, 40)).shape == (30, 40)
        if model.qualities:
            near = nearest_model(model.qualities[0])
            assert near is not None and near.distance(model.qualities[0]) == 0


@pytest.mark.parametrize(
    ("quality", "chosen"),
    [(10, "deep_q10"), (12, "deep_q10"), (15, "deep_q10"), (16, "deep_q20"), (28, "mixed"), (60, "mixed"), (90, "mixed")],
)
def test_the_model_that_fits_a_quality_best(
    quality: int, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearest first, a network for a range as if 5 points off; of equals the one that gained more."""
    for name, trained, gain in (
        ("deep_q10", 10, 1.5),
        ("shallow_q10", 10, 1.3),
        ("deep_q20", 20, 1.4),
        ("mixed", [10, 20, 30, 40, 50, 60], 1.2),
    ):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "weights.caffemodel").touch()
        rows = [{"method": name, "quality": q, "ipsnr": gain} for q in np.atleast_1d(trained).tolist()]
        rows.append({"method": "distorted", "quality": 10, "ipsnr": 9.0})
        card = {"model": "l4.prototxt", "trained_on_quality": trained, "results": rows}
        (folder / "scores.json").write_text(json.dumps(card))
    monkeypatch.setattr("pycaffe_compat.resources.root", lambda: str(tmp_path))
    near = nearest_model(quality)
    assert near is not None
    assert near.name == chosen


# ---- Files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    """Leaves the picture as it is but for a shift by 3: what must survive can be compared exactly."""
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, 1, 1] = 1
    net = "\n".join(['name: "shift"', INPUT, conv("c", "data", "restored", "num_output: 1 kernel_size: 3")])
    return Restorer(parse_net(net), {"c": [kernel, np.array([3], np.float32)]})


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(5).integers(10, 240, (37, 51, 3), dtype=np.uint8)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_colour_keeps_its_chroma(restorer: Restorer, rgb: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(rgb).save(tmp_path / "in.png")
    restore_file(tmp_path / "in.png", tmp_path / "out.png", restorer)
    assert np.array_equal(pixels(tmp_path / "out.png"), rgb.astype(int) + 3)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_alpha_is_kept(restorer: Restorer, rgb: np.ndarray, tmp_path: Path, suffix: str) -> None:
    rgba = np.dstack([rgb, np.random.default_rng(6).integers(1, 256, rgb.shape[:2], dtype=np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "in.png")
    restore_file(tmp_path / "in.png", tmp_path / f"out.{suffix}", restorer)
    out = pixels(tmp_path / f"out.{suffix}")
    assert np.array_equal(out[..., 3], rgba[..., 3])
    if suffix != "webp":
        assert np.array_equal(out[..., :3], rgb.astype(int) + 3)
    with pytest.raises(DataError, match="transparency"):
        restore_file(tmp_path / "in.png", tmp_path / "out.jpg", restorer)
    assert not (tmp_path / "out.jpg").exists()


def test_gray_gray_alpha_sixteen_bits_and_palettes(
    restorer: Restorer, rgb: np.ndarray, tmp_path: Path
) -> None:
    gray = rgb[..., 0]
    deep = gray.astype(np.uint16) * 257 + 5
    cases = {
        "gray": (Image.fromarray(gray), "L", gray.astype(int) + 3),
        "la": (Image.merge("LA", [Image.fromarray(gray), Image.fromarray(rgb[..., 1])]), "LA", None),
        "deep": (Image.fromarray(deep), "I;16", deep.astype(int) + 3 * 257),
        "palette": (Image.fromarray(rgb).quantize(16), "RGB", None),
    }
    for name, (image, mode, values) in cases.items():
        image.save(tmp_path / f"{name}.png")
        restore_file(tmp_path / f"{name}.png", tmp_path / f"{name}_out.png", restorer)
        with Image.open(tmp_path / f"{name}_out.png") as out:
            assert out.mode == mode and out.size == image.size
        if values is not None:
            assert np.abs(pixels(tmp_path / f"{name}_out.png") - values).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("source", ["jpg", "png", "tif", "webp"])
def test_orientation_and_profile_are_kept(
    restorer: Restorer, tmp_path: Path, source: str, suffix: str
) -> None:
    y, x = np.mgrid[:37, :51]
    rgb = np.stack([20 + 5 * y, 30 + 4 * x, 200 - 2 * x - y], axis=-1).astype(np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / f"in.{source}", exif=exif, icc_profile=profile)
    restore_file(tmp_path / f"in.{source}", tmp_path / f"out.{suffix}", restorer)
    with Image.open(tmp_path / f"in.{source}") as given, Image.open(tmp_path / f"out.{suffix}") as out:
        # Pillow turns TIFF upright when it loads it; the others keep pixels and tag as they were.
        if "tif" not in (source, suffix):
            assert out.size == (51, 37) and out.getexif()[0x0112] == 6
        upright, expected_upright = (
            np.asarray(ImageOps.exif_transpose(image)).astype(int) for image in (out, given)
        )
        assert upright.shape == (51, 37, 3)
        assert np.abs(upright - expected_upright - 3).mean() < 3
        assert out.info["icc_profile"] == profile


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_cameras_exif_does_not_stop_a_result(restorer: Restorer, rgb: np.ndarray, tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[Tag.Orientation] = 6
    exif[Tag.ImageWidth], exif[Tag.ImageLength], exif[Tag.PhotometricInterpretation] = 4000, 3000, 5
    exif.get_ifd(IFD.Exif)[Tag.ExposureTime] = 0.01
    exif.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] = (50.0, 5.0, 1.0)
    Image.fromarray(rgb).save(tmp_path / "in.jpg", exif=exif, quality=95)
    restore_file(tmp_path / "in.jpg", tmp_path / f"out.{suffix}", restorer)
    given = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "in.jpg"))).astype(int)
    with Image.open(tmp_path / f"out.{suffix}") as out:
        upright = np.asarray(ImageOps.exif_transpose(out)).astype(int)
        assert np.abs(upright - given - 3).mean() < (2 if suffix in ("png", "tif") else 12)
        if suffix != "tif":
            assert out.getexif().get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] == (50.0, 5.0, 1.0)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_damaged_exif_does_not_keep_a_photograph_from_being_restored(
    restorer: Restorer, rgb: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / "out.png"
    Image.fromarray(rgb).save(source, exif=b"Exif\0\0garbage!", dpi=(72, 72))
    plain = tmp_path / f"plain{suffix}"
    Image.fromarray(rgb).save(plain)
    np.testing.assert_array_equal(read_luma(source), read_luma(plain))
    restore_file(source, target, restorer)
    restore_file(plain, tmp_path / "plain_out.png", restorer)
    np.testing.assert_array_equal(pixels(target), pixels(tmp_path / "plain_out.png"))


def test_an_orientation_in_a_pngs_text_is_kept(restorer: Restorer, rgb: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[Tag.Orientation] = 6
    block = exif.tobytes()
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    Image.fromarray(rgb).save(tmp_path / "in.png", pnginfo=text)
    restore_file(tmp_path / "in.png", tmp_path / "out.png", restorer)
    with Image.open(tmp_path / "out.png") as out:
        assert out.getexif()[Tag.Orientation] == 6


def test_a_jpegs_quality_is_read(rgb: np.ndarray, tmp_path: Path) -> None:
    for quality in (10, 35, 90):
        Image.fromarray(rgb).save(tmp_path / "a.jpg", quality=quality)
        assert read_picture(tmp_path / "a.jpg").quality == quality
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").quality is None


def test_what_has_no_luma_is_refused_by_name(rgb: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(rgb).save(
        tmp_path / "moving.gif", save_all=True, append_images=[Image.fromarray(rgb[::-1])]
    )
    deep = rgb.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    cv2.imwrite(str(tmp_path / "deep.tif"), deep)
    cv2.imwrite(str(tmp_path / "deep_alpha.png"), np.dstack([deep, deep[..., 0]]))
    (tmp_path / "text.jpg").write_text("no image")
    whole = (tmp_path / "moving.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) * 2 // 3])  # in its second frame
    names = ("cmyk.jpg", "moving.gif", "deep.png", "deep.tif", "deep_alpha.png", "text.jpg", "missing.jpg", "cut.gif")
    for name in names:
        with pytest.raises(DataError, match=name):
            read_picture(tmp_path / name)


def test_inputs_and_outputs_are_safe(restorer: Restorer, rgb: np.ndarray, tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    Image.fromarray(rgb).save(source)
    before = source.read_bytes()
    (tmp_path / "symbolic.png").symlink_to(source)
    os.link(source, tmp_path / "hard.png")
    (tmp_path / "sub").mkdir()
    for name in ("in.png", "symbolic.png", "hard.png", "sub/../in.png"):
        with pytest.raises(DataError, match="input"):
            restore_file(source, tmp_path / name, restorer, overwrite=True)
    assert source.read_bytes() == before
    (tmp_path / "other.png").write_bytes(b"mine")
    with pytest.raises(DataError, match="--overwrite"):
        restore_file(source, tmp_path / "other.png", restorer)
    assert (tmp_path / "other.png").read_bytes() == b"mine"
    restore_file(source, tmp_path / "other.png", restorer, overwrite=True)
    assert pixels(tmp_path / "other.png").shape == rgb.shape
    with pytest.raises(CaffeError, match="suffix"):
        restore_file(source, tmp_path / "out.xyz", restorer)
    with pytest.raises(DataError, match="cannot be written"):
        wide = read_picture(source)
        wide.image = Image.new("L", (20000, 4))
        write_picture(restore_picture(wide, restorer), wide, tmp_path / "wide.webp")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "hard.png",
        "in.png",
        "other.png",
        "sub",
        "symbolic.png",
    ]
