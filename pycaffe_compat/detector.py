"""pycaffe's ``Detector``: classification of windows of images, as R-CNN does."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

import numpy as np

from . import io
from .classifier import ImageNet
from .errors import NetError


class Detector(ImageNet):
    """A net that scores windows of images.

    Args:
        context_pad: how many pixels of the net's square input, on each side, show what surrounds the window; beyond the
            image's edge stands the mean.
    """

    def __init__(
        self,
        model_file: str | PathLike[str],
        pretrained_file: str | PathLike[str],
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(
        self, images_windows: Iterable[tuple[str | PathLike[str], Iterable[Sequence[float]]]]
    ) -> list[dict[str, Any]]:
        """Score windows, each warped to the net's input size.

        Args:
            images_windows: pairs of an image file and its windows (ymin, xmin, ymax, xmax).

        Returns:
            For each window ``{"window": ..., "prediction": the net's first output for it, "filename": ...}``.
        """
        found: list[dict[str, Any]] = []
        crops = []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                crops.append(self.crop(image, np.asarray(window)))
                found.append({"window": window, "filename": filename})
        for entry, prediction in zip(found, self.run_images(crops) if crops else [], strict=True):
            entry["prediction"] = prediction
        return found

    def detect_selective_search(self, image_fnames: Iterable[str | PathLike[str]]) -> list[dict[str, Any]]:
        """Score the windows that Selective Search proposes.

        Raises:
            NetError: the program for that is not there. It is not part of Caffe either: the module
                ``selective_search_ijcv_with_python``, which runs MATLAB.
        """
        try:
            search = importlib.import_module("selective_search_ijcv_with_python")
        except ImportError:
            raise NetError(
                "detect_selective_search needs the module selective_search_ijcv_with_python (and MATLAB), which is not "
                "on PYTHONPATH: make windows with another program and call detect_windows"
            ) from None
        names = [os.path.abspath(name) for name in image_fnames]
        return self.detect_windows(zip(names, search.get_windows(names, cmd="selective_search_rcnn"), strict=True))

    def configure_crop(self, context_pad: int | None) -> None:
        """Set how much context :meth:`crop` takes along, and prepare the mean image that fills what is beyond edges."""
        name = self.inputs[0]
        self.context_pad = context_pad
        channels, *size = self.blobs[name].shape[1:]
        self.crop_dims = np.array([*size, channels])
        self.crop_mean = np.zeros(self.crop_dims, np.float32)
        if not context_pad:
            return
        height, width = size
        if height != width or 2 * context_pad >= width:
            raise NetError(f"context_pad {context_pad}: needs a square input that is larger, not {height}x{width}")
        mean = self.transformer.mean.get(name)
        if mean is not None:
            # The image that becomes zero in the net: what deprocess makes of zeros, before input_scale has a say.
            image = np.broadcast_to(mean, (channels, *size))
            if name in self.transformer.raw_scale:
                image = image / np.float32(self.transformer.raw_scale[name])
            if name in self.transformer.channel_swap:
                image = image[np.argsort(self.transformer.channel_swap[name])]
            self.crop_mean = image.transpose(1, 2, 0).astype(np.float32)

    def crop(self, im: np.ndarray, window: np.ndarray) -> np.ndarray:
        """The window (ymin, xmin, ymax, xmax) of an image (H, W, K), with its context where that is configured.

        Raises:
            NetError: nothing of the window lies in the image.
        """
        window = np.asarray(window)
        if not self.context_pad:
            ymin, xmin, ymax, xmax = window.astype(int)
            part = im[max(0, ymin) : ymax, max(0, xmin) : xmax]
            if not part.size:
                raise NetError(f"window {window.tolist()} lies outside of an image of {im.shape[0]}x{im.shape[1]}")
            return part
        size = int(self.crop_dims[1])
        half = (window[2:] - window[:2] + 1) / 2.0
        centre = window[:2] + half
        half = half * size / (size - 2.0 * self.context_pad)
        box = np.round(np.concatenate([centre - half, centre + half]))
        scale = size / (box[2:] - box[:2] + 1)
        pad = np.round(np.maximum(0, -box[:2]) * scale).astype(int)  # what lies beyond the upper and left edge
        limits = np.array([*im.shape[:2], *im.shape[:2]])
        box = box.clip(0, limits)
        shown = np.round((box[2:] - box[:2] + 1) * scale).astype(int)
        shown = np.minimum(shown, size - pad)
        ymin, xmin, ymax, xmax = box.astype(int)
        part = im[ymin:ymax, xmin:xmax]
        if not part.size or (shown < 1).any():
            raise NetError(f"window {window.tolist()} lies outside of an image of {im.shape[0]}x{im.shape[1]}")
        whole = self.crop_mean.copy()
        whole[pad[0] : pad[0] + shown[0], pad[1] : pad[1] + shown[1]] = io.resize_image(part, shown)
        return whole
