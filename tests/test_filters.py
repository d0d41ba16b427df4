"""The filters' picture: which snapshots, which layer, which pixel is which weight."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pycaffe_compat import figures, filters
from pycaffe_compat.errors import CaffeError, WeightsError
from pycaffe_compat.filters import Network, Snapshot


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_find_snapshots_by_prefix(tmp_path: Path) -> None:
    touch(tmp_path, "l4_iter_100.caffemodel", "l4_iter_20.caffemodel.h5", "l4_iter_100.caffemodel.h5")
    touch(tmp_path, "l4_iter_100.solverstate", "l4_edge_iter_7.caffemodel", "l4_iter_x.caffemodel")
    found = filters.find_snapshots(tmp_path / "l4")
    assert [(Path(s.path).name, s.iteration) for s in found] == [
        ("l4_iter_20.caffemodel.h5", 20),
        ("l4_iter_100.caffemodel", 100),
    ]
    assert filters.find_snapshots(tmp_path / "l4_iter_[0-9]*.caffemodel*")[-1] == found[-1]
    only = filters.find_snapshots(tmp_path / "l4_iter_20.caffemodel.h5")
    assert [s.iteration for s in only] == [20]


def test_nothing_found(tmp_path: Path) -> None:
    touch(tmp_path, "net_iter_1.caffemodel", "net_iter_1.solverstate")
    for name in ("other", "*.solverstate", "net_iter_1.caffemodel.h5"):
        with pytest.raises(WeightsError, match="no snapshots"):
            filters.find_snapshots(tmp_path / name)


def test_two_networks_under_one_glob(tmp_path: Path) -> None:
    touch(tmp_path, "a_iter_1.caffemodel", "b_iter_1.caffemodel")
    with pytest.raises(WeightsError, match="several snapshots of iteration 1"):
        filters.find_snapshots(tmp_path / "*.caffemodel")


@pytest.mark.parametrize(
    ("pattern", "label"),
    [
        ("s/l4", "l4"),
        ("s/l4_iter_*.caffemodel", "l4"),
        ("w/weights.caffemodel", "weights"),
        ("run1/*.caffemodel", "run1"),
        ("a.caffemodel.h5", "a"),
    ],
)
def test_default_label(pattern: str, label: str) -> None:
    assert filters.default_label(pattern) == label


def network(name: str, *iterations: int) -> Network:
    return Network(name, tuple(Snapshot(f"{name}_{i}", i) for i in iterations))


def test_choose_and_select_iterations() -> None:
    a, b = network("a", *range(0, 1100, 100)), network("b", 0, 50, 500, 1000)
    assert filters.choose_iterations([a]) == [0, 200, 400, 600, 800, 1000]
    assert filters.choose_iterations([a, b]) == [0, 500, 1000]
    assert filters.choose_iterations([network("c", 1), network("d", 2)]) == [1, 2]
    assert [s.iteration for s in filters.select(b, [0, 300, 5000])] == [0, 500, 1000]
    with pytest.raises(WeightsError, match="b: no snapshot of iteration 300; there are: 0, 50, 500, 1000"):
        filters.select(b, [300], exact=True)


def test_which_layer() -> None:
    four, two = np.zeros((2, 1, 3, 3), np.float32), np.zeros((2, 3), np.float32)
    weights = {"ip": [two], "conv10": [four], "conv2": [four]}
    assert filters.filter_layer(weights, None, "a.caffemodel") == "conv10"
    assert filters.filter_layer(weights, None, "a.caffemodel.h5") == "conv2"
    assert filters.filter_layer(weights, "conv2", "a.caffemodel") == "conv2"
    for layer, message in [
        ("ip", "has no filters"),
        ("conv3", "is not in it; layers with filters: conv10, conv2"),
    ]:
        with pytest.raises(WeightsError, match=message):
            filters.filter_layer(weights, layer, "a.caffemodel")
    with pytest.raises(WeightsError, match="no layer with filters"):
        filters.filter_layer({"ip": [two]}, None, "a.caffemodel")


def test_tiles_hold_the_weights() -> None:
    """Tile k of the grid is filter k over its largest weight, and only the borders are empty."""
    w = np.random.default_rng(0).normal(size=(6, 1, 3, 3))
    grid = filters.tile_filters(w, columns=3)
    assert grid.shape == (2 * 4 + 1, 3 * 4 + 1)
    for k in range(6):
        top, left = 1 + 4 * (k // 3), 1 + 4 * (k % 3)
        assert grid[top : top + 3, left : left + 3] == pytest.approx(w[k, 0] / np.abs(w[k]).max())
    assert np.isnan(grid).sum() == grid.size - w.size
    shared = filters.tile_filters(w, limit=0.5, columns=3)
    assert shared[1:4, 1:4] == pytest.approx(np.clip(w[0, 0] / 0.5, -1, 1))


def test_tiles_of_channels_and_colour() -> None:
    assert filters.tile_filters(np.ones((4, 2, 3, 3))).shape == (4 * 4 + 1, 2 * 4 + 1)  # a filter a row
    colour = filters.tile_filters(np.ones((4, 3, 5, 5)), columns=2)
    assert colour.shape == (13, 13, 3) and np.nanmin(colour) == 1
    assert np.nanmax(np.abs(filters.tile_filters(np.zeros((2, 1, 3, 3))))) == 0  # dead filters are gray


@pytest.mark.parametrize(("count", "shape"), [(48, (6, 8)), (32, (4, 8)), (64, (8, 8)), (1, (1, 1))])
def test_grids_without_holes(count: int, shape: tuple[int, int]) -> None:
    rows, columns = (round((n - 1) / 4) for n in filters.tile_filters(np.ones((count, 1, 3, 3))).shape)
    assert (rows, columns) == shape


@pytest.mark.parametrize("scale", filters.SCALES)
def test_pixels_of_the_picture(scale: filters.Scale) -> None:
    """In the drawn picture the largest weight is white, its negative black, zero the middle gray."""
    w = np.zeros((1, 1, 3, 3), np.float32)
    w[0, 0, 0, 0], w[0, 0, 2, 2] = 1.0, -1.0
    figure = filters.plot_filters([("", [("", w)])], scale=scale, cell=1.0)
    picture = np.asarray(figures.rasterise(figure, 100).convert("L"))
    box = figure.axes[0].get_position()
    left, top = box.x0 * picture.shape[1], (1 - box.y1) * picture.shape[0]
    size = box.width * picture.shape[1] / 5  # three weights and two borders

    def at(row: int, column: int) -> int:
        return int(picture[int(top + (row + 1.5) * size), int(left + (column + 1.5) * size)])

    assert (at(0, 0), at(2, 2)) == (255, 0)
    assert at(1, 1) in (127, 128)


def test_scales_differ_where_they_should() -> None:
    weak, strong = np.full((1, 1, 2, 2), 0.1, np.float32), np.full((1, 1, 2, 2), 1.0, np.float32)
    both = np.concatenate([weak, strong])
    rows = [("", [("", weak), ("", both)])]

    def brightest(scale: filters.Scale) -> list[float]:
        figure = filters.plot_filters(rows, scale=scale)
        data = [np.asarray(axes.images[0].get_array(), dtype=float) for axes in figure.axes]
        return [float(np.nanmin(d)) for d in data]

    assert brightest("filter") == pytest.approx([1, 1])
    assert brightest("snapshot") == pytest.approx([1, 0.1], rel=1e-3)
    assert brightest("network") == pytest.approx([0.1, 0.1], rel=1e-3)


def test_captions() -> None:
    cells = [
        ("iteration 0", np.ones((1, 1, 2, 2), np.float32)),
        ("iteration 5", np.ones((1, 1, 2, 2), np.float32)),
    ]
    figure = filters.plot_filters([("one", cells), ("two", cells)], title="T")
    # Both rows show the same iterations, so these stand below the last row only.
    assert [t.get_text() for t in figure.texts] == ["one", "iteration 0", "iteration 5", "two", "T"]
    assert [filters.caption(i) for i in (None, 0, 1500, 250_000)] == [
        "",
        "iteration 0",
        "iteration 1,500",
        "iteration 250K",
    ]


def test_golden_snapshots(golden: Path) -> None:
    """Both of Caffe's formats, written by the original for two runs, show the same layer's filters."""
    folder = golden / "solvers" / "snap"
    found = [filters.find_snapshots(folder / prefix) for prefix in ("adambin", "adam")]
    assert [[s.iteration for s in snapshots] for snapshots in found] == [[10, 20], [10, 20]]
    for binary, hdf5 in zip(*found, strict=True):
        a, b = filters.read_filters(binary), filters.read_filters(hdf5)
        assert a.shape == (48, 1, 11, 11)
        assert a == pytest.approx(b, abs=1e-4)
    networks = [Network("binary", tuple(found[0])), Network("HDF5", tuple(found[1]))]
    frames = list(filters.animation_frames(networks, cell=1.0))
    assert len(frames) == 2 and frames[0].size == frames[1].size
    figure = filters.figure_of_networks(networks, [10, 20])
    assert len(figure.axes) == 4


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".webp"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    """Each format gives all frames back, in their colours, with their times."""
    frames = [Image.new("RGB", (40, 30), (shade, shade, shade)) for shade in (0, 90, 255)]
    path = tmp_path / f"film{suffix}"
    figures.save_animation(frames, path, seconds=0.2, hold=1.0)
    with Image.open(path) as film:
        assert getattr(film, "n_frames", 1) == 3
        times = []
        for index in range(3):
            film.seek(index)
            film.load()
            shade = film.convert("RGB").getpixel((5, 5))
            assert shade == pytest.approx([(0, 90, 255)[index]] * 3, abs=2)
            times.append(film.info["duration"])
        assert times == [200, 200, 1000]
    first = path.read_bytes()
    figures.save_animation(frames, path, seconds=0.2, hold=1.0)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_animation_errors(tmp_path: Path) -> None:
    with pytest.raises(CaffeError, match="must end in"):
        figures.save_animation([Image.new("RGB", (4, 4))], tmp_path / "film.mp4")
    with pytest.raises(CaffeError, match="at least one frame"):
        figures.save_animation([], tmp_path / "film.gif")
    with pytest.raises(WeightsError, match="no name here tells an iteration"):
        filters.animation_iterations([Network("a", (Snapshot("weights.caffemodel", None),))])
