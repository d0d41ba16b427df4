"""Shapes in the place of data: a net examined, drawn up or exported without the databases that its layers read.

Some files leave the input out altogether: what trains with them (DIGITS) puts it in front. A shape for a blob that
layers read and none writes is such an input. And a layer whose code is not at hand (Python, or a type that is not
known) may be left out: its tops become inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import NetError
from .layers.base import REGISTRY
from .naming import did_you_mean
from .proto.source import NetSource


def as_inputs(source: NetSource, shapes: Mapping[str, Sequence[int]]) -> tuple[NetSource, list[str]]:
    """The net with Input layers of the given shapes where layers write these blobs that read data, or cannot be run.

    Args:
        shapes: blob -> shape. An Input layer's own may be given another.

    Returns:
        the net, and how messages name the layers that were replaced.

    Raises:
        NetError: a blob is written by a layer of another kind, or is read by none, or another blob of its layer has no
            shape.
    """
    if not shapes:
        return source, []
    param = type(source.param)()
    param.CopyFrom(source.param)
    heads = [
        (i, layer)
        for i, layer in enumerate(param.layer)
        if not layer.bottom or layer.type == "Python" or layer.type not in REGISTRY
    ]
    tops = [top for _, layer in heads for top in layer.top]
    written = {top for layer in param.layer for top in layer.top}
    left_out = {name for layer in param.layer for name in layer.bottom} - written
    for name in shapes:
        if name not in tops and name not in left_out:
            raise NetError(f'{source.path or "net"}: no data layer writes "{name}"{did_you_mean(name, tops)}')
    replaced = []
    for index, layer in heads:
        if not any(top in shapes for top in layer.top):
            continue
        given = dict(zip(layer.top, layer.input_param.shape, strict=False)) if layer.type == "Input" else {}
        label = f'{source.where(index)}: layer "{layer.name}" ({layer.type})'.lstrip(": ")
        if layer.type != "Input":
            replaced.append(label)
        new = type(layer)(name=layer.name, type="Input", top=layer.top, include=layer.include, exclude=layer.exclude)
        for top in layer.top:
            if top not in shapes and top not in given:
                raise NetError(f'{label}: give "{top}" a shape too')
            new.input_param.shape.add(dim=shapes[top] if top in shapes else given[top].dim)
        layer.CopyFrom(new)
    front = type(param)()
    for name in shapes:
        if name in left_out:
            front.layer.add(name=name, type="Input", top=[name]).input_param.shape.add(dim=shapes[name])
    count = len(front.layer)
    front.layer.extend(param.layer)
    param.ClearField("layer")
    param.layer.extend(front.layer)
    return NetSource(param, source.path, [0] * count + list(source.lines), list(source.notes)), replaced
