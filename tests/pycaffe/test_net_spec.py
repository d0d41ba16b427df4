"""NetSpec as Caffe's test_net_spec.py has it, then what it wrote for the same programs; see conftest.py."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

import pycaffe_compat as caffe
from pycaffe_compat import NetError
from pycaffe_compat import layers as L
from pycaffe_compat import params as P
from pycaffe_compat.proto import caffe_pb2


def lenet(n: Any, batch: int = 5) -> Any:
    """LeNet, its tops set on ``n``; returns the loss."""
    xavier = dict(type="xavier")
    n.data, n.label = L.DummyData(
        shape=[dict(dim=[batch, 1, 28, 28]), dict(dim=[batch, 1, 1, 1])], transform_param=dict(scale=1.0 / 255), ntop=2
    )
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=4, weight_filler=xavier)
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.conv2 = L.Convolution(n.pool1, kernel_size=5, num_output=6, weight_filler=xavier)
    n.pool2 = L.Pooling(n.conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool2, num_output=20, weight_filler=xavier)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, weight_filler=xavier)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.loss


class Anonymous:
    """Takes the same assignments, gives no names."""


# ---- lenet zero_tops type_error


@pytest.mark.parametrize("named", [True, False])
def test_lenet(named: bool, write_net: Callable[[str], str]) -> None:
    if named:
        spec = caffe.NetSpec()
        lenet(spec)
        proto = spec.to_proto()
        assert [layer.name for layer in proto.layer][:3] == ["data", "conv1", "pool1"]
    else:
        proto = lenet(Anonymous()).to_proto()
        assert [layer.name for layer in proto.layer][:3] == ["DummyData1", "Convolution1", "Pooling1"]
        assert list(proto.layer[0].top) == ["DummyData1", "DummyData2"]
    assert proto.layer[6].type == "ReLU"
    assert proto.layer[6].bottom == proto.layer[6].top
    assert len(proto.layer) == 9
    net = caffe.Net(write_net(str(proto)), caffe.TEST)
    assert len(net.layers) == 9
    assert np.isfinite(net.forward()[net.outputs[0]])


def test_zero_tops(write_net: Callable[[str], str]) -> None:
    n = caffe.NetSpec()
    n.data, n.data2 = L.Input(shape=dict(dim=3), ntop=2)
    n.silence = L.Silence(n.data, ntop=0)
    n.silence2 = L.Silence(n.data2, ntop=0)
    proto = n.to_proto()
    assert [layer.name for layer in proto.layer] == ["data", "silence", "silence2"]
    assert caffe.Net(write_net(str(proto)), caffe.TEST).forward() == {}


def test_type_error() -> None:
    data = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(data, ntop=0)
    L.Silence(*data, ntop=0)


# ---- further


def programs(golden: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads((golden / "pycaffe" / "pycaffe.json").read_text())["netspec"]
    return rows


@pytest.mark.parametrize("index", range(4))
def test_the_programs_write_what_the_original_wrote(index: int, golden: Path) -> None:
    program = programs(golden)[index]
    names: dict[str, Any] = {"caffe": caffe, "L": L, "P": P}
    exec(program["code"], names)
    made = names["n"] if isinstance(names["n"], caffe_pb2.NetParameter) else names["n"].to_proto()
    # Messages, not text: protobuf's releases print floats in different ways.
    assert made == text_format.Parse(program["text"], caffe_pb2.NetParameter())


def one(top: Any) -> Any:
    return caffe.to_proto(top).layer[-1]


def test_where_settings_go() -> None:
    x = L.Input(shape=dict(dim=[1, 2]))
    layer = one(
        L.Convolution(
            x, name="c", num_output=2, kernel_size=[3, 5], pad=(1, 2), loss_weight=0.5, propagate_down=[False],
            param=[dict(lr_mult=1), dict(lr_mult=2)], include=dict(phase=caffe.TEST), bias_filler=dict(type="constant", value=np.float32(2)),
        )
    )  # fmt: skip
    want = """
    name: "c" type: "Convolution" bottom: "Input1" top: "Convolution1" loss_weight: 0.5 propagate_down: false
    param { lr_mult: 1 } param { lr_mult: 2 } include { phase: TEST }
    convolution_param { num_output: 2 kernel_size: 3 kernel_size: 5 pad: 1 pad: 2 bias_filler { type: "constant" value: 2 } }
    """
    assert layer == text_format.Parse(want, caffe_pb2.LayerParameter())
    deconv = one(L.Deconvolution(x, convolution_param=dict(num_output=np.int64(3), kernel_size=4)))
    assert (deconv.convolution_param.num_output, list(deconv.convolution_param.kernel_size)) == (3, [4])
    assert one(L.Python(x, module="m", layer="Mine", param_str="{}")).python_param.layer == "Mine"
    assert one(L.Pooling(x, pool="AVE")).pooling_param.pool == P.Pooling.AVE
    assert one(L.LayerOfAFork(x)).type == "LayerOfAFork"
    assert not one(L.Accuracy(x, x, accuracy_param={})).HasField("accuracy_param")
    assert len(one(L.ReLU(x, param=[{}, {}])).param) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: one(L.Convolution(x, num_outputs=2)), "L.Convolution: there is no setting 'num_outputs'; did you mean \"num_output\""),
        (lambda x: one(L.Convolution(x, weight_filler=dict(kind="xavier"))), "FillerParameter has no field 'kind'"),
        (lambda x: one(L.Convolution(x, num_output="three")), "ConvolutionParameter.num_output cannot be 'three'"),
        (lambda x: one(L.Convolution(x, weight_filler="xavier")), "weight_filler cannot be 'xavier'"),
        (lambda x: one(L.ReLU(x, kernel_size=2)), "L.ReLU: there is no setting 'kernel_size'"),
    ],
)
def test_settings_that_do_not_exist(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(NetError) as error:
        make(L.Input(shape=dict(dim=[1, 2])))
    assert message in str(error.value)
    assert isinstance(error.value, AttributeError) == ("cannot be" not in message)


def test_a_spec_is_read_and_changed_by_name() -> None:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 2]))
    n["ip"] = L.InnerProduct(n.data, num_output=3)
    assert n["ip"] is n.ip
    assert n.keys() == ["data", "ip"]
    assert n.vals() == [n.data, n.ip]
    n.update("ip", dict(num_output=7))
    assert n.to_proto().layer[1].inner_product_param.num_output == 7
    copy.copy(n)
    del n["ip"]
    assert n.keys() == ["data"]
    with pytest.raises(AttributeError, match="holds no 'dat'; did you mean \"data\""):
        n.dat  # noqa: B018
    for missing in (lambda: n["dat"], lambda: n.dat):
        with pytest.raises(KeyError):
            missing()
    n.keys, n.update = n.data, L.ReLU(n.data)
    assert n.keys is n.data
    assert [layer.name for layer in n.to_proto().layer] == ["keys", "update"]
    del n.keys, n.update
    n.wrong = 3
    with pytest.raises(TypeError, match="'wrong' is not a Top"):
        n.to_proto()


def test_names_of_the_schema() -> None:
    assert P.Eltwise.MAX == caffe_pb2.EltwiseParameter.MAX
    with pytest.raises(AttributeError, match="no PolingParameter; did you mean \"Pooling\""):
        P.Poling  # noqa: B018
    with pytest.raises(AttributeError):
        L.no_such_module  # noqa: B018


def test_a_chain_of_thousands() -> None:
    top = L.Input(shape=dict(dim=[1, 2]))
    for _ in range(3000):
        top = L.ReLU(top)
    assert len(caffe.to_proto(top).layer) == 3001
