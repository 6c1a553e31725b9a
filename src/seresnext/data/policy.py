"""Augmentation policies: RandAugment, TrivialAugment and AutoAugment as tables of operations.

A new operation is a function in `operations.py` and a line here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

from ..config.policy import Policy
from . import operations as ops
from .operations import Color, Image


class Operation(NamedTuple):
    """A function of an image, and how strong it is."""

    apply: Callable[..., Image]
    argument: Callable[[float, int], float] | None = None
    """(level from 0 to 1, sign 1 or -1) -> the function's argument; None has none."""
    fills: bool = False
    """Whether the function takes the colour of what comes from outside the image."""


def _signed(most: float) -> Callable[[float, int], float]:
    """Return a range from -`most` to `most`, 0 at level 0."""
    return lambda level, sign: sign * most * level


def _rising(low: float, high: float) -> Callable[[float, int], float]:
    return lambda level, sign: low + (high - low) * level


def _whole(low: int, high: int) -> Callable[[float, int], float]:
    """Return whole numbers that begin at `low`: away from it they are cut off, not rounded."""
    return lambda level, sign: low + int((high - low) * level)


def _around_one(most: float) -> Callable[[float, int], float]:
    """Return factors from 1 - `most` to 1 + `most`, 1 at level 0."""
    return lambda level, sign: 1 + sign * most * level


# RandAugment: arXiv:1909.13719, the operations and ranges of timm's "increasing" set.
INCREASING = {
    "AutoContrast": Operation(ops.autocontrast),
    "Equalize": Operation(ops.equalize),
    "Invert": Operation(ops.invert),
    "Rotate": Operation(ops.rotate, _signed(30), True),
    "Posterize": Operation(ops.posterize, _whole(4, 0)),
    "Solarize": Operation(ops.solarize, _whole(256, 0)),
    "SolarizeAdd": Operation(ops.solarize_add, _whole(0, 110)),
    "Color": Operation(ops.saturation, _around_one(0.9)),
    "Contrast": Operation(ops.contrast, _around_one(0.9)),
    "Brightness": Operation(ops.brightness, _around_one(0.9)),
    "Sharpness": Operation(ops.sharpness, _around_one(0.9)),
    "ShearX": Operation(ops.shear_x, _signed(0.3), True),
    "ShearY": Operation(ops.shear_y, _signed(0.3), True),
    "TranslateX": Operation(ops.translate_x, _signed(0.45), True),
    "TranslateY": Operation(ops.translate_y, _signed(0.45), True),
}
# Without "inc1": some are weaker at a larger magnitude, or strongest at both ends.
MIXED = INCREASING | {
    "Posterize": Operation(ops.posterize, _whole(0, 4)),
    "Solarize": Operation(ops.solarize, _whole(0, 256)),
    "Color": Operation(ops.saturation, _rising(0.1, 1.9)),
    "Contrast": Operation(ops.contrast, _rising(0.1, 1.9)),
    "Brightness": Operation(ops.brightness, _rising(0.1, 1.9)),
    "Sharpness": Operation(ops.sharpness, _rising(0.1, 1.9)),
}

# TrivialAugment Wide: arXiv:2103.10158, table 7. Translations are of 32 px in an image of 224.
TRIVIAL = {
    "Identity": Operation(lambda image: image),
    "AutoContrast": Operation(ops.autocontrast),
    "Equalize": Operation(ops.equalize),
    "Rotate": Operation(ops.rotate, _signed(135), True),
    "Posterize": Operation(ops.posterize, lambda level, sign: 8 - round(6 * level)),
    "Solarize": Operation(ops.solarize, _rising(255, 0)),
    "Color": Operation(ops.saturation, _around_one(0.99)),
    "Contrast": Operation(ops.contrast, _around_one(0.99)),
    "Brightness": Operation(ops.brightness, _around_one(0.99)),
    "Sharpness": Operation(ops.sharpness, _around_one(0.99)),
    "ShearX": Operation(ops.shear_x, _signed(0.99), True),
    "ShearY": Operation(ops.shear_y, _signed(0.99), True),
    "TranslateX": Operation(ops.translate_x, _signed(32 / 224), True),
    "TranslateY": Operation(ops.translate_y, _signed(32 / 224), True),
}
_TRIVIAL_LEVELS = 31

# AutoAugment: arXiv:1805.09501, appendix A, the policy found on ImageNet: pairs of (operation,
# probability, magnitude), of which each image gets one.
AUTO_OPERATIONS = MIXED | {"Posterize": Operation(ops.posterize, _whole(4, 8))}
_Step = tuple[str, float, int]
AUTO: tuple[tuple[_Step, _Step], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)

_LAYER_DRAWS = 4


class Chosen(NamedTuple):
    """An operation that an image gets."""

    operation: Operation
    argument: float | None


def draws_of(policy: Policy | None) -> int:
    """Return how many random numbers an image needs."""
    if policy is None:
        return 0
    return _LAYER_DRAWS * {"rand": policy.layers, "trivial": 1, "auto": 2}[policy.kind]


def choose(policy: Policy, u: list[float]) -> list[Chosen]:
    """Return the operations for an image from random numbers in [0, 1), in order."""
    layers = list(zip(*(u[k::_LAYER_DRAWS] for k in range(_LAYER_DRAWS)), strict=True))
    if policy.kind == "auto":
        pair = AUTO[int(u[0] * len(AUTO))]
        return [
            _chosen(AUTO_OPERATIONS[name], magnitude / 10, sign)
            for (name, probability, magnitude), (_, chance, sign, _) in zip(
                pair, layers, strict=True
            )
            if chance < probability
        ]
    if policy.kind == "trivial":
        ((which, strength, sign, _),) = layers
        level = int(strength * _TRIVIAL_LEVELS) / (_TRIVIAL_LEVELS - 1)
        return [_chosen(_pick(TRIVIAL, which), level, sign)]
    table = INCREASING if policy.increasing else MIXED
    return [
        _chosen(_pick(table, which), _magnitude(policy, strength) / 10, sign)
        for which, chance, sign, strength in layers
        if chance < policy.probability
    ]


def _pick(table: dict[str, Operation], u: float) -> Operation:
    return list(table.values())[int(u * len(table))]


def _chosen(operation: Operation, level: float, sign: float) -> Chosen:
    if operation.argument is None:
        return Chosen(operation, None)
    return Chosen(operation, operation.argument(level, -1 if sign < 0.5 else 1))


def _magnitude(policy: Policy, u: float) -> float:
    """Return RandAugment's magnitude of one operation, 0 to 10."""
    if math.isinf(policy.deviation):
        return u * policy.magnitude
    if not policy.deviation or not u:
        return policy.magnitude
    return min(max(NormalDist(policy.magnitude, policy.deviation).inv_cdf(u), 0.0), 10.0)


def apply_policy(image: Image, policy: Policy, u: list[float], fill: Color) -> Image:
    """Return an image, uint8 [H, W, 3], after the operations that the random numbers choose."""
    for operation, argument in choose(policy, u):
        arguments = [] if argument is None else [argument]
        image = operation.apply(image, *arguments, *([fill] if operation.fills else []))
    return image
