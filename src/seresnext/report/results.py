"""What a model answered for labelled images, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..config import DataConfig
from ..data.loader import Reader, Share, eval_batches
from ..data.sources import Source, open_evaluation, open_splits
from ..errors import UserError
from ..predict import softmax
from ..runtimes.base import Runtime
from ..training.log import METRICS_FILE

BINS = 15
"""Of equal width, for the calibration; the number that Guo et al. (2017) use."""


class Answers:
    """One row an image of a source: label, answer and probabilities. Rows start unread.

    A row is float64 [label, predicted class, its probability, the label's probability, the
    label's rank from 0, cross-entropy]. Each rank fills other rows, so their sum is exact.
    """

    def __init__(self, images: int) -> None:
        self.rows = np.zeros((images, 6))
        self.read = np.zeros(images, np.int64)

    def add(self, batch: Batch, logits: NDArray[Any]) -> None:
        """Take the answers for one batch, float32 [B, K]; a row that is not finite is wrong."""
        keep = np.flatnonzero(batch.mask)
        if not len(keep):
            return
        logits, labels = logits[keep], batch.labels[keep]
        broken = ~np.isfinite(logits).all(1)
        logits[broken] = 0
        logits[broken, labels[broken]] = -1
        probabilities = softmax(logits)
        own = probabilities[np.arange(len(keep)), labels]
        predicted = probabilities.argmax(1)
        index = batch.index[keep]
        self.rows[index] = np.column_stack(
            [
                labels,
                predicted,
                probabilities.max(1),
                own,
                (probabilities > own[:, None]).sum(1),
                -np.log(np.maximum(own, np.finfo(np.float64).tiny)),
            ]
        )
        self.read[index] = 1

    def results(
        self, class_names: tuple[str, ...], all_sum: Callable[[NDArray[Any]], NDArray[Any]] | None
    ) -> Results:
        """Return the answers of all ranks. A collective where `all_sum` is an engine's."""
        rows, read = self.rows, self.read
        if all_sum:
            rows, read = all_sum(rows), all_sum(read)
        index = np.flatnonzero(read)
        label, predicted, confidence, own, rank, loss = rows[index].T
        return Results(
            class_names,
            len(read),
            index,
            label.astype(np.int64),
            predicted.astype(np.int64),
            confidence,
            own,
            rank.astype(np.int64),
            loss,
        )


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class, 0 to 1; 0 where nothing was said or nothing was there."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Confusion:
    """How often images of one class were taken for another."""

    label: str
    predicted: str
    images: int
    share: float
    """Of the label's images."""


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability diagram: answers of similar probability."""

    confidence: float
    """Mean probability of the answers."""
    accuracy: float
    """Share of them that are right."""
    images: int


@dataclass(frozen=True)
class Results:
    """Answers for the images that could be read; arrays have one entry for each."""

    class_names: tuple[str, ...]
    images: int
    """Of the source, unreadable ones included."""
    index: NDArray[np.int64]
    """In the source."""
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    """Probability of the predicted class."""
    own: NDArray[np.float64]
    """Probability of the label."""
    rank: NDArray[np.int64]
    """Number of classes with a higher probability than the label's."""
    loss: NDArray[np.float64]
    """Cross-entropy, natural logarithm."""

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.predicted == self.label)

    def summary(self) -> dict[str, float]:
        """Return top-1, top-5 and calibration error (0 to 1), mean loss, and counts."""
        count = max(len(self.index), 1)
        return {
            "images": len(self.index),
            "unread": self.images - len(self.index),
            "top1": float(self.right.sum()) / count,
            "top5": float((self.rank < 5).sum()) / count,
            "loss": float(self.loss.sum()) / count,
            "calibration_error": self.calibration_error(),
        }

    def confusion(self) -> NDArray[np.int64]:
        """Return counts [K, K]: rows are labels, columns are answers."""
        classes = len(self.class_names)
        flat = np.bincount(self.label * classes + self.predicted, minlength=classes**2)
        return flat.reshape(classes, classes).astype(np.int64)

    def class_scores(self) -> list[ClassScore]:
        """Return precision, recall and F1 of every class, in the order of the classes."""
        counts = self.confusion()
        hits, labelled, said = counts.diagonal(), counts.sum(1), counts.sum(0)
        precision, recall = hits / np.maximum(said, 1), hits / np.maximum(labelled, 1)
        f1 = 2 * hits / np.maximum(labelled + said, 1)
        rows = zip(self.class_names, labelled, precision, recall, f1, strict=True)
        return [ClassScore(n, int(c), float(p), float(r), float(f)) for n, c, p, r, f in rows]

    def confused_pairs(self, limit: int) -> list[Confusion]:
        """Return the mistakes that are made most often, the most frequent first."""
        counts = self.confusion()
        totals = counts.sum(1)
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:limit]
        pairs = [(int(i) // len(counts), int(i) % len(counts)) for i in order]
        return [
            Confusion(
                self.class_names[a],
                self.class_names[b],
                int(counts[a, b]),
                float(counts[a, b] / totals[a]),
            )
            for a, b in pairs
            if counts[a, b]
        ]

    def calibration(self) -> list[Bin]:
        """Return the bins of the reliability diagram that hold answers, by confidence."""
        number = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        members = [number == i for i in range(BINS)]
        return [
            Bin(float(self.confidence[m].mean()), float(self.right[m].mean()), int(m.sum()))
            for m in members
            if m.any()
        ]

    def calibration_error(self) -> float:
        """Return the expected calibration error, 0 to 1 (Guo et al. 2017, equation 3)."""
        bins = self.calibration()
        total = sum(b.images for b in bins)
        return sum(b.images * abs(b.accuracy - b.confidence) for b in bins) / max(total, 1)

    def worst(self, limit: int) -> NDArray[np.int64]:
        """Return positions (in these arrays) of wrong answers, the surest first."""
        return _first(~self.right, -self.confidence, limit)

    def least_certain(self, limit: int) -> NDArray[np.int64]:
        """Return positions of right answers, the least sure first."""
        return _first(self.right, self.confidence, limit)


def _first(chosen: NDArray[np.bool_], key: NDArray[np.float64], limit: int) -> NDArray[np.int64]:
    positions = np.flatnonzero(chosen)
    return positions[np.argsort(key[positions], kind="stable")][:limit]


def labelled_images(model: Path, data: Path | None, reading: DataConfig) -> Reader | None:
    """Return the images at `data`, or by default the validation images of the run `model`.

    `reading` is how they are found and read (the run's settings, changed or not). None for a run
    without validation images. Raises UserError for a model that is no run, and for images that are
    not there.
    """
    if data is not None:
        source: Source | None = open_evaluation(data, data=reading)
    elif (model / "config.json").is_file() and (model / METRICS_FILE).is_file():
        source = open_splits(reading)[1]
    else:
        raise UserError(f"{model} is not a run folder: name labelled images with --data DIR")
    if source is None:
        return None
    return Reader(source, reading)


def collect(model: Runtime, reader: Reader, batch_size: int = 64) -> Results:
    """Return the answers of an engine or a runtime for every image of `reader`'s source."""
    answers = Answers(len(reader.source))
    with closing(eval_batches(reader, model.spec.input, Share(batch_size))) as batches:
        for batch in batches:
            answers.add(batch, model.predict(batch.images))
    return answers.results(model.spec.class_names, None)
