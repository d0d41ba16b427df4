"""Nets written as Python expressions: pycaffe's ``layers as L``, ``params as P`` and ``NetSpec``.

    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 32, 32]))
    n.conv = L.Convolution(n.data, num_output=8, kernel_size=3, weight_filler=dict(type="xavier"))
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    print(n.to_proto())

A call of ``L.<Type>`` makes a :class:`Function`, a layer to be, and gives its :class:`Top`. Only ``to_proto`` gives
names: those under which a NetSpec holds the tops, else the type with a number.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from .errors import NetError
from .naming import did_you_mean
from .proto import caffe_pb2
from .proto.dialects import Dialect, candidates


def param_name_dict() -> dict[str, str]:
    """Layer type -> the name of its message in LayerParameter without ``_param``: ``{"InnerProduct":
    "inner_product", ...}``, read from the schema (a message's name is the type's with ``Parameter`` behind it)."""
    return _param_names(caffe_pb2.LayerParameter)


def _param_names(layer: Any) -> dict[str, str]:
    pairs = ((f.message_type, f.name) for f in layer.DESCRIPTOR.fields if f.name.endswith("_param"))
    return {t.name.removesuffix("Parameter"): name.removesuffix("_param") for t, name in pairs if t is not None}


class _NoSuchSetting(NetError, AttributeError):
    """NetError, and for scripts what pycaffe raised."""


class _NoSuchTop(AttributeError, KeyError):
    """AttributeError, as Python has it for attributes, and for scripts what pycaffe raised."""

    __str__ = Exception.__str__  # KeyError's would quote the message


class Top:
    """One output of a layer to be.

    Attributes:
        fn: the layer.
        n: which of its tops.
    """

    def __init__(self, fn: Function, n: int) -> None:
        self.fn, self.n = fn, n

    def to_proto(self) -> caffe_pb2.NetParameter:
        """The net of all layers that this top needs."""
        return to_proto(self)

    def _update(self, params: Mapping[str, Any]) -> None:
        self.fn.params.update(params)


class Function:
    """A layer to be: its type, the tops that it reads and its settings.

    Args:
        type_name: the layer's type.
        inputs: its bottoms.
        params: fields of its own message, or of LayerParameter (``param``, ``include``, ``loss_weight``, ...), and
            ``ntop`` (1), ``in_place`` (False), ``name``.

    Raises:
        TypeError: an input is no Top.
    """

    def __init__(self, type_name: str, inputs: Iterable[Top], params: Mapping[str, Any]) -> None:
        self.type_name = type_name
        self.inputs = tuple(inputs)
        for index, given in enumerate(self.inputs):
            if not isinstance(given, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(given)})")
        self.params = dict(params)
        self.ntop: int = self.params.pop("ntop", 1)
        self.in_place: bool = self.params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))


class _Writer:
    """Gives the layers names and writes them, each after those that it needs."""

    def __init__(self, names: Mapping[Any, str], dialect: Dialect) -> None:
        self.names: dict[Any, str] = dict(names)
        self.dialect = dialect
        self.params = _param_names(dialect["LayerParameter"])
        self.layers: OrderedDict[Function, caffe_pb2.LayerParameter] = OrderedDict()
        self._numbers: Counter[str] = Counter()

    def write(self, fn: Function) -> None:
        # Not by recursion: nets of a thousand layers are built so.
        stack = [fn]
        while stack:
            now = stack[-1]
            missing = [top.fn for top in now.inputs if top.fn not in self.layers]
            if missing:
                stack.append(missing[0])
                continue
            stack.pop()
            if now not in self.layers:
                self.layers[now] = self._layer(now)

    def _layer(self, fn: Function) -> caffe_pb2.LayerParameter:
        layer: caffe_pb2.LayerParameter = self.dialect["LayerParameter"](type=fn.type_name)
        layer.bottom.extend(self.layers[top.fn].top[top.n] for top in fn.inputs)
        layer.top.extend(layer.bottom if fn.in_place else [self._name(top) for top in fn.tops])
        layer.name = self._name(fn.tops[0]) if fn.tops else self._name(fn)
        for key, value in fn.params.items():
            _set_layer_field(layer, self.params.get(fn.type_name), key, value)
        return layer

    def _name(self, thing: Top | Function) -> str:
        if thing not in self.names:
            kind = thing.fn.type_name if isinstance(thing, Top) else thing.type_name
            self._numbers[kind] += 1
            self.names[thing] = f"{kind}{self._numbers[kind]}"
        return self.names[thing]

    def net(self) -> caffe_pb2.NetParameter:
        net: caffe_pb2.NetParameter = self.dialect["NetParameter"]()
        net.layer.extend(self.layers.values())
        return net


def _net_of(functions: Sequence[Function], names: Mapping[Any, str]) -> caffe_pb2.NetParameter:
    """The net of all layers that these need, in the first dialect that has all of their settings."""
    faults: list[tuple[int, NetError]] = []
    for dialect in candidates(None):
        writer = _Writer(names, dialect)
        try:
            for fn in functions:
                writer.write(fn)
        except NetError as error:
            faults.append((len(writer.layers), error))
        else:
            return writer.net()
    raise max(faults, key=lambda fault: fault[0])[1]  # that of the dialect which knows most of it


def to_proto(*tops: Top) -> caffe_pb2.NetParameter:
    """The net of all layers that these tops need."""
    return _net_of([top.fn for top in tops], {})


def _set_layer_field(layer: caffe_pb2.LayerParameter, own: str | None, key: str, value: Any) -> None:
    """A setting goes into the type's own message if that has the field, else into LayerParameter."""
    message = getattr(layer, f"{own}_param") if own and not key.endswith("param") else None
    known = [*(message.DESCRIPTOR.fields_by_name if message else ()), *layer.DESCRIPTOR.fields_by_name]
    if key not in known:
        raise _NoSuchSetting(f"L.{layer.type}: there is no setting {key!r}{did_you_mean(key, known)}")
    assign_proto(message if message and key in message.DESCRIPTOR.fields_by_name else layer, key, value)


def assign_proto(proto: Any, name: str, val: Any) -> None:
    """Sets a message's field from a Python value: a dict fills a message (an empty one leaves it unset), a list a
    repeated field; one value for a repeated field is a list of it. Enum values are numbers (``P.Pooling.MAX``) or
    names.

    Raises:
        NetError: there is no such field, or the value is of another kind.
    """
    field = proto.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        known = proto.DESCRIPTOR.fields_by_name
        raise _NoSuchSetting(f"{proto.DESCRIPTOR.name} has no field {name!r}{did_you_mean(name, known)}")
    try:
        target = getattr(proto, name)
        if hasattr(target, "extend"):  # repeated; the descriptor's own word for it differs between protobuf releases
            values = list(val) if _is_list(val) else [val]
            if field.message_type is None:
                target.extend(_scalar(v) for v in values)
            else:
                for value in values:
                    _fill(target.add(), value)
        elif field.message_type is not None:
            _fill(target, val)
        else:
            setattr(proto, name, _scalar(val))
    except (TypeError, ValueError) as error:
        raise NetError(f"{proto.DESCRIPTOR.name}.{name} cannot be {val!r}: {error}") from error


def _fill(message: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            assign_proto(message, key, item)
    else:
        message.CopyFrom(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _scalar(value: Any) -> Any:
    """numpy's scalars as Python's, which is what every protobuf runtime takes."""
    return value.item() if hasattr(value, "item") else value


class NetSpec:
    """Tops by name, set as attributes (``n.conv1 = L.Convolution(...)``) or items (``n["conv1"]``).

    As long as no top is named so, it has SSD's ``keys()``, the names; ``vals()``, what they hold; and
    ``update(name, settings)``, which changes or adds settings of the layer of this name.
    """

    tops: OrderedDict[str, Any]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "tops":  # copy and pickle ask for these
            raise AttributeError(name)
        if name in self.tops:
            return self.tops[name]
        if name in _OF_A_FORK:
            return partial(_OF_A_FORK[name], self.tops)
        raise _NoSuchTop(f"the NetSpec holds no {name!r}{did_you_mean(name, self.tops)}")

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    __setitem__, __delitem__ = __setattr__, __delattr__

    def to_proto(self) -> caffe_pb2.NetParameter:
        """The net of all layers that the tops need, under the NetSpec's names."""
        for name, top in self.tops.items():
            if not isinstance(top, (Top, Function)):
                raise TypeError(f"NetSpec: {name!r} is not a Top (type is {type(top)})")
        functions = [top.fn if isinstance(top, Top) else top for top in self.tops.values()]
        return _net_of(functions, {top: name for name, top in self.tops.items()})


def _update(tops: Mapping[str, Any], name: str, params: Mapping[str, Any]) -> None:
    held = tops[name]
    held._update(params) if isinstance(held, Top) else held.params.update(params)


# Not methods: these would keep tops from being named so.
_OF_A_FORK: dict[str, Callable[..., Any]] = {"keys": list, "vals": lambda tops: list(tops.values()), "update": _update}


def layer_function(name: str) -> Callable[..., Any]:
    """What ``L.<name>`` is: called with bottoms and settings it gives the layer's top, a tuple of its ``ntop`` tops,
    or, where it has none, its Function."""

    def make(*inputs: Top, **params: Any) -> Any:
        fn = Function(name, inputs, params)
        return fn if fn.ntop == 0 else fn.tops[0] if fn.ntop == 1 else fn.tops

    make.__name__ = name
    return make


class Layers:
    """``L``: ``L.Convolution(bottom, num_output=8, kernel_size=3)``. Types that only another Caffe has will do too."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return layer_function(name)


class Parameters:
    """``P``: the schema's constants, ``P.Pooling.MAX`` for ``PoolingParameter.MAX``."""

    def __getattr__(self, name: str) -> Any:
        message = getattr(caffe_pb2, f"{name}Parameter", None)
        if message is None:
            known = (n.removesuffix("Parameter") for n in dir(caffe_pb2) if n.endswith("Parameter"))
            raise AttributeError(f"the schema has no {name}Parameter{did_you_mean(name, known)}")
        return message


layers = Layers()
params = Parameters()
