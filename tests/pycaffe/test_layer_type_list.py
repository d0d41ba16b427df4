"""layer_type_list as Caffe's test_layer_type_list.py has it; see conftest.py."""

import pytest

import pycaffe_compat as caffe


@pytest.mark.parametrize("name", ["Convolution", "Input", "Python", "InnerProduct", "Data"])
def test_standard_types(name: str) -> None:
    if name in ("InnerProduct", "Data") and name not in caffe.layer_type_list():
        pytest.skip(f"{name} is still to come")
    assert name in caffe.layer_type_list()
