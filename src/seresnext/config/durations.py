"""Durations in epochs, steps or images, and their number of steps."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator

_MOST = 1e15
"""Epochs, steps or images: whole numbers of steps stay exact."""
_LEAST = ", at least "
_PATTERN = re.compile(
    r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(epochs?|ep|steps?|images?)\s*", re.I
)


def duration_steps(text: str, steps_per_epoch: float, global_batch: int) -> float:
    """Return `"90 epochs"`, `"5000 steps"` or `"1e6 images"` in steps, fractions kept.

    `"15 epochs, at least 200 steps"` is the longer of the two. An empty text is 0. Raises
    ValueError for any other text.
    """
    usual, joint, least = text.partition(_LEAST)
    if joint:
        both = (usual or "none", least or "none")
        return max(duration_steps(part, steps_per_epoch, global_batch) for part in both)
    match = _PATTERN.fullmatch(text or "0 steps")
    if not match or float(match[1]) > _MOST:
        raise ValueError('a number and a unit, such as "90 epochs", "5000 steps", "1e6 images"')
    value, unit = float(match[1]), match[2].lower()[0]
    return {"e": value * steps_per_epoch, "s": value, "i": value / global_batch}[unit]


def whole_steps(text: str, steps_per_epoch: float, global_batch: int) -> int:
    """Return `duration_steps` rounded up, after a tolerance of 1e-6 for rounding errors."""
    return math.ceil(duration_steps(text, steps_per_epoch, global_batch) - 1e-6)


def _valid(text: str) -> str:
    duration_steps(text, 1.0, 1)
    return text


def _positive(text: str) -> str:
    if duration_steps(text, 1.0, 1) <= 0:
        raise ValueError("more than 0")
    return text


OptionalDuration = Annotated[str, AfterValidator(_valid)]
"""A duration, or an empty text for none."""
Duration = Annotated[str, AfterValidator(lambda text: _valid(text or "none"))]
PositiveDuration = Annotated[str, AfterValidator(_positive)]
