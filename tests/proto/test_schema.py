"""The schema: equal to Caffe's wire facts, and the three files that hold it equal to one another."""

import copy
import csv
import pickle
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from pycaffe_compat.proto import caffe_pb2, compile

FACTS = Path(__file__).resolve().parent.parent / "data" / "proto" / "wire_format.tsv"
LABELS = {1: "optional", 2: "required", 3: "repeated"}
TYPES = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
}

Fact = tuple[str, str, int, str, str, str, str, str]


def messages() -> list[Descriptor]:
    return list(caffe_pb2.DESCRIPTOR.message_types_by_name.values())


def enum_facts(enum: EnumDescriptor) -> set[Fact]:
    scope = enum.full_name.removeprefix("caffe.")
    return {("enum", scope, value.number, value.name, "", "", "", "") for value in enum.values}


def field_facts(field: FieldDescriptor) -> Fact:
    kind = field.enum_type or field.message_type
    return (
        "field",
        field.containing_type.name,
        field.number,
        field.name,
        "repeated" if is_repeated(field) else "required" if is_required(field) else "optional",
        kind.full_name if kind else TYPES[field.type],
        default_of(field) if field.has_default_value else "",
        "packed" if field.GetOptions().packed else "",
    )


def default_of(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    if field.type == FieldDescriptor.TYPE_BOOL:
        return str(field.default_value).lower()
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return f"{field.default_value:.6g}"  # descriptors hold the nearest float32
    return str(field.default_value)


def is_repeated(field: FieldDescriptor) -> bool:
    # `label` warns in newer releases of protobuf, `is_repeated` is not there in older ones
    return field.is_repeated if hasattr(field, "is_repeated") else LABELS[field.label] == "repeated"


def is_required(field: FieldDescriptor) -> bool:
    return field.is_required if hasattr(field, "is_required") else LABELS[field.label] == "required"


def test_every_fact_of_the_wire_format_and_no_other() -> None:
    with FACTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    texts = ("name", "label", "type", "default", "packed")
    wanted = {(r["kind"], r["in"], int(r["number"]), *(r[key] or "" for key in texts)) for r in rows}
    assert len(wanted) == len(rows) == 534
    have = {field_facts(field) for message in messages() for field in message.fields}
    for enum in caffe_pb2.DESCRIPTOR.enum_types_by_name.values():
        have |= enum_facts(enum)
    for message in messages():
        for enum in message.enum_types:
            have |= enum_facts(enum)
    assert have == wanted


def test_descriptor_set_and_stub_are_what_the_proto_file_says() -> None:
    schema = compile.parse_schema(compile.SCHEMA.read_text(encoding="utf-8"))
    assert FileDescriptorSet.FromString(compile.DESCRIPTOR.read_bytes()) == schema
    assert compile.STUB.read_text(encoding="utf-8") == compile.stub(schema)
    assert compile.main(["--check"]) == 0


def test_check_tells_a_stale_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in compile.HERE.iterdir():
        if file.suffix in (".proto", ".desc", ".pyi"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("SCHEMA", "DESCRIPTOR", "STUB"):
        monkeypatch.setattr(compile, name, tmp_path / getattr(compile, name).name)
    monkeypatch.setattr(compile, "OVERLAYS", tuple(tmp_path / path.name for path in compile.OVERLAYS))
    text = compile.SCHEMA.read_text(encoding="utf-8")
    compile.SCHEMA.write_text(text.replace("num_axes", "number_of_axes"), encoding="utf-8")
    assert compile.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "caffe.desc is older" in said and "intel.desc is older" in said  # overlays follow what they lie over
    assert compile.main([]) == 0
    assert compile.main(["--check"]) == 0
    assert compile.main(["--nonsense"]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("service S {}", "line 2: message or enum expected, found service"),
        ("message M {\n optional Absent f = 1; }", "line 3: unknown type Absent"),
        (
            "message M {\n oneof x { int32 f = 1; } }",
            "line 3: a field, an enum or a message expected, found oneof",
        ),
        ("message M { optional int32 f = 1 [jstype = 1]; }", "line 2: unknown option jstype"),
        ("message M { optional int32 f = 1 [default = x", "the file ends in the middle of a definition"),
        ("message M { optional float f = 1 [default = x]; }", "line 2: a number expected, found x"),
        ("message M { }\nmessage M { }", "a.M is defined twice: extend it"),
        ("extend M { optional int32 f = 1; }", "line 2: extend M: there is no such message or enum"),
        ("message M { }\nextend M { int32 f = 1; }", "line 3: a field or an enum expected, found int32"),
        ("message M { }\nimport 'caffe.proto';", "line 3: one import, in front of the definitions, is what this"),
        ("import 'absent.proto';", "line 2: import absent.proto: "),
        ("import 'caffe.proto';", "line 2: package a cannot extend caffe of caffe.proto"),
        ("message M { " * 60, "line 2: messages are nested too deeply"),
        ("message M { optional int32 f = x; }", "line 2: a number expected, found x"),
        ("message M { optional int32 f = 1 }", "line 2: ; expected, found }"),
        ("message M { optional", "the file ends in the middle of a definition"),
        ("/* x", "line 2: unexpected '/'"),
    ],
)
def test_what_the_reader_does_not_know_is_an_error(text: str, message: str) -> None:
    with pytest.raises(compile.SchemaError) as caught:
        compile.parse_schema('syntax = "proto2"; package a;\n' + text)
    assert str(caught.value).startswith(message)
    with pytest.raises(compile.SchemaError, match='line 1: "proto2" expected'):
        compile.parse_schema('syntax = "proto3";')


def test_overlays_are_compiled() -> None:
    for overlay in compile.OVERLAYS:
        schema = compile.read_schema(overlay)
        assert FileDescriptorSet.FromString(overlay.with_suffix(".desc").read_bytes()) == schema
        assert schema.file[0].name == overlay.name


def test_an_overlay_adds_replaces_and_moves() -> None:
    schema = compile.parse_schema(
        'import "caffe.proto"; option java_package = "x"; /* words\n */\n'
        "extend PowerParameter { enum E { A = 0; } optional double power = 9; optional E e = 2; repeated New new = 20; }\n"
        "extend PoolingParameter.PoolMethod { SUM = 3; LEAST = 1; }\n"
        "extend Phase { BOTH = 2; }\n"
        "message New { reserved 4; extensions 100 to 200; optional Phase p = 0x10 [deprecated = true]; }"
    )
    messages = {message.name: message for message in schema.file[0].message_type}
    power = {field.name: (field.number, field.type_name) for field in messages["PowerParameter"].field}
    assert power == {
        "power": (9, ""), "scale": (20002, ""), "shift": (3, ""), "e": (2, ".caffe.PowerParameter.E"), "new": (20, ".caffe.New"),
    }  # fmt: skip
    method = {value.name: value.number for value in messages["PoolingParameter"].enum_type[0].value}
    assert method == {"MAX": 0, "AVE": 20001, "STOCHASTIC": 2, "SUM": 3, "LEAST": 1}
    assert messages["New"].field[0].number == 16
    assert [value.name for enum in schema.file[0].enum_type for value in enum.value] == ["TRAIN", "TEST", "BOTH"]


def test_types_are_resolved_from_the_innermost_scope_outwards() -> None:
    schema = compile.parse_schema(
        'syntax = "proto2"; package p;\n'
        "enum E { A = 0; }\n"
        "message M { enum E { B = 0; } optional N n = 1;\n"
        "  message N { optional E e = 1; optional p.E outer = 2; } }\n"
        "message K { optional E e = 1; optional M.N n = 2; }"
    )
    m, k = schema.file[0].message_type
    assert [f.type_name for f in m.nested_type[0].field] == [".p.M.E", ".p.E"]
    assert [f.type_name for f in [*m.field, *k.field]] == [".p.M.N", ".p.E", ".p.M.N"]


def test_the_module_looks_like_generated_code() -> None:
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST) == (0, 1)
    assert caffe_pb2.Phase.Name(1) == "TEST" and caffe_pb2.Phase.Value("TRAIN") == 0
    assert caffe_pb2.SolverParameter.GPU == 1
    assert caffe_pb2.SolverParameter.SolverMode.Name(0) == "CPU"
    assert caffe_pb2.V1LayerParameter.CONVOLUTION == 4
    assert caffe_pb2.SolverParameter().delta == pytest.approx(1e-8)
    assert not caffe_pb2.LayerParameter().HasField("convolution_param")
    for message in messages():
        made = getattr(caffe_pb2, message.name)()
        assert made.DESCRIPTOR.full_name == f"caffe.{message.name}" and not made.ListFields()


def test_messages_can_be_copied_and_pickled() -> None:
    net = caffe_pb2.NetParameter(name="n", layer=[caffe_pb2.LayerParameter(name="a", loss_weight=[0.5])])
    assert pickle.loads(pickle.dumps(net)) == copy.deepcopy(net) == net


def test_the_schema_stays_out_of_the_default_pool() -> None:
    """Another caffe_pb2 in the same process would otherwise clash with this one."""
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")
