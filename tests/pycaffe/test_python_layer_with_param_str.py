"""param_str as Caffe's test_python_layer_with_param_str.py has it; see conftest.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import pycaffe_compat as caffe


class Times(caffe.Layer):
    def setup(self, bottom: Any, top: Any) -> None:
        self.value = float(self.param_str)

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = self.value * bottom[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        bottom[0].diff[...] = self.value * top[0].diff


def times(name: str, bottom: str, value: str) -> str:
    settings = f'module: "users_layers" layer: "Times" param_str: "{value}"'
    return f'layer {{ name: "{name}" type: "Python" bottom: "{bottom}" top: "{name}" python_param {{ {settings} }} }}\n'


@pytest.fixture
def net(write_net: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> caffe.Net:
    module = ModuleType("users_layers")
    module.Times = Times  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users_layers", module)
    head = 'force_backward: true input: "data" input_shape { dim: 10 dim: 9 dim: 8 }\n'
    return caffe.Net(write_net(head + times("mul10", "data", "10") + times("mul2", "mul10", "2")), caffe.TRAIN)


def test_forward(net: caffe.Net) -> None:
    net.blobs["data"].data[...] = 8
    net.forward()
    assert (net.blobs["mul2"].data == 160).all()


def test_backward(net: caffe.Net) -> None:
    net.blobs["mul2"].diff[...] = 7
    net.backward()
    assert (net.blobs["data"].diff == 140).all()
