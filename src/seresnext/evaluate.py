"""Evaluation: a predict function and batches in, exact metrics out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np

from .batch import Batch
from .training.metrics import Metrics, MetricSums

Predict = Callable[[np.ndarray], np.ndarray]


def evaluate(
    predict: Predict,
    batches: Iterable[Batch],
    all_sum: Callable[[np.ndarray], np.ndarray] = lambda values: values,
    progress: Callable[[int], None] = lambda images: None,
    unread: Callable[[], int] = lambda: 0,
) -> Metrics:
    """Count every image of `batches` once.

    `predict` is an engine's or a runtime's: uint8 [B, H, W, 3] -> float32 logits [B, K].
    `all_sum` adds the ranks' sums; counts are integers and the loss float64, so the result does
    not depend on the batch size, and top-1 not on the world size. `progress` hears the images
    done so far; `unread` says at the end how many images this rank could not read.
    """
    sums = MetricSums()
    start = time.perf_counter()
    for batch in batches:
        sums.add(predict(batch.images), batch.labels, batch.mask)
        progress(int(sums.counts[2]))
    sums.counts[3] = unread()
    sums.counts, sums.loss = all_sum(sums.counts), all_sum(sums.loss)
    return sums.result(time.perf_counter() - start)
