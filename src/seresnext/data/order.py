"""The global sequence of samples, and their random numbers, by position instead of state."""

from __future__ import annotations

import functools
import zlib

import numpy as np

from ..errors import UserError
from .permutation import Numbers, permute
from .windows import Windows

_BLOCK = 1 << 16
"""Positions whose images are computed together: 15 ms, or 0.2 us an image, for ImageNet."""


def steps_per_epoch(n: int, global_batch: int, drop_last: bool) -> float:
    """Return the steps in which `n` images pass once; whole when incomplete batches are dropped."""
    return n // global_batch if drop_last else n / global_batch


class SampleOrder:
    """Which image is at position p of the stream; step k takes positions kG to (k + 1)G.

    Each epoch is another permutation of the `n` images (`permutation.py`), of which only the blocks
    in use are held. Without `drop_last` epochs follow each other without a gap. With `drop_last` an
    epoch is the first `G * (n // G)` of its permutation. With `repeats` R a step takes the next
    G / R images, one after another, R times over: mixed pairs are different images, and R ranks
    have each image once.
    """

    def __init__(
        self,
        n: int,
        seed: int,
        global_batch: int,
        drop_last: bool = False,
        repeats: int = 1,
        windows: Windows | None = None,
    ) -> None:
        """`repeats` divides the global batch, and is 1 with `drop_last`. `windows` shuffle instead
        of a permutation of all images. Raises UserError when `drop_last` would drop everything."""
        if drop_last and n < global_batch:
            raise UserError(
                f"data.drop_last with {n} images and a global batch of {global_batch} leaves "
                f"nothing; lower run.batch_size (at most {n} over all devices) or turn it off"
            )
        self.n = n
        self.global_batch = global_batch
        self.repeats, self._different = repeats, global_batch // repeats
        self.steps_per_epoch = steps_per_epoch(n, global_batch, drop_last)
        self._windows = windows
        self._epoch_images = global_batch * (n // global_batch) if drop_last else n
        # The epoch is added to it, so seeds s and s + 1 must not give neighbouring numbers.
        self._seed = zlib.crc32(b"order %d" % seed)

    def positions(self, step: int) -> range:
        """Return the positions of the stream that step `step` takes, over all ranks."""
        return range(step * self.global_batch, (step + 1) * self.global_batch)

    def sample(self, position: int) -> tuple[int, int]:
        """Return (how often the image was there before, its index in the source) at a position.

        The first is the epoch, where images are not repeated.
        """
        step, row = divmod(position, self.global_batch)
        repeat, row = divmod(row, self._different)
        epoch, offset = divmod(step * self._different + row, self._epoch_images)
        seed = (self._seed + epoch) % 2**32
        if self._windows:
            index = self._windows.image(seed, offset)
        else:
            block, row = divmod(offset, _BLOCK)
            index = int(_block(self.n, seed, block)[row])
        return epoch * self.repeats + repeat, index


@functools.lru_cache(maxsize=8)
def _block(n: int, seed: int, block: int) -> Numbers:
    """Return the images at positions `block` * _BLOCK and following of a permutation of `n`."""
    start = block * _BLOCK
    return permute(start, min(start + _BLOCK, n), n, seed)


def batch_seed(seed: int, step: int) -> int:
    """Return the seed of a step's noise; steps are 2**16 apart, for the ranks and their shards."""
    base = zlib.crc32(b"noise %d" % seed) << 15
    return ((base + step) % 2**47) << 16


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the augmentation's generator, from coordinates instead of state (Philox 4x64)."""
    return _rng(seed, 1, epoch, index)


def pair_rng(seed: int, pair: int) -> np.random.Generator:
    """Return the generator that mixes positions 2 * pair and 2 * pair + 1 of the stream."""
    return _rng(seed, 2, pair, 0)


def _rng(seed: int, purpose: int, *coordinates: int) -> np.random.Generator:
    key = np.array([seed % 2**64, purpose], np.uint64)
    counter = np.array([0, *coordinates, 0], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
