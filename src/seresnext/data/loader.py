"""Batches: read, decode and augment in threads, in an order that they do not change."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..config import AugmentConfig, DataConfig
from ..errors import UserError
from ..machine import usable_cores
from ..model.spec import InputSpec
from .augment import augment_encoded, mean_color, mix_pair
from .bad_images import BadImages
from .decode import ImageError, decode_image
from .order import SampleOrder, batch_seed, pair_rng, sample_rng
from .preprocess import preprocess
from .sources import Source
from .windows import Windows

# Rows that one thread makes at a time: few, so that all threads work on the same batch. Even, so
# that a mixed pair is in one task.
_ROWS = 8


@dataclass(frozen=True)
class Share:
    """What one rank takes of every global batch."""

    batch_size: int
    """Images per batch on this rank."""
    rank: int = 0
    world_size: int = 1
    shards: int = 1
    """Pieces into which the engine cuts the rank's batch, each with a seed of its own."""


@dataclass(frozen=True)
class Reader:
    """Reads single images into batches."""

    source: Source
    config: DataConfig
    bad_images: BadImages = field(default_factory=BadImages)
    """Where unreadable images are recorded with `on_bad_image="skip"`."""

    def read(
        self, batch: Batch, row: int, index: int, make: Callable[[bytes], NDArray[np.uint8]]
    ) -> bool:
        """Fill `row` with image `index`, turned into pixels by `make`.

        Returns False, with the row masked and its pixels not set, when the image cannot be read
        and such images are skipped. Raises UserError when they are not.
        """
        batch.index[row] = index
        try:
            sample = self.source[index]
            batch.images[row] = make(sample.data)
        except (ImageError, OSError) as error:
            name = self.source.describe(index)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            if self.config.on_bad_image == "stop":
                raise UserError(
                    f"cannot read image {name}: {reason}; fix or remove it, or leave such images "
                    "out with --on-bad-image skip"
                ) from None
            self.bad_images.add(name, index, reason)
            return False
        batch.labels[row] = batch.mixed_labels[row] = sample.label
        batch.mask[row] = True
        return True


def train_batches(
    reader: Reader,
    augment: AugmentConfig,
    share: Share,
    seed: int,
    start_step: int = 0,
    mixed_steps: int = sys.maxsize,
    image_size: Callable[[int], int] | None = None,
) -> Generator[Batch, None, None]:
    """Yield this rank's augmented batches of steps `start_step`, `start_step` + 1, ... without end.

    Step k's global batch depends on the source, `augment`, `seed`, k and its size alone, and on
    whether k is below `mixed_steps`: later ones are not mixed. `image_size` gives the side of step
    k's images, pixels, instead of `augment`. Close the generator to end its threads. Raises
    UserError for an unreadable image, unless such images are skipped; their rows are then masked.
    """
    source, data, size = reader.source, reader.config, share.batch_size
    global_batch = size * share.world_size
    windows = _windows(source, data.shuffle_archives)
    order = SampleOrder(len(source), seed, global_batch, data.drop_last, augment.repeats, windows)
    blank = mean_color(augment)
    mixes = augment.mixup > 0 or augment.cutmix > 0
    assert not mixes or size % 2 == 0

    @cache
    def sized(side: int) -> AugmentConfig:
        return replace(augment, image_size=side)

    def pixels(encoded: bytes, side: int, epoch: int, index: int) -> NDArray[np.uint8]:
        rng = sample_rng(seed, epoch, index)
        return augment_encoded(encoded, sized(side), rng, data.max_pixels)

    def fill(batch: Batch, step: int, rows: range) -> None:
        first, side = order.positions(step)[share.rank * size], batch.images.shape[1]
        for row in rows:
            epoch, index = order.sample(first + row)
            make = partial(pixels, side=side, epoch=epoch, index=index)
            if not reader.read(batch, row, index, make):
                batch.images[row] = blank
        for row in rows[::2] if mixes and step < mixed_steps else ():
            pair = slice(row, row + 2)
            if batch.mask[pair].all():
                a, b = batch.images[pair]
                batch.mix[pair] = mix_pair(a, b, augment, pair_rng(seed, (first + row) // 2))
                batch.mixed_labels[pair] = batch.labels[pair][::-1]

    def new(step: int) -> Batch:
        noise = batch_seed(seed, step) + share.rank * share.shards
        side = image_size(step) if image_size else augment.image_size
        return _new_batch(size, side, noise)

    return _batches(new, fill, range(start_step, sys.maxsize // size), size, data.workers)


def _windows(source: Source, width: int) -> Windows | None:
    """Return the order that `data.shuffle_archives` asks for; None for a full shuffle."""
    if not width:
        return None
    if source.archives is None:
        raise UserError(
            f"data.shuffle_archives: expected 0, or images in tar archives, got {width}; images "
            "that are files are all shuffled (seresnext data pack makes archives)"
        )
    return Windows(source.archives, width)


def eval_batches(reader: Reader, spec: InputSpec, share: Share) -> Generator[Batch, None, None]:
    """Yield every image once: this rank's are `rank`, `rank + world_size`, ..., in that order.

    All ranks get the same number of batches. Rows past the end are masked and have index -1.
    Unreadable images as in `train_batches`; their rows keep their index.
    """
    source, data, size = reader.source, reader.config, share.batch_size
    blank = np.rint(255 * np.array(spec.mean)).astype(np.uint8)

    def pixels(encoded: bytes) -> NDArray[np.uint8]:
        return preprocess(decode_image(encoded, max_pixels=data.max_pixels), spec)

    def fill(batch: Batch, step: int, rows: range) -> None:
        for row in rows:
            index = (step * size + row) * share.world_size + share.rank
            if index >= len(source) or not reader.read(batch, row, index, pixels):
                batch.images[row] = blank

    def new(step: int) -> Batch:
        return _new_batch(size, spec.image_size, 0)

    steps = range(-(-len(source) // (size * share.world_size)))
    return _batches(new, fill, steps, size, data.workers)


def _new_batch(batch_size: int, image_size: int, seed: int) -> Batch:
    """Return a batch to be filled. Its pixels are not set."""
    return Batch(
        images=np.empty((batch_size, image_size, image_size, 3), np.uint8),
        labels=np.zeros(batch_size, np.int32),
        mixed_labels=np.zeros(batch_size, np.int32),
        mix=np.ones(batch_size, np.float32),
        mask=np.zeros(batch_size, bool),
        index=np.full(batch_size, -1, np.int64),
        seed=seed,
    )


def _batches(
    new: Callable[[int], Batch],
    fill: Callable[[Batch, int, range], None],
    steps: range,
    batch_size: int,
    workers: int,
) -> Generator[Batch, None, None]:
    """Yield the batches of `steps`, in order, filled ahead of time by `workers` threads.

    A task fills `_ROWS` rows in place. What `fill` raises is raised here. The threads end when the
    generator ends, is closed or is garbage-collected.
    """
    pieces = [range(row, min(row + _ROWS, batch_size)) for row in range(0, batch_size, _ROWS)]
    threads = workers or usable_cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="seresnext-data")

    def start(step: int) -> tuple[Batch, list[Future[None]]]:
        batch = new(step)
        return batch, [pool.submit(fill, batch, step, rows) for rows in pieces]

    started = map(start, steps)
    try:
        # Two batches ready, and a task for every thread beyond them.
        ahead = deque(islice(started, 2 + -(-threads // len(pieces))))
        while ahead:
            batch, parts = ahead.popleft()
            for part in parts:
                part.result()
            ahead.extend(islice(started, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
