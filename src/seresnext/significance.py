"""How far chance alone moves an accuracy: its interval, and tests of two models."""

from __future__ import annotations

import math

import numpy as np

_Z = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""
ENOUGH = 10_000
"""From so many images on the interval is within one point of the accuracy, and is not shown."""


def accuracy_interval(accuracy: float, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent images (Wilson 1927), 0 to 1.

    Not a bootstrap: resampling right and wrong answers draws from a binomial distribution, of
    which this is the closed form. At an accuracy of 1 the bootstrap's interval has no width,
    whatever the number of images; this one has.
    """
    if not images:
        return 0.0, 1.0
    spread = _Z**2 / images
    middle = (accuracy + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(accuracy * (1 - accuracy) / images + spread / (4 * images)) / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def interval_text(accuracy: float, images: int) -> str:
    """Return "97.54 to 99.71", in percent; empty where there are `ENOUGH` images."""
    if images >= ENOUGH:
        return ""
    low, high = accuracy_interval(accuracy, images)
    return f"{100 * low:.2f} to {100 * high:.2f}"


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the probability of so uneven a count, or a more uneven one, between equal models.

    The counts are of images that only one of two models has right. Two-sided and exact: of such
    images each model has either with probability 1/2 (McNemar 1947).
    """
    both, fewer = only_first + only_second, min(only_first, only_second)
    k = np.arange(1, fewer + 1)
    log_binomials = np.concatenate([[0.0], np.cumsum(np.log((both - k + 1) / k))])
    return min(1.0, float(2 * np.exp(log_binomials - both * math.log(2)).sum()))


def difference_interval(only_first: int, only_second: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of the first accuracy minus the second, on the same images.

    Wald's with half an image added to each of the four cells (Agresti and Min 2005), which has a
    width even where no answer differs.
    """
    total, apart = images + 2, only_first + only_second + 1
    difference = (only_first - only_second) / total
    half = _Z * math.sqrt(apart / total - difference**2) / math.sqrt(total)
    return max(difference - half, -1.0), min(difference + half, 1.0)
