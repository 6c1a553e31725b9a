"""The comparison behind every export: the artifact must predict as the engine does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..runtimes.base import Runtime
from ..runtimes.formats import ArtifactPrecision
from ..training.metrics import Metrics, MetricSums

SINGLES = 8
"""Images that are also predicted one at a time: the second batch size."""
TIE = 1e-5
"""Engine logits closer than this (relative to the largest) are a tie: fp32 sums differ by as much
when they are added in another order."""


@dataclass(frozen=True)
class Tolerance:
    """What an artifact may differ by."""

    relative: float
    """Largest logit difference over the engine's largest logit."""
    flips: float
    """Share of images whose most probable class may differ; ties do not count."""


TOLERANCES: dict[ArtifactPrecision, Tolerance] = {
    "fp32": Tolerance(1e-4, 0.0),
    # bfloat16, which CPUs have instead of float16, keeps 8 bits.
    "fp16": Tolerance(5e-2, 0.01),
    # int8 is judged by its accuracy, which `max_drop` bounds.
    "int8": Tolerance(0.5, 1.0),
}


@dataclass(frozen=True)
class Comparison:
    """Artifact against engine."""

    engine: str
    images: int
    batch_sizes: tuple[int, int]
    difference: float
    """Largest absolute difference of a logit."""
    relative: float
    """`difference` over the engine's largest logit."""
    worst_image: int
    """Position of the image with the largest difference."""
    worst_batch_size: int
    """Images that were predicted together with it."""
    flips: int
    """Images whose most probable class differs."""
    ties: int
    """Flips between two classes that the engine finds equally probable."""
    engine_metrics: Metrics | None
    """Accuracy; None without labels."""
    artifact_metrics: Metrics | None

    @property
    def agreement(self) -> float:
        """Share of images with the same most probable class, 0 to 1."""
        return 1 - self.flips / self.images

    @property
    def drop(self) -> float:
        """Points of accuracy lost; without labels, points of agreement."""
        if self.engine_metrics and self.artifact_metrics:
            return 100 * (self.engine_metrics.top1 - self.artifact_metrics.top1)
        return 100 * (1 - self.agreement)

    def problems(self, precision: ArtifactPrecision, max_drop: float) -> list[str]:
        """What is outside the tolerance of `precision`, one sentence each; empty if nothing is."""
        allowed, found = TOLERANCES[precision], []
        if not self.relative <= allowed.relative:  # also true of nan
            found.append(
                f"logits differ by up to {self.relative:.1e} of the largest (tolerance "
                f"{allowed.relative:.0e}), most at image {self.worst_image} with batch size "
                f"{self.worst_batch_size}"
            )
        flips = self.flips - self.ties
        if flips > math.ceil(allowed.flips * self.images):
            found.append(f"the most probable class differs for {flips} of {self.images} images")
        if precision == "int8" and self.drop > max_drop + 1e-9:
            what = "accuracy" if self.engine_metrics else "agreement"
            found.append(f"{what} drops by {self.drop:.2f} points (allowed {max_drop:g})")
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "agreement": self.agreement, "drop": self.drop}


def compare(
    engine: Runtime, artifact: Runtime, batches: Iterable[Batch], *, labelled: bool
) -> Comparison:
    """Compare the logits of both for the same pixels, one batch after another."""
    differences = _Differences()
    engine_sums, artifact_sums = MetricSums(), MetricSums()
    for batch in batches:
        pixels, labels = batch.images[batch.mask], batch.labels[batch.mask]
        if not len(pixels):
            continue
        expected, found = engine.predict(pixels), artifact.predict(pixels)
        first = differences.images == 0
        differences.add(expected, found)
        if first:
            singles = [artifact.predict(image[None]) for image in pixels[:SINGLES]]
            differences.measure(expected[:SINGLES], np.concatenate(singles), 0, batch_size=1)
        if labelled:
            everything = np.ones(len(labels), bool)
            engine_sums.add(expected, labels, everything)
            artifact_sums.add(found, labels, everything)
    scale = differences.scale
    return Comparison(
        engine=f"{engine.name} engine on {engine.device}",
        images=differences.images,
        batch_sizes=(1, differences.largest_batch),
        difference=differences.largest,
        relative=differences.largest / scale if scale > 0 else differences.largest,
        worst_image=differences.worst_image,
        worst_batch_size=differences.worst_batch_size,
        flips=differences.flips,
        ties=differences.ties,
        engine_metrics=engine_sums.result(0.0) if labelled else None,
        artifact_metrics=artifact_sums.result(0.0) if labelled else None,
    )


@dataclass
class _Differences:
    """What differed so far; see `Comparison`."""

    images: int = 0
    largest_batch: int = 0
    scale: float = 0.0
    """The engine's largest logit."""
    largest: float = 0.0
    worst_image: int = 0
    worst_batch_size: int = 0
    flips: int = 0
    ties: int = 0

    def add(self, expected: NDArray[Any], found: NDArray[Any]) -> None:
        """Take in a batch: the engine's and the artifact's logits, float32 [B, K]."""
        self.scale = max(self.scale, float(np.abs(expected).max()))
        self.measure(expected, found, self.images, batch_size=len(expected))
        rows, chosen = np.arange(len(expected)), found.argmax(1)
        flipped = chosen != expected.argmax(1)
        margin = expected.max(1) - expected[rows, chosen]
        self.flips += int(flipped.sum())
        self.ties += int((flipped & (margin <= TIE * self.scale)).sum())
        self.images += len(expected)
        self.largest_batch = max(self.largest_batch, len(expected))

    def measure(
        self, expected: NDArray[Any], found: NDArray[Any], start: int, batch_size: int
    ) -> None:
        """Update the largest difference; `start` is the position of the first image."""
        error = np.abs(found - expected).max(1)
        error[np.isnan(error)] = np.inf
        if error.max() > self.largest:
            self.largest = float(error.max())
            self.worst_image, self.worst_batch_size = start + int(error.argmax()), batch_size
