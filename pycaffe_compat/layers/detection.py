"""SSD's layers (weiliu89/caffe): prior boxes, and detections out of what a net predicts relative to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, NetError
from ..naming import shape_text
from ..proto.fields import word
from . import boxes as box
from .base import Layer, fixed, register


@register("Permute", param="permute_param", fork="SSD")
class Permute(Layer):
    """The axes in another ``order``; those that it does not name follow as they were."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        order = list(self.settings.order)
        if max(order, default=0) >= max(x.ndim, 1):
            raise NetError(f"order {order}: there is no axis {max(order)} in a blob of {x.ndim} dimensions")
        if len(set(order)) < len(order):
            raise NetError(f"order {order} names an axis twice")
        self.order = order + [axis for axis in range(x.ndim) if axis not in order]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.permute(self.order)


@register("Normalize", param="norm_param", fork="SSD")
class Normalize(Layer):
    """x over the root of (eps + its sum of squares over channels), times a learned scale that starts at 1.

    ``across_spatial`` (the default): the sum is over the whole of an image. The scale is one number unless
    ``channel_shared`` is false: then one for each channel (axis 1).
    """

    scale: Tensor

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if x.ndim < 2:
            raise NetError(f"Normalize needs a channel axis: its bottom has {x.ndim} dimensions")
        self.axes = tuple(range(1, x.ndim)) if s.across_spatial else (1,)
        self.eps = s.eps
        self.shape = () if s.channel_shared else (x.shape[1], *[1] * (x.ndim - 2))
        if not s.HasField("scale_filler"):
            s.scale_filler.type, s.scale_filler.value = "constant", 1
        self.add_blob("scale", self.shape[:1], s.scale_filler)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        norm = (x.square().sum(self.axes, keepdim=True) + self.eps).sqrt()
        return x / norm * self.scale.reshape(self.shape)


# -------------------------------------------------------------------------------------------------------- prior boxes


def _height_and_width(settings: Any, name: str, both: str) -> tuple[float, float] | None:
    """The field ``both``, or ``name``_h and ``name``_w; None where nothing is given."""
    h, w = f"{name}_h", f"{name}_w"
    separate = settings.HasField(h) or settings.HasField(w)
    if separate and settings.HasField(both):
        raise NetError(f"prior_box_param: give {both}, or both of {h} and {w}")
    if not separate and not settings.HasField(both):
        return None
    pair = (getattr(settings, h), getattr(settings, w)) if separate else (getattr(settings, both),) * 2
    if min(pair) <= 0:
        raise NetError(f"prior_box_param: {f'{h} and {w}' if separate else both} must be given and positive")
    return pair


@register("PriorBox", param="prior_box_param", bottoms=(1, 2), fork="SSD")
class PriorBox(Layer):
    """The boxes around each position of a map: (1, 2, 4 * boxes), first the boxes, then their variances.

    The first bottom's height and width count, and the second one's: it is the image (unless ``img_size`` is given).
    Position (h, w) is at ((w + offset) * step, (h + offset) * step) in pixels, step being the image's size over the
    map's unless given. Each position has, for every ``min_size`` (cut to whole pixels, ``max_size`` too), a square of
    that size, a square of sqrt(min_size * max_size) if there is a max_size, and a box of min_size * sqrt(ratio) by
    min_size / sqrt(ratio) for each ``aspect_ratio`` and, with ``flip``, its reciprocal. Positions go row by row.
    """

    gradient = "no"

    def setup(self, x: Tensor, image: Tensor | None = None) -> None:  # type: ignore[override]
        s = self.settings
        for name, blob in zip(self.param.bottom, (x, image), strict=False):
            if blob is not None and blob.ndim != 4:
                raise NetError(f'bottom "{name}" must have a height and a width, 4 axes, not {shape_text(blob.shape)}')
        if not s.min_size or min(s.min_size) <= 0:
            raise NetError("prior_box_param: at least one min_size is needed, and all must be positive")
        if s.max_size and len(s.max_size) != len(s.min_size):
            raise NetError(f"{len(s.max_size)} max_size for {len(s.min_size)} min_size: give one each, or none")
        for small, large in zip(s.min_size, s.max_size, strict=False):
            if large <= small:
                raise NetError(f"max_size {large:g} is not larger than its min_size {small:g}")
        if min(s.aspect_ratio, default=1) <= 0:
            raise NetError(f"aspect_ratio {min(s.aspect_ratio):g} is not positive")
        self.variance = list(s.variance) or [0.1]
        if len(self.variance) not in (1, 4) or min(self.variance) <= 0:
            raise NetError(f"{len(self.variance)} variance: give 1 or 4, all positive")
        self.image = _height_and_width(s, "img", "img_size")
        self.step = _height_and_width(s, "step", "step")
        self.offset, self.clip = s.offset, s.clip
        if self.image is None and image is None:
            raise NetError("needs the image as its second bottom, or its img_size")
        self.sizes = self._sizes()

    def _sizes(self) -> list[tuple[float, float]]:
        """Width and height of the boxes at a position, in pixels, as 32-bit floats."""
        s = self.settings
        ratios = [1.0]
        for ratio in s.aspect_ratio:
            if all(abs(ratio - other) >= 1e-6 for other in ratios):
                ratios += [ratio, float(np.float32(1 / ratio))] if s.flip else [ratio]
        sizes: list[tuple[float, float]] = []
        for i, small in enumerate(map(int, s.min_size)):
            sizes.append((small, small))
            if s.max_size:
                sizes.append((math.sqrt(small * int(s.max_size[i])),) * 2)
            sizes += [(small * math.sqrt(r), small / math.sqrt(r)) for r in ratios if abs(r - 1) >= 1e-6]
        return [(float(np.float32(w)), float(np.float32(h))) for w, h in sizes]

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:  # type: ignore[override]
        cells = fixed(x.shape[2:])
        if self.image is None:
            assert image is not None  # setup has seen to it
            pixels: Any = fixed(image.shape[2:])
        else:
            pixels = self.image
        corners: list[Tensor] = []
        for axis in (1, 0):  # x, then y
            step = self.step[axis] if self.step else float(np.float32(pixels[axis] / cells[axis]))
            # Rounded to 32 bits where the original's variables are, and computed in 64 where it does that.
            centre = (torch.arange(cells[axis], dtype=torch.float32, device=x.device) + self.offset) * step
            half = torch.tensor([size[1 - axis] for size in self.sizes], dtype=torch.float64, device=x.device) / 2
            shape = (1, -1, len(self.sizes)) if axis else (-1, 1, len(self.sizes))
            for sign in (-1, 1):
                edge = (centre.double()[:, None] + sign * half) / pixels[axis]
                corners.append(edge.reshape(shape).expand(*cells, -1))
        xmin, xmax, ymin, ymax = corners
        boxes = torch.stack([xmin, ymin, xmax, ymax], -1).flatten()
        if self.clip:
            boxes = boxes.clamp(0, 1)
        variances = torch.tensor(self.variance, dtype=torch.float64, device=x.device)
        variances = variances.repeat(boxes.shape[0] // len(self.variance))
        return torch.stack([boxes, variances]).unsqueeze(0).to(x.dtype)


# --------------------------------------------------------------------------------------------------------- detections


def check_predictions(loc: Tensor, conf: Tensor, prior: Tensor, classes: int, loc_classes: int) -> None:
    """NetError unless there are locations and confidences for each of PriorBox's boxes."""
    if prior.ndim < 3 or prior.shape[:2] != (1, 2) or prior.shape[2:].numel() % 4:
        raise NetError(f"the third bottom is PriorBox's, 1 x 2 x 4 P, not {shape_text(prior.shape)}")
    count = prior.shape[2:].numel() // 4
    for name, x, each in (("locations", loc, 4 * loc_classes), ("confidences", conf, classes)):
        if x.ndim < 2 or x.shape[0] != loc.shape[0] or x.shape[1:].numel() != count * each:
            want = f"N x {count * each}, {each} for each of {count} prior boxes"
            raise NetError(f"{name} of shape {shape_text(x.shape)} must be {want}")


def check_sizes(where: str, priors: Tensor, code: str) -> None:
    """DataError where a prior box (P, 4) has no size and the code is in units of it."""
    if code == "CORNER" or priors.is_meta or torch.compiler.is_compiling():
        return
    flat = ~(priors[:, 2:] > priors[:, :2]).all(1)
    if bool(flat.any()):
        raise DataError(f"{where}: prior box {int(flat.nonzero()[0])} has no size: {code} needs one")


@torch.library.custom_op("pycaffe_compat::detections", mutates_args=())
def detections(
    boxes: Tensor,
    scores: Tensor,
    background: int,
    score_threshold: float,
    top_k: int,
    nms_threshold: float,
    eta: float,
    keep_top_k: int,
) -> Tensor:
    """Which boxes are objects, as an operator of its own: how many they are depends on the values.

    Args:
        boxes: (N, classes or 1, P, 4).
        scores: (N, classes, P).
        background: a class that is none, or -1.
        top_k, keep_top_k: how many candidates of a class, and how many detections of an image; -1: all.

    Returns:
        (1, 1, detections, 7): image, class, score and box. Where there is none at all, a row for each image: its
        number and -1 six times.
    """
    found = []
    for image, (image_boxes, image_scores) in enumerate(
        zip(boxes.detach().cpu().numpy(), scores.detach().cpu().numpy(), strict=True)
    ):
        rows = []
        for label, values in enumerate(image_scores):
            if label == background:
                continue
            candidates = image_boxes[label if len(image_boxes) > 1 else 0]
            order = np.flatnonzero(values > score_threshold)
            order = order[np.argsort(-values[order], kind="stable")]
            if top_k > -1:
                order = order[:top_k]
            order = order[box.suppress(candidates[order], nms_threshold, eta)]
            tags = np.broadcast_to(np.array([image, label], values.dtype), (len(order), 2))
            rows.append(np.concatenate([tags, values[order, None], candidates[order]], 1))
        kept = np.concatenate(rows) if rows else np.empty((0, 7))
        if -1 < keep_top_k < len(kept):
            best = np.sort(np.argsort(-kept[:, 2], kind="stable")[:keep_top_k])  # still class by class
            kept = kept[best]
        found.append(kept)
    table = np.concatenate(found) if found else np.empty((0, 7))
    if not len(table):
        table = np.full((len(boxes), 7), -1.0)
        table[:, 0] = np.arange(len(boxes))
    return torch.from_numpy(table).to(scores)[None, None]


@detections.register_fake
def _(boxes: Tensor, scores: Tensor, *settings: Any) -> Tensor:
    return scores.new_empty((1, 1, torch.library.get_ctx().new_dynamic_size(), 7))


@register("DetectionOutput", param="detection_output_param", bottoms=3, fork="SSD")
class DetectionOutput(Layer):
    """Detections from locations (N, P * 4 or P * classes * 4), confidences (N, P * classes) and PriorBox's top.

    The locations are decoded to boxes (see :func:`boxes.decode`), for all classes or, without ``share_location``, for
    each one. Of each class but the background, the ``nms_param.top_k`` best boxes whose confidence is above
    ``confidence_threshold`` are thinned out by non-maximum suppression; of an image the ``keep_top_k`` best are left.
    The top is (1, 1, detections, 7), see :func:`detections`; image by image, class by class, best first. As the net is
    built it has one row. Equal confidences keep the order of the boxes, where the original's sorting leaves it open.
    """

    gradient = "no"
    refuses_gradient = True
    no_onnx = "it thins out boxes by a rule that ONNX's NonMaxSuppression has not: end the exported net at its bottoms"

    def setup(self, loc: Tensor, conf: Tensor, prior: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if s.num_classes < 1:
            raise NetError("detection_output_param: num_classes is missing, background included")
        if s.save_output_param.output_directory or s.visualize:
            raise NetError("writes no files and pictures: remove output_directory and visualize, the top holds it all")
        nms = s.nms_param
        if nms.nms_threshold < 0:
            raise NetError(f"nms_threshold {nms.nms_threshold:g} is negative")
        if not 0 < nms.eta <= 1:
            raise NetError(f"eta {nms.eta:g} is not in 0..1 (0 excluded)")
        self.classes, self.loc_classes = s.num_classes, 1 if s.share_location else s.num_classes
        check_predictions(loc, conf, prior, self.classes, self.loc_classes)
        self.code = word(s, "code_type")
        self.variance_in_target = s.variance_encoded_in_target
        threshold = s.confidence_threshold if s.HasField("confidence_threshold") else float(np.finfo(np.float32).min)
        top_k = nms.top_k if nms.HasField("top_k") else -1
        self.rule = (s.background_label_id, threshold, top_k, nms.nms_threshold, nms.eta, s.keep_top_k)

    def infer(self, *bottoms: Tensor) -> list[Tensor]:
        return [bottoms[0].new_empty((1, 1, 1, 7))]

    def forward(self, loc: Tensor, conf: Tensor, prior: Tensor) -> Tensor:  # type: ignore[override]
        priors, variances = prior.detach().reshape(2, -1, 4)
        check_sizes(self.label, priors, self.code)
        places = loc.detach().reshape(loc.shape[0], -1, self.loc_classes, 4).transpose(1, 2)
        boxes = box.decode(places, priors, None if self.variance_in_target else variances, self.code)
        scores = conf.detach().reshape(conf.shape[0], -1, self.classes).transpose(1, 2)
        return detections(boxes, scores, *self.rule)
