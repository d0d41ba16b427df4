"""Layers that only route, cut and join blobs, or hold one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError
from ..naming import shape_text
from .base import Layer, canonical_axis, register


@register("Split", tops=(1, None))
class Split(Layer):
    """One blob for several readers. The graph inserts these, named as Caffe names them."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        self.copies = len(self.param.top)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return (x,) * self.copies


@register("Parameter", param="parameter_param", bottoms=0)
class Parameter(Layer):
    """A learned blob of the given shape as the top; it starts at 0."""

    value: Tensor

    def setup(self, *bottoms: Tensor) -> None:
        self.add_blob("value", tuple(self.settings.shape.dim))

    def forward(self, *bottoms: Tensor) -> Tensor:
        return self.value


@register("Silence", bottoms=(1, None), tops=0)
class Silence(Layer):
    """Takes blobs that nobody reads, so that they are no outputs of the net."""

    gradient = "no"

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return ()


def _axis(settings: Any, old_name: str, ndim: int) -> int:
    """The axis to join or cut along, which may be given under an old name (then it is not negative)."""
    if settings.HasField(old_name) and settings.HasField("axis"):
        raise NetError(f"{old_name} is the old name of axis: give one of the two")
    return canonical_axis(getattr(settings, old_name) if settings.HasField(old_name) else settings.axis, ndim)


@register("Concat", param="concat_param", bottoms=(1, None))
class Concat(Layer):
    """Blobs joined along ``axis`` (1: channels)."""

    def setup(self, *bottoms: Tensor) -> None:
        first = bottoms[0]
        self.axis = _axis(self.settings, "concat_dim", first.ndim)
        for name, x in zip(self.param.bottom, bottoms, strict=True):
            rest = [i for i in range(first.ndim) if i != self.axis]
            if x.ndim != first.ndim or any(x.shape[i] != first.shape[i] for i in rest):
                raise NetError(
                    f'bottom "{name}" of shape {shape_text(x.shape)} does not fit the first of shape '
                    f"{shape_text(first.shape)}: all axes but {self.axis} must agree"
                )

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, self.axis)


@register("Slice", param="slice_param", tops=(1, None))
class Slice(Layer):
    """A blob cut along ``axis`` at the positions ``slice_point``, or into equal parts."""

    def setup(self, x: Tensor) -> None:  # type: ignore[override]
        s, tops = self.settings, len(self.param.top)
        self.axis = _axis(s, "slice_dim", x.ndim)
        self.points, self.tops = list(s.slice_point), tops
        if self.points and len(self.points) != tops - 1:
            raise NetError(
                f"{len(self.points)} slice_point for {tops} tops: they are the {tops - 1} positions between them"
            )

    def check(self, x: Tensor) -> None:  # type: ignore[override]
        size = x.shape[self.axis]
        if not self.points and size % self.tops:
            raise NetError(
                f"axis {self.axis} of size {size} does not divide into {self.tops} equal tops: give slice_point"
            )
        edges = self.edges(size)
        if any(b <= a for a, b in zip(edges, edges[1:], strict=False)):
            raise NetError(f"slice_point {edges[1:-1]} must rise within 1..{size - 1}")

    def edges(self, size: int) -> list[int]:
        """Where the tops begin and the last one ends."""
        if self.points:
            return [0, *self.points, size]
        return [i * (size // self.tops) for i in range(self.tops)] + [size]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        edges = self.edges(x.shape[self.axis])
        return tuple(x.narrow(self.axis, a, b - a) for a, b in zip(edges, edges[1:], strict=False))


class _Cut(torch.autograd.Function):
    """The box ``x[starts : starts + sizes]`` of the last axes, as a view whose gradient keeps the order of memory.

    Slicing's own gradient is channels-first whatever the blob was, and the layers below then wait for it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
        ends = [n - start - size for n, start, size in zip(x.shape[-len(starts) :], starts, sizes, strict=True)]
        ctx.margins = [m for pair in zip(reversed(starts), reversed(ends), strict=True) for m in pair]
        return _cut(x, starts, sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return F.pad(grad, ctx.margins), None, None


def _cut(x: Tensor, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    box: tuple[Any, ...] = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return x[(..., *box)]


@register("Crop", param="crop_param", bottoms=2)
class Crop(Layer):
    """The first bottom cut to the second one's size from ``axis`` on, at ``offset`` (0 when not given, not centred).

    Axes of the second bottom that the first does not have are not looked at.
    """

    forced_bottoms = staticmethod(lambda index: index == 0)

    def setup(self, x: Tensor, like: Tensor) -> None:  # type: ignore[override]
        s = self.settings
        self.axis = canonical_axis(s.axis, x.ndim)
        axes = x.ndim - self.axis
        if x.ndim > like.ndim:
            raise NetError(
                f"the second bottom of shape {shape_text(like.shape)} lacks dimensions of the first, "
                f"{shape_text(x.shape)}"
            )
        if len(s.offset) not in (0, 1, axes):
            raise NetError(f"{len(s.offset)} offset for {axes} axes from axis {self.axis} on: give one, or one an axis")
        offset = list(s.offset) or [0]
        self.offsets = offset * axes if len(offset) == 1 else offset

    def check(self, x: Tensor, like: Tensor) -> None:  # type: ignore[override]
        for i, o in enumerate(self.offsets, self.axis):
            if o + like.shape[i] > x.shape[i]:
                raise NetError(
                    f"axis {i}: offset {o} + size {like.shape[i]} is more than the bottom's {x.shape[i]} "
                    f"(bottoms {shape_text(x.shape)} and {shape_text(like.shape)})"
                )

    def forward(self, x: Tensor, like: Tensor) -> Tensor:  # type: ignore[override]
        sizes = like.shape[self.axis : x.ndim]
        if x.requires_grad and not torch.compiler.is_compiling():
            return _Cut.apply(x, self.offsets, sizes)
        return _cut(x, self.offsets, sizes)
