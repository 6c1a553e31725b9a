"""Exact sums of an evaluation: integers for counts, float64 for the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..significance import accuracy_interval


@dataclass(frozen=True)
class Metrics:
    """Result of an evaluation.

    >>> metrics = seresnext.load("runs/mine").evaluate("photos")
    >>> metrics.top1, metrics.images, metrics.unread
    (1.0, 6, 0)
    """

    top1: float
    """Share of images whose largest logit is the label, 0 to 1."""
    top5: float
    """Share of images whose label is among the five largest logits."""
    loss: float
    """Mean cross-entropy, natural logarithm."""
    images: int
    """Images evaluated, each exactly once."""
    unread: int
    """Images that could not be read; in no figure above."""
    images_per_second: float

    def interval(self, accuracy: float) -> tuple[float, float]:
        """Return the 95 % interval of `top1` or `top5`, 0 to 1, for this number of images.

        >>> metrics = seresnext.load("runs/mine").evaluate("photos")
        >>> low, high = metrics.interval(metrics.top1)
        >>> round(low, 2), high
        (0.61, 1.0)
        """
        return accuracy_interval(accuracy, self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with the intervals of both accuracies.

        >>> seresnext.load("runs/mine").evaluate("photos").to_dict()["images"]
        6
        """
        intervals = {f"{n}_interval": self.interval(getattr(self, n)) for n in ("top1", "top5")}
        return asdict(self) | intervals


def metrics_from(data: Mapping[str, Any]) -> Metrics:
    """Return the metrics that `Metrics.to_dict` gave; null, as JSON has NaN, is NaN again."""
    names = [field.name for field in fields(Metrics) if field.name in data]
    values: dict[str, Any] = {n: math.nan if data[n] is None else data[n] for n in names}
    return Metrics(**values)


class MetricSums:
    """Sums over images; adding two of them in any order gives the same counts."""

    def __init__(self) -> None:
        self.counts = np.zeros(4, np.int64)  # top1, top5, images, unread
        self.loss = np.zeros(1, np.float64)

    def add(self, logits: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any]) -> None:
        """Count one batch. logits float32 [B, K], labels int [B], mask bool [B].

        A label's rank is the number of larger logits plus the number of equal ones before it, so
        ties are broken by the lower index and the count does not depend on a sort. A row with a
        logit that is not a number counts as wrong.
        """
        logits, labels = logits[mask].astype(np.float64), labels[mask]
        rows = np.arange(len(labels))
        own = logits[rows, labels][:, None]
        earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
        rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
        rank[~np.isfinite(logits).all(1)] = logits.shape[1] + 5
        top = logits.max(1, initial=-np.inf)
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(1))
        self.counts[:3] += (int((rank < 1).sum()), int((rank < 5).sum()), len(labels))
        self.loss += (log_sum - own[:, 0]).sum()

    def result(self, seconds: float) -> Metrics:
        top1, top5, images, unread = (int(n) for n in self.counts)
        count = max(images, 1)
        return Metrics(
            top1=top1 / count,
            top5=top5 / count,
            loss=float(self.loss[0]) / count,
            images=images,
            unread=unread,
            images_per_second=images / seconds if seconds > 0 else 0.0,
        )
