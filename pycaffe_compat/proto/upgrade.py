"""Networks and solvers of older Caffes -> the present format, as Caffe itself does when it reads them.

A network goes through the formats in their order, whatever it came from (text, a binary file, Python):

1. ``layers { layer { type: "conv" ... } }``, 2013: one message with the settings of all types, numbers for the
   padding in layers of their own. -> 2
2. ``layers { type: CONVOLUTION ... }``, 2014: enum types, ``blobs_lr`` and ``weight_decay``; data layers scale and
   crop by fields of their own. -> 3
3. ``layer { type: "Convolution" ... }``, since then, with ``input`` and ``input_dim`` or ``input_shape`` for Input
   layers, statistics of BatchNorm that the file says to train, and DeepLab's name for dilation. -> the present

Messages may be of any dialect: new ones are made of the class of the old.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pycaffe_compat.errors import NetError, SolverError
from pycaffe_compat.naming import one_line
from pycaffe_compat.proto.source import NetSource


def upgrade_net(source: NetSource) -> NetSource:
    """Brings a network to the present format, in place, and returns it.

    ``source.lines`` belongs to ``param.layers`` where the network has these, else to ``param.layer``; it is
    kept in step, as ``source.notes`` is.

    Raises:
        NetError: ``layer`` and ``layers`` are mixed, a type is unknown, a padding layer cannot be folded, or
            inputs and their shapes do not go together; names file and line.
    """
    param = source.param
    if len(source.lines) != max(len(param.layers), len(param.layer)):
        source.lines = [0] * max(len(param.layers), len(param.layer))
    if param.layers and param.layer:
        raise NetError(f"{_at(source, 0)}the net has both `layer` and `layers`, two formats: use `layer`")
    if any(layer.HasField("layer") for layer in param.layers):
        _fold_padding(source)
        _first_to_second(source)
    if param.layers:
        _move_transforms(param)
        _second_to_third(source)
    _inputs_to_layer(source)
    _freeze_statistics(param)
    _fill_holes(source)
    return source


def upgrade_solver(param: Any, path: str = "") -> list[str]:
    """Brings a solver to the present format, in place: ``solver_type`` becomes ``type``, its nets are upgraded.

    Returns:
        The notes on its nets.

    Raises:
        SolverError: both ``type`` and ``solver_type`` are set. NetError: as ``upgrade_net``.
    """
    if param.HasField("solver_type"):
        if param.HasField("type"):
            raise SolverError(f"{path or '<text>'}: both `type` and `solver_type` are set: keep `type`")
        param.type = _SOLVER_TYPES[param.solver_type]
        param.ClearField("solver_type")
    nets = [*param.test_net_param]
    nets += [getattr(param, name) for name in ("net_param", "train_net_param") if param.HasField(name)]
    notes = []
    for net in nets:
        notes += upgrade_net(NetSource(net, path)).notes
    return notes


_SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")  # in the order of the enum


def _at(source: NetSource, index: int) -> str:
    """``file:line: `` of a layer, or what is known of it."""
    where = source.where(index)
    return f"{where}: " if where else ""


def _label(source: NetSource, index: int) -> str:
    layer = source.param.layers[index]
    name, kind = one_line(layer.layer.name or layer.name), one_line(layer.layer.type)
    return f'{_at(source, index)}layer "{name}" ({kind})'


# ------------------------------------------------------------------------------------------------- 2013 -> 2014


def _fold_padding(source: NetSource) -> None:
    """Takes the padding layers out; the convolution or pooling behind one pads by itself."""
    layers = source.param.layers
    padding: dict[str, int] = {}  # blob -> the padding layer that wrote it last
    for index, layer in enumerate(layers):
        for position, name in enumerate(layer.bottom):
            if name not in padding:
                continue
            pad = layers[padding[name]]
            if layer.layer.type not in ("conv", "pool") or len(layer.bottom) != 1:
                raise NetError(f"{_label(source, index)}: only conv and pool can read the padding layer's {name!r}")
            layer.layer.pad = pad.layer.pad
            layer.bottom[position] = pad.bottom[0]
        if layer.layer.type == "padding":
            if len(layer.bottom) != 1 or len(layer.top) != 1:
                raise NetError(f"{_label(source, index)}: a padding layer has one bottom and one top")
            padding[layer.top[0]] = index
        else:
            for name in layer.top:
                padding.pop(name, None)
    kept = [index for index, layer in enumerate(layers) if layer.layer.type != "padding"]
    folded = type(source.param)(layers=[layers[index] for index in kept])
    source.lines = [source.lines[index] for index in kept]
    source.param.ClearField("layers")
    source.param.layers.extend(folded.layers)


_FIRST_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

# where a setting of 2013 goes: field -> {type: (message, field)}; "" stands for every type
_CONV, _IP, _POOL = "convolution_param", "inner_product_param", "pooling_param"
_FIRST_FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "num_output": {"conv": (_CONV, "num_output"), "innerproduct": (_IP, "num_output")},
    "biasterm": {"conv": (_CONV, "bias_term"), "innerproduct": (_IP, "bias_term")},
    "weight_filler": {"conv": (_CONV, "weight_filler"), "innerproduct": (_IP, "weight_filler")},
    "bias_filler": {"conv": (_CONV, "bias_filler"), "innerproduct": (_IP, "bias_filler")},
    "pad": {"conv": (_CONV, "pad"), "pool": (_POOL, "pad"), "im2col": (_CONV, "pad")},
    "kernelsize": {"conv": (_CONV, "kernel_size"), "pool": (_POOL, "kernel_size"), "im2col": (_CONV, "kernel_size")},
    "group": {"conv": (_CONV, "group")},
    "stride": {"conv": (_CONV, "stride"), "pool": (_POOL, "stride"), "im2col": (_CONV, "stride")},
    "pool": {"pool": (_POOL, "pool")},
    "dropout_ratio": {"dropout": ("dropout_param", "dropout_ratio")},
    "local_size": {"lrn": ("lrn_param", "local_size")},
    "alpha": {"lrn": ("lrn_param", "alpha")},
    "beta": {"lrn": ("lrn_param", "beta")},
    "k": {"lrn": ("lrn_param", "k")},
    "source": {
        "data": ("data_param", "source"),
        "hdf5_data": ("hdf5_data_param", "source"),
        "images": ("image_data_param", "source"),
        "window_data": ("window_data_param", "source"),
        "infogain_loss": ("infogain_loss_param", "source"),
    },
    "scale": {"": ("transform_param", "scale")},
    "meanfile": {"": ("transform_param", "mean_file")},
    "cropsize": {"": ("transform_param", "crop_size")},
    "mirror": {"": ("transform_param", "mirror")},
    "batchsize": {
        "data": ("data_param", "batch_size"),
        "hdf5_data": ("hdf5_data_param", "batch_size"),
        "images": ("image_data_param", "batch_size"),
        "window_data": ("window_data_param", "batch_size"),
    },
    "rand_skip": {"data": ("data_param", "rand_skip"), "images": ("image_data_param", "rand_skip")},
    "shuffle_images": {"images": ("image_data_param", "shuffle")},
    "new_height": {"images": ("image_data_param", "new_height")},
    "new_width": {"images": ("image_data_param", "new_width")},
    "concat_dim": {"concat": ("concat_param", "concat_dim")},
    "det_fg_threshold": {"window_data": ("window_data_param", "fg_threshold")},
    "det_bg_threshold": {"window_data": ("window_data_param", "bg_threshold")},
    "det_fg_fraction": {"window_data": ("window_data_param", "fg_fraction")},
    "det_context_pad": {"window_data": ("window_data_param", "context_pad")},
    "det_crop_mode": {"window_data": ("window_data_param", "crop_mode")},
}


def _first_to_second(source: NetSource) -> None:
    """Spreads the one message of a layer over the messages of its type."""
    for index, layer in enumerate(source.param.layers):
        if not layer.HasField("layer"):
            continue
        label = _label(source, index)
        old = type(layer.layer)()
        old.CopyFrom(layer.layer)
        layer.ClearField("layer")
        if old.HasField("type"):
            if old.type not in _FIRST_TYPES:
                known = ", ".join(sorted([*_FIRST_TYPES, "padding"]))
                raise NetError(f"{label}: unknown layer type of 2013's format (known: {known})")
            layer.type = layer.LayerType.Value(_FIRST_TYPES[old.type])
        for field, value in old.ListFields():
            name = field.name
            if name in ("name", "blobs_lr", "weight_decay", "blobs", "hdf5_output_param"):
                _set(layer, name, value)
            elif name != "type":
                places = _FIRST_FIELDS.get(name, {})
                place = places.get(old.type) or places.get("")
                if place is None:
                    source.notes.append(f'{label}: the setting "{name}" has no use in a layer of this type')
                else:
                    _set(getattr(layer, place[0]), place[1], value)


def _set(message: Any, name: str, value: Any) -> None:
    """Gives a field the value that a field of the same kind held; a repeated one gets it at its end."""
    held = getattr(message, name)
    if hasattr(held, "extend"):
        held.extend(value if hasattr(value, "extend") else [value])
    elif hasattr(held, "CopyFrom"):
        held.CopyFrom(value)
        held.SetInParent()
    else:
        setattr(message, name, value)


# ------------------------------------------------------------------------------------------------- 2014 -> present


def _move_transforms(param: Any) -> None:
    """What data layers do to images is transform_param's matter."""
    messages = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}
    for layer in param.layers:
        name = messages.get(layer.LayerType.Name(layer.type))
        if not name or not layer.HasField(name):
            continue
        settings = getattr(layer, name)
        for field in ("scale", "mean_file", "crop_size", "mirror"):
            if settings.HasField(field):
                setattr(layer.transform_param, field, getattr(settings, field))
                settings.ClearField(field)


_CAPITALS = ("BNLL", "LRN", "MVN", "HDF5")
_OTHERWISE = {
    "Absval": "AbsVal",
    "Argmax": "ArgMax",
    "Relu": "ReLU",
    "SoftmaxLoss": "SoftmaxWithLoss",
    "Tanh": "TanH",
}


def _type_name(enum_name: str) -> str:
    """``Convolution`` for CONVOLUTION, ``HDF5Data`` for HDF5_DATA; "" for NONE."""
    if enum_name == "NONE":
        return ""
    words = [word if word in _CAPITALS else word.capitalize() for word in enum_name.split("_")]
    return _OTHERWISE.get("".join(words), "".join(words))


def _second_to_third(source: NetSource) -> None:
    """``layers`` becomes ``layer``: types by name, one ``param`` a parameter array."""
    param = source.param
    for old in param.layers:
        layer = param.layer.add()
        for field, value in old.ListFields():
            if field.name == "type":
                layer.type = _type_name(old.LayerType.Name(value))
            elif field.name in _PARAM_FIELDS:
                while len(layer.param) < len(value):
                    layer.param.add()
                for spec, entry in zip(layer.param, value, strict=False):
                    _PARAM_FIELDS[field.name](spec, entry)
            else:
                _set(layer, field.name, value)
    param.ClearField("layers")


_PARAM_FIELDS: dict[str, Callable[[Any, Any], None]] = {
    "param": lambda spec, name: setattr(spec, "name", name),
    "blob_share_mode": lambda spec, mode: setattr(spec, "share_mode", mode),  # the numbers are the same
    "blobs_lr": lambda spec, rate: setattr(spec, "lr_mult", rate),
    "weight_decay": lambda spec, decay: setattr(spec, "decay_mult", decay),
}


def _inputs_to_layer(source: NetSource) -> None:
    """``input`` with ``input_shape`` or ``input_dim`` becomes one Input layer called "input", in front.

    As in Caffe, sizes without an ``input`` mean nothing, nor does an ``input`` without sizes (old .caffemodel files
    have such), nor do more sizes than there are inputs.
    """
    param = source.param
    inputs, shapes, dims = list(param.input), list(param.input_shape), list(param.input_dim)
    if not (inputs or shapes or dims):
        return
    if not inputs or not (shapes or dims):
        for name in ("input", "input_shape", "input_dim"):
            param.ClearField(name)
        return
    prefix = f"{source.path}: " if source.path else ""
    if len(shapes) != 1 and len(shapes or dims) < len(inputs) * (1 if shapes else 4):
        given = f"{len(shapes)} `input_shape`" if shapes else f"{len(dims)} `input_dim`"
        raise NetError(f"{prefix}{len(inputs)} `input` but {given}: give each input an input_shape, or four input_dim")
    net = type(param)()
    layer = net.layer.add(name="input", type="Input", top=inputs)
    if shapes:
        layer.input_param.shape.extend(shapes[: len(inputs)])
    else:
        for start in range(0, 4 * len(inputs), 4):
            layer.input_param.shape.add(dim=dims[start : start + 4])
    net.layer.extend(param.layer)
    for name in ("input", "input_shape", "input_dim", "layer"):
        param.ClearField(name)
    param.layer.extend(net.layer)
    source.lines.insert(0, 0)


def _freeze_statistics(param: Any) -> None:
    """BatchNorm's three arrays are statistics: a file that gives them rates (or none, which means 1) is corrected."""
    for layer in param.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0


def _fill_holes(source: NetSource) -> None:
    """DeepLab's ``hole`` (or ``hole_h`` and ``hole_w``) of convolutions is what BVLC's Caffe named ``dilation``.

    A convolution that can have one was a type of its own for a while, HoleConvolution.
    """
    for index, layer in enumerate(source.param.layer):
        if layer.type == "HoleConvolution":
            layer.type = "Convolution"
        settings = layer.convolution_param
        if "hole" not in settings.DESCRIPTOR.fields_by_name:
            continue
        given = [name for name in ("hole", "hole_h", "hole_w") if settings.HasField(name)]
        if not given:
            continue
        label = f'{_at(source, index)}layer "{one_line(layer.name)}" ({one_line(layer.type)})'
        if settings.dilation:
            raise NetError(f"{label}: both {given[0]} and dilation are set, which are the same: keep dilation")
        if given == ["hole"]:
            settings.dilation.append(settings.hole)
        elif given == ["hole_h", "hole_w"]:
            settings.dilation.extend((settings.hole_h, settings.hole_w))
        else:
            raise NetError(f"{label}: {' and '.join(given)}: give hole, or both of hole_h and hole_w")
        for name in given:
            settings.ClearField(name)
