"""The temperature that calibrates a classifier (Guo et al. 2017, section 4.2)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .batch import Batch

_MOST_BYTES = 1 << 27
"""Of logits: 33,000 images of 1,000 classes. One number needs no more of them."""
_RANGE = 1 / 50, 50.0
"""Of the temperature."""


class LogitSample:
    """Logits and labels of every n-th image of a source, at most 128 MB."""

    def __init__(self, images: int, classes: int) -> None:
        self.every = max(1, math.ceil(4 * images * classes / _MOST_BYTES))
        self.logits: list[NDArray[np.float32]] = [np.zeros((0, classes), np.float32)]
        self.labels: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]

    def add(self, batch: Batch, logits: NDArray[np.float32]) -> None:
        """Take the rows of one batch that count. logits float32 [B, K]."""
        rows = np.flatnonzero(batch.mask & (batch.index % self.every == 0))
        self.logits.append(logits[rows])
        self.labels.append(batch.labels[rows])

    def temperature(self) -> float | None:
        """Return the temperature that fits the rows, as `fit_temperature` does."""
        return fit_temperature(np.concatenate(self.logits), np.concatenate(self.labels))


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> float | None:
    """Return T that minimises the cross-entropy of logits / T; above 1 the model is too sure.

    None where none from 1/50 to 50 does (every answer right: the smaller T, the better), and for
    logits that are not finite. logits float32 [N, K], labels int [N].
    """
    if not len(labels) or not np.isfinite(logits).all():
        return None
    # The loss is convex in b = 1 / T: Newton's method, and bisection where it leaves the bracket.
    low, high = 1 / _RANGE[1], 1 / _RANGE[0]
    if _slope(logits, labels, low)[0] >= 0 or _slope(logits, labels, high)[0] <= 0:
        return None
    b = 1.0
    for _ in range(50):
        slope, curvature = _slope(logits, labels, b)
        low, high = (b, high) if slope < 0 else (low, b)
        after = b - slope / curvature if curvature > 0 else low
        after = after if low < after < high else (low + high) / 2
        if abs(after - b) < 1e-6 * b:
            break
        b = after
    return 1 / b


def _slope(logits: NDArray[np.float32], labels: NDArray[np.int32], b: float) -> tuple[float, float]:
    """First and second derivative, by b, of the mean cross-entropy of b * logits."""
    shifted = logits - logits.max(1, keepdims=True)
    weights = np.exp(b * shifted)
    weights /= weights.sum(1, keepdims=True)
    mean = (weights * shifted).sum(1)
    own = shifted[np.arange(len(labels)), labels]
    variance = (weights * shifted**2).sum(1) - mean**2
    return float((mean - own).mean(dtype=np.float64)), float(variance.mean(dtype=np.float64))
