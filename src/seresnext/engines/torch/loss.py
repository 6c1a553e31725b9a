"""The function that a training step differentiates and `torch.compile` compiles: uint8 images to
the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config import LossConfig
from ..common import Smoothing, smoothing_coefficients
from .network import SEResNeXt


def cross_entropy(
    logits: Tensor, labels: tuple[Tensor, Tensor], mix: Tensor, smoothing: Smoothing
) -> Tensor:
    """Return the cross-entropy of every row, [B, K] -> [B], against its smoothed, mixed target.

    A row's target is `mix` on the first label and `1 - mix` on the second, smoothed.
    """
    log_p = F.log_softmax(logits, 1)
    first, second = (log_p.gather(1, k.long()[:, None])[:, 0] for k in labels)
    target = mix * first + (1 - mix) * second
    if smoothing.off == 0:
        return -target
    return -(smoothing.on * target + smoothing.off * log_p.sum(1))


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
        self.smoothing = smoothing_coefficients(loss, network.arch.num_classes)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        mixed_labels: Tensor,
        mix: Tensor,
        mask: Tensor,
        drop_path: Tensor | None = None,
        dropout: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Fields of `Batch` and of `draw_noise` -> (loss sum, number of rows whose largest logit is
        the label), both float32 scalars over the rows that carry an image."""
        device = images.device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            logits = self.network(self.normalise(images), drop_path, dropout)
        logits = logits.float()
        rows = cross_entropy(logits, (labels, mixed_labels), mix, self.smoothing)
        correct = (logits.argmax(1) == labels) & mask
        return torch.where(mask, rows, 0.0).sum(), correct.float().sum()
