"""Layers that give the same values another shape, repeat them or choose among them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NetError
from ..naming import shape_text
from .base import Layer, canonical_axis, register
from .labels import whole_numbers


@register("Flatten", param="flatten_param")
class Flatten(Layer):
    """The axes ``axis`` to ``end_axis`` (both included) become one; with an ``end_axis`` just before ``axis``, none
    do, and an axis of size 1 is put between the two."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        self.start, self.end = canonical_axis(s.axis, x.ndim), canonical_axis(s.end_axis, x.ndim)
        if self.end < self.start - 1:
            raise NetError(f"end_axis {s.end_axis} lies before axis {s.axis}")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.flatten(self.start, self.end) if self.end >= self.start else x.unsqueeze(self.start)


@register("Reshape", param="reshape_param")
class Reshape(Layer):
    """The ``num_axes`` axes from ``axis`` on (-1: all) get the dimensions of ``shape``.

    0 copies the bottom's dimension, counted from ``axis``; one -1 stands for what is left over. A negative ``axis``
    counts from behind the last axis: -1 adds axes at the end.
    """

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if not -x.ndim - 1 <= s.axis <= x.ndim:
            raise NetError(f"axis {s.axis} does not exist in a blob of {x.ndim} dimensions")
        self.start = s.axis if s.axis >= 0 else s.axis + x.ndim + 1
        if s.num_axes < -1:
            raise NetError(f"num_axes {s.num_axes} must be -1 (all) or a number of axes")
        self.end = x.ndim if s.num_axes == -1 else self.start + s.num_axes
        if self.end > x.ndim:
            raise NetError(f"axis {s.axis} and num_axes {s.num_axes} reach beyond a blob of {x.ndim} dimensions")
        self.dims = list(s.shape.dim)
        if min(self.dims, default=0) < -1 or self.dims.count(-1) > 1:
            raise NetError(f"shape {self.dims}: each dimension is a size, 0 (copy) or, once, -1 (what is left over)")
        for i, d in enumerate(self.dims):
            if d == 0 and self.start + i >= x.ndim:
                raise NetError(f"shape {self.dims}: the 0 at place {i} has no dimension to copy")
        known = [x.shape[self.start + i] if d == 0 else d for i, d in enumerate(self.dims) if d != -1]
        count, rest = x.shape[self.start : self.end].numel(), torch.Size(known).numel()
        if count % max(rest, 1) if -1 in self.dims else count != rest:
            raise NetError(
                f"shape {self.dims} does not hold the {count} values of axes {self.start}..{self.end - 1} of "
                f"{shape_text(x.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        dims = [x.shape[self.start + i] if d == 0 else d for i, d in enumerate(self.dims)]
        return x.reshape(*x.shape[: self.start], *dims, *x.shape[self.end :])


@register("Tile", param="tile_param")
class Tile(Layer):
    """``tiles`` copies of the blob, one after the other along ``axis``."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        if s.tiles < 1:
            raise NetError(f"tiles {s.tiles} is not positive")
        self.axis, self.tiles = canonical_axis(s.axis, x.ndim), s.tiles

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.repeat([self.tiles if i == self.axis else 1 for i in range(x.ndim)])


@register("BatchReindex", bottoms=2)
class BatchReindex(Layer):
    """Row i of the top is row index[i] of the first bottom; rows may be repeated and left out."""

    forced_bottoms = staticmethod(lambda index: index == 0)
    refuses_gradient = True

    def check(self, x: Tensor, index: Tensor) -> None:  # type: ignore[override]
        if index.ndim != 1:
            raise NetError(f"the second bottom holds row numbers: 1 axis, not {shape_text(index.shape)}")
        if not x.ndim:
            raise NetError("the first bottom is a scalar, it has no rows")

    def forward(self, x: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        return x.index_select(0, whole_numbers(f"{self.label}: row", index, x.shape[0]))


@register("Filter", bottoms=(2, None), tops=(1, None))
class Filter(Layer):
    """The rows of each bottom but the last where the last one, the selector, is not 0.

    How many rows come out is known at run time only; the net is built as if all of them did.
    """

    refuses_gradient = True

    def setup(self, *bottoms: Tensor) -> None:
        *blobs, selector = bottoms
        if len(self.param.top) != len(blobs):
            raise NetError(
                f"has {len(blobs)} bottoms before the selector and {len(self.param.top)} tops: as many of both"
            )
        last = len(blobs)
        self.forced_bottoms = lambda index: index != last

    def check(self, *bottoms: Tensor) -> None:
        *blobs, selector = bottoms
        if not selector.ndim or selector.shape[1:].numel() != 1:
            raise NetError(f"the last bottom, the selector, holds one value a row, not {shape_text(selector.shape)}")
        for name, blob in zip(self.param.bottom, blobs, strict=False):
            if not blob.ndim or blob.shape[0] != selector.shape[0]:
                raise NetError(
                    f'bottom "{name}" of shape {shape_text(blob.shape)} and the selector of '
                    f"{shape_text(selector.shape)} differ in rows"
                )

    def infer(self, *bottoms: Tensor) -> list[Tensor]:
        return list(bottoms[:-1])

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        *blobs, selector = bottoms
        kept = selector.flatten().nonzero().squeeze(1)
        return tuple(blob.index_select(0, kept) for blob in blobs)
