"""Windows of maps that a second blob gives: their largest values (Fast R-CNN), their means (R-FCN)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError, NetError
from ..naming import shape_text
from .base import Layer, fixed, register


def _round(x: Tensor) -> Tensor:
    """To the nearest whole number, halves away from 0, as C rounds (PyTorch takes the even one)."""
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0)


def _check_bottoms(x: Tensor, rois: Tensor) -> None:
    if x.ndim != 4:
        raise NetError(f"the first bottom has 4 axes (num, channels, height, width), not {shape_text(x.shape)}")
    if not rois.ndim or rois.shape[1:].numel() != 5:
        raise NetError(f"the second bottom holds item, x1, y1, x2, y2 of each region, not {shape_text(rois.shape)}")


def _known(rois: Tensor) -> bool:
    """Whether the regions' values may be looked at."""
    return not rois.is_meta and not torch.compiler.is_compiling()


def _items(label: str, rois: Tensor, batch: int) -> Tensor:
    """Which item of the batch each region, a row of (R, 5), lies in."""
    item = rois[:, 0].trunc().long()
    if _known(rois):
        wrong = (item < 0) | (item >= batch)
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise DataError(f"{label}: region {at} lies in item {int(item[at])} of a batch of {batch}")
    return item


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


Found = tuple[Tensor, Tensor]
"""Maxima, and where they are in the whole blob."""


def _better(a: Found, b: Found) -> Found:
    """The larger one; of equal ones the one that is first."""
    second = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
    return torch.where(second, b[0], a[0]), torch.where(second, b[1], a[1])


def _onward(found: Found, step: int, axis: int) -> Found:
    """What stands ``step`` further on. What is rolled in from the other end is never asked for."""
    return found[0].roll(-step, axis), found[1].roll(-step, axis)


class _Maxima:
    """Where the largest value of any rectangle of a map is: of equal ones, the first in scan order.

    A table of the maxima of all squares and rectangles with sides 1, 2, 4, ... is made by doubling; any rectangle is
    four of them that overlap. So that all windows are looked up at once, whatever their sizes, and the channels of a
    place, which lie side by side in the table, together.

    Args:
        maps: (B, C, H, W).
        sides: the largest height and width that will be asked for.
    """

    def __init__(self, maps: Tensor, sides: tuple[int, int]) -> None:
        self.shape = fixed(maps.shape[2:])
        places = torch.arange(maps.numel(), device=maps.device).reshape(maps.shape)
        column = maps.detach().permute(0, 2, 3, 1).contiguous(), places.permute(0, 2, 3, 1).contiguous()
        self.levels = [max(1, int(side).bit_length()) for side in sides]
        table: list[Found] = []
        for i in range(self.levels[0]):
            if i:
                column = _better(column, _onward(column, 1 << (i - 1), 1))
            rectangle = column
            for j in range(self.levels[1]):
                if j:
                    rectangle = _better(rectangle, _onward(rectangle, 1 << (j - 1), 2))
                table.append(rectangle)
        self.values, self.places = (torch.stack(part).flatten(0, 3) for part in zip(*table, strict=True))
        self.entry = places.shape[0] * self.shape[0] * self.shape[1]

    def find(self, item: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
        """Places (R, C, PH, PW) of the maxima in rows (R, PH) and columns (R, PW) of item (R,)."""
        height, width = self.shape
        i, tall = _power(rows[1] - rows[0], self.levels[0])
        j, wide = _power(columns[1] - columns[0], self.levels[1])
        base = (i[:, :, None] * self.levels[1] + j[:, None, :]) * self.entry + (item * (height * width))[:, None, None]
        best: Found | None = None
        for r in (rows[0], rows[1] - tall):
            for c in (columns[0], columns[1] - wide):
                at = base + r[:, :, None] * width + c[:, None, :]
                found = self.values[at], self.places[at]
                best = found if best is None else _better(best, found)
        assert best is not None
        return best[1].permute(0, 3, 1, 2)


def _power(size: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The largest power of two that fits into a size: its exponent, and itself."""
    exponent, power = torch.zeros_like(size), torch.ones_like(size)
    for i in range(1, levels):
        fits = size >= 1 << i
        exponent, power = exponent + fits.long(), torch.where(fits, 1 << i, power)
    return exponent, power


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
        if min(s.pooled_h, s.pooled_w) < 1:
            raise NetError("roi_pooling_param: pooled_h and pooled_w must be given and positive")
        if s.spatial_scale <= 0:
            raise NetError(f"spatial_scale {s.spatial_scale:g} is not positive")
        self.bins, self.scale = (s.pooled_h, s.pooled_w), s.spatial_scale

    def check(self, x: Tensor, rois: Tensor) -> None:  # type: ignore[override]
        _check_bottoms(x, rois)

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        rois = rois.detach().reshape(-1, 5)
        item = _items(self.label, rois, x.shape[0])
        height, width = fixed(x.shape[2:])
        x1, y1, x2, y2 = _round(rois[:, 1:] * self.scale).unbind(1)
        rows, columns = _bins(y1, y2, self.bins[0], height), _bins(x1, x2, self.bins[1], width)
        empty = ((rows[1] <= rows[0])[:, :, None] | (columns[1] <= columns[0])[:, None, :])[:, None]
        # A bin without values is given one to look at.
        rows, columns = (
            (start.clamp(max=limit - 1), torch.maximum(end, start.clamp(max=limit - 1) + 1))
            for (start, end), limit in ((rows, height), (columns, width))
        )
        if _known(rois) and len(rois):  # small bins need small tables
            height, width = (int((end - start).max()) for start, end in (rows, columns))
        at_most = _Maxima(x, (height, width))
        return torch.where(empty, 0, x.flatten()[at_most.find(item, rows, columns)])


@register("PSROIPooling", param="psroi_pooling_param", bottoms=2, fork="R-FCN")
class PSROIPooling(Layer):
    """The mean of each of ``group_size`` x ``group_size`` bins of each region, each bin from maps of its own.

    The first bottom has ``output_dim`` x group_size x group_size channels, the bins' maps of one output side by side;
    the top is (R, output_dim, group_size, group_size). A region, a row of the second bottom, is (item of the batch, x1,
    y1, x2, y2) in pixels of the image, corners included; they are rounded (halves away from 0), ``spatial_scale`` takes
    them to the map without rounding, and a side is 0.1 at least. Bins reach from the floor to the ceiling of even
    divisions. One outside the map is 0. Regions get no gradient.
    """

    forced_bottoms = staticmethod(lambda index: index == 0)

    def setup(self, x: Tensor, rois: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if min(s.group_size, s.output_dim) < 1:
            raise NetError(f"output_dim {s.output_dim} and group_size {s.group_size} must be positive")
        if s.spatial_scale <= 0:
            raise NetError(f"spatial_scale {s.spatial_scale:g} is not positive")
        self.group, self.dim, self.scale = s.group_size, s.output_dim, s.spatial_scale

    def check(self, x: Tensor, rois: Tensor) -> None:  # type: ignore[override]
        _check_bottoms(x, rois)
        channels = self.dim * self.group**2
        if x.shape[1] != channels:
            wanted = f"{self.dim} x {self.group} x {self.group} = {channels} channels"
            raise NetError(f"output_dim x group_size x group_size is {wanted}, the first bottom has {x.shape[1]}")

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        rois = rois.detach().reshape(-1, 5)
        item = _items(self.label, rois, x.shape[0])
        height, width = fixed(x.shape[2:])
        low, high = _round(rois[:, 1:3]) * self.scale, (_round(rois[:, 3:]) + 1) * self.scale
        place = torch.arange(self.group, dtype=rois.dtype, device=rois.device)
        step = ((high - low).clamp(min=0.1) / self.group)[:, :, None]
        start, end = (place * step + low[:, :, None]).floor(), ((place + 1) * step + low[:, :, None]).ceil()
        (left, top), (right, bottom) = (
            tuple(edge[:, axis].clamp(0, limit).long() for axis, limit in enumerate((width, height)))
            for edge in (start, end)
        )
        # Sums over rectangles are differences of sums from the corner; in 64 bits, as large numbers are subtracted.
        table = F.pad(x.double().cumsum(2).cumsum(3), (1, 0, 1, 0))
        channel = torch.arange(x.shape[1], device=x.device).reshape(1, self.dim, self.group, self.group)

        def corner(rows: Tensor, columns: Tensor) -> Tensor:
            return table[item[:, None, None, None], channel, rows[:, None, :, None], columns[:, None, None, :]]

        total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
        area = ((bottom - top)[:, :, None] * (right - left)[:, None, :])[:, None]
        return torch.where(area > 0, total / area.clamp(min=1), 0).to(x.dtype)
