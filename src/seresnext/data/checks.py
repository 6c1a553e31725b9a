"""What is worth a warning before training begins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from ..errors import listed
from .sources import Source

FEW = 5
"""Images; with fewer a class is hardly learnt."""
IMBALANCE = 10
MAX_COMPARED = 50_000
"""Images; in larger data sets copies are not looked for, which would mean reading most files."""


def warnings(train: Source, val: Source | None) -> Iterator[str]:
    """Yield a sentence for each oddity of the training and validation images."""
    if val is None:
        yield (
            "no validation images: no accuracy will be known; --val-share 0.2 holds out a fifth of "
            "the training images"
        )
    names = train.class_names
    counts = np.bincount(train.labels, minlength=len(names))
    few = [f"{names[k]} ({counts[k]})" for k in np.flatnonzero(counts < FEW)]
    if few:
        yield f"classes with fewer than {FEW} training images: {listed(few)}"
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[most] > IMBALANCE * counts[least]:
        yield (
            f"{counts[most]} training images of {names[most]}, {counts[least]} of {names[least]}: "
            "--data.balance shows the rarer classes more often, --loss.class-balance 1 gives their "
            "images more weight"
        )
    if val is None:
        return
    missing = [names[k] for k in np.flatnonzero(np.bincount(val.labels, minlength=len(names)) == 0)]
    if missing:
        yield f"classes without validation images: {listed(missing)}"
    yield from _copies(train, val)


def _copies(train: Source, val: Source) -> Iterator[str]:
    """Yield a warning if an image of `val` is in `train`, too: byte for byte."""
    if len(train) + len(val) > MAX_COMPARED:
        return
    sizes = [[source.size(index) for index in range(len(source))] for source in (train, val)]
    both = set(sizes[0]) & set(sizes[1]) - {-1, 0}
    first, second = (
        {_digest(source, index): index for index, n in enumerate(found) if n in both}
        for source, found in zip((train, val), sizes, strict=True)
    )
    copies = [(first[key], second[key]) for key in second if key in first and key]
    if copies:
        a, b = copies[0]
        yield (
            f"validation images that are training images, too: {len(copies)}, such as "
            f"{val.describe(b)} ({train.describe(a)}); the accuracy is too good by them"
        )


def _digest(source: Source, index: int) -> bytes:
    """Return a hash of an image's file; empty where it cannot be read."""
    try:
        return hashlib.blake2b(source[index].data, digest_size=16).digest()
    except OSError:
        return b""
