"""ReaL: several right classes for each of ImageNet's validation images (arXiv:2006.07159)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .data.sources import Source
from .errors import UserError
from .files import read_json
from .report.results import Results

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+$")


@dataclass(frozen=True)
class RealAccuracy:
    """Accuracy on the images that have a right class."""

    top1: float
    """Share of them whose most probable class is one of the right ones, 0 to 1."""
    images: int


def read_real_labels(path: Path, classes: int) -> list[frozenset[int]]:
    """Return the right classes of each validation image, in the order of the images' numbers.

    The file is `real.json` of github.com/google-research/reassessed-imagenet: a list of lists of
    class indices. Raises UserError.
    """
    data = read_json(path, "ReaL labels")
    if not isinstance(data, list) or not all(
        isinstance(row, list) and all(type(k) is int and 0 <= k < classes for k in row)
        for row in data
    ):
        raise UserError(
            f"{path}: expected the ReaL labels, a list with a list of class indices from 0 to "
            f"{classes - 1} for each image"
        )
    return [frozenset(row) for row in data]


def real_accuracy(
    labels: list[frozenset[int]], source: Source, results: Results
) -> RealAccuracy | None:
    """Return the accuracy by these labels; None where no image has one.

    The images are known by the numbers in their names. Raises UserError for other names.
    """
    right = images = 0
    for index, predicted in zip(results.index.tolist(), results.predicted.tolist(), strict=True):
        match = _NUMBER.search(source.name(index))
        number = int(match[1]) if match else 0
        if not 0 < number <= len(labels):
            raise UserError(
                f"--real-labels: {source.describe(index)} is none of the {len(labels)} images that "
                "they are for; expected names such as ILSVRC2012_val_00000001.JPEG"
            )
        allowed = labels[number - 1]
        images += bool(allowed)
        right += predicted in allowed
    return RealAccuracy(right / images, images) if images else None
