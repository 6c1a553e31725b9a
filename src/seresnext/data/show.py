"""A sheet of training images as the network gets them."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import Config
from ..files import replacing
from .loader import Reader, Share, train_batches
from .sources import open_splits

_GAP = 4
"""Pixels between two images."""


def write_sheet(config: Config, out: Path, images: int) -> int:
    """Write the first images that a run would train on as a PNG; return how many.

    They are augmented and mixed as configured, in the order of the run, in rows from the left: at
    least `images`, in whole pairs and as often as each is repeated. All have the final size of a
    run whose images grow. Unreadable ones are of one colour. Raises UserError.
    """
    together = math.lcm(2, config.augment.repeats)
    images += -images % together
    train, _ = open_splits(config.data)
    reader = Reader(train, replace(config.data, on_bad_image="skip"))
    with closing(train_batches(reader, config.augment, Share(images), config.run.seed)) as batches:
        sheet = _tiled(next(batches).images)
    with replacing(out) as temporary:
        Image.fromarray(sheet).save(temporary, "PNG")
    return images


def _tiled(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8 [N, S, S, 3] as one picture on white, about as wide as high."""
    count, size = images.shape[:2]
    columns = math.ceil(math.sqrt(count))
    rows, step = -(-count // columns), size + _GAP
    sheet = np.full((rows * step - _GAP, columns * step - _GAP, 3), 255, np.uint8)
    for number, image in enumerate(images):
        y, x = (step * place for place in divmod(number, columns))
        sheet[y : y + size, x : x + size] = image
    return sheet
