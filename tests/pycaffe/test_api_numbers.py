"""Net's steps, the Transformer, resizing and the Classifier against numbers that the original computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pycaffe_compat as caffe


@pytest.fixture
def folder(golden: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(golden / "pycaffe")
    return golden / "pycaffe"


@pytest.fixture
def arrays(folder: Path) -> Any:
    return np.load(folder / "pycaffe.npz")


@pytest.fixture
def about(folder: Path) -> Any:
    return json.loads((folder / "pycaffe.json").read_text())


@pytest.fixture
def net(folder: Path) -> caffe.Net:
    missing = {"Pooling", "InnerProduct", "Softmax"} - set(caffe.layer_type_list())
    if missing:
        pytest.skip(f"layer types that are not registered: {missing}")
    return caffe.Net("api.prototxt", "api.caffemodel", caffe.TEST)


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def same(got: dict[str, np.ndarray], arrays: Any, prefix: str) -> None:
    want = {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}
    assert set(got) == set(want)
    for name, array in want.items():
        close(got[name], array)


def test_forward_in_steps(net: caffe.Net, arrays: Any) -> None:
    x, n = arrays["api/X"], 3
    same(net.forward(data=x[:n]), arrays, "api/forward/")
    same(net.forward(blobs=["c1", "p1"], data=x[n : 2 * n]), arrays, "api/forward_blobs/")
    net.blobs["data"].data[...] = x[:n]
    same(net.forward(end="p1"), arrays, "api/forward_end_p1/")
    net.blobs["p1"].data[...] *= 2
    same(net.forward(start="f1"), arrays, "api/forward_start_f1_after_p1_times_2/")
    net.blobs["c1"].data[...] = abs(net.blobs["c1"].data) + 0.5
    same(net.forward(start="p1", end="s1"), arrays, "api/forward_p1_to_s1_after_c1_abs_plus_half/")
    same(net.forward_all(data=x), arrays, "api/forward_all/")


def test_backward_in_steps(net: caffe.Net, arrays: Any) -> None:
    top = {"s1": arrays["api/g_s1"], "sm": arrays["api/g_sm"]}
    net.forward(data=arrays["api/X"][:3])
    net.clear_param_diffs()
    same(net.backward(**top), arrays, "api/backward/")
    close(net.params["c1"][0].diff, arrays["api/backward_pdiff/c1:0"])
    close(net.params["f1"][1].diff, arrays["api/backward_pdiff/f1:1"])
    net.clear_param_diffs()
    same(net.backward(diffs=["p1", "f1"], **top), arrays, "api/backward_diffs/")
    net.clear_param_diffs()
    same(net.backward(end="f1", **top), arrays, "api/backward_end_f1/")
    close(net.params["c1"][0].diff, arrays["api/backward_end_f1_pdiff_c1"])
    net.clear_param_diffs()
    outputs, diffs = net.forward_backward_all(data=arrays["api/X"], s1=arrays["api/Y_s1"], sm=arrays["api/Y_sm"])
    for name, array in outputs.items():
        assert len(array) == 7
        close(array, arrays[f"api/fba_out/{name}"][:7])  # the original forgets to cut one of them to the rows that came in
    same(diffs, arrays, "api/fba_diff/")


@pytest.mark.parametrize("oversample", [True, False])
def test_classifier(net: caffe.Net, arrays: Any, about: Any, oversample: bool) -> None:
    names = ("image_dims", "raw_scale", "input_scale", "channel_swap")
    settings = {name: about["classifier"][name] for name in names}
    classifier = caffe.Classifier("api.prototxt", "api.caffemodel", mean=np.array(about["classifier"]["mean"]), **settings)
    got = classifier.predict(arrays["classifier/images"], oversample)
    close(got, arrays[f"classifier/predict_oversample_{oversample}"])


def transformer(case: dict[str, Any], arrays: Any) -> caffe.io.Transformer:
    made = caffe.io.Transformer({"data": tuple(case["in_shape"])})
    made.set_transpose("data", case["transpose"])
    if "swap" in case:
        made.set_channel_swap("data", case["swap"])
    if "raw" in case:
        made.set_raw_scale("data", case["raw"])
    if "mean" in case:
        given = isinstance(case["mean"], list)
        made.set_mean("data", np.array(case["mean"]) if given else arrays[f"transformer/{case['name']}/mean"])
    if "scale" in case:
        made.set_input_scale("data", case["scale"])
    return made


@pytest.mark.parametrize("name", ["plain", "full", "resize_up", "resize_down", "meanimg", "gray", "fourch"])
def test_transformer(name: str, arrays: Any, about: Any) -> None:
    (case,) = (case for case in about["transformer"] if case["name"] == name)
    made = transformer(case, arrays)
    image, want = arrays[f"transformer/{name}/in"].copy(), arrays[f"transformer/{name}/out"]
    if name == "gray":
        image += np.float32(0.25)  # the original subtracted the mean from its caller's array, which is what was stored
    before = image.copy()
    got = made.preprocess("data", image)
    np.testing.assert_array_equal(image, before)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * max(1, abs(want).max()))
    back = made.deprocess("data", want)
    if name == "gray":  # the original raises
        np.testing.assert_allclose(back, image, atol=1e-6)
    else:
        np.testing.assert_allclose(back, arrays[f"transformer/{name}/deprocess"], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(made.deprocess("data", want[np.newaxis]), back)


@pytest.mark.parametrize("case", ["0", "1", "2", "3", "const"])
def test_resize_image(case: str, arrays: Any) -> None:
    image, (height, width, order), want = (arrays[f"resize/{case}/{part}"] for part in ("in", "dims_order", "out"))
    got = caffe.io.resize_image(image, (height, width), interp_order=int(order))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_oversample(arrays: Any) -> None:
    got = caffe.io.oversample(arrays["oversample/in"], arrays["oversample/crop_dims"])
    np.testing.assert_array_equal(got, arrays["oversample/out"])


def test_blobprotos_and_datums(folder: Path, arrays: Any) -> None:
    array = arrays["blobproto/array"]
    assert caffe.io.array_to_blobproto(array).SerializeToString() == Path("blob.binaryproto").read_bytes()
    back = caffe.io.blobproto_to_array(caffe.proto.caffe_pb2.BlobProto.FromString(Path("blob.binaryproto").read_bytes()))
    np.testing.assert_array_equal(back, arrays["blobproto/back"])
    for name, want in (("datum_u8", arrays["datum_u8"]), ("datum_f", arrays["datum_f_back"])):
        datum = caffe.proto.caffe_pb2.Datum.FromString(Path(f"{name}.bin").read_bytes())
        got = caffe.io.datum_to_array(datum)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(caffe.io.datum_to_array(caffe.io.array_to_datum(arrays[name])), got)
