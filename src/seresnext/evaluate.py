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
from .data.sources import evaluation_part, open_part
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
    on_bad_image: Literal["stop", "skip"] | None = None,
    reading: DataConfig | None = None,
) -> Metrics:
    """Evaluate an engine or a runtime on labelled images; `unread_images` lists the unreadable.

    `data` holds `val/<class>/` (or valid, validation, test), or `<class>/` itself, or is a list.
    Labels follow the model's class names. `reading` says how images are found and read, and which
    ones a run held out; `on_bad_image` is its own by default. Raises UserError for a folder of
    another layout and, unless `on_bad_image` is "skip", for an unreadable image.
    """
    check_batch_size(batch_size, model.spec.input.image_size, "--batch-size")
    reading = reading or DataConfig()
    part = evaluation_part(Path(data), reading)
    source = open_part(
        part,
        class_names=model.spec.class_names,
        allow_empty_classes=True,
        follow_links=reading.follow_links,
    )
    policy = on_bad_image or reading.on_bad_image
    reader = Reader(source, replace(reading, workers=workers, on_bad_image=policy))
    with closing(eval_batches(reader, model.spec.input, Share(batch_size))) as batches:
        metrics = evaluate(model.predict, batches, unread=lambda: reader.bad_images.count)
    names = tuple(reader.bad_images.names())
    return replace(metrics, data=str(part), unread_images=names)
