"""The function that a training step differentiates: uint8 images to the loss."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ...config import LossConfig
from ..common import smoothing_coefficients
from .network import SEResNeXt


class Normalise(nn.Cell):
    """uint8 [B, H, W, 3] -> (pixel / 255 - mean) / std as float32 [B, 3, H, W]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        spread = np.array(std, np.float64).reshape(1, 3, 1, 1)
        centre = np.array(mean, np.float64).reshape(1, 3, 1, 1)
        self.scale = Tensor((1 / (255 * spread)).astype(np.float32))
        self.offset = Tensor((-centre / spread).astype(np.float32))

    def construct(self, images):  # type: ignore[no-untyped-def]
        x = ops.transpose(images, (0, 3, 1, 2)).astype(ms.float32)
        return x * self.scale + self.offset


class TrainingLoss(nn.Cell):
    """One piece of a batch -> sum of its rows' losses, and the number of correct rows.

    A row's target is `mix` on `labels` and `1 - mix` on `mixed_labels`, smoothed.
    """

    def __init__(self, network: SEResNeXt, normalise: Normalise, loss: LossConfig) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.normalise = normalise
        self.classes = network.arch.num_classes
        self.on, self.off = smoothing_coefficients(loss, self.classes)
        self.one = Tensor(1.0, ms.float32)
        self.zero = Tensor(0.0, ms.float32)

    def construct(  # type: ignore[no-untyped-def]
        self, images, labels, mixed_labels, mix, mask, drop_path=None, dropout=None
    ):
        """Fields of `Batch` and of `draw_noise` -> (loss sum, number of rows whose largest logit is
        the label), both float32 scalars over the rows that carry an image."""
        logits = self.network(self.normalise(images), drop_path, dropout, True)
        log_p = ops.log_softmax(logits, 1)
        first = ops.one_hot(labels, self.classes, self.one, self.zero)
        second = ops.one_hot(mixed_labels, self.classes, self.one, self.zero)
        mix = mix.reshape(-1, 1)
        target = (first * mix + second * (1 - mix)) * self.on + self.off
        rows = -(target * log_p).sum(1)
        loss = ops.select(mask, rows, ops.zeros_like(rows)).sum()
        correct = ops.logical_and(ops.argmax(logits, 1) == labels, mask)
        return loss, correct.astype(ms.float32).sum()
