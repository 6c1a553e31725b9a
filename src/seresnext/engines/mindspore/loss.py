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
        self.binary = loss.kind == "binary"
        self.thresholded, self.threshold = loss.threshold is not None, loss.threshold or 0.0
        self.gamma = loss.focal_gamma
        self.weighted = len(loss.class_weights) > 0
        self.weights = Tensor(np.array(loss.class_weights or 1.0, np.float32))
        self.share, self.temperature = loss.teacher_share, loss.temperature
        self.one = Tensor(1.0, ms.float32)
        self.zero = Tensor(0.0, ms.float32)

    def construct(  # type: ignore[no-untyped-def]
        self, images, labels, mixed_labels, mix, mask, drop_path=None, dropout=None, teacher=None
    ):
        """Fields of `Batch` and of `draw_noise` -> (loss sum, number of rows whose largest logit is
        the label), both float32 scalars over the rows that carry an image."""
        logits = self.network(self.normalise(images), drop_path, dropout, True)
        rows = self.row_losses(logits, labels, mixed_labels, mix)
        if teacher is not None:
            taught = self.distillation(logits, teacher)
            rows = (1 - self.share) * rows + self.share * taught
        loss = ops.select(mask, rows, ops.zeros_like(rows)).sum()
        correct = ops.logical_and(ops.argmax(logits, 1) == labels, mask)
        return loss, correct.astype(ms.float32).sum()

    def row_losses(self, logits, labels, mixed_labels, mix):  # type: ignore[no-untyped-def]
        """Logits [B, K] and the labels of a batch -> the loss of every row, [B]."""
        first = ops.one_hot(labels, self.classes, self.one, self.zero)
        second = ops.one_hot(mixed_labels, self.classes, self.one, self.zero)
        mix = mix.reshape(-1, 1)
        target = (first * mix + second * (1 - mix)) * self.on + self.off
        if self.thresholded:
            target = (target > self.threshold).astype(ms.float32)
        if self.binary:
            return self.binary_cross_entropy(logits, target)
        return self.cross_entropy(logits, target)

    def distillation(self, logits, teacher):  # type: ignore[no-untyped-def]
        """[B, K] -> [B]: T^2 KL(p, q), p the teacher's softmax at temperature T, q the network's
        (arXiv:1503.02531, section 2)."""
        log_p = ops.log_softmax(teacher / self.temperature, 1)
        log_q = ops.log_softmax(logits / self.temperature, 1)
        return self.temperature**2 * (ops.exp(log_p) * (log_p - log_q)).sum(1)

    def cross_entropy(self, logits, target):  # type: ignore[no-untyped-def]
        """[B, K] -> [B]: the sum over classes of -w t (1 - p)^gamma log p, p of the softmax."""
        log_p = ops.log_softmax(logits, 1)
        terms = target * log_p
        if self.weighted:
            terms = terms * self.weights
        if self.gamma > 0:
            terms = terms * ops.relu(1 - ops.exp(log_p)) ** self.gamma
        return -terms.sum(1)

    def binary_cross_entropy(self, logits, target):  # type: ignore[no-untyped-def]
        """[B, K] -> [B]: the mean over classes of -w t (1 - p)^gamma log p
        - (1 - t) p^gamma log(1 - p), p of the sigmoid."""
        log_p, log_q = -ops.softplus(-logits), -ops.softplus(logits)
        present, absent = target * log_p, (1 - target) * log_q
        if self.weighted:
            present = present * self.weights
        if self.gamma > 0:
            present = present * ops.exp(self.gamma * log_q)
            absent = absent * ops.exp(self.gamma * log_p)
        return -(present + absent).mean(1)
