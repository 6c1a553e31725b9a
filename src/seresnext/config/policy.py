"""The text of `augment.policy`, read."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Literal

_RAND = re.compile(r"rand(?P<parts>(-(m|n|p|mstd|inc)\d+(\.\d+)?)*)")
_EXPECTED = (
    "trivial, auto, or rand with parts such as rand-m7-n2-mstd0.5-inc1 "
    "(m 0 to 10, n 1 to 8, p 0 to 1, mstd, inc 0 or 1)"
)
_UNIFORM = 100
"""From this deviation on, magnitudes are drawn uniformly, as in timm."""


@dataclass(frozen=True)
class Policy:
    """Operations drawn for each image anew."""

    kind: Literal["rand", "trivial", "auto"]
    magnitude: float = 10.0
    """Strength, 0 to 10. The fields from here on are RandAugment's."""
    layers: int = 2
    """Operations for an image, each drawn from all."""
    probability: float = 0.5
    """That an operation is applied."""
    deviation: float = 0.0
    """Of the magnitude, drawn anew for each operation; infinite: uniform from 0 to `magnitude`."""
    increasing: bool = False
    """Whether every operation is stronger at a larger magnitude."""


@functools.cache
def parse_policy(text: str) -> Policy | None:
    """Return what `augment.policy` says; None for an empty text.

    The parts of RandAugment are those of timm's auto-augment strings. Raises ValueError with what
    was expected.
    """
    if not text:
        return None
    if text == "trivial":
        return Policy("trivial")
    if text == "auto":
        return Policy("auto")
    match = _RAND.fullmatch(text)
    if not match:
        raise ValueError(_EXPECTED)
    values: dict[str, float] = {"m": 10, "n": 2, "p": 0.5, "mstd": 0, "inc": 0}
    for part in match["parts"].split("-")[1:]:
        name = part.rstrip("0123456789.")
        values[name] = float(part[len(name) :])
    m, n, p, deviation, increasing = values.values()
    if not (m <= 10 and n in range(1, 9) and p <= 1 and increasing in (0, 1)):
        raise ValueError(_EXPECTED)
    return Policy(
        kind="rand",
        magnitude=m,
        layers=int(n),
        probability=p,
        deviation=math.inf if deviation > _UNIFORM else deviation,
        increasing=bool(increasing),
    )


def policy_text(text: str) -> str:
    """Return `text` if it is a policy. Raises ValueError."""
    parse_policy(text)
    return text
