"""What a Net could be told before October 2014: its phase and device, and how images become its input.

Caffe has functions (``caffe.set_mode_gpu``), a phase given to ``Net`` and ``io.Transformer`` in place of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from . import log
from .errors import NetError
from .graph import TEST, TRAIN
from .io import Transformer

if TYPE_CHECKING:
    from .blob import Blob
    from .graph import Graph


class NetOf2014:
    """Methods of that time's ``Net``, whose images are (H, W, K)."""

    graph: Graph
    blobs: Mapping[str, Blob]
    inputs: list[str]

    def _is_of(self, phase: int, name: str) -> None:
        if self.graph.phase != phase:
            raise NetError(f"a net keeps the phase that it is built for: caffe.Net(file, caffe.{name}, weights=...)")

    def set_phase_test(self) -> None:
        """Does nothing: a net is built for a phase.  Raises NetError where that is another."""
        self._is_of(TEST, "TEST")

    def set_phase_train(self) -> None:
        """Does nothing, likewise."""
        self._is_of(TRAIN, "TRAIN")

    def set_mode_cpu(self) -> None:
        """Does nothing: nets are built on the CPU anyway."""

    def set_mode_gpu(self) -> None:
        """Does nothing, and says so, as ``caffe.set_mode_gpu`` does."""
        log.warning("set_mode_gpu does nothing: Nets compute on the CPU", "_caffe.cpp:60")

    def set_device(self, device: int) -> None:
        """Does nothing, and says so."""
        log.warning("set_device does nothing: Nets compute on the CPU", "_caffe.cpp:60")

    @cached_property
    def transformer(self) -> Transformer:
        """What :meth:`preprocess` works with."""
        made = Transformer({})
        made.transpose.update(dict.fromkeys(self.inputs, (2, 0, 1)))
        return made

    @cached_property
    def _scaled_first(self) -> set[str]:
        return set()

    def _fitting(self, input_: str) -> Transformer:
        """The transformer, for the inputs' present shapes."""
        t = self.transformer
        t.inputs = {name: self.blobs[name].shape for name in self.inputs}
        if input_ in self._scaled_first and input_ in t.input_scale:
            t.raw_scale[input_] = t.input_scale.pop(input_)
        return t

    def set_mean(self, input_: str, mean: np.ndarray | str | PathLike[str], mode: str = "elementwise") -> None:
        """What is subtracted: a mean image (K, H, W), or with mode "channel" its mean for each channel.

        A path of a .npy file is the way of the first Caffes, which had no raw scale: ``set_input_scale`` is then what
        the image is multiplied by before the mean is subtracted.
        """
        if isinstance(mean, (str, PathLike)):
            image: np.ndarray = np.load(mean)
            self._scaled_first.add(input_)
        else:
            image = mean
        if mode not in ("elementwise", "channel"):
            raise NetError(f'set_mean: mode "{mode}" is neither "elementwise" nor "channel"')
        self._fitting(input_).set_mean(input_, image if mode == "elementwise" else image.mean((1, 2)))

    def set_raw_scale(self, input_: str, scale: float) -> None:
        """What images are multiplied by first."""
        self._fitting(input_).set_raw_scale(input_, scale)

    def set_input_scale(self, input_: str, scale: float) -> None:
        """What the blob is multiplied by last, after the mean was subtracted."""
        self._fitting(input_).set_input_scale(input_, scale)

    def set_channel_swap(self, input_: str, order: Sequence[int]) -> None:
        """The order of the channels: (2, 1, 0) makes BGR of RGB."""
        self._fitting(input_).set_channel_swap(input_, order)

    def preprocess(self, input_name: str, input_: np.ndarray) -> np.ndarray:
        """An image (H, W, K) as the input takes it."""
        return self._fitting(input_name).preprocess(input_name, input_)

    def deprocess(self, input_name: str, input_: np.ndarray) -> np.ndarray:
        """The image (H, W, K) that was preprocessed to this."""
        return self._fitting(input_name).deprocess(input_name, input_)
