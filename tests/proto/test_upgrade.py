"""Networks of older formats, brought to the present one: text and binary alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.message import Message

from pycaffe_compat.errors import NetError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary_net import parse_binary_net
from pycaffe_compat.proto.source import NetSource
from pycaffe_compat.proto.text import format_message, parse_message, parse_net
from pycaffe_compat.proto.upgrade import upgrade_net

PADDED = """
layers { layer { name: "p" type: "padding" pad: 2 } bottom: "a" top: "b" }
layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 3 blobs_lr: 1 blobs_lr: 2 weight_decay: 3 } bottom: "b" top: "c" }
layers { layer { name: "q" type: "pool" pool: AVE kernelsize: 2 stride: 2 } bottom: "b" top: "q" }
"""


def net_of(text: str) -> Message:
    """A NetParameter as it is written, not upgraded."""
    return parse_message(text, caffe_pb2.NetParameter())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (  # V0: one message for all types
            'layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 3 pad: 1 stride: 2 group: 2 biasterm: false'
            ' weight_filler { type: "xavier" } bias_filler { value: 1 } blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 }'
            ' bottom: "a" top: "b" }',
            'layer { name: "c" type: "Convolution" bottom: "a" top: "b" param { lr_mult: 1 decay_mult: 1 }'
            " param { lr_mult: 2 decay_mult: 0 } convolution_param { num_output: 4 bias_term: false pad: 1 kernel_size: 3"
            ' stride: 2 group: 2 weight_filler { type: "xavier" } bias_filler { value: 1 } } }',
        ),
        (
            'layers { layer { name: "f" type: "innerproduct" num_output: 4 biasterm: true weight_filler { } } }',
            'layer { name: "f" type: "InnerProduct" inner_product_param { num_output: 4 bias_term: true weight_filler { } } }',
        ),
        (
            'layers { layer { type: "pool" pool: AVE kernelsize: 3 stride: 2 pad: 1 } }',
            'layer { type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }',
        ),
        (
            'layers { layer { type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 k: 2 } }',
            'layer { type: "LRN" lrn_param { local_size: 3 alpha: 0.1 beta: 0.5 k: 2 } }',
        ),
        ('layers { layer { type: "dropout" dropout_ratio: 0.3 } }', 'layer { type: "Dropout" dropout_param { dropout_ratio: 0.3 } }'),
        ('layers { layer { type: "concat" concat_dim: 0 } }', 'layer { type: "Concat" concat_param { concat_dim: 0 } }'),
        ('layers { layer { type: "im2col" kernelsize: 2 } }', 'layer { type: "Im2col" convolution_param { kernel_size: 2 } }'),
        ('layers { layer { type: "softmax_loss" } }', 'layer { type: "SoftmaxWithLoss" }'),
        ('layers { layer { type: "tanh" } }', 'layer { type: "TanH" }'),
        ('layers { layer { type: "hdf5_output" hdf5_output_param { file_name: "f" } } }', 'layer { type: "HDF5Output" hdf5_output_param { file_name: "f" } }'),
        ('layers { layer { type: "hdf5_data" source: "s" batchsize: 2 } }', 'layer { type: "HDF5Data" hdf5_data_param { source: "s" batch_size: 2 } }'),
        ('layers { layer { type: "infogain_loss" source: "s" } }', 'layer { type: "InfogainLoss" infogain_loss_param { source: "s" } }'),
        (
            'layers { layer { type: "data" source: "s" batchsize: 2 rand_skip: 3 scale: 0.5 meanfile: "m" cropsize: 4 mirror: true } top: "a" }',
            'layer { type: "Data" top: "a" transform_param { scale: 0.5 mirror: true crop_size: 4 mean_file: "m" }'
            ' data_param { source: "s" batch_size: 2 rand_skip: 3 } }',
        ),
        (
            'layers { layer { type: "images" source: "s" batchsize: 2 rand_skip: 3 shuffle_images: true new_height: 4 new_width: 5 } }',
            'layer { type: "ImageData" image_data_param { source: "s" batch_size: 2 rand_skip: 3 shuffle: true new_height: 4 new_width: 5 } }',
        ),
        (
            'layers { layer { type: "window_data" source: "s" batchsize: 2 det_fg_threshold: 0.1 det_bg_threshold: 0.2'
            ' det_fg_fraction: 0.3 det_context_pad: 4 det_crop_mode: "square" cropsize: 6 } }',
            'layer { type: "WindowData" transform_param { crop_size: 6 } window_data_param { source: "s" batch_size: 2'
            ' fg_threshold: 0.1 bg_threshold: 0.2 fg_fraction: 0.3 context_pad: 4 crop_mode: "square" } }',
        ),
        (  # V1: enum types, rates of arrays
            'layers { name: "c" type: CONVOLUTION bottom: "a" top: "b" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 convolution_param { num_output: 2 } }',
            'layer { name: "c" type: "Convolution" bottom: "a" top: "b" param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 }'
            " convolution_param { num_output: 2 } }",
        ),
        (
            'layers { type: INNER_PRODUCT param: "w" param: "b" blob_share_mode: PERMISSIVE blob_share_mode: STRICT include { phase: TEST } loss_weight: 2 }',
            'layer { type: "InnerProduct" loss_weight: 2 param { name: "w" share_mode: PERMISSIVE } param { name: "b" share_mode: STRICT }'
            " include { phase: TEST } }",
        ),
        ("layers { type: HDF5_DATA } layers { type: NONE } layers { }", 'layer { type: "HDF5Data" } layer { type: "" } layer { }'),
        (
            'layers { type: DATA data_param { source: "s" scale: 0.5 mean_file: "m" crop_size: 4 mirror: true } transform_param { scale: 3 } }',
            'layer { type: "Data" transform_param { scale: 0.5 mirror: true crop_size: 4 mean_file: "m" } data_param { source: "s" } }',
        ),
        (
            "layers { type: IMAGE_DATA image_data_param { scale: 2 } } layers { type: WINDOW_DATA window_data_param { crop_size: 2 } }",
            'layer { type: "ImageData" transform_param { scale: 2 } image_data_param { } }'
            ' layer { type: "WindowData" transform_param { crop_size: 2 } window_data_param { } }',
        ),
        (
            "layers { type: MEMORY_DATA memory_data_param { batch_size: 2 } }",
            'layer { type: "MemoryData" memory_data_param { batch_size: 2 } }',
        ),
        (  # the two old formats in one file
            'layers { layer { name: "r" type: "relu" } } layers { name: "s" type: SIGMOID }',
            'layer { name: "r" type: "ReLU" } layer { name: "s" type: "Sigmoid" }',
        ),
        (
            'input: "a" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4 layers { type: RELU }',
            'layer { name: "input" type: "Input" top: "a" input_param { shape { dim: [1, 2, 3, 4] } } } layer { type: "ReLU" }',
        ),
        (
            'layer { type: "BatchNorm" param { } param { lr_mult: 1 } param { decay_mult: 1 } }',
            'layer { type: "BatchNorm" param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 } }',
        ),
        ('layer { type: "BatchNorm" param { lr_mult: 2 } }', 'layer { type: "BatchNorm" param { lr_mult: 2 } }'),
        (  # as in Caffe, only the format of 2014 had these fields
            'layer { type: "Data" data_param { scale: 2 } }',
            'layer { type: "Data" data_param { scale: 2 } }',
        ),
    ],
)
def test_what_becomes_of_old_nets(old: str, new: str) -> None:
    wanted = net_of(new)
    assert parse_net(old).param == wanted
    assert parse_binary_net(net_of(old).SerializeToString()).param == wanted
    assert upgrade_net(NetSource(wanted)).param == net_of(new)  # what is new stays as it is


def test_padding_is_folded_into_what_reads_it() -> None:
    source = parse_net(PADDED, "n.prototxt")
    conv, pool = source.param.layer
    assert (conv.name, list(conv.bottom), list(conv.convolution_param.pad)) == ("c", ["a"], [2])
    assert (pool.name, list(pool.bottom), pool.pooling_param.pad) == ("q", ["a"], 2)
    assert source.lines == [3, 4]


def test_a_blob_written_again_is_padded_no_longer() -> None:
    text = PADDED + 'layers { layer { name: "r" type: "relu" } bottom: "c" top: "b" } layers { layer { name: "d" type: "conv" } bottom: "b" }'
    assert not parse_net(text).param.layer[-1].convolution_param.pad


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer { }\n\nlayers { }", "n.prototxt:3: the net has both `layer` and `layers`"),
        ("layers { }\n\nlayer { }", "n.prototxt:1: the net has both `layer` and `layers`"),
        ('layers { layer { name: "x\\ny" type: "a\\nb" } }', 'n.prototxt:1: layer "x y" (a b): unknown layer type'),
        ('\nlayers { layer { name: "x" type: "convolution" } }', 'n.prototxt:2: layer "x" (convolution): unknown layer type of 2013'),
        (PADDED + 'layers { layer { name: "r" type: "relu" } bottom: "b" }', "n.prototxt:5: layer \"r\" (relu): only conv and pool can read the padding layer's 'b'"),
        ('layers { layer { name: "p" type: "padding" } bottom: "a" }', 'n.prototxt:1: layer "p" (padding): a padding layer has one bottom and one top'),
        ('input: "a" input_dim: 3', "1 `input` but 1 `input_dim`"),
        ('input: "a" input: "b" input: "c" input_shape { } input_shape { }', "3 `input` but 2 `input_shape`"),
    ],
)
def test_old_nets_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(NetError) as caught:
        parse_net(text, "n.prototxt")
    assert str(caught.value).startswith("n.prototxt:") and message in str(caught.value)


def test_settings_without_use_are_noted() -> None:
    source = parse_net('layers {\n layer { name: "r" type: "relu" kernelsize: 3 new_num: 2 } }', "n.prototxt")
    assert source.notes == [
        'n.prototxt:1: layer "r" (relu): the setting "kernelsize" has no use in a layer of this type',
        'n.prototxt:1: layer "r" (relu): the setting "new_num" has no use in a layer of this type',
    ]
    assert format_message(source.param) == 'layer {\n  name: "r"\n  type: "ReLU"\n}\n'


def test_inputs_become_an_input_layer() -> None:
    source = parse_net(
        'name: "n" input: "a" input: "b"\ninput_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4\n'
        'input_dim: 5 input_dim: 6 input_dim: 7 input_dim: 8\nlayer { name: "r" type: "ReLU" }',
        "n.prototxt",
    )
    first, second = source.param.layer
    assert (first.name, first.type, list(first.top)) == ("input", "Input", ["a", "b"])
    assert [list(shape.dim) for shape in first.input_param.shape] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert second.name == "r" and source.lines == [0, 4] and source.where(0) == "n.prototxt"
    assert not (source.param.input or source.param.input_dim or source.param.input_shape)
    assert parse_net(format_message(source.param)).param == source.param


def test_input_shapes_win_over_dims_and_one_may_serve_all() -> None:
    net = parse_net('input: "a" input: "b" input_shape { dim: 9 dim: 8 } input_dim: 1').param
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[9, 8]]


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ('input: "a"', []),
        ("input_dim: 1", []),
        ("input_shape { dim: 1 }", []),
        ('input: "a" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5', [[1, 2, 3, 4]]),
        ('input: "a" input_shape { dim: 1 } input_shape { dim: 2 }', [[1]]),
    ],
)
def test_inputs_without_sizes_and_sizes_without_inputs_mean_nothing(text: str, shapes: list[list[int]]) -> None:
    net = parse_net(text + ' layer { name: "r" type: "Python" top: "a" }').param
    assert [list(shape.dim) for layer in net.layer for shape in layer.input_param.shape] == shapes
    assert [layer.type for layer in net.layer] == (["Input"] if shapes else []) + ["Python"]
    assert not (net.input or net.input_dim or net.input_shape)


@pytest.mark.parametrize("stem", ["v0_binary_d", "v1_binary_d"])
def test_arrays_of_old_binary_nets_are_kept(golden: Path, stem: str) -> None:
    path = golden / "layers" / "data" / f"{stem[:2]}.caffemodel"
    old = caffe_pb2.NetParameter.FromString(path.read_bytes())
    source = parse_binary_net(path.read_bytes(), str(path), arrays=True)
    have = {layer.name: [blob.SerializeToString() for blob in layer.blobs] for layer in source.param.layer if layer.blobs}
    wanted = {
        layer.layer.name or layer.name: [blob.SerializeToString() for blob in [*layer.layer.blobs, *layer.blobs]]
        for layer in old.layers
    }
    assert have == {name: blobs for name, blobs in wanted.items() if blobs} and have
    assert not any(layer.blobs for layer in parse_binary_net(path.read_bytes()).param.layer)
