"""An order for slow storage: archives in random order, and a window of them shuffled at a time."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from .permutation import permute


class Windows:
    """In each epoch, the archives are permuted; the images of `width` archives after one another
    are permuted among themselves.

    A step then reads from `width` archives, 2 * `width` at a boundary, instead of from all. Any
    position is found without the ones before it.
    """

    def __init__(self, archives: NDArray[np.int32], width: int) -> None:
        """`archives` int32 [N], which archive holds each image."""
        self._width = width
        self._members = np.argsort(archives, kind="stable")
        counts = np.bincount(archives)
        self._sizes = counts[counts > 0]
        self._ends = np.cumsum(self._sizes)
        self._epoch = functools.lru_cache(4)(self._permuted)
        self._window = functools.lru_cache(4)(self._shuffled)

    def image(self, seed: int, offset: int) -> int:
        """Return the image at position `offset` of the epoch that has this seed, of 32 bits."""
        _, ends = self._epoch(seed)
        window = int(np.searchsorted(ends, offset, side="right"))
        start = ends[window - 1] if window else 0
        return int(self._window(seed, window)[offset - start])

    def _permuted(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the order of the archives, and where each window of them ends."""
        count = len(self._sizes)
        order = permute(0, count, count, seed)
        sizes = np.add.reduceat(self._sizes[order], range(0, count, self._width))
        return order, np.cumsum(sizes)

    def _shuffled(self, seed: int, window: int) -> NDArray[np.int64]:
        """Return the images of a window, in their order."""
        order, _ = self._epoch(seed)
        chosen = order[window * self._width : (window + 1) * self._width]
        members = np.concatenate(
            [self._members[self._ends[k] - self._sizes[k] : self._ends[k]] for k in chosen]
        )
        n = len(members)
        return members[permute(0, n, n, (seed + 1 + window) % 2**32)]
