"""SSD's training loss (weiliu89/caffe): which prior box stands for which object, and what its prediction costs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError, NetError
from ..naming import shape_text
from ..proto.fields import word
from . import boxes as box
from .base import register
from .class_loss import cross_entropy
from .detection import check_predictions, check_sizes
from .forks import smooth_l1
from .labels import counted
from .loss import LossLayer, normalization_mode, normalizer, precise

ITEM, LABEL, BOX, DIFFICULT = 0, 1, slice(3, 7), 7
"""Where a row of the ground truth has the image's number in the batch (-1: no row), the class, the box, the flag."""


@torch.library.custom_op("pycaffe_compat::box_matches", mutates_args=())
def matches(
    where: str,
    boxes: Tensor,
    truth: Tensor,
    images: int,
    loc_classes: int,
    num_classes: int,
    share: bool,
    background: int,
    threshold: float | None,
    within: bool,
    difficult: bool,
) -> tuple[Tensor, Tensor]:
    """Which row of the ground truth each prediction stands for, see :func:`boxes.match`.

    Args:
        where: the layer, for messages.
        boxes: what is matched: prior boxes (P, 4), for all images and classes, or predicted ones (images, loc_classes,
            P, 4).
        truth: (G, 8).
        num_classes: labels must be below; 0: any will do.
        share: one location for all classes; else each class is matched with the objects of its own.
        difficult: whether objects that are marked as difficult are there.

    Returns:
        The row's number, or -1, or -2 in an image without objects and where a box is left out (``within``); and the
        overlap. (images, loc_classes, P) both.

    Raises:
        DataError: an object's label is the background's, or no class.
    """
    rows, places = truth.detach().cpu().numpy(), boxes.detach().cpu().numpy()
    items, labels = np.trunc(rows[:, ITEM]), np.trunc(rows[:, LABEL])
    there = difficult | (rows[:, DIFFICULT] == 0)
    shape = (images, loc_classes, places.shape[-2])
    index, overlap = np.full(shape, -1), np.zeros(shape, rows.dtype)
    for image in range(images):
        objects = np.flatnonzero(there & (items == image))
        if not len(objects):
            index[image] = -2
            continue
        for row in objects:
            if labels[row] == background or (num_classes and not 0 <= labels[row] < num_classes):
                what = "the background's" if labels[row] == background else f"not in 0..{num_classes - 1}"
                raise DataError(f"{where}: ground truth {row}: label {rows[row, LABEL]:g} is {what}")
        if places.ndim == 2:
            found, largest = box.match(places, rows[objects, BOX], threshold, within)
        for label in range(loc_classes):
            if not share and label == background:
                continue
            mine = objects if share else objects[labels[objects] == label]
            if places.ndim == 4:
                found, largest = box.match(places[image, label], rows[mine, BOX], threshold, within)
                number = np.where(found < 0, found, np.append(mine, 0)[found])
            else:
                number = np.where(found < 0, found, objects[found])
                number = np.where((found < 0) | np.isin(number, mine), number, -1)
            index[image, label], overlap[image, label] = number, largest
    return torch.from_numpy(index).to(boxes.device), torch.from_numpy(overlap).to(boxes)


@matches.register_fake
def _(
    where: str,
    boxes: Tensor,
    truth: Tensor,
    images: int,
    loc_classes: int,
    num_classes: int,
    share: bool,
    background: int,
    threshold: float | None,
    within: bool,
    difficult: bool,
) -> tuple[Tensor, Tensor]:
    shape = (images, loc_classes, boxes.shape[-2])
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape)


@torch.library.custom_op("pycaffe_compat::mined_boxes", mutates_args=())
def mined(
    losses: Tensor,
    index: Tensor,
    overlap: Tensor,
    boxes: Tensor | None,
    sample_size: int | None,
    ratio: float,
    neg_overlap: float,
    nms_threshold: float,
    top_k: int,
) -> Tensor:
    """Which predictions of an image cost most, and count.

    Args:
        losses, index, overlap: (images, P), the latter two as :func:`matches` gives them.
        boxes: (images, P, 4) where those that overlap a worse one by more than ``nms_threshold`` are left out; of the
            ``top_k`` worst, if it is not negative. None: all stay.
        sample_size: how many of all are taken. None: of those without an object (which overlap any by less than
            ``neg_overlap``) ``ratio`` times as many as have one.

    Returns:
        (images, P), bool. Of equal losses the first count, where the original's sorting leaves it open.
    """
    chosen = np.zeros(losses.shape, bool)
    places = None if boxes is None else boxes.detach().cpu().numpy()
    tables = (x.detach().cpu().numpy() for x in (losses, index, overlap))
    for image, (loss, number, largest) in enumerate(zip(*tables, strict=True)):
        if sample_size is None:
            order = np.flatnonzero((number == -1) & (largest < np.float32(neg_overlap)))
            count = int(np.float32((number >= 0).sum()) * np.float32(ratio))
        else:
            order, count = np.arange(len(number)), sample_size
        order = order[np.argsort(-loss[order], kind="stable")]
        if places is not None:
            order = order[:top_k] if top_k >= 0 else order
            order = order[box.areas(places[image, order]) >= 1e-5]
            order = order[box.suppress(places[image, order], nms_threshold, 1)]
        chosen[image, order[:count]] = True
    return torch.from_numpy(chosen).to(losses.device)


@mined.register_fake
def _(
    losses: Tensor,
    index: Tensor,
    overlap: Tensor,
    boxes: Tensor | None,
    sample_size: int | None,
    ratio: float,
    neg_overlap: float,
    nms_threshold: float,
    top_k: int,
) -> Tensor:
    return losses.new_empty(losses.shape, dtype=torch.bool)


@register("MultiBoxLoss", param="multibox_loss_param", bottoms=4, fork="SSD")
class MultiBoxLoss(LossLayer):
    """What locations (N, P * 4 or P * classes * 4) and confidences (N, P * classes) cost, given the objects.

    The third bottom is PriorBox's top; the fourth, AnnotatedData's (1, 1, G, 8), has a row for each object: the image's
    number in the batch (-1: no object), class, instance, xmin, ymin, xmax, ymax, difficult.

    Prior boxes (or the predicted ones, without ``use_prior_for_matching``) are matched with objects, see
    :func:`boxes.match`, with ``overlap_threshold`` if PER_PREDICTION. The loss is ``loc_weight`` times that of the
    matched locations' differences from what they should predict (:func:`boxes.encode`; SMOOTH_L1, or half their squares
    with L2) and that of the confidences, whose class is the object's or else the background's; over the number of
    matches (``loss_param``). With MAX_NEGATIVE only the worst of the unmatched confidences count, ``neg_pos_ratio`` for
    each match; with HARD_EXAMPLE the ``sample_size`` worst predictions of an image alone, matched or not, see
    :func:`mined`; with NONE all confidences. Mining takes nothing from an image without objects. A bottom with
    ``propagate_down: false`` adds no loss.

    In LOGISTIC, each class a sigmoid of its own, the background's target is 1 for mined negatives, and without mining
    always 0. (There the original writes other targets: the number ``background_label_id`` as such, and without mining,
    beyond the batch's first image, in wrong places.)
    """

    forced_bottoms = staticmethod(lambda index: index < 2)
    refuses_gradient = True
    no_onnx = "it matches boxes with objects by a rule that ONNX has not: export the deploy file, or the TEST phase"

    def setup(self, loc: Tensor, conf: Tensor, prior: Tensor, truth: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if s.num_classes < 1:
            raise NetError("multibox_loss_param: num_classes is missing, background included")
        self.share, self.classes = s.share_location, s.num_classes
        self.loc_classes = 1 if self.share else self.classes
        check_predictions(loc, conf, prior, self.classes, self.loc_classes)
        if truth.ndim < 2 or truth.shape[-1] != 8 or truth.shape[:-2].numel() != 1:
            raise NetError(f"the fourth bottom is AnnotatedData's, 1 x 1 x G x 8, not {shape_text(truth.shape)}")
        self.code, self.mining = word(s, "code_type"), word(s, "mining_type")
        self.softmax, self.l2 = word(s, "conf_loss_type") == "SOFTMAX", word(s, "loc_loss_type") == "L2"
        self.background, self.agnostic = s.background_label_id, s.map_object_to_agnostic
        self.threshold = s.overlap_threshold if word(s, "match_type") == "PER_PREDICTION" else None
        self._check_classes()
        self._check_mining()
        nms = s.nms_param
        self.nms = s.HasField("nms_param") and nms.nms_threshold > 0 and self.mining != "NONE"
        if self.nms and not nms.HasField("top_k"):
            raise NetError("nms_param needs a top_k (-1: all): without one the original takes 0, which leaves nothing")
        self.sample_size = s.sample_size if self.mining == "HARD_EXAMPLE" else None
        self.mode = normalization_mode(self.param.loss_param, "VALID")
        downs = list(self.param.propagate_down) or [True, True]
        self.weights = (s.loc_weight if downs[0] else 0.0, 1.0 if downs[1] else 0.0)

    def _check_classes(self) -> None:
        s = self.settings
        if getattr(s, "ignore_difficult_gt", False):
            raise NetError("ignore_difficult_gt (NVIDIA's) is not supported: use_difficult_gt: false leaves them out")
        if self.background >= self.classes and (self.softmax or self.mining != "NONE"):
            raise NetError(f"background_label_id {self.background} is not in 0..{self.classes - 1}")
        if self.agnostic and (self.classes, self.background) != (2, 0):
            raise NetError(
                f"map_object_to_agnostic is for num_classes: 2 and background_label_id: 0, not {self.classes} and "
                f"{self.background}"
            )

    def _check_mining(self) -> None:
        s = self.settings
        if s.HasField("do_neg_mining") and s.do_neg_mining != (self.mining != "NONE"):
            mining = "MAX_NEGATIVE" if s.do_neg_mining else "NONE"
            flag = str(s.do_neg_mining).lower()
            raise NetError(f"do_neg_mining: {flag} contradicts mining_type {self.mining}: write mining_type: {mining}")
        if self.mining != "NONE" and not self.share:
            raise NetError(f"mining_type {self.mining} needs share_location: true; write mining_type: NONE")
        if s.sample_size < 1 and self.mining == "HARD_EXAMPLE":
            raise NetError(f"sample_size {s.sample_size} is not positive")
        if s.neg_pos_ratio < 0:
            raise NetError(f"neg_pos_ratio {s.neg_pos_ratio:g} is negative")

    def forward(self, loc: Tensor, conf: Tensor, prior: Tensor, truth: Tensor) -> Tensor:  # type: ignore[override]
        s, images = self.settings, loc.shape[0]
        conf = precise(conf).reshape(images, -1, self.classes)
        places = precise(loc).reshape(images, -1, self.loc_classes, 4).transpose(1, 2)
        priors, variances = prior.detach().to(places.dtype).reshape(2, -1, 4)
        truth = truth.detach().to(places.dtype).reshape(-1, 8)
        self._check_variances(variances)
        scale, divisor = (None, variances) if s.encode_variance_in_target else (variances, None)
        boxes = priors
        if not s.use_prior_for_matching or (self.nms and not s.use_prior_for_nms):
            check_sizes(self.label, priors, self.code)
            boxes = box.decode(places.detach(), priors, scale, self.code)
        compared = priors if s.use_prior_for_matching else boxes
        index, overlap = matches(
            self.label,
            compared,
            truth,
            images,
            self.loc_classes,
            0 if self.agnostic else self.classes,
            self.share,
            self.background,
            self.threshold,
            s.ignore_cross_boundary_bbox,
            s.use_difficult_gt,
        )
        matched = index >= 0
        # The row of its object for each prediction; one that has none gets a last row, which nothing counts.
        rows = torch.cat([truth, truth.new_tensor([[-1, 0, 0, 0, 0, 1, 1, 0]])])[index.clamp(min=-1)]

        difference = places - box.encode(rows[..., BOX], priors, scale, self.code)
        if divisor is not None:
            difference = difference / divisor
        there = matched.unsqueeze(-1)
        if s.bp_inside:
            there = there & (compared >= 0) & (compared <= 1)
        difference = torch.where(there, difference, 0)
        loc_losses = (0.5 * difference.square() if self.l2 else smooth_l1(difference)).sum(-1)
        conf_losses = self._conf_losses(conf, matched, rows[..., LABEL])

        if self.mining != "NONE":
            suppressed = None
            if self.nms:
                suppressed = priors.expand(images, -1, 4) if s.use_prior_for_nms else boxes[:, 0]
            chosen = mined(
                (conf_losses + loc_losses[:, 0] if self.sample_size is not None else conf_losses).detach(),
                index[:, 0],
                overlap[:, 0],
                suppressed,
                self.sample_size,
                s.neg_pos_ratio,
                s.neg_overlap,
                s.nms_param.nms_threshold,
                s.nms_param.top_k,
            )
            if self.sample_size is not None:
                matched = matched & chosen.unsqueeze(1)
            conf_losses = counted(conf_losses, matched[:, 0] | (chosen & (index[:, 0] == -1)))
            loc_losses = counted(loc_losses, matched)
        total = normalizer(self.mode, conf_losses.numel(), images, matched)
        loc_weight, conf_weight = self.weights
        loss = places.new_zeros(())
        if loc_weight:
            loss = loss + loc_weight * loc_losses.sum() / total
        return loss + conf_losses.sum() / total if conf_weight else loss

    def _conf_losses(self, conf: Tensor, matched: Tensor, labels: Tensor) -> Tensor:
        """One a prior box (N, P). ``matched`` and ``labels`` are (N, loc_classes, P)."""
        number = torch.full_like(labels, 1) if self.agnostic else labels.trunc()
        number = torch.where(matched, number, -1).to(torch.int64)
        if self.softmax:
            number = number.amax(1)  # of several classes that one box is matched in the last one stays
            number = torch.where(number < 0, self.background, number)
            return cross_entropy(F.log_softmax(conf, 2), number, 2)
        images, count, classes = conf.shape
        columns = torch.where(number < 0, classes, number).transpose(1, 2)
        target = conf.new_zeros(images, count, classes + 1).scatter(2, columns, 1.0)[..., :classes]
        if self.mining != "NONE":
            negative = ~matched.any(1).unsqueeze(-1)
            target = target + negative * F.one_hot(torch.tensor(self.background), classes).to(target)
        return F.binary_cross_entropy_with_logits(conf, target, reduction="none").sum(2)

    def _check_variances(self, variances: Tensor) -> None:
        if variances.is_meta or torch.compiler.is_compiling():
            return
        wrong = ~(variances > 0).all(1)
        if bool(wrong.any()):
            raise DataError(f"{self.label}: prior box {int(wrong.nonzero()[0])} has a variance that is not positive")
