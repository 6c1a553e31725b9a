"""The gate of an export: the artifact must answer as the engine does, on real images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..batch import Batch
from ..runtimes.artifact import ArtifactPrecision
from ..runtimes.base import Runtime
from ..training.metrics import Metrics, MetricSums

SINGLES = 8
"""So many images are also given one at a time: the second batch size."""
TIE = 1e-5
"""Engine logits closer than this (relative to the largest) have no order: fp32 sums differ by as
much when they are added up otherwise."""


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
    # What counts is accuracy, which `max_drop` bounds.
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
    """The same over the engine's largest logit."""
    worst_image: int
    """Position of that image."""
    worst_batch_size: int
    flips: int
    """Images whose most probable class differs."""
    ties: int
    """Those of them whose two classes the engine holds equally probable."""
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
        """What is outside the tolerance of `precision`; empty if the artifact may pass."""
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
        return {**asdict(self), "agreement": self.agreement, "drop": self.drop}


def compare(
    engine: Runtime, artifact: Runtime, batches: Iterable[Batch], *, labelled: bool
) -> Comparison:
    """Give both the same pixels and look at the logits; memory is bounded by one batch."""
    sums = MetricSums(), MetricSums()
    scale = difference = 0.0
    images = flips = ties = worst_image = worst_size = largest_batch = 0
    for batch in batches:
        pixels, labels = batch.images[batch.mask], batch.labels[batch.mask]
        if not len(pixels):
            continue
        expected, found = engine.predict(pixels), artifact.predict(pixels)
        scale = max(scale, float(np.abs(expected).max()))
        largest_batch = max(largest_batch, len(pixels))
        tried = [(len(pixels), found)]
        if images == 0:
            singles = [
                artifact.predict(pixels[i : i + 1]) for i in range(min(SINGLES, len(pixels)))
            ]
            tried.append((1, np.concatenate(singles)))
        for size, logits in tried:
            error = np.abs(logits - expected[: len(logits)]).max(1)
            error[np.isnan(error)] = np.inf
            if error.max() > difference:
                difference = float(error.max())
                worst_image, worst_size = images + int(error.argmax()), size
        rows = np.arange(len(pixels))
        theirs = found.argmax(1)
        margin = expected.max(1) - expected[rows, theirs]
        differs = theirs != expected.argmax(1)
        flips += int(differs.sum())
        ties += int((differs & (margin <= TIE * scale)).sum())
        for total, logits in zip(sums, (expected, found), strict=True):
            if labelled:
                total.add(logits, labels, np.ones(len(labels), bool))
        images += len(pixels)
    metrics = [total.result(0.0) if labelled else None for total in sums]
    relative = difference / scale if scale > 0 else difference
    return Comparison(
        f"{engine.name} engine on {engine.device}",
        images,
        (1, largest_batch),
        difference,
        relative,
        worst_image,
        worst_size,
        flips,
        ties,
        *metrics,
    )
