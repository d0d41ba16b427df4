"""The examination of nets and weights: everything at once, each with its place and what can be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pycaffe_compat import save
from pycaffe_compat.doctor import Report, examine
from pycaffe_compat.graph import TEST, TRAIN, Graph
from pycaffe_compat.weights import Weights, write_weights

IN = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 6 dim: 6 } } }\n'
CONV = 'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 3 kernel_size: 3 } }\n'
FC = 'layer { name: "f" type: "InnerProduct" bottom: "c" top: "f" inner_product_param { num_output: 4 } }\n'


def told(report: Report) -> list[str]:
    return [str(finding) for finding in report.findings]


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("net.prototxt")


def test_nothing_to_report(net: Path) -> None:
    net.write_text(IN + CONV + FC)
    report = examine(net)
    assert (report.findings, report.layers, report.runs, report.onnx) == ([], 3, True, True)


# text, what is found, whether it runs
FAULTS: list[tuple[str, list[str], bool]] = [
    (
        IN + 'layer { name: "r" type: "Relu" bottom: "x" top: "x" }\n' + CONV + 'layer { name: "z" type: "Zyx" bottom: "c" top: "z" }\n',
        [
            'error: net.prototxt:2: layer "r" (Relu): the layer type "Relu" is not known here; did you mean "ReLU"?: write it as a class',
            'error: net.prototxt:4: layer "z" (Zyx): the layer type "Zyx" is not known here: write it as a class',
            'warning: net.prototxt:2: layer "r" (Relu): 1 layer behind it could not be examined: c',
        ],
        False,
    ),
    (
        IN + CONV.replace("num_output", "num_outputs") + FC.replace("num_output: 4", "num_output: 4 colour: 3"),
        [
            'error: net.prototxt:2:80: layer "c": ConvolutionParameter has no field "num_outputs"; did you mean "num_output"?',
            'error: net.prototxt:3:97: layer "f": InnerProductParameter has no field "colour": no dialect has it: delete it, or give',
            'error: net.prototxt:2: layer "c" (Convolution): ',
            'warning: net.prototxt:2: layer "c" (Convolution): 1 layer behind it could not be examined: f',
        ],
        False,
    ),
    (
        IN + CONV.replace("kernel_size: 3", "kernel_size: 9") + 'layer { name: "s" type: "Sigmoid" bottom: "y" top: "s" }\n',
        [
            'error: net.prototxt:2: layer "c" (Convolution): kernel 9x9 does not fit into a bottom of shape 1x2x6x6',
            'error: net.prototxt:3: layer "s" (Sigmoid): bottom "y" is produced by no layer above',
        ],
        False,
    ),
    (
        'layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "no.txt" batch_size: 2 } }\n' + CONV + FC,
        [
            'error: net.prototxt:1: layer "d" (HDF5Data): no.txt: the list of HDF5 files cannot be read: No such file or directory: h5py',
            'warning: net.prototxt:1: layer "d" (HDF5Data): 2 layers behind it could not be examined: c, f',
            "note: net.prototxt: has no Input layer in this state, so no form in ONNX",
        ],
        False,
    ),
    (
        'name: "old" input: "x" input_dim: 1 input_dim: 2 input_dim: 6 input_dim: 6\nlayers { name: "r" type: RELU bottom: "x" top: "x" }',
        ["note: net.prototxt: is in the format of 2014 (layers): it is upgraded when it is read"],
        True,
    ),
    (
        'input: "x" input_dim: 1 input_dim: 2 input_dim: 6 input_dim: 6\nlayers { layer { name: "r" type: "relu" kernelsize: 3 } bottom: "x" top: "x" }',
        [
            "note: net.prototxt: is in the format of 2013 (layers): it is upgraded",
            'note: net.prototxt:2: layer "r" (relu): the setting "kernelsize" has no use in a layer of this type',
        ],
        True,
    ),
    ("layers { } layer { }", ["note: net.prototxt: is in", "error: net.prototxt:1: the net has both `layer` and `layers`"], False),
    (
        IN + 'layer { name: "n" type: "Nonsense" bottom: "x" top: "n" norm_param { across_spatial: false } }\n',
        [
            'note: net.prototxt: is in the dialect "ssd", which is read as it is',
            'error: net.prototxt:2: layer "n" (Nonsense): the layer type "Nonsense" is not known here',
        ],
        False,
    ),
    (
        IN + 'layer { name: "a" type: "Scale" bottom: "x" top: "a" detectnet_groundtruth_param { } detectnet_augmentation_param { } interp_param { } }\n',
        [
            'error: net.prototxt:2:119: layer "a": LayerParameter has no field "interp_param"',
        ],
        False,
    ),
    (  # SSD's schema lacks two fields of it, stock Caffe's only one, and with it all that is within
        IN + 'layer { name: "a" type: "Permute" bottom: "x" top: "a" permute_param { order: 0 order: 2 order: 1 ordre: 3 ordre: 0 } }\n',
        [
            'error: net.prototxt:2:99: layer "a": PermuteParameter has no field "ordre"; did you mean "order"? (2 times: also in line 2)',
        ],
        False,
    ),
    (
        IN + 'layer { name: "a" type: "Scale" bottom: "x" top: "a" include { phase: TRAIN } exclude { phase: TEST } }\n',
        ['error: net.prototxt:2: layer "a" has both include and exclude rules: use one'],
        False,
    ),
    (
        IN.replace("input_param", 'include { stage: "deploy" } input_param'),
        ["error: net.prototxt: has no layers in this state: its rules know the stages deploy"],
        False,
    ),
    (
        IN + 'layer { name: "t" type: "Strange" bottom: "x" top: "t" include { phase: TRAIN } }\n',
        ['warning: net.prototxt:2: layer "t" (Strange): the layer type "Strange" is not known here; this state has no use for it'],
        True,
    ),
    (
        IN + 'layer { name: "p" type: "Python" bottom: "x" top: "p" python_param { module: "own_crash" layer: "Crash" } }\n',
        ['error: net.prototxt:2: layer "p" (Python): KeyError: \'no such key\''],
        False,
    ),
    (
        IN + 'layer { name: "h" type: "Filter" bottom: "x" bottom: "x" top: "h" }\n',
        ['error: net.prototxt:2: layer "h" (Filter): '],
        False,
    ),
    (IN + "layer {", ['error: net.prototxt:2:8: Expected "}"'], False),
    ("\0\1", ["error: net.prototxt: is not a prototxt but looks like binary data"], False),
]


@pytest.mark.parametrize(("text", "expected", "runs"), FAULTS)
def test_all_faults_at_once(text: str, expected: list[str], runs: bool, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net.write_text(text)
    Path("own_crash.py").write_text("class Crash:\n    def __init__(self, param):\n        raise KeyError('no such key')\n")
    monkeypatch.syspath_prepend(".")
    report = examine(net, phase=TEST)
    lines = told(report)
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start), line
        assert "\n" not in line
    assert report.runs == runs


DATA = 'layer { name: "d" type: "Data" top: "x" top: "l" transform_param { crop_size: 9 } data_param { source: "no" batch_size: 4 backend: LMDB } }\n'
IMAGES = DATA.replace('"Data"', '"ImageData"').replace("crop_size: 9", "").replace("data_param", "image_data_param").replace("backend: LMDB", "new_height: 7 new_width: 8")
MISSING = [
    (DATA, "--shape x=4,C,9,9 --shape l=4 examines"),
    (IMAGES, "--shape x=4,C,7,8 --shape l=4 examines"),
    (DATA.replace('"Data"', '"FormulaData"'), "--import MODULE; without the data, --shape x=4,C,9,9 --shape l=4 examines"),
    (FC, "if it is an input, --shape c=N,C,H,W puts it in front"),
    (IN.replace('top: "x"', 'top: "c" include { stage: "deploy" }') + FC, "layers of other states write it: --stage deploy"),
    (IN.replace('top: "x"', 'top: "c" include { phase: TRAIN }') + FC, "layers of other states write it: --phase TRAIN"),
    (
        IN + 'layer { name: "p" type: "Python" bottom: "x" top: "c" top: "d" python_param { module: "rpn.proposal" layer: "P" } }\n' + FC,
        "is its folder on PYTHONPATH?: without the layer, --shape c=N,... --shape d=N,... examines those behind it",
    ),
    (
        IN + 'layer { name: "p" type: "Proposal" bottom: "x" top: "c" }\n' + FC,
        "--import MODULE; without the layer, --shape c=N,... examines those behind it",
    ),
]


@pytest.mark.parametrize(("text", "end"), MISSING)
def test_what_is_missing_is_told_with_what_to_write(text: str, end: str, net: Path) -> None:
    net.write_text(text)
    errors = [line for line in told(examine(net, phase=TEST)) if line.startswith("error: ")]
    assert len(errors) == 1
    assert end in errors[0]


def test_settings_of_a_type_that_is_not_known_are_not_to_be_deleted(net: Path) -> None:
    net.write_text(IN + 'layer { name: "y" type: "Yolov9" bottom: "x" top: "y" yolov9_output_param { mask: 3 } }\n')
    assert told(examine(net))[0] == (
        'error: net.prototxt:2:55: layer "y": LayerParameter has no field "yolov9_output_param": '
        "no dialect has it: give the schema of the fork whose layer type it sets, --dialect FILE.proto"
    )


def test_a_crop_that_another_fork_would_have_aligned_is_told(net: Path) -> None:
    crop = 'layer { name: "k" type: "Crop" bottom: "x" bottom: "c" top: "k" }\n'
    net.write_text(IN + CONV + crop)
    report = examine(net)
    assert report.runs and len(report.findings) == 1
    assert told(report)[0].startswith('warning: net.prototxt:3: layer "k" (Crop): cuts 4x4 out of 6x6 at offset 0, for want of a crop_param: the fork')
    for same in (crop.replace("top:", "crop_param { offset: 1 } top:"), crop.replace('bottom: "c"', 'bottom: "x"')):
        net.write_text(IN + CONV + same)
        assert not examine(net).findings


@pytest.mark.parametrize("kind", ['"Python"', '"Proposal"'])
def test_shapes_stand_for_a_layer_whose_code_is_not_there(kind: str, net: Path) -> None:
    net.write_text(IN + f'layer {{ name: "p" type: {kind} bottom: "x" top: "c" top: "d" }}\n' + FC)
    report = examine(net, shapes={"c": (3, 5), "d": (3,)})
    assert report.runs and report.onnx
    assert told(examine(net, shapes={"c": (3, 5)}))[0].endswith('give "d" a shape too')
    assert not examine(net, shapes={"f": (3, 5)}).runs  # a layer that runs here stays


def test_a_field_that_many_layers_have_is_told_once(net: Path) -> None:
    bad = 'layer { name: "n" type: "ReLU" bottom: "x" top: "x" relu_param { colour: 3 } }\n'
    net.write_text(IN + 7 * bad)
    assert told(examine(net)) == [
        'error: net.prototxt:2:66: layer "n": ReLUParameter has no field "colour" (7 times: also in line 3, 4, 5, 6, ...): no dialect '
        "has it: delete it, or give the fork's own schema, --dialect FILE.proto"
    ]


def test_a_shape_is_an_input_that_the_file_leaves_out(net: Path) -> None:
    net.write_text(CONV + FC)
    assert examine(net, shapes={"x": (1, 2, 6, 6)}).runs
    assert told(examine(net, shapes={"x": (1, 2, 2, 2)}))[0].startswith('error: net.prototxt:1: layer "c" (Convolution): kernel')
    assert told(examine(net, shapes={"z": (1, 2, 6, 6)})) == ['error: net.prototxt: no data layer writes "z"']


def test_a_shape_stands_for_data_that_are_not_there(net: Path) -> None:
    data = 'layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "no.txt" batch_size: 2 } }\n'
    net.write_text(data + CONV.replace("kernel_size: 3", "kernel_size: 9") + FC)
    lines = told(examine(net, shapes={"x": (2, 1, 7, 7)}))
    assert lines[0] == 'note: net.prototxt:1: layer "d" (HDF5Data): its source is not examined: the shapes of its blobs are given'
    assert "kernel 9x9 does not fit into a bottom of shape 2x1x7x7" in lines[1]
    assert examine(net, shapes={"x": (2, 1, 20, 20)}).runs
    assert told(examine(net, shapes={"y": (2, 1, 20, 20)})) == ['error: net.prototxt: no data layer writes "y"']


def test_it_agrees_with_building_on_the_golden_nets(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden / "layers")
    stems = sorted(path.stem for path in Path(".").glob("*.prototxt"))[::6]
    for stem in stems:
        try:
            Graph(f"{stem}.prototxt", TRAIN)
            builds = True
        except Exception:
            builds = False
        assert examine(f"{stem}.prototxt", phase=TRAIN).runs == builds, stem


def weights_of(text: str) -> tuple[Any, Weights]:
    Path("w.prototxt").write_text(text)
    graph = Graph("w.prototxt", TEST)
    return graph.param, graph.weights()


# what is done to the weights, what is found, whether it runs
def _rename(weights: Weights) -> None:
    weights["conv1"] = weights.pop("c")


def _spoil(weights: Weights) -> None:
    weights["f"][1][2] = np.nan


def _reshape(weights: Weights) -> None:
    weights["f"][0] = weights["f"][0][:, :-1]
    weights["c"] = weights["c"][:1]


def _others(weights: Weights) -> None:
    for name in list(weights):
        weights[f"other_{name}"] = weights.pop(name)


def _nothing(weights: Weights) -> None:
    pass


@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
@pytest.mark.parametrize(
    ("change", "expected", "runs"),
    [
        (_nothing, [], True),
        (
            _rename,
            [
                'warning: net.prototxt:2: layer "c" (Convolution): has no weights in W: it keeps what its fillers give',
                'note: W: layer "conv1": its 57 numbers are read by no layer: net.prototxt has no such layer',
            ],
            True,
        ),
        (_spoil, ['warning: net.prototxt:3: layer "f" (InnerProduct): parameter 1 in W holds 1 numbers that are NaN or infinite'], True),
        (
            _reshape,
            [
                'error: net.prototxt:2: layer "c" (Convolution): has 2 parameter blobs, W holds 1',
                'error: net.prototxt:3: layer "f" (InnerProduct): parameter 0 has shape 4x48, W holds 4x47',
            ],
            False,
        ),
        (_others, ['error: W: is of another net: no layer of it is in net.prototxt: it has "other_c", "other_f"..., the net "c", "f"...'], False),
    ],
)
def test_weights(change: Any, expected: list[str], runs: bool, suffix: str, net: Path) -> None:
    net.write_text(IN + CONV + FC)
    param, weights = weights_of(IN + CONV + FC)
    change(weights)
    for name in weights:
        if name not in {layer.name for layer in param.layer}:
            param.layer.add(name=name, type="X")
    path = f"w{suffix}"
    write_weights(path, param, weights)
    report = examine(net, path)
    lines = told(report)
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start.replace("W", path)), line
    assert report.runs == runs


def test_weights_of_safetensors(net: Path) -> None:
    net.write_text(IN + CONV + FC)
    save(Graph(net, TEST), "w.safetensors")
    assert told(examine(net, "w.safetensors")) == []


def test_weights_of_layers_that_could_not_be_examined_are_not_called_spare(net: Path) -> None:
    param, weights = weights_of(IN + CONV + FC)
    write_weights("w.caffemodel", param, weights)
    net.write_text(IN + CONV + 'layer { name: "z" type: "Zyx" bottom: "c" top: "z" }\n' + FC.replace('bottom: "c"', 'bottom: "z"'))
    lines = told(examine(net, "w.caffemodel"))
    assert [line.split(":")[0] for line in lines] == ["error", "warning"]


def test_fields_of_a_binary_file_that_no_schema_knows(net: Path) -> None:
    net.write_text(IN + CONV)
    param, weights = weights_of(IN + CONV)
    layer = next(layer for layer in param.layer if layer.name == "c")
    layer.MergeFromString(b"\xfa\xff\x03\x03abc")  # field 8191
    write_weights("w.caffemodel", param, weights)
    lines = told(examine(net, "w.caffemodel"))
    assert lines == [
        'note: w.caffemodel: layer "c" (Convolution): LayerParameter has no field of number 8191: it is ignored'
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "error: bad: no such file"),
        (b"", "error: bad: "),
        (b"\x89HDF\r\n\x1a\nabc", "error: bad: "),
        (b"layer { }", "error: bad: "),
    ],
)
def test_weights_that_cannot_be_read(content: bytes | None, message: str, net: Path) -> None:
    net.write_text(IN + CONV)
    if content is not None:
        Path("bad").write_bytes(content)
    (line,) = told(examine(net, "bad"))
    assert line.startswith(message)


def test_shared_parameters_need_no_weights_of_their_own(net: Path) -> None:
    share = 'param { name: "w" } param { name: "b" }'
    text = (
        IN
        + CONV.replace("convolution_param", f"{share} convolution_param")
        + CONV.replace('"c"', '"d"').replace("convolution_param", f"{share} convolution_param")
    )
    net.write_text(text)
    param, weights = weights_of(text)
    write_weights("w.h5", param, weights)
    with h5py.File("w.h5") as file:
        assert not len(file["data/d"])
    assert told(examine(net, "w.h5")) == []
