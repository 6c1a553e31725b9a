"""The durations of a config, turned into steps once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from ..config import AugmentConfig, Config
from ..config.durations import duration_steps, whole_steps
from ..errors import UserError
from ..model.architecture import LAST_STRIDE
from ..model.stages import stages_between


@dataclass(frozen=True)
class Plan:
    """A run in steps, for this data set and this number of ranks."""

    batch_size: int
    """Images per rank and step."""
    global_batch: int
    """Images per step, all ranks."""
    steps_per_epoch: float
    total_steps: int
    mixed_steps: int
    """Steps, from the first, with mixup and CutMix (`augment.mix_off`)."""
    sizes: tuple[tuple[int, int], ...]
    """(Step that has it first, side of the training images in pixels)."""
    log_every: float
    eval_every: float
    """0: only at the end."""
    save_every: float
    max_bad_steps: int
    """Steps in a row with a loss or gradient that is not finite, after which the run stops."""
    peak_lr: float
    """Learning rate after the warmup, at the global batch."""

    def image_size(self, step: int) -> int:
        """Return the side of the training images of `step` (from 0), pixels."""
        return next(side for first, side in reversed(self.sizes) if step >= first)

    def pixels(self, start: int, end: int) -> int:
        """Return the pixels of one image of each step from `start` to before `end`, added up."""
        ends = [*(first for first, _ in self.sizes[1:]), end]
        return sum(
            side**2 * max(min(end, after) - max(start, first), 0)
            for (first, side), after in zip(self.sizes, ends, strict=True)
        )


def image_sizes(augment: AugmentConfig, total_steps: int) -> tuple[tuple[int, int], ...]:
    """Return (first step, side in pixels) of each size of training images, in ascending order.

    Of the two ends and the multiples of 32 between them, a step has the side that is nearest to the
    straight line: FFCV's rounding (train_imagenet.py of github.com/libffcv/ffcv-imagenet).
    """
    small, large = augment.smallest_size, augment.image_size
    begin, length = augment.grow_begin, augment.grow_end - augment.grow_begin
    first_steps = {0: small}
    for before, side in pairwise([small, *range(small // 32 * 32 + 32, large, 32), large]):
        if side > before:
            share = begin + length * ((before + side) / 2 - small) / (large - small)
            first_steps[math.ceil(share * total_steps - 1e-6)] = side
    return tuple(first_steps.items())


def make_plan(config: Config, images: int, world_size: int, global_batch: int) -> Plan:
    """Raises UserError where the batch cannot be dealt to the ranks, or is larger than the data."""
    run, shards = config.run, config.engine.virtual_shards
    if global_batch % world_size:
        raise UserError(
            f"a global batch of {global_batch} images does not divide among {world_size} processes"
        )
    if shards and (shards % world_size or global_batch % shards):
        raise UserError(
            f"engine.virtual_shards: {shards} shards must be a multiple of the {world_size} "
            f"processes and divide the global batch of {global_batch} images"
        )
    batch_size, accumulate = global_batch // world_size, config.optim.accumulate
    if (config.augment.mixup or config.augment.cutmix) and batch_size % 2:
        raise UserError(
            f"a global batch of {global_batch} images among {world_size} processes makes "
            f"{batch_size} each; mixup and cutmix need pairs, an even number"
        )
    if batch_size % accumulate:
        raise UserError(
            f"a global batch of {global_batch} images among {world_size} processes makes "
            f"{batch_size} each, which optim.accumulate {accumulate} does not divide"
        )
    if global_batch % config.augment.repeats:
        raise UserError(
            f"augment.repeats: {config.augment.repeats} does not divide the global batch of "
            f"{global_batch} images"
        )
    _check_batch_norm(config, batch_size, world_size)
    if config.data.drop_last and images < global_batch:
        raise UserError(
            f"the training set has {images} images, fewer than one batch of {global_batch}; "
            f"use --batch-size {max(images // world_size, 1)} or less, or data.drop_last false"
        )
    epoch = float(images // global_batch) if config.data.drop_last else images / global_batch

    def steps(text: str) -> float:
        return duration_steps(text, epoch, global_batch)

    total_steps = max(whole_steps(run.duration, epoch, global_batch), 1)
    return Plan(
        batch_size=batch_size,
        global_batch=global_batch,
        steps_per_epoch=epoch,
        total_steps=total_steps,
        mixed_steps=total_steps - whole_steps(config.augment.mix_off, epoch, global_batch),
        sizes=image_sizes(config.augment, total_steps),
        log_every=max(steps(run.log_every), 1.0),
        eval_every=steps(run.eval_every),
        save_every=steps(run.save_every),
        max_bad_steps=run.max_bad_steps,
        peak_lr=config.optim.peak_lr(global_batch),
    )


def _check_batch_norm(config: Config, batch_size: int, world_size: int) -> None:
    """Raise UserError where BN would see one value per channel, which has no variance."""
    shards = config.engine.virtual_shards
    pieces = shards // world_size if shards else config.optim.accumulate
    images = batch_size // pieces * (world_size if config.engine.sync_bn else 1)
    smallest = config.augment.smallest_size
    side = -(-smallest // LAST_STRIDE)
    fixed = config.optim.freeze_bn or "layer4" in stages_between(config.optim.freeze)
    if images * side**2 > 1 or fixed:
        return
    cut = f", cut into {pieces} pieces," if pieces > 1 else ""
    option = "--augment.start-size" if config.augment.start_size else "--image-size"
    raise UserError(
        f"run.batch_size: {batch_size} images on each process{cut} leave batch norm one value per "
        f"channel in the last stage at {smallest} px; expected "
        f"{2 * pieces} or more, {option} {LAST_STRIDE + 1} or more, or --optim.freeze-bn"
    )
