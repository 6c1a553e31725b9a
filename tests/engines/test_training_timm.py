"""Losses and optimizers against timm's."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("engines.timm_reference", reason="needs timm")

from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy

from engines.losses import random_rows
from seresnext.config import LossConfig
from seresnext.engines.torch.loss import RowLoss


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2, 0.6])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy(threshold: float | None, smoothing: float) -> None:
    """On targets that its mixup makes of a batch: row i is mixed with row n - 1 - i."""
    rows, share = random_rows(), 0.7
    logits, labels = torch.tensor(rows.logits), torch.tensor(rows.labels)
    target = mixup_target(labels.long(), 4, share, smoothing)
    theirs = BinaryCrossEntropy(target_threshold=threshold)(logits, target)
    loss = LossConfig(kind="binary", threshold=threshold, label_smoothing=smoothing)
    mix = torch.full((len(labels),), share)
    ours = RowLoss(loss, 4, torch.device("cpu"))(logits, (labels, labels.flip(0)), mix)
    torch.testing.assert_close(ours.mean(), theirs)
