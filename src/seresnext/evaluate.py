"""Evaluation: a predict function and batches in, exact metrics out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from .batch import Batch, check_batch_size
from .config import DataConfig
from .data.loader import Reader, Share, eval_batches
from .data.sources import open_evaluation
from .runtimes.base import Runtime
from .training.metrics import Metrics, MetricSums

Predict = Callable[[NDArray[Any]], NDArray[Any]]


def evaluate(
    predict: Predict,
    batches: Iterable[Batch],
    all_sum: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
    unread: Callable[[], int] = lambda: 0,
    observe: Callable[[Batch, NDArray[Any]], None] = lambda batch, logits: None,
) -> Metrics:
    """Count every image of `batches` once and return the metrics over all ranks.

    `predict` is an engine's or a runtime's: uint8 [B, H, W, 3] -> float32 logits [B, K].
    `all_sum` adds the ranks' sums; counts are integers and the loss float64, so the result does
    not depend on the batch size, and top-1 not on the world size. `unread` returns at the end how
    many images this rank could not read. `observe` is given every batch with its logits.
    """
    sums = MetricSums()
    start = time.perf_counter()
    for batch in batches:
        logits = predict(batch.images)
        sums.add(logits, batch.labels, batch.mask)
        observe(batch, logits)
    sums.counts[3] = unread()
    sums.counts, sums.loss = all_sum(sums.counts), all_sum(sums.loss)
    return sums.result(time.perf_counter() - start)


def evaluate_folder(
    model: Runtime,
    data: str | Path,
    *,
    batch_size: int = 64,
    workers: int = 0,
    on_bad_image: Literal["stop", "skip"] = "stop",
) -> Metrics:
    """Evaluate an engine or a runtime on labelled images; `unread_images` lists the unreadable.

    `data` holds `val/<class>/` (or validation, test), or `<class>/` itself. Labels follow the
    model's class names. Raises UserError for a folder of another layout and, unless
    `on_bad_image` is "skip", for an unreadable image.
    """
    check_batch_size(batch_size, model.spec.input.image_size, "--batch-size")
    source = open_evaluation(Path(data), model.spec.class_names)
    reader = Reader(source, DataConfig(workers=workers, on_bad_image=on_bad_image))
    with closing(eval_batches(reader, model.spec.input, Share(batch_size))) as batches:
        metrics = evaluate(model.predict, batches, unread=lambda: reader.bad_images.count)
    return replace(metrics, unread_images=tuple(reader.bad_images.names()))
