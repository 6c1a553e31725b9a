"""Demo data: scikit-learn's handwritten digits as an image folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import folder_beside
from ..install import install_command

IMAGES = 1797
"""Number of scans; each has 8x8 pixels with levels 0 to 16."""


def write_digits(out: Path) -> None:
    """Write `out`/train/<digit>/*.png and `out`/val/<digit>/*.png, unless they exist.

    The scans stay 8x8 and grey, with levels scaled to 0..255. Every fifth scan of each digit is
    for validation: 1,442 training and 355 validation images. `out` appears complete or not at all.

    Raises UserError when scikit-learn is missing or `out` contains something else.
    """
    if _complete(out):
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not the complete digits; remove it or name another")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            f"the digits come with scikit-learn; install it with: {install_command('demo')}"
        ) from None
    digits = load_digits()
    with folder_beside(out) as beside:
        seen = [0] * 10
        for i, (scan, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            split = "val" if seen[digit] % 5 == 4 else "train"
            seen[digit] += 1
            folder = beside / split / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            levels = np.rint(scan * 255 / 16).astype(np.uint8)
            Image.fromarray(levels).save(folder / f"digit-{i:04}.png")
        os.replace(beside, out)


def _complete(out: Path) -> bool:
    """Return whether all scans exist: `out` appears complete or not at all, so they are counted."""
    splits = [out / "train", out / "val"]
    return sum(1 for split in splits for _ in split.glob("?/digit-????.png")) == IMAGES
