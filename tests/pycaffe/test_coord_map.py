"""coord_map as Caffe's test_coord_map.py has it, then a crop that is computed; see conftest.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pycaffe_compat as caffe
from pycaffe_compat import layers as L
from pycaffe_compat import params as P
from pycaffe_compat.coord_map import AxisMismatchException, compose, coord_map_from_to, crop, inverse
from pycaffe_compat.graph import Graph

Setting = int | list[int]


def net(ks: Setting = 3, stride: Setting = 1, pad: Setting = 0, pool: int = 2, dstride: int = 2, dpad: int = 0) -> Any:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 1, 100, 100]))
    n.aux = L.Input(shape=dict(dim=[2, 1, 20, 20]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=ks, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool, pad=0)
    n.deconv = L.Deconvolution(n.pool, num_output=10, kernel_size=2 * dstride, stride=dstride, pad=dpad)
    return n


def mapped(n: Any, top: Any = None, to: Any = None) -> tuple[Any, Any, Any]:
    return coord_map_from_to(n.deconv if top is None else top, n.data if to is None else to)


# ---- conv_pool_deconv pass padding multi_conv rect nd_conv crop_of_crop crop_helper catch_*


@pytest.mark.parametrize(("size", "shift"), [(2, 0), (4, -1)])
def test_conv_pool_deconv(size: int, shift: int) -> None:
    assert mapped(net(pool=size, dstride=size)) == (1, 1, shift)


def test_pass() -> None:
    n = net()
    n.relu = L.ReLU(n.deconv)
    n.conv1x1 = L.Convolution(n.relu, num_output=10, kernel_size=1, stride=1, pad=0)
    assert mapped(n, n.relu) == mapped(n, n.conv1x1) == mapped(n)


@pytest.mark.parametrize("pad", [0, 1, 7])
def test_padding(pad: int) -> None:
    axis, scale, shift = mapped(net())
    assert mapped(net(pad=pad)) == (axis, scale, shift - pad)
    assert mapped(net(dpad=pad)) == (axis, scale, shift + pad)
    assert mapped(net(pad=pad, dpad=pad)) == (axis, scale, shift)


def test_multi_conv() -> None:
    n = net()
    n.conv_data, n.conv_aux = L.Convolution(n.data, n.aux, ntop=2, num_output=10, kernel_size=5, stride=2, pad=0)
    assert mapped(n, n.conv_data, n.data) == mapped(n, n.conv_aux, n.aux)


def test_rect() -> None:
    axis, scale, shift = mapped(net(ks=[3, 5], stride=[1, 2], pad=[0, 10]))
    for i, same in enumerate([net(ks=3, stride=1, pad=0), net(ks=5, stride=2, pad=10)]):
        assert mapped(same) == (axis, scale[i], shift[i])


def test_nd_conv() -> None:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 3, 100, 100, 100]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=[3, 3, 3], stride=[1, 1, 1], pad=[0, 1, 2])
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=2, stride=2, pad=0)
    n.deconv = L.Deconvolution(n.pool, num_output=10, kernel_size=4, stride=2, pad=0)
    axis, scale, shift = mapped(n)
    assert axis == 1
    assert (scale == 1).all()
    assert len(scale) == len(shift) == 3
    assert shift[0] - 1 == shift[1] == shift[2] + 1


@pytest.mark.parametrize("offset", [0, 3, 10])
def test_crop_of_crop(offset: int) -> None:
    n = net()
    axis, scale, shift = mapped(n)
    n.crop = L.Crop(n.deconv, n.data, axis=2, offset=offset)
    assert mapped(n, n.crop) == (axis, scale, shift + offset)


def test_crop_helper() -> None:
    n = net(pool=4, dstride=4)
    made = crop(n.deconv, n.data).fn
    assert (made.type_name, made.inputs) == ("Crop", (n.deconv, n.data))
    assert made.params == {"crop_param": {"axis": 2, "offset": [1]}}


def test_catch_unconnected() -> None:
    n = net()
    n.ip = L.InnerProduct(n.deconv, num_output=10)
    with pytest.raises(RuntimeError, match="are they connected by spatial layers"):
        mapped(n, n.ip)


def test_catch_scale_mismatch() -> None:
    n = net(pool=3, dstride=2)
    with pytest.raises(AssertionError, match="scale mismatch"):
        crop(n.deconv, n.data)


def test_catch_negative_crop() -> None:
    n = net(dpad=10)
    with pytest.raises(AssertionError, match="negative width"):
        crop(n.deconv, n.data)


# ---- further


def test_maps_are_maps() -> None:
    there = (1, np.array([0.5]), np.array([3.0]))
    assert compose(inverse(there), there) == (1, 1, 0)
    with pytest.raises(AxisMismatchException):
        compose(there, (2, 1, 0))


def test_settings_in_their_messages_and_the_h_and_w_forms() -> None:
    n = net()
    n.again = L.Convolution(n.data, convolution_param=dict(num_output=1, kernel_size=3, stride=2, pad=1, dilation=2))
    assert mapped(n, n.again) == (1, 2, 1)
    n.bad = L.Convolution(n.data, convolution_param=dict(num_output=1, kernel_h=3, kernel_w=3))
    with pytest.raises(AssertionError, match="_h and _w"):
        mapped(n, n.bad)


def test_half_a_pixel_cannot_be_cropped() -> None:
    n = net(ks=2, pad=1)
    with pytest.raises(AssertionError, match="noninteger"):
        crop(n.deconv, n.data)


def test_the_crop_lies_where_the_map_says() -> None:
    """A bright pixel survives conv with pad (a shifted copy) and the crop that undoes it, in its place."""
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 1, 9, 9]))
    n.conv = L.Convolution(n.data, num_output=1, kernel_size=3, pad=4, bias_term=False)
    n.crop = crop(n.conv, n.data)
    made = caffe.Net(Graph(n.to_proto(), phase=caffe.TEST))
    made.params["conv"][0].data[...] = 0
    made.params["conv"][0].data[0, 0, 1, 1] = 1
    made.blobs["data"].data[0, 0, 2, 6] = 1
    np.testing.assert_array_equal(made.forward()["crop"], made.blobs["data"].data)
