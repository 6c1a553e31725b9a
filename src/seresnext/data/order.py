"""The global sequence of samples: one stream, random access, no state."""

from __future__ import annotations

import logging
import zlib

import numpy as np

from ..errors import UserError

# Grain warns on import when jax's profiler is missing, which nobody here asked for.
_absl = logging.getLogger("absl")
_absl.setLevel(logging.ERROR)
import grain  # noqa: E402

_absl.setLevel(logging.NOTSET)


def steps_per_epoch(n: int, global_batch: int, drop_last: bool) -> float:
    """Steps in which `n` images pass once; whole when the last, incomplete batch is dropped."""
    return n // global_batch if drop_last else n / global_batch


class SampleOrder:
    """Which image is at position p of the stream; step k takes positions kG to (k + 1)G.

    Each epoch is another permutation of the `n` images, found by Grain's shuffle (a cipher on the
    index) without holding it: 7 us an image, more for few (0.3 ms of 100, as it walks through
    65,536 numbers). Without `drop_last` epochs follow each other without a gap. With it
    an epoch is the first `G * (n // G)` of its permutation.
    """

    def __init__(self, n: int, seed: int, global_batch: int, drop_last: bool = False) -> None:
        """Raises UserError when `drop_last` would drop everything."""
        if drop_last and n < global_batch:
            raise UserError(
                f"data.drop_last with {n} images and a global batch of {global_batch} leaves "
                f"nothing; lower run.batch_size (at most {n} over all devices) or turn it off"
            )
        self.n = n
        self.global_batch = global_batch
        self.steps_per_epoch = steps_per_epoch(n, global_batch, drop_last)
        self._epoch_images = global_batch * (n // global_batch) if drop_last else n
        # The epoch is added to it, so neighbouring seeds must not stay neighbours.
        self._seed = zlib.crc32(b"order %d" % seed)

    def positions(self, step: int) -> range:
        """Positions of the stream that step `step` takes, over all ranks."""
        return range(step * self.global_batch, (step + 1) * self.global_batch)

    def sample(self, position: int) -> tuple[int, int]:
        """(epoch, index of the image in its source) at a position."""
        epoch, offset = divmod(position, self._epoch_images)
        seed = (self._seed + epoch) % 2**32  # as Grain's MapDataset.shuffle does
        shuffle = grain.experimental.index_shuffle
        return epoch, shuffle(offset, max_index=self.n - 1, seed=seed, rounds=4)


def batch_seed(seed: int, step: int) -> int:
    """Seed of a step's noise. Those of different steps are 2**16 apart, for ranks and pieces."""
    base = zlib.crc32(b"noise %d" % seed) << 15
    return ((base + step) % 2**47) << 16


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The augmentation's random numbers, from coordinates instead of state (Philox 4x64)."""
    return _rng(seed, 1, epoch, index)


def pair_rng(seed: int, pair: int) -> np.random.Generator:
    """The random numbers that mix positions 2 * pair and 2 * pair + 1 of the stream."""
    return _rng(seed, 2, pair, 0)


def _rng(seed: int, purpose: int, *coordinates: int) -> np.random.Generator:
    key = np.array([seed % 2**64, purpose], np.uint64)
    counter = np.array([0, *coordinates, 0], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
