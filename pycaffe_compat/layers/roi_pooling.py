"""ROIPooling (Fast R-CNN): the largest values of windows that a second blob gives."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError, NetError
from .base import Layer, fixed, register, shape_text


def _round(x: Tensor) -> Tensor:
    """To the nearest whole number, halves away from 0, as C rounds (PyTorch takes the even one)."""
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0)


def _bins(low: Tensor, high: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """First and past-the-last position of each bin between low and high (both included), cut off at 0 and limit.

    Args:
        low, high: whole numbers, (R,).

    Returns:
        Two of int64, (R, count).
    """
    size = (high - low + 1).clamp(min=1) / count
    place = torch.arange(count, dtype=low.dtype, device=low.device)
    start = (place * size[:, None]).floor() + low[:, None]
    end = ((place + 1) * size[:, None]).ceil() + low[:, None]
    return start.clamp(0, limit).long(), end.clamp(0, limit).long()


class _Maxima:
    """Where the largest value of any rectangle of a map is: of equal ones, the first in scan order.

    A table of the maxima of all squares and rectangles with sides 1, 2, 4, ... is made by doubling; any rectangle is
    four of them that overlap. So that all windows are looked up at once, whatever their sizes.

    Args:
        maps: (B, C, H, W).
        sides: the largest height and width that will be asked for.
    """

    def __init__(self, maps: Tensor, sides: tuple[int, int]) -> None:
        batch, channels, height, width = maps.shape
        self.values = maps.detach().flatten()
        self.shape = (channels, height, width)
        # Positions of maxima in the whole blob, so that "first" is "least".
        row = torch.arange(batch * channels * height * width, device=maps.device).reshape(maps.shape)
        self.levels = [max(1, int(side).bit_length()) for side in sides]
        table = []
        for i in range(self.levels[0]):
            rectangle = row
            for j in range(self.levels[1]):
                table.append(rectangle)
                if j + 1 < self.levels[1]:
                    rectangle = self.better(rectangle, rectangle.roll(-(1 << j), 3))
            if i + 1 < self.levels[0]:
                # What is rolled in from the other end is never asked for.
                row = self.better(row, row.roll(-(1 << i), 2))
        self.table = torch.stack(table).flatten()

    def better(self, a: Tensor, b: Tensor) -> Tensor:
        x, y = self.values[a], self.values[b]
        return torch.where((y > x) | ((y == x) & (b < a)), b, a)

    def level(self, size: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """The largest power of two that fits into a size: its exponent, and itself."""
        exponent = torch.zeros_like(size)
        power = torch.ones_like(size)
        for i in range(1, levels):
            fits = size >= 1 << i
            exponent, power = exponent + fits.long(), torch.where(fits, 1 << i, power)
        return exponent, power

    def find(self, item: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
        """Positions (R, C, PH, PW) in the flat maps of the maxima in rows (R, PH) and columns (R, PW) of item (R,)."""
        channels, height, width = self.shape
        (i, tall), (j, wide) = (
            self.level(end - start, n) for (start, end), n in zip((rows, columns), self.levels, strict=True)
        )
        entry = (i[:, :, None] * self.levels[1] + j[:, None, :]) * self.values.shape[0]  # (R, PH, PW)
        plane = item[:, None] * channels + torch.arange(channels, device=item.device)
        base = entry[:, None] + (plane * (height * width))[:, :, None, None]
        best: Tensor | None = None
        for r in (rows[0], rows[1] - tall):
            for c in (columns[0], columns[1] - wide):
                found = self.table[base + (r[:, :, None] * width + c[:, None, :])[:, None]]
                best = found if best is None else self.better(best, found)
        assert best is not None
        return best


@register("ROIPooling", param="roi_pooling_param", bottoms=2, fork="Fast R-CNN")
class ROIPooling(Layer):
    """The largest value in each of ``pooled_h`` x ``pooled_w`` bins of each region: (R, channels, pooled_h, pooled_w).

    A region, a row of the second bottom, is (item of the batch, x1, y1, x2, y2) in pixels of the image, corners
    included; ``spatial_scale`` takes it to the map, where it is rounded (halves away from 0) and at least 1 x 1. Bins
    begin at the floor and end at the ceiling of even divisions, so they may overlap. One outside the map is 0. Of equal
    maxima the first in scan order gets the gradient; regions get none.
    """

    forced_bottoms = staticmethod(lambda index: index == 0)

    def setup(self, x: Tensor, rois: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if x.ndim != 4:
            raise NetError(f"the first bottom has 4 axes (num, channels, height, width), not {shape_text(x.shape)}")
        if not rois.ndim or rois.shape[1:].numel() != 5:
            raise NetError(f"the second bottom holds item, x1, y1, x2, y2 of each region, not {shape_text(rois.shape)}")
        if min(s.pooled_h, s.pooled_w) < 1:
            raise NetError("roi_pooling_param: pooled_h and pooled_w must be given and positive")
        if s.spatial_scale <= 0:
            raise NetError(f"spatial_scale {s.spatial_scale:g} is not positive")
        self.bins, self.scale = (s.pooled_h, s.pooled_w), s.spatial_scale

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        rois = rois.detach().reshape(-1, 5)
        item = rois[:, 0].trunc().long()
        known = not rois.is_meta and not torch.compiler.is_compiling()
        if known:
            wrong = (item < 0) | (item >= x.shape[0])
            if bool(wrong.any()):
                at = int(wrong.nonzero()[0])
                raise DataError(f"{self.label}: region {at} lies in item {int(item[at])} of a batch of {x.shape[0]}")
        height, width = fixed(x.shape[2:])
        x1, y1, x2, y2 = _round(rois[:, 1:] * self.scale).unbind(1)
        rows, columns = _bins(y1, y2, self.bins[0], height), _bins(x1, x2, self.bins[1], width)
        empty = ((rows[1] <= rows[0])[:, :, None] | (columns[1] <= columns[0])[:, None, :])[:, None]
        # A bin without values is given one to look at.
        rows, columns = (
            (start.clamp(max=limit - 1), torch.maximum(end, start.clamp(max=limit - 1) + 1))
            for (start, end), limit in ((rows, height), (columns, width))
        )
        if known and len(rois):  # small bins need small tables
            height, width = (int((end - start).max()) for start, end in (rows, columns))
        at_most = _Maxima(x, (height, width))
        return torch.where(empty, 0, x.flatten()[at_most.find(item, rows, columns)])
