"""pycaffe's ``Classifier``: a net with the way from images to its input."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np

from . import io
from .graph import TEST
from .net import Net


class ImageNet(Net):
    """A net whose first input takes images: what Classifier and Detector share.

    Args:
        model_file, pretrained_file: the net and its weights.
        mean, input_scale, raw_scale, channel_swap: see ``io.Transformer``; images are (H, W, K) with K in the order
            that ``io.load_image`` gives.
    """

    def __init__(
        self,
        model_file: str | PathLike[str],
        pretrained_file: str | PathLike[str],
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        name = self.inputs[0]
        self.transformer = io.Transformer({name: self.blobs[name].shape})
        self.transformer.set_transpose(name, (2, 0, 1))
        if mean is not None:
            self.transformer.set_mean(name, mean)
        if input_scale is not None:
            self.transformer.set_input_scale(name, input_scale)
        if raw_scale is not None:
            self.transformer.set_raw_scale(name, raw_scale)
        if channel_swap is not None:
            self.transformer.set_channel_swap(name, channel_swap)

    def run_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Preprocess images (H, W, K), each in its size, and give the net's first output for them, a row each."""
        name = self.inputs[0]
        batch = np.stack([self.transformer.preprocess(name, image) for image in images])
        return self.forward_all(None, **{name: batch})[self.outputs[0]]


class Classifier(ImageNet):
    """A net that gives class probabilities for images.

    Args:
        image_dims: (height, width) that images are scaled to before crops of the net's input size are taken;
            the input size itself when not given.
    """

    def __init__(
        self,
        model_file: str | PathLike[str],
        pretrained_file: str | PathLike[str],
        image_dims: io.Dims | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims: io.Dims = self.crop_dims if image_dims is None else image_dims

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Class probabilities (N, classes) of N images (H, W, K).

        Args:
            oversample: the mean over ten crops (corners, centre, and mirrored); else the centre crop alone.
        """
        images = np.stack([io.resize_image(image, self.image_dims) for image in inputs])
        if oversample:
            predictions = self.run_images(list(io.oversample(list(images), self.crop_dims)))
            return np.asarray(predictions.reshape(len(inputs), 10, -1).mean(1))
        top, left = (np.array(self.image_dims) / 2.0 - self.crop_dims / 2.0).astype(int)
        height, width = self.crop_dims
        return self.run_images(list(images[:, top : top + height, left : left + width]))
