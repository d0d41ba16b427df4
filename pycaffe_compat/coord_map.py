"""Where a net's coordinates end up: maps between the spatial coordinates of NetSpec tops, and crops made from them.

A map ``(axis, scale, shift)`` says that coordinate i of one blob is coordinate ``scale * i + shift`` of another, on
the spatial axes behind ``axis``; ``axis`` None: a layer that moves nothing, on whatever axis. Convolution, pooling and
their like stretch and shift, Crop shifts, elementwise layers pass. FCN's nets cut upsampled scores to the image so::

    n.score = crop(n.upscore, n.data)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from .net_spec import Function, Top, layer_function

CoordMap: TypeAlias = tuple[int | None, Any, Any]

PASS_THROUGH_LAYERS = (
    "AbsVal BatchNorm Bias BNLL Dropout Eltwise ELU Exp Log LRN MVN Power PReLU ReLU Scale Sigmoid Split TanH Threshold"
).split()


class UndefinedMapException(Exception):
    """A layer mixes places (InnerProduct, say): it has no map."""


class AxisMismatchException(Exception):
    """Two maps work on different axes."""


def conv_params(fn: Function) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """axis, stride, kernel size (with its dilation) and pad of a Convolution, Deconvolution, Im2col or Pooling.

    Raises:
        AssertionError: it uses the _h and _w forms.
    """
    params = fn.params.get("convolution_param") or fn.params.get("pooling_param") or fn.params
    uneven = {f"{what}_{side}" for what in ("kernel", "stride", "pad") for side in "hw"} & set(params)
    assert not uneven, f"{fn.type_name}: {sorted(uneven)[0]}: cropping does not support the _h and _w settings"
    kernel = np.array(params["kernel_size"], ndmin=1)
    dilation = np.array(params.get("dilation", 1), ndmin=1)
    return (
        params.get("axis", 1),
        np.array(params.get("stride", 1), ndmin=1),
        (kernel - 1) * dilation + 1,
        np.array(params.get("pad", 0), ndmin=1),
    )


def crop_params(fn: Function) -> tuple[int, np.ndarray]:
    """axis and offset of a Crop."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> CoordMap:
    """The map of one layer, from its bottom's coordinates to its top's.

    Raises:
        UndefinedMapException: the type has none.
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, kernel, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (kernel - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, kernel, pad = conv_params(fn)
        return axis, stride, (kernel - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return None, 1, 0
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset  # -1: the other types say the axis of the channels, in front of the spatial ones
    raise UndefinedMapException(f"{fn.type_name} has no map of coordinates")


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """The map that does ``next_map`` first and ``base_map`` with its result.

    Raises:
        AxisMismatchException: they work on different axes.
    """
    axis1, scale1, shift1 = base_map
    axis2, scale2, shift2 = next_map
    if axis1 is not None and axis2 is not None and axis1 != axis2:
        raise AxisMismatchException(f"one map begins at axis {axis1}, the other at axis {axis2}")
    return axis2 if axis1 is None else axis1, scale1 * scale2, scale1 * shift2 + shift1


def inverse(coord_map: CoordMap) -> CoordMap:
    """The way back."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def _mappable_bottoms(fn: Function) -> Sequence[Top]:
    # All bottoms of a layer are mapped alike, but for Crop's second, of which only the size counts.
    return fn.inputs[:1] if fn.type_name == "Crop" else fn.inputs


def _maps_to(top: Top) -> dict[Top, CoordMap]:
    """The map from each blob that ``top`` is made of to ``top``, nearest first, as far as maps exist."""
    maps: dict[Top, CoordMap] = {top: (None, 1, 0)}
    frontier = [top]
    while frontier:
        here = frontier.pop(0)
        try:
            step = coord_map(here.fn)
        except UndefinedMapException:
            continue
        for bottom in _mappable_bottoms(here.fn):
            if bottom not in maps:
                maps[bottom] = compose(maps[here], step)
                frontier.append(bottom)
    return maps


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """The map from the coordinates of one top to those of another, by a blob that both are made of.

    Raises:
        RuntimeError: there is none that layers with maps connect to both.
        AxisMismatchException: the maps on the way work on different axes.
    """
    maps_from = _maps_to(top_from)
    for common, to_map in _maps_to(top_to).items():
        if common in maps_from:
            return compose(to_map, inverse(maps_from[common]))
    raise RuntimeError("could not compute a map between the tops: are they connected by spatial layers?")


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts ``top_from`` so that it lies on ``top_to``.

    Raises:
        AssertionError: their scales differ, or ``top_from`` would have to be enlarged or moved by parts of a pixel.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    scale, shift = np.asarray(scale), np.asarray(shift)
    assert (scale == 1).all(), f"scale mismatch on crop (scale = {scale})"
    assert (shift <= 0).all(), f"cannot crop negative width (shift = {shift})"
    assert (np.round(shift) == shift).all(), f"cannot crop noninteger width (shift = {shift})"
    offset = np.atleast_1d(-np.round(shift).astype(int)).tolist()
    first = 2 if axis is None else axis + 1
    made: Top = layer_function("Crop")(top_from, top_to, crop_param={"axis": first, "offset": offset})
    return made
