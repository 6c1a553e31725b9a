"""What would help a run that has ended, where its figures show it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..config import Config
from ..errors import printable
from ..report.history import History
from ..report.results import Results

MOST = 2
"""Sentences; more are not read."""
GOOD = 0.9
"""Top-1 from which few images and random weights were no obstacle."""
FEW_IMAGES = 10_000
"""Training images below which a network of this size depends on where it starts from."""
GAP = 0.1
"""Top-1 by which training may be ahead of validation without a remark."""
ENOUGH = 50
"""Validation images below which their accuracy says too little."""


@dataclass(frozen=True)
class Ended:
    """A run with validation images, at its end."""

    config: Config
    history: History
    results: Results
    """Of the shipped model on the validation images."""
    train_images: int
    mixed: bool
    """Mixup or CutMix lasted to the end: training accuracy is of blended images, and says less."""

    @property
    def top1(self) -> float:
        return float(self.results.right.mean())

    @property
    def error(self) -> float:
        """Two standard errors of the top-1."""
        return 2 * math.sqrt(max(self.top1 * (1 - self.top1), 0.01) / len(self.results.label))


def advice(ended: Ended) -> list[str]:
    """Return at most two sentences; none where nothing stands out."""
    if len(ended.results.label) < ENOUGH:
        return []
    return list(islice(_sentences(ended), MOST))


def _sentences(ended: Ended) -> Iterator[str]:
    if (
        not ended.config.run.pretrained
        and ended.train_images < FEW_IMAGES
        and ended.top1 + ended.error < GOOD
    ):
        yield (
            f"{ended.train_images} images are few to learn from random weights: --pretrained with "
            "weights of a larger data set usually helps most"
        )
    yield from _gap(ended)
    yield from _rising(ended)
    yield from _worst_class(ended)


def _gap(ended: Ended) -> Iterator[str]:
    """Training far ahead of validation."""
    found = ended.history.series("train/top1")[1]
    last = found[-max(len(found) // 10, 1) :]
    if ended.mixed or not last:
        return
    train = sum(last) / len(last)
    if train - ended.top1 > max(GAP, ended.error):
        yield (
            f"training images are recognised better than validation images ({train:.1%} against "
            f"{ended.top1:.1%}): more images help, or a stronger --augment.policy (trivial)"
        )


def _rising(ended: Ended) -> Iterator[str]:
    """A validation accuracy that had not levelled off."""
    epochs, top1 = ended.history.series("val/top1")
    if len(top1) < 4:
        return
    before = [y for x, y in zip(epochs, top1, strict=True) if x <= 0.75 * epochs[-1]]
    if before and top1[-1] >= max(top1) and top1[-1] - max(before) > ended.error:
        yield (
            f"the accuracy still rose in the last quarter, from {max(before):.1%} to "
            f"{top1[-1]:.1%}: more --epochs may help"
        )


def _worst_class(ended: Ended) -> Iterator[str]:
    """One class far below the others."""
    results = ended.results
    images = np.bincount(results.label, minlength=len(results.class_names))
    right = np.bincount(results.label[results.right], minlength=len(images))
    recall = np.where(images >= 5, right / np.maximum(images, 1), 1)
    worst = int(recall.argmin())
    least = max(0.3, 2 * math.sqrt(0.25 / max(images[worst], 1)))
    if ended.top1 < 0.5 or ended.top1 - recall[worst] < least:
        return
    name = results.class_names[worst]
    answers = results.predicted[(results.label == worst) & ~results.right]
    other = results.class_names[int(np.bincount(answers).argmax())]
    yield (
        f"{printable(name)} is recognised in {right[worst]} of {images[worst]} images and mostly "
        f"taken for {printable(other)}: look at its images, or add some"
    )
