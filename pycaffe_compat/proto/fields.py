"""Fields of messages whose dialect may not have them, and the words of enums."""

from __future__ import annotations

from typing import Any

from pycaffe_compat.errors import NetError


def given(message: Any, name: str) -> Any:
    """A field of a message, None where it is not set or the dialect has no such field."""
    known = name in message.DESCRIPTOR.fields_by_name
    return getattr(message, name) if known and message.HasField(name) else None


def word(message: Any, name: str, value: int | None = None) -> str:
    """The name of the value that an enum field has, or of another value of the same enum."""
    values = message.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number
    return str(values[getattr(message, name) if value is None else value].name)


NOT_READ: dict[str, dict[str, Any]] = {
    # NVIDIA's learned scale and shift within the layer; its statistics are means where BVLC's are sums in some
    # versions. Intel's, a ReLU behind it, and statistics of parts of a batch.
    "BatchNormParameter": {
        "scale_bias": False,
        "use_weight_bias": False,
        "bias_term": False,
        "scale_filler": None,
        "filler": None,
        "bias_filler": None,
        "relu": False,
        "stats_batch_size": 0,
    },
    "DataParameter": {"shuffle": False},
    "ELUParameter": {"lambda": 1},
    "ImageDataParameter": {"short_side": 0, "min_height": 0, "min_width": 0},
    "LossParameter": {"label_smoothing": 0},
    "PoolingParameter": {"axis": 1},
    "TransformationParameter": {
        "img_rand_resize_lower": 0,
        "img_rand_resize_upper": 0,
        "rand_resize_ratio_lower": 0,
        "rand_resize_ratio_upper": 0,
        "vertical_stretch_lower": 1,
        "vertical_stretch_upper": 1,
        "horizontal_stretch_lower": 1,
        "horizontal_stretch_upper": 1,
        "random_resize_param": None,
        "random_aspect_ratio_param": None,
        "flow": False,
    },
}
"""Fields that forks add to stock Caffe's messages and that change what a layer computes, but that no layer here reads;
with the value at which nothing is lost by that."""


def refuse_unread(layer: Any) -> None:
    """NetError where a layer sets a field of :data:`NOT_READ` to another value: it would compute something else."""
    for descriptor, settings in layer.ListFields():
        message = descriptor.message_type
        for name, harmless in NOT_READ.get(message.name if message else "", {}).items():
            value = given(settings, name)
            if value is not None and value != harmless:
                shown = f" {value}" if isinstance(value, (bool, int, float)) else ""
                what = f"{descriptor.name}: {name}{shown.lower()} is a fork's, and not implemented"
                raise NetError(f"{what}: the layer would compute something else")
