"""Prototxt: what parses, where its layers stand, and what is said of what does not parse."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from pycaffe_compat.errors import CaffeError, NetError, PrototxtError, SolverError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import (
    format_message,
    parse_message,
    parse_net,
    parse_solver,
    read_net,
    read_solver,
    upgrade_net,
)

# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo: 1", '1:1: NetParameter has no field "foo"'),
        ('name: "n"\nlayer {\n  nam: "a" }', '3:3: LayerParameter has no field "nam"; did you mean "name"?'),
        ("layer { convolution_params { } }", '"convolution_params"; did you mean "convolution_param"?'),
        (
            "layer { convolution_param { kernel: 3 } }",
            '1:29: ConvolutionParameter has no field "kernel"; did you mean "kernel_',
        ),
        ('layer { name: "a"\nname: "b" }', '2:7: LayerParameter has the field "name" twice'),
        ("layer { include { phase: TRIAN } }", '1:26: Phase has no value "TRIAN"; did you mean "TRAIN"?'),
        ("layer { pooling_param { pool: ave } }", 'PoolMethod has no value "ave"; did you mean "AVE"?'),
        ("layer { pooling_param { pool: x } }", 'has no value "x": use one of MAX, AVE, STOCHASTIC'),
        ("layer { include { phase: 7 } }", '1:26: Enum type "caffe.Phase" has no value with number 7.'),
        ("layer { name: 3 }", "1:15: Expected string but found: '3'"),
        ('layer {\n  name: "a', "2:9: String missing ending quote"),
        ('layer { name: "a"', '1:15: Expected "}".'),
        ("}", "1:1: Expected identifier"),
        ("input_dim: 99999999999", "1:12: Value out of range: 99999999999"),
        ("force_backward: maybe", '1:17: Expected "true" or "false".'),
        ('name: "\\377"', "Couldn't parse string"),
        ("layer { [a.b] { } }", "does not have extensions"),
        ("name: \0", "1:7: Expected string"),
        ('name: "n"\nlayer { name: "c"\nclip_param { min: 0 } }', "2: layer[0].clip_param.max must be set"),
        ("a" * 100_000 + ": 1", "1:1: NetParameter has no field"),
        ("layer { include { " * 5_000, '1:19: NetStateRule has no field "layer"'),
        ("{" * 100_000, "1:1: Expected identifier"),
    ],
)
def test_text_that_does_not_parse(text: str, message: str) -> None:
    with pytest.raises(PrototxtError) as caught:
        parse_net(text, "dir/net.prototxt")
    said = str(caught.value)
    assert said.startswith("dir/net.prototxt:") and message in said
    assert said.isprintable() and len(said) < 300


def test_recursion_is_an_error_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caffe's schema has no recursive message; the guard is for parsers that recurse on what they skip."""

    def parse(text: str, message: Message) -> None:
        parse(text, message)

    monkeypatch.setattr("google.protobuf.text_format.Parse", parse)
    with pytest.raises(PrototxtError, match=r"^n\.prototxt: messages are nested too deeply$"):
        parse_net("", "n.prototxt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'name: "caf\xe9"', "net.prototxt:1: byte 0xe9 is not UTF-8: save it as UTF-8"),
        (b'# \n\nname: "\xff"', "net.prototxt:3: byte 0xff is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "net.prototxt: is not a prototxt but looks like a PNG image"),
        (b"\x89HDF\r\n\x1a\n\0\0", "net.prototxt: is not a prototxt but looks like an HDF5 file"),
        (b"\n\x02L4\xa2\x06\x04\n\x02ab\0\1\2", "net.prototxt: is not a prototxt but looks like binary data"),
        (b"name: 'a'\0", "net.prototxt: is not a prototxt but looks like binary data"),
        (b"PK\x03\x04\0\0\xff", "net.prototxt: is not a prototxt but looks like a zip archive"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(content)
    for read in (read_net, read_solver):
        with pytest.raises(PrototxtError) as caught:
            read(path)
        assert message in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "message"), [("absent", "no such file"), ("", "is a directory"), ("a\0b", "cannot be read")]
)
def test_paths_that_are_no_files(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(PrototxtError, match=message):
        read_net(tmp_path / name)


def test_utf8_with_and_without_byte_order_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        path = tmp_path / f"{encoding}.prototxt"
        path.write_text('name: "réseau"', encoding=encoding)
        assert read_net(path).param.name == "réseau"


# ------------------------------------------------------------------------------------------------------ lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ('layer { name: "a" }', [1]),
        ('name: "n"\n\nlayer {\n}\nlayer{}\n', [3, 5]),
        ("layer {} layer {} layer {}\nlayer {}", [1, 1, 1, 2]),
        ("layer: {}\nlayer:{}\nlayer : < >\nlayer <\n>\n", [1, 2, 3, 4]),
        ("layer\n\n{ }\nlayer {}", [1, 4]),
        ("# layer { }\nlayer { } # layer { }\n# '\nlayer { }", [2, 4]),
        ('name: "layer { # "\nlayer { name: "}" }\nlayer { name: \'"}\' }', [2, 3]),
        (r'name: "a\"layer {" ' + '\nlayer { name: "\\\\" }\nlayer { }', [2, 3]),
        ("layer { include { } include { phase: TEST } }\nlayer { }", [1, 2]),
        ("layer: [ { },\n { }\n, < > ]\nlayer { }", [1, 2, 3, 4]),
        ('layer { name: "a"\n "b" }; layer { },\nlayer { }', [1, 2, 3]),
        ('name: "layer" layer { type: "layer"\nbottom: ["layer", "x"] }\nlayer { }', [1, 3]),
        ("state { stage: 'layer' }\r\nlayer { }\r\nlayer { }", [2, 3]),
    ],
)
def test_the_line_of_each_layer(text: str, lines: list[int]) -> None:
    source = parse_net(text, "n.prototxt")
    assert source.lines == lines
    assert [source.where(i) for i in range(len(lines))] == [f"n.prototxt:{line}" for line in lines]


def test_where_of_what_has_no_line() -> None:
    assert parse_net("layer { }").where(0) == "<text>:1"
    assert parse_net("layer { }", "n").where(5) == "n"
    assert parse_net("").where(0) == ""


@given(
    st.lists(
        st.tuples(st.sampled_from(["layer {", "layer:{", "layer <"]), st.text(max_size=8), st.integers(0, 3))
    )
)
def test_lines_of_random_layers(layers: list[tuple[str, str, int]]) -> None:
    text, line, lines = "", 1, []
    for opening, name, breaks in layers:
        name_text = format_message(caffe_pb2.LayerParameter(name=name))
        closing = ">" if opening.endswith("<") else "}"
        lines.append(line)
        text += f'{opening} # {{ "\n {name_text} {closing}' + "\n" * breaks
        line += 1 + name_text.count("\n") + breaks
    source = parse_net(text)
    assert source.lines == lines
    assert [layer.name for layer in source.param.layer] == [name for _, name, _ in layers]


def test_every_golden_net_has_its_lines(golden: Path) -> None:
    paths = sorted(golden.glob("**/*net.prototxt"))
    assert paths
    for path in paths:
        text = path.read_text(encoding="utf-8").splitlines()
        if any(line.startswith("layers") for line in text):
            with pytest.raises(NetError, match="before 2014"):
                read_net(path)
            continue
        source = read_net(path)
        lines = [line for line in source.lines if line]
        assert lines == [i for i, line in enumerate(text, 1) if line.replace(" ", "").startswith("layer{")]
        assert len(source.lines) == len(source.param.layer)


# ------------------------------------------------------------------------------------------------ old formats


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
    ("text", "message"),
    [
        ('input: "a"', "1 `input` but 0 `input_dim`"),
        ('input: "a" input_dim: 3', "1 `input` but 1 `input_dim`"),
        ('input: "a" input_shape { } input_shape { }', "1 `input` but 2 `input_shape`"),
        ("input_dim: 1", "0 `input` but 1 `input_dim`"),
        ("layers { }", "1: `layers` is Caffe's format of before 2014: upgrade the file first"),
        ("\nlayers { layer { } }", "2: `layers` is Caffe's format of before 2014"),
        ("layer { }\n\nlayers { }", "3: the net has both `layer` and `layers`"),
    ],
)
def test_old_formats_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(NetError) as caught:
        parse_net(text, "n.prototxt")
    assert str(caught.value).startswith("n.prototxt:") and message in str(caught.value)


def test_batch_norm_statistics_are_not_trained() -> None:
    net = parse_net('layer { type: "BatchNorm" param {} param { lr_mult: 1 } param { decay_mult: 1 } }').param
    assert [(spec.lr_mult, spec.decay_mult) for spec in net.layer[0].param] == [(0, 0)] * 3
    net = parse_net('layer { type: "BatchNorm" param { lr_mult: 2 } }').param
    assert net.layer[0].param[0].lr_mult == 2


def test_an_upgraded_net_stays_as_it_is() -> None:
    net = parse_net('input: "a" input_shape { dim: 1 } layer { }').param
    before = net.SerializeToString()
    assert upgrade_net(net) is False and net.SerializeToString() == before


# ---------------------------------------------------------------------------------------------------- solvers


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SGD", "SGD"),
        ("NESTEROV", "Nesterov"),
        ("ADAGRAD", "AdaGrad"),
        ("RMSPROP", "RMSProp"),
        ("ADADELTA", "AdaDelta"),
        ("ADAM", "Adam"),
    ],
)
def test_solver_type_becomes_type(old: str, new: str) -> None:
    solver = parse_solver(f"solver_type: {old}")
    assert solver.type == new and not solver.HasField("solver_type")


def test_solvers_that_are_refused() -> None:
    with pytest.raises(SolverError, match=r"^s\.prototxt: both `type` and `solver_type`"):
        parse_solver('type: "SGD" solver_type: ADAM', "s.prototxt")
    with pytest.raises(NetError, match="before 2014"):
        parse_solver("net_param { layers { } }", "s.prototxt")
    with pytest.raises(PrototxtError, match=r's\.prototxt:2:1: .* "momentun"; did you mean "momentum"\?'):
        parse_solver("base_lr: 1\nmomentun: 1", "s.prototxt")


def test_nets_inside_a_solver_are_upgraded() -> None:
    inner = '{ input: "a" input_shape { dim: 1 } }'
    solver = parse_solver(f"train_net_param {inner} test_net_param {inner} test_net_param {inner}")
    assert [net.layer[0].type for net in (solver.train_net_param, *solver.test_net_param)] == ["Input"] * 3


def test_golden_solvers_are_read(golden: Path) -> None:
    paths = sorted(golden.glob("solvers/*_solver.prototxt"))
    assert len(paths) >= 14
    types = {read_solver(path).type for path in paths}
    assert types == {"SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"}


# ------------------------------------------------------------------------------------------------- formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0001, "0.0001"),
        (0.01, "0.01"),
        (3.0, "3"),
        (-2.5, "-2.5"),
        (1e-8, "1e-08"),
        (100000.0, "100000"),
        (1e6, "1e+06"),
        (1 / 3, "0.33333334"),
        (16777217.0, "16777216"),
        (3.4028235e38, "3.4028235e+38"),
        (0.0, "0"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
    ],
)
def test_floats_are_short(value: float, text: str) -> None:
    assert format_message(caffe_pb2.SolverParameter(base_lr=value)) == f"base_lr: {text}\n"


def test_text_in_strings_is_left_alone() -> None:
    net = caffe_pb2.NetParameter(name='3.0\nbase_lr: 2.0\n"x: 1.0', input=["1.0", "a: 5.0"])
    assert parse_message(format_message(net), caffe_pb2.NetParameter()) == net
    assert '"a: 5.0"' in format_message(net)


@pytest.mark.parametrize("log", ["train.log", "train_cls.log", "train_average_loss.log"])
def test_what_caffe_printed_is_printed_alike(golden: Path, log: str) -> None:
    """caffe train prints the solver and the nets: read back and printed again they are the same text."""
    logged = re.split(r"^[IWEF]\d{4} .*?\] ", (golden / log).read_text(encoding="utf-8"), flags=re.MULTILINE)
    printed = 0
    for words, kind in (("solver", caffe_pb2.SolverParameter), ("net", caffe_pb2.NetParameter)):
        for entry in logged:
            first, _, text = entry.partition("\n")
            if first.strip() == f"Initializing {words} from parameters:":
                assert format_message(parse_message(text.rstrip("\n") + "\n", kind())).strip() == text.strip()
                printed += 1
    assert printed >= 2


# --------------------------------------------------------------------------------------- round trip, anything

_TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32, allow_nan=False),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return _messages(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=6)
    return _SCALARS.get(field.cpp_type, _TEXT)


def _fill(message: Message, draw: st.DrawFn, descriptor: Descriptor) -> None:
    names = sorted(descriptor.fields_by_name)
    chosen = draw(st.sets(st.sampled_from(names), max_size=4))
    if descriptor.name == "ClipParameter":  # the one message with required fields
        chosen |= {"min", "max"}
    for name in sorted(chosen):
        field = descriptor.fields_by_name[name]
        held = getattr(message, name)
        if hasattr(held, "extend"):
            held.extend(draw(st.lists(_values(field), max_size=3)))
        elif field.message_type is not None:
            held.CopyFrom(draw(_values(field)))
            held.SetInParent()
        else:
            setattr(message, name, draw(_values(field)))


@st.composite
def _messages(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    message: Message = getattr(caffe_pb2, descriptor.name)()
    _fill(message, draw, descriptor)
    return message


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["NetParameter", "LayerParameter", "SolverParameter", "SolverState", "Datum"]).flatmap(
        lambda name: _messages(getattr(caffe_pb2, name).DESCRIPTOR)
    )
)
def test_what_is_formatted_parses_back(message: Message) -> None:
    text = format_message(message)
    assert parse_message(text, type(message)()) == message
    assert type(message).FromString(message.SerializeToString()) == message


@settings(max_examples=200, deadline=None)
@given(st.floats(width=32, allow_nan=False))
def test_every_float_reads_back_to_the_bit(value: float) -> None:
    text = format_message(caffe_pb2.PowerParameter(power=value))
    back = parse_message(text, caffe_pb2.PowerParameter()).power
    assert struct.pack("<f", back) == struct.pack("<f", value)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("layer{}<>[]:\"'\\#\n ,;0.a_ins"), max_size=40))
def test_no_text_raises_anything_but_our_errors(text: str) -> None:
    for parse in (parse_net, parse_solver):
        try:
            parse(text, "f")
        except CaffeError as error:
            assert str(error).startswith("f:") and str(error).isprintable()
