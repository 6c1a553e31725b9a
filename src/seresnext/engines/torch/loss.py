"""The function that a training step differentiates and `torch.compile` compiles: uint8 images to
the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config import LossConfig
from ..common import smoothing_coefficients
from .network import SEResNeXt


class RowLoss:
    """Logits and mixed labels of a batch -> the loss of every row."""

    def __init__(self, loss: LossConfig, classes: int, device: torch.device) -> None:
        self.smoothing = smoothing_coefficients(loss, classes)
        self.threshold, self.gamma = loss.threshold, loss.focal_gamma
        self.share, self.temperature = loss.teacher_share, loss.temperature
        self.of_target = binary_cross_entropy if loss.kind == "binary" else cross_entropy
        weights = torch.tensor(loss.class_weights, device=device)
        self.weights = weights if len(weights) else None

    def __call__(
        self,
        logits: Tensor,
        labels: tuple[Tensor, Tensor],
        mix: Tensor,
        teacher: Tensor | None = None,
    ) -> Tensor:
        """[B, K] -> [B]. A row's target is `mix` on the first label and `1 - mix` on the second,
        smoothed; with a teacher's logits [B, K] its loss has the share `teacher_share`."""
        rows = self.of_labels(logits, labels, mix)
        if teacher is None:
            return rows
        taught = distillation(logits, teacher, self.temperature)
        return (1 - self.share) * rows + self.share * taught

    def of_labels(self, logits: Tensor, labels: tuple[Tensor, Tensor], mix: Tensor) -> Tensor:
        """The loss without a teacher."""
        classes = torch.arange(logits.shape[1], device=logits.device)
        first, second = (k[:, None] == classes for k in labels)
        target = first * mix[:, None] + second * (1 - mix)[:, None]
        target = self.smoothing.on * target + self.smoothing.off
        if self.threshold is not None:
            target = (target > self.threshold).to(logits.dtype)
        return self.of_target(logits, target, self.weights, self.gamma)


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None, gamma: float) -> Tensor:
    """[B, K] -> [B]: the sum over classes of -w t (1 - p)^gamma log p, p of the softmax."""
    log_p = F.log_softmax(logits, 1)
    terms = target * log_p
    if weights is not None:
        terms = terms * weights
    if gamma:
        terms = terms * (1 - log_p.exp()) ** gamma
    return -terms.sum(1)


def binary_cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor | None, gamma: float
) -> Tensor:
    """[B, K] -> [B]: the mean over classes of -w t (1 - p)^gamma log p
    - (1 - t) p^gamma log(1 - p), p of the sigmoid."""
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    present, absent = target * log_p, (1 - target) * log_q
    if weights is not None:
        present = present * weights
    if gamma:
        present, absent = present * (gamma * log_q).exp(), absent * (gamma * log_p).exp()
    return -(present + absent).mean(1)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """[B, K] -> [B]: T^2 KL(p, q), p the teacher's softmax at temperature T, q the network's
    (arXiv:1503.02531, section 2)."""
    log_p, log_q = (F.log_softmax(x / temperature, 1) for x in (teacher, logits))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1)


class Normalise(nn.Module):
    """uint8 [B, H, W, 3] -> (pixel / 255 - mean) / std as float32 [B, 3, H, W]."""

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        channels_last: bool,
    ) -> None:
        super().__init__()
        spread = torch.tensor(std, dtype=torch.float64)
        scale = 1 / (255 * spread)
        offset = -torch.tensor(mean, dtype=torch.float64) / spread
        self.scale = scale.float().view(1, 3, 1, 1).to(device)
        self.offset = offset.float().view(1, 3, 1, 1).to(device)
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2)  # NHWC in memory is what channels_last means
        if not self.channels_last:
            x = x.contiguous()
        return torch.addcmul(self.offset, x.float(), self.scale)


class TrainingLoss(nn.Module):
    """One piece of a batch -> sum of its rows' losses, and the number of correct rows."""

    def __init__(
        self,
        network: SEResNeXt,
        normalise: Normalise,
        loss: LossConfig,
        autocast: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.network, self.normalise, self.autocast = network, normalise, autocast
        self.row_loss = RowLoss(loss, network.arch.num_classes, normalise.scale.device)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        mixed_labels: Tensor,
        mix: Tensor,
        mask: Tensor,
        drop_path: Tensor | None = None,
        dropout: Tensor | None = None,
        teacher: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Fields of `Batch` and of `draw_noise` -> (loss sum, number of rows whose largest logit is
        the label), both float32 scalars over the rows that carry an image."""
        device = images.device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            logits = self.network(self.normalise(images), drop_path, dropout)
        logits = logits.float()
        rows = self.row_loss(logits, (labels, mixed_labels), mix, teacher)
        correct = (logits.argmax(1) == labels) & mask
        return torch.where(mask, rows, 0.0).sum(), correct.float().sum()
