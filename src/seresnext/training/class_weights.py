"""Weights of the classes in the loss, from the training images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import LossConfig
from ..errors import UserError


def with_class_weights(loss: LossConfig, labels: NDArray[Any], classes: int) -> LossConfig:
    """Return the loss with `class_balance` turned into `class_weights`, one for each class.

    `labels` are the class indices of all training images. Raises UserError where the loss has
    another number of weights.
    """
    if loss.class_weights and len(loss.class_weights) != classes:
        raise UserError(
            f"loss.class_weights: expected {classes} numbers, one for each class, "
            f"got {len(loss.class_weights)}"
        )
    if not loss.class_balance:
        return loss
    counts = np.bincount(labels, minlength=classes)
    weights = balanced(np.maximum(counts, 1), loss.class_balance)
    weights *= counts.sum() / (counts @ weights)
    return replace(loss, class_balance=0.0, class_weights=tuple(weights.tolist()))


def balanced(counts: NDArray[Any], beta: float) -> NDArray[Any]:
    """Return (1 - beta) / (1 - beta^n) for classes of n images (arXiv:1901.05555, equation 5); its
    limit at beta = 1 is 1 / n. float64."""
    if beta == 1:
        return 1 / counts.astype(np.float64)
    return np.asarray((1 - beta) / (1 - beta ** counts.astype(np.float64)))
