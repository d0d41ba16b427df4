"""SSD's DetectionEvaluate (weiliu89/caffe): which detections hit an object."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.annotations import Boxes, overlaps
from ..data.augment import Resizing, seen_through
from ..data.images import read_lines
from ..errors import DataError, NetError
from ..naming import shape_text
from .base import Layer, register
from .multibox import BOX, DIFFICULT, ITEM, LABEL


@register("DetectionEvaluate", param="detection_evaluate_param", bottoms=2, fork="SSD")
class DetectionEvaluate(Layer):
    """Which of DetectionOutput's rows (1, 1, D, 7) hit an object of AnnotatedData's rows (1, 1, G, 8).

    The top is (1, 1, classes + detections, 5): first for each class but the background -1, class, how many objects
    there are, -1, -1; then for each detection image, class, confidence, and 1, 0 if it is a true positive, 0, 1 if a
    false one; image by image, class by class, best first. A detection is compared with the object of its class that it
    overlaps most: it hits if by ``overlap_threshold`` at least, but each object is hit only once. Difficult objects do
    not count without ``evaluate_difficult_gt``; what hits them is 0, 0.

    Boxes are compared as fractions of the image; with a ``name_size_file`` (name, height, width on each line) in pixels
    of the images, into which ``resize_param`` tells how they were resized. Its lines are taken in turn for the images
    with detections, over and over, as the original does.
    """

    gradient = "no"
    no_onnx = "it scores detections against known objects: leave it out of what you deploy"

    def setup(self, found: Tensor, truth: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        for name, x, width in zip(self.param.bottom, (found, truth), (7, 8), strict=True):
            if x.ndim < 2 or x.shape[-1] != width or x.shape[:-2].numel() != 1:
                raise NetError(f'bottom "{name}" must be 1 x 1 x rows x {width}, not {shape_text(x.shape)}')
        if s.num_classes < 1:
            raise NetError("detection_evaluate_param: num_classes is missing, background included")
        if s.background_label_id >= s.num_classes:
            raise NetError(f"background_label_id {s.background_label_id} is not in 0..{s.num_classes - 1}")
        if s.overlap_threshold <= 0:
            raise NetError(f"overlap_threshold {s.overlap_threshold:g} is not positive")
        self.classes = [c for c in range(s.num_classes) if c != s.background_label_id]
        try:
            self.sizes = read_sizes(s.name_size_file) if s.name_size_file else []
            self.resizing = Resizing(s.resize_param) if s.HasField("resize_param") else None
        except DataError as error:
            raise NetError(str(error)) from error
        if s.name_size_file:
            self.reads.append(s.name_size_file)
        self.image = 0  # which line of the sizes comes next

    def infer(self, *bottoms: Tensor) -> list[Tensor]:
        return [bottoms[0].new_empty((1, 1, len(self.classes) + bottoms[0].shape[-2], 5))]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, found: Tensor, truth: Tensor) -> Tensor:
        rows = truth.detach().cpu().numpy().reshape(-1, 8)
        rows = rows[np.trunc(rows[:, ITEM]) != -1]
        detections = found.detach().cpu().numpy().reshape(-1, 7)
        detections = detections[np.trunc(detections[:, 0]) != -1]
        for what, labels in (("ground truth", rows[:, LABEL]), ("detection", detections[:, 1])):
            wrong = np.flatnonzero(np.trunc(labels) == self.settings.background_label_id)
            if len(wrong):
                raise DataError(f"{self.label}: {what} {wrong[0]}: label {labels[wrong[0]]:g} is the background's")
        counted = rows if self.settings.evaluate_difficult_gt else rows[rows[:, DIFFICULT] == 0]
        table = [[-1, c, (np.trunc(counted[:, LABEL]) == c).sum(), -1, -1] for c in self.classes]
        images = np.trunc(detections[:, 0])
        for image in np.unique(images):
            mine, objects = detections[images == image], rows[np.trunc(rows[:, ITEM]) == image]
            size = self.sizes[self.image] if self.sizes else None
            for label in np.unique(np.trunc(mine[:, 1])):
                if label != -1:
                    of_class = mine[np.trunc(mine[:, 1]) == label]
                    same = objects[np.trunc(objects[:, LABEL]) == label]
                    if len(same):
                        of_class = of_class[np.argsort(-of_class[:, 2], kind="stable")]
                    hits = self._hits(of_class[:, 3:], same, size)
                    table += [[image, label, d[2], *hit] for d, hit in zip(of_class, hits, strict=True)]
            if self.sizes:
                self.image = (self.image + 1) % len(self.sizes)
        return torch.tensor(np.array(table), dtype=found.dtype, device=found.device).reshape(1, 1, -1, 5)

    def _hits(self, boxes: Boxes, objects: Boxes, size: tuple[int, int] | None) -> list[tuple[int, int]]:
        """Of each box, best first, whether it is a true positive, and whether a false one."""
        known, taken, hits = objects[:, BOX], set(), []
        if size is not None:
            known, boxes = (seen_through(self.resizing, b, *size) for b in (known, boxes))
        border = int(size is not None)
        for box in boxes:
            overlap = overlaps(box, known, border)
            best = int(overlap.argmax()) if len(overlap) else -1
            if best < 0 or overlap[best] < np.float32(self.settings.overlap_threshold):
                hits.append((0, 1))
            elif objects[best, DIFFICULT] and not self.settings.evaluate_difficult_gt:
                hits.append((0, 0))
            else:
                hits.append((0, 1) if best in taken else (1, 0))
                taken.add(best)
        return hits


def read_sizes(path: str) -> list[tuple[int, int]]:
    """Height and width on each line of a file, behind a name.

    Raises:
        DataError: it cannot be read, is empty, or a line is something else; ``path:line: message``.
    """
    sizes = []
    for number, line in enumerate(read_lines(path, "the file of names and sizes"), 1):
        words = line.split()
        if words and (len(words) != 3 or not all(w.isascii() and w.isdigit() and 0 < int(w) for w in words[1:])):
            raise DataError(f"{path}:{number}: {line[:100]!r} is no name, height and width")
        if words:
            sizes.append((int(words[1]), int(words[2])))
    if not sizes:
        raise DataError(f"{path}: holds no names and sizes")
    return sizes
