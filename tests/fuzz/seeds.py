"""Inputs to begin with: a few small files of each kind, and the grammar's words."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from pycaffe_compat.data.datum import array_to_datum, image_to_datum
from pycaffe_compat.data.imageset import write_lmdb
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.binary import array_to_blob
from pycaffe_compat.proto.dialects import find_dialect
from pycaffe_compat.proto.protofile import HERE
from pycaffe_compat.proto.text import parse_message, parse_net
from pycaffe_compat.solver.snapshot import State, write_state
from pycaffe_compat.weights import write_weights

TEXTS = [
    'name: "n" input: "a" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4 layer { name: "c" type: "Convolution" bottom: "a"'
    ' top: "b" param { lr_mult: 1 } convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }',
    'layers { layer { name: "p" type: "padding" pad: 2 } bottom: "a" top: "b" } layers { layer { name: "c" type: "conv" num_output: 4'
    ' kernelsize: 3 blobs_lr: 1 weight_decay: 3 } bottom: "b" top: "c" } layers { layer { type: "data" source: "s" scale: 0.5 } top: "a" }',
    'layers { name: "c" type: CONVOLUTION blobs_lr: 1 param: "w" blob_share_mode: STRICT include { phase: TEST } }'
    ' layers { type: DATA data_param { scale: 0.5 mean_file: "m" crop_size: 4 } }',
    "layer < type: 'BatchNorm' param {} param {}, param: {}; > state { phase: 0 stage: ['a' \"b\", 'c'] } # end\ninput_shape: [ { dim: [1, 0x2, 03] } ]",
    'layer { name: "d" type: "DetectionOutput" detection_output_param { num_classes: 21 nms_param { nms_threshold: .45f } code_type: CENTER_SIZE } }',
    'layer { forward_type: FLOAT16 batch_norm_param { scale_bias: true eps: 1e-4 } power_param { shift: -inf scale: nan power: - 1 } }',
    'net: "a" base_lr: 0.1 solver_type: ADAM lr_policy: "step" net_param { layers { type: RELU } } test_iter: 3 snapshot_format: HDF5',
    '"\\x41\\102\\n\\u00e9" name: "\\377" layer { clip_param { min: 0 } } force_backward: t',
]


def arrays() -> list[bytes]:
    """Serialised BlobProtos."""
    old = caffe_pb2.BlobProto(num=1, channels=1, height=2, width=3, data=range(6))
    doubles = caffe_pb2.BlobProto(double_data=[1, 2], shape=caffe_pb2.BlobShape(dim=[2]))
    raw = find_dialect("nvidia")["BlobProto"](raw_data=b"\0\x3c\0\x40", raw_data_type=2)
    raw.shape.dim.append(2)
    single = b"\x2d\0\0\x80\x3f" * 3 + b"\x3a\x02\x08\x03"
    blobs = [array_to_blob(np.ones((2, 3)), diff=np.zeros((2, 3))), old, doubles, raw]
    return [*(blob.SerializeToString() for blob in blobs), single]


def nets() -> list[bytes]:
    """Serialised nets of every age and dialect, with arrays."""
    found = []
    for text in TEXTS[:3]:
        net = parse_message(text, caffe_pb2.NetParameter())
        for layer in [*net.layer, *net.layers]:
            layer.blobs.append(array_to_blob(np.arange(3)))
            if layer.DESCRIPTOR.name == "V1LayerParameter" and layer.HasField("layer"):
                layer.layer.blobs.append(array_to_blob(np.arange(3)))
        found.append(net.SerializeToString())
    return found + [parse_net(text).param.SerializeToString() for text in TEXTS[4:6]]


def hdf5_files(folder: Path) -> list[bytes]:
    """Weights and states in HDF5, plain and packed."""
    net = caffe_pb2.NetParameter(layer=[caffe_pb2.LayerParameter(name=name) for name in ("a", "b/c")])
    write_weights(folder / "w.h5", net, {"a": [np.ones((2, 3))], "b/c": [np.ones(3), np.float32(1)]})
    write_state(str(folder / "s.h5"), State(7, "w.h5", [np.ones((2, 3)), np.ones(2)], 1, {"x": [1, 2]}))
    with h5py.File(folder / "z.h5", "w") as file:
        file.create_dataset("data/a/0", data=np.arange(64.0), compression="gzip", shuffle=True, fletcher32=True, chunks=(32,))
        file["data/b/0"] = h5py.SoftLink("/data/a/0")
        file["data/c/0"] = h5py.ExternalLink("w.h5", "/data/a/0")
        file.create_dataset("data/d/0", (2, 2), "<f2", fillvalue=1)
    return [(folder / name).read_bytes() for name in ("w.h5", "s.h5", "z.h5")]


def states(folder: Path) -> list[bytes]:
    """A solver state."""
    write_state(str(folder / "s"), State(7, "w", [np.ones((2, 3)), np.ones(2)], 1, {"x": [1, 2]}))
    return [(folder / "s").read_bytes()]


def schemas() -> list[bytes]:
    """.proto and .desc files."""
    overlay = b'import "caffe.proto"; extend LayerParameter { optional M m_param = 0x3e7 [default = "x"]; } message M { enum E { A = 0; } repeated E e = 1 [packed = true]; reserved 2; } extend Phase { BOTH = 2; }'
    return [overlay, (HERE / "community.proto").read_bytes(), (HERE / "caffe.desc").read_bytes()]


def records() -> list[bytes]:
    """Datum messages: numbers, floats, an image file, one with objects, a plain one as its image."""
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    plain, floats = array_to_datum(pixels, 1), array_to_datum(pixels.astype(np.float32))
    image = image_to_datum(pixels.transpose(1, 2, 0)[:, :, :1], 3, "png")
    annotated = find_dialect("ssd")["AnnotatedDatum"](type=0)
    annotated.datum.MergeFromString(image.SerializeToString())
    annotated.annotation_group.add(group_label=2).annotation.add(instance_id=1).bbox.xmax = 0.5
    return [message.SerializeToString() for message in (plain, floats, image, annotated)]


def databases(folder: Path) -> list[bytes]:
    """LMDB files: of small records, and of one that lies in pages of its own."""
    found = []
    for name, values in (("small", records()), ("large", [array_to_datum(np.ones((1, 60, 100), np.uint8)).SerializeToString()])):
        write_lmdb(folder / name, iter([(b"%08d" % i, value) for i, value in enumerate(values)]), name)
        found.append((folder / name / "data.mdb").read_bytes())
    return found


def seeds(target: str, folder: Path) -> list[bytes]:
    """What a target's inputs look like."""
    texts = [text.encode() for text in TEXTS]
    kinds = {
        "text": texts,
        "weights": nets(),
        "binary_net": nets(),
        "blob": arrays(),
        "hdf5": hdf5_files(folder) if target == "hdf5" else [],
        "state": states(folder) if target == "state" else [],
        "schema": schemas(),
        "datum": records(),
        "lmdb": databases(folder) if target == "lmdb" else [],
        "upgrade": texts + nets(),
    }
    return kinds[target]


def words() -> list[bytes]:
    """The schema's names and the grammar's marks, for inputs that are put together of pieces."""
    names = set()
    for name in ("bvlc", "nvidia", "intel", "community"):
        dialect = find_dialect(name)
        for message in dialect["NetParameter"].DESCRIPTOR.file.message_types_by_name.values():
            names |= {field.name for field in message.fields}
            names |= {value.name for enum in message.enum_types for value in enum.values}
    marks = ["{", "}", "<", ">", "[", "]", ":", ",", ";", "-", "#", "\n", '"', "'", "\\x", "\\0", "inf", "nan", "0x7fffffff", "1e9"]
    types = ["conv", "padding", "pool", "innerproduct", "BatchNorm", "message", "extend", "import", "optional", "repeated"]
    return [word.encode() for word in [*sorted(names), *marks, *types, "99999999999999999999", "9223372036854775807"]]
