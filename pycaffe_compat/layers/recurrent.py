"""Recurrent layers: LSTM and RNN over whole sequences, and LSTMUnit, a single step.

The original unrolls each into a net of InnerProduct, Scale and other layers; here they are a loop, with the blobs in
the same order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NetError
from ..naming import shape_text
from .base import Layer, fixed, register


def lstm_step(c: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: the cell's new state and its output.

    Args:
        c: the state before, (..., N).
        gates: what goes into the input, forget and output gates and the new values, in this order: (..., 4 N).
        cont: (..., 1); 0 where a sequence begins: the state before does not count. Between 0 and 1 the gradient is the
            true one (the original takes cont times the forget gate for the gate itself).
    """
    i, f, o, g = gates.chunk(4, -1)
    c = cont * torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return c, torch.sigmoid(o) * torch.tanh(c)


@register("LSTMUnit", bottoms=3, tops=2)
class LSTMUnit(Layer):
    """One step of an LSTM. Bottoms: state c (1, B, N), gates i, f, o, g (1, B, 4 N), cont (1, B); tops: c, h."""

    forced_bottoms = staticmethod(lambda index: index != 2)
    refuses_gradient = True

    def check(self, c: Tensor, gates: Tensor, cont: Tensor) -> None:  # type: ignore[override]
        shapes = ", ".join(shape_text(b.shape) for b in (c, gates, cont))
        if c.ndim != 3 or c.shape[0] != 1:
            raise NetError(f"the state has shape 1 x batch x N; the bottoms have {shapes}")
        if gates.shape != (1, c.shape[1], 4 * c.shape[2]) or cont.shape != (1, c.shape[1]):
            raise NetError(f"a state of {shape_text(c.shape)} goes with gates 1xBx4N and cont 1xB; bottoms: {shapes}")

    def forward(self, c: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return lstm_step(c, gates, cont.unsqueeze(-1))


class Recurrent(Layer):
    """A layer over sequences: x (T, B, ...) and cont (T, B) make the top (T, B, num_output).

    ``cont`` is 0 where a sequence begins, 1 where it goes on. If it is 1 at the first step, the state goes on from the
    last forward, without a gradient to it; see :meth:`reset`. A further bottom (B, ...) is a static input, the same at
    every step. With ``expose_hidden`` the state comes from bottoms and goes to tops, each (1, B, num_output), instead.

    Exported (``torch.export``, ONNX), the layer knows of no earlier forward: its state begins at 0.

    The gradient with ``expose_hidden`` is the true one: it goes to the state's bottoms and comes from its tops. The
    original ignores both.
    """

    states: tuple[str, ...]
    """The state's parts; each is a buffer, (1, B, num_output), empty before the first forward."""
    input_blobs: tuple[str, str, str]
    """Names of the input's weight and bias and of the static input's weight."""
    gates = 1
    forced_bottoms = staticmethod(lambda index: index != 1)
    refuses_gradient = True

    def setup(self, *bottoms: Tensor) -> None:
        s, count = self.settings, len(self.states)
        if s.num_output < 1:
            raise NetError(f"num_output {s.num_output} is not positive")
        self.num_output, self.expose = s.num_output, s.expose_hidden
        given = 2 + count * self.expose
        if len(bottoms) not in (given, given + 1):
            states = "".join(f", {name}" for name in self.states) if self.expose else ""
            raise NetError(f"has {len(bottoms)} bottoms, they must be: x, cont, (a static input){states}")
        if len(self.param.top) != 1 + count * self.expose:
            states = "".join(f" and {name}" for name in self.states) if self.expose else ""
            raise NetError(f"has {len(self.param.top)} tops, they must be: the output{states}")
        self.static = len(bottoms) == given + 1
        x, static = bottoms[0], bottoms[2:3] if self.static else ()
        width = self.gates * s.num_output
        weight, bias, static_weight = self.input_blobs
        self.add_blob(weight, (width, x.shape[2:].numel()), s.weight_filler)
        self.add_blob(bias, (width,), s.bias_filler)
        for b in static:
            self.add_blob(static_weight, (width, b.shape[1:].numel()), s.weight_filler)
        self.add_own_blobs()
        for name in self.states:
            self.register_buffer(name, torch.empty(0), persistent=False)

    def check(self, *bottoms: Tensor) -> None:
        x, cont = bottoms[:2]
        if x.ndim < 2 or cont.shape != x.shape[:2]:
            raise NetError(
                f"x is time x batch x ..., cont time x batch: not {shape_text(x.shape)} and {shape_text(cont.shape)}"
            )
        static = bottoms[2:3] if self.static else ()
        if any(not b.ndim or b.shape[0] != x.shape[1] for b in static):
            raise NetError(f"the static input is batch x ..., not {shape_text(static[0].shape)}")
        for b in bottoms[2 + self.static :]:
            if b.shape != (1, x.shape[1], self.num_output):
                want = (1, x.shape[1], self.num_output)
                raise NetError(f"the state is 1 x batch x num_output, {shape_text(want)}, not {shape_text(b.shape)}")

    def add_own_blobs(self) -> None:
        """Declare the blobs behind those of the input."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it learns")

    def step(self, state: list[Tensor], x: Tensor, cont: Tensor) -> tuple[list[Tensor], Tensor]:
        """The state after a step and what it outputs, from the state before, the inputs' part and cont (1, B, 1)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it computes")

    def forget(self) -> None:
        """Forget the state: the next forward begins at 0 whatever cont says."""
        for name in self.states:
            setattr(self, name, getattr(self, name).new_empty(0))

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x, cont = bottoms[:2]
        weight, bias = (getattr(self, name) for name in self.input_blobs[:2])
        inputs = F.linear(x.flatten(2) if x.ndim > 2 else x.unsqueeze(2), weight, bias)  # all steps at once
        if self.static:
            inputs = inputs + F.linear(bottoms[2].reshape(x.shape[1], -1), getattr(self, self.input_blobs[2]))
        keeps = not self.expose and not torch.compiler.is_exporting() and not x.is_meta
        if self.expose:
            state = list(bottoms[2 + self.static :])
        else:
            state = [x.new_zeros(1, x.shape[1], self.num_output) for _ in self.states]
            before = [getattr(self, name) for name in self.states]
            if keeps and before[0].shape == state[0].shape:
                state = before
        tops = []
        for t in range(fixed(x.shape[:1])[0]):
            state, top = self.step(state, inputs[t : t + 1], cont[t : t + 1].unsqueeze(-1))
            tops.append(top)
        if keeps:
            for name, value in zip(self.states, state, strict=True):
                setattr(self, name, value.detach())
        top = torch.cat(tops)
        return (top, *state) if self.expose else top


@register("LSTM", param="recurrent_param", bottoms=(2, 5), tops=(1, 3))
class LSTM(Recurrent):
    """Long short-term memory; see :class:`Recurrent` for bottoms and tops.

    The gates are W_xc x + b_c + W_xc_static x_static + W_hc (cont h), in the order i, f, o, g; see :func:`lstm_step`.
    Blobs: W_xc (4 N, K), b_c (4 N), W_xc_static (4 N, K') if there is a static input, W_hc (4 N, N).
    """

    states = ("h", "c")
    input_blobs = ("W_xc", "b_c", "W_xc_static")
    gates = 4
    W_hc: Tensor

    def add_own_blobs(self) -> None:
        self.add_blob("W_hc", (4 * self.num_output, self.num_output), self.settings.weight_filler)

    def step(self, state: list[Tensor], x: Tensor, cont: Tensor) -> tuple[list[Tensor], Tensor]:
        h, c = state
        c, h = lstm_step(c, F.linear(cont * h, self.W_hc) + x, cont)
        return [h, c], h


@register("RNN", param="recurrent_param", bottoms=(2, 4), tops=(1, 2))
class RNN(Recurrent):
    """h = tanh(W_hh (cont h) + W_xh x + b_h + W_xh_static x_static), top = tanh(W_ho h + b_o); see :class:`Recurrent`.

    Blobs: W_xh (N, K), b_h (N), W_xh_static (N, K') if there is a static input, W_hh (N, N), W_ho (N, N), b_o (N).
    """

    states = ("h",)
    input_blobs = ("W_xh", "b_h", "W_xh_static")
    W_hh: Tensor
    W_ho: Tensor
    b_o: Tensor

    def add_own_blobs(self) -> None:
        s, n = self.settings, self.num_output
        self.add_blob("W_hh", (n, n), s.weight_filler)
        self.add_blob("W_ho", (n, n), s.weight_filler)
        self.add_blob("b_o", (n,), s.bias_filler)

    def step(self, state: list[Tensor], x: Tensor, cont: Tensor) -> tuple[list[Tensor], Tensor]:
        h = torch.tanh(F.linear(cont * state[0], self.W_hh) + x)
        return [h], torch.tanh(F.linear(h, self.W_ho, self.b_o))


@register("Lstm", param="lstm_param", bottoms=(1, 2), fork="CTPN")
class Lstm(Recurrent):
    """LSTM with its own order of blobs: W_xc (4 N, K), W_hc (4 N, N), b_c (4 N).

    Without a second bottom, cont, each forward is a sequence of its own. ``clipping_threshold`` (if above 0) limits the
    gradient of the gates' sums at each step, as in the original: then it is not the true one.
    """

    states = ("h", "c")
    input_blobs = ("W_xc", "b_c", "")
    W_hc: Tensor

    def setup(self, x: Tensor, cont: Tensor | None = None) -> None:  # type: ignore[override]
        s = self.settings
        if s.num_output < 1:
            raise NetError(f"num_output {s.num_output} is not positive")
        self.num_output, self.expose, self.static = s.num_output, False, False
        self.clip = s.clipping_threshold
        width = 4 * s.num_output
        self.add_blob("W_xc", (width, x.shape[2:].numel()), s.weight_filler)
        self.add_blob("W_hc", (width, s.num_output), s.weight_filler)
        self.add_blob("b_c", (width,), s.bias_filler)
        for name in self.states:
            self.register_buffer(name, torch.empty(0), persistent=False)

    def step(self, state: list[Tensor], x: Tensor, cont: Tensor) -> tuple[list[Tensor], Tensor]:
        h, c = state
        gates = F.linear(cont * h, self.W_hc) + x
        if self.clip > 0 and gates.requires_grad:
            gates.register_hook(self.limit)
        c, h = lstm_step(c, gates, cont)
        return [h, c], h

    def check(self, x: Tensor, cont: Tensor | None = None) -> None:  # type: ignore[override]
        if x.ndim < 2 or (cont is not None and cont.numel() != x.shape[:2].numel()):
            shapes = shape_text(x.shape) + (f" and {shape_text(cont.shape)}" if cont is not None else "")
            raise NetError(f"x is time x batch x ..., cont has a number for each step of each sequence: not {shapes}")

    def limit(self, gradient: Tensor | None) -> Tensor | None:
        """A gradient of the gates' sums (None: there is none), at most ``clipping_threshold`` large."""
        return gradient if gradient is None else gradient.clamp(-self.clip, self.clip)

    def forward(self, x: Tensor, cont: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]
        if cont is None:
            cont = torch.cat([x.new_zeros(1, *x.shape[1:2]), x.new_ones(x.shape[0] - 1, *x.shape[1:2])])
        return super().forward(x, (cont != 0).to(x.dtype).reshape(x.shape[:2]))
