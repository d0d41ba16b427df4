"""Prototxt: what parses, where its layers stand, and what is said of what does not parse."""

import re
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from pycaffe_compat.errors import CaffeError, PrototxtError, SolverError
from pycaffe_compat.proto import caffe_pb2
from pycaffe_compat.proto.text import (
    format_message,
    parse_message,
    parse_net,
    parse_solver,
    read_net,
    read_solver,
)

# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo: 1", '1:1: NetParameter has no field "foo"'),
        ('name: "n"\nlayer {\n  nam: "a" }', '3:3: LayerParameter has no field "nam"; did you mean "name"?'),
        ("layer { convolution_params { } }", '"convolution_params"; did you mean "convolution_param"?'),
        ("layer { convolutoin_param { } }", '"convolutoin_param"; did you mean "convolution_param"?'),
        ("layer { convolution_param { kernel: 3 } }", '1:29: ConvolutionParameter has no field "kernel"; did you mean "kernel_'),
        ('layer { name: "a"\nfoo_param { }\n}', '2:1: LayerParameter has no field "foo_param" (layer "a"), nor has a fork\'s schema (ssd, nvidia'),
        ("foo: 1\nbar { x: 1 }\nbaz: 1", '1:1: NetParameter has no field "foo"; 2 more of the kind: "bar" in line 2, "baz" in line 3'),
        ('layer { name: "a"\nname: "b" }', '2:1: LayerParameter has the field "name" twice (layer "a")'),
        ("layer { input_param { } input_param { } }", '1:25: LayerParameter has the field "input_param" twice'),
        ("layer { include { phase: TRIAN } }", '1:26: Phase has no value "TRIAN"; did you mean "TRAIN"?'),
        ("layer { pooling_param { pool: ave } }", 'PoolMethod has no value "ave"; did you mean "AVE"?'),
        ("layer { pooling_param { pool: x } }", 'has no value "x": use one of MAX, AVE, STOCHASTIC'),
        ("layer { pooling_param { pool: 'MAX' } }", "1:31: Expected one of MAX, AVE, STOCHASTIC, found 'MAX'"),
        ("layer { include { phase: 7 } }", "1:26: Phase has no value with number 7"),
        ("layer { name: 3 }", "1:15: Expected a string, found 3"),
        ('layer {\n  name: "a', "2:9: Expected a value, found a string that does not end on its line"),
        ('layer { name: "a"', '1:16: Expected "}": the "{" of line 1 is not closed'),
        ("layer < }", "1:9: Expected a field name, found '}'"),
        ("}", "1:1: Expected a field name, found '}'"),
        ('"a": 1', "1:1: Expected a field name, found '\"a\"'"),
        ("layer: 3", '1:8: Expected "{", found 3'),
        ("name { }", '1:1: the field "name" is a string, not a message'),
        ("name 'a'", '1:6: Expected ":" or "{"'),
        ("name: ['a']", '1:8: the field "name" takes one value, not a list'),
        ("input_dim: [1, 2", '1:17: Expected "," or "]", found the end of the text'),
        ("input_dim: [1, ]", "1:16: Expected a value, found ']'"),
        ("input_dim: [1 2]", '1:15: Expected "," or "]", found \'2\''),
        ("input_dim: 99999999999", "1:12: Value out of range: 99999999999"),
        ("input_dim: 1" + "0" * 5000, "1:12: Value out of range: 1000"),
        ("input_dim: 1.5", "1:12: Expected a whole number, found 1.5"),
        ("input_dim: 089", "1:12: Expected a whole number, found 089 (one that begins with 0 is octal)"),
        ("input_dim: 12ab", "1:12: Expected a value, found a number that runs into letters"),
        ("input_dim: -x", "1:12: Expected a whole number, found -x"),
        ("layer { lrn_param { local_size: -1 } }", "1:33: Value out of range: -1"),
        ("layer { lrn_param { alpha: 0x10 } }", "1:28: Expected a number, found 0x10"),
        ("layer { lrn_param { alpha: 010 } }", "1:28: Expected a number, found 010"),
        ("force_backward: maybe", '1:17: Expected "true" or "false", found maybe'),
        ('name: "\\377"', "1:7: the string is not UTF-8"),
        ('name: "\\q"', "1:7: there is no escape \\q"),
        ('name: "\\777"', "1:7: \\777 is more than a byte"),
        ("layer { [a.b] { } }", "do not have extensions"),
        ("name: \0", "1:7: Expected a value, found '\\x00'"),
        ('name: "n"\nlayer { name: "c"\nclip_param { min: 0 } }', '3:1: ClipParameter: max must be set (layer "c")'),
        ("a" * 100_000 + ": 1", "1:1: NetParameter has no field"),
        ("layer { include { " * 5_000, "1:907: messages are nested too deeply"),
        ("{" * 100_000, "1:1: Expected a field name"),
    ],
)
def test_text_that_does_not_parse(text: str, message: str) -> None:
    with pytest.raises(PrototxtError) as caught:
        parse_net(text, "dir/net.prototxt")
    said = str(caught.value)
    assert said.startswith("dir/net.prototxt:") and message in said
    assert said.isprintable() and len(said) < 400


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("name: 'a' \"b\"\n'c'", {"name": "abc"}),
        (r"name: '\x41\102\n\'\"\?\u00e9\U0001F600'", {"name": "AB\n'\"?é\U0001f600"}),
        ("name: 'a'; input: 'b', input: 'c'", {"name": "a", "input": ["b", "c"]}),
        ("input_dim: 1 input_dim: 0x1F input_dim: 017 input_dim: -3 input_dim: - 4", {"input_dim": [1, 31, 15, -3, -4]}),
        ("input_dim: [1, 2,3] input_dim: [] input_dim: 4", {"input_dim": [1, 2, 3, 4]}),
        ("force_backward: t debug_info: 0x1", {"force_backward": True, "debug_info": True}),
        ("force_backward: False debug_info: 0", {"force_backward": False, "debug_info": False}),
        ("state: { phase: 0 level: 2 }", {"state": caffe_pb2.NetState(phase=0, level=2)}),
        ("state < phase: TEST; stage: ['a', \"b\"] >", {"state": caffe_pb2.NetState(phase=1, stage=["a", "b"])}),
        ("state { } # name: 'x'\n#\nname:#\n'a'", {"state": caffe_pb2.NetState(), "name": "a"}),
        ("input_shape [ { dim: 1 }, < dim: 2 > ]", {"input_shape": [caffe_pb2.BlobShape(dim=[1]), caffe_pb2.BlobShape(dim=[2])]}),
    ],
)
def test_what_text_may_look_like(text: str, value: dict[str, Any]) -> None:
    """As the C++ parser reads it (these were given to protoc --encode)."""
    assert parse_message(text, caffe_pb2.NetParameter()) == caffe_pb2.NetParameter(**value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1.", 1), (".5", 0.5), ("-1.5e-3", -0.0015), ("1f", 1), ("2.5F", 2.5), ("1E+2", 100), ("inf", np.inf), ("-Infinity", -np.inf), ("- 2", -2), ("1e999", np.inf)],
)
def test_numbers(text: str, value: float) -> None:
    have = parse_message(f"power: {text}", caffe_pb2.PowerParameter()).power
    assert have == np.float32(value)
    assert np.isnan(parse_message("power: nan", caffe_pb2.PowerParameter()).power)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: " + b"1" * 20_000 + b"x", ":1:7: "),
        (b"# \xd6\nname: " + b"1" * 20_000 + b"x", ":2:7: "),
        (b"# \xd6\nname: '" + b"\\'" * 20_000, ":2:7: "),
        (b"n" * 100_000 + b": 1", '"nnn'),
    ],
)
def test_hostile_text_takes_no_long(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(PrototxtError) as caught:
        read_net(path)
    assert message in str(caught.value) and time.process_time() - started < 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'name: "caf\xe9"', "net.prototxt:1: byte 0xe9 is not UTF-8: save it as UTF-8"),
        (b'# \n\nname: "\xff"', "net.prototxt:3: byte 0xff is not UTF-8"),
        (b"# \xd6\xd0\nname: '#\xd6'", "net.prototxt:2: byte 0xd6 is not UTF-8"),
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
    ("name", "message"),
    [
        ("absent", "no such file"),
        ("", "is a directory"),
        ("a\0b", "cannot be read"),
        ("/dev/zero", "/dev/zero: is not a prototxt: it is longer than 64 MiB"),
    ],
)
def test_paths_that_are_no_files(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(PrototxtError, match=message):
        read_net(tmp_path / name)


def test_utf8_with_and_without_byte_order_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        path = tmp_path / f"{encoding}.prototxt"
        path.write_text('name: "réseau"', encoding=encoding)
        assert read_net(path).param.name == "réseau"


def test_comments_may_be_in_any_code(tmp_path: Path) -> None:
    """Chinese comments are often in GBK; Caffe's parser does not look at them."""
    path = tmp_path / "gbk.prototxt"
    path.write_bytes("# 卷积网络, a net\nname: 'n' # 层\n# 层".encode("gbk"))
    assert read_net(path).param.name == "n"


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
    paths = sorted(golden.glob("**/*net.prototxt")) + sorted(golden.glob("layers/v[01]_*.prototxt"))
    assert paths
    for path in paths:
        text = path.read_text(encoding="utf-8").splitlines()
        source = read_net(path)
        lines = [line for line in source.lines if line]
        begins = ("layer{", "layers{")
        wanted = [i for i, line in enumerate(text, 1) if line.replace(" ", "").startswith(begins)]
        wanted = [i for i in wanted if '"padding"' not in text[i - 1]]  # folded into the layer behind it
        assert lines == wanted
        assert len(source.lines) == len(source.param.layer)


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
    with pytest.raises(PrototxtError, match=r's\.prototxt:2:1: .* "momentun"; did you mean "momentum"\?'):
        parse_solver("base_lr: 1\nmomentun: 1", "s.prototxt")


def test_nets_inside_a_solver_are_upgraded() -> None:
    inner = '{ input: "a" input_shape { dim: 1 } layers { type: RELU } }'
    solver = parse_solver(f"train_net_param {inner} test_net_param {inner} test_net_param {inner}")
    for net in (solver.train_net_param, *solver.test_net_param):
        assert [layer.type for layer in net.layer] == ["Input", "ReLU"]


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
