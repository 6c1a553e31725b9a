from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seresnext.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EngineConfig,
    EngineName,
    OptimConfig,
    RunConfig,
)
from seresnext.errors import UserError
from seresnext.training.plan import make_plan

CONFIG = Config(
    run=RunConfig(duration="3 epochs", batch_size=8, eval_every="", save_every="5 steps")
)


def test_durations_become_steps() -> None:
    plan = make_plan(CONFIG, images=100, world_size=2, global_batch=16)
    assert (plan.batch_size, plan.steps_per_epoch, plan.total_steps) == (8, 6.25, 19)
    assert (plan.eval_every, plan.save_every) == (0, 5)
    assert plan.peak_lr == CONFIG.optim.lr_per_256 / 16


def test_repeats_divide_the_global_batch() -> None:
    config = CONFIG.replace(augment={"repeats": 3}).check()
    make_plan(config, images=100, world_size=3, global_batch=24)
    with pytest.raises(UserError, match=r"augment.repeats: 3 does not divide .* of 16 images"):
        make_plan(config, images=100, world_size=2, global_batch=16)
    with pytest.raises(UserError, match=r"augment.repeats: expected 1 with data.drop_last"):
        config.replace(data={"drop_last": True}).check()


def test_mixing_ends_some_time_before_the_run() -> None:
    config = CONFIG.replace(augment={"mixup": 0.2, "mix_off": "1 epochs"}).check()
    plan = make_plan(config, images=100, world_size=2, global_batch=16)
    assert plan.mixed_steps == plan.total_steps - 7
    with pytest.raises(UserError, match=r"augment.mix_off: expected none without augment.mixup"):
        config.replace(augment={"mixup": 0.0}).check()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((0, 224, 0.0, 0.75), ((0, 224),)),
        ((192, 192, 0.0, 0.75), ((0, 192),)),
        ((160, 192, 11 / 16, 13 / 16), ((0, 160), (75, 192))),
        ((32, 96, 0.0, 0.4), ((0, 32), (10, 64), (30, 96))),
        ((40, 100, 0.0, 0.6), ((0, 40), (12, 64), (40, 96), (58, 100))),
        ((32, 96, 0.5, 0.5), ((0, 32), (50, 96))),
        ((32, 96, 0.0, 0.0), ((0, 96),)),
        ((32, 96, 1.0, 1.0), ((0, 32), (100, 96))),
    ],
)
def test_images_grow(
    size: tuple[int, int, float, float], expected: tuple[tuple[int, int], ...]
) -> None:
    """As written down by hand; every step has the size that is nearest to the straight line."""
    start, full, begin, end = size
    augment = {"start_size": start, "grow_begin": begin, "grow_end": end}
    config = CONFIG.replace(image_size=full, augment=augment).check()
    plan = make_plan(config.replace(run={"duration": "100 steps"}), 100, 1, 8)
    assert plan.sizes == expected
    line = np.interp(range(100), (100 * begin, 100 * end), (start or full, full))
    sides = np.array([plan.image_size(step) for step in range(100)])
    possible = np.array(
        sorted({start or full, *range((start or full) // 32 * 32 + 32, full, 32), full})
    )
    if begin < end:
        assert np.allclose(abs(sides - line), abs(possible[:, None] - line).min(0))
    assert plan.pixels(7, 93) == (sides[7:93].astype(int) ** 2).sum()


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"start_size": 31}, "augment.start_size: expected 0 .* or 32 to 4096, got 31"),
        ({"start_size": 64}, r"augment.start_size: expected augment.image_size \(32\) or less"),
        ({"grow_begin": 0.8}, r"augment.grow_begin: expected augment.grow_end \(0.75\) or less"),
        ({"start_size": 32, "image_size": 64, "shift": 32}, "augment.shift: expected less than"),
    ],
)
def test_images_that_cannot_grow_are_refused(augment: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CONFIG.replace(augment={"image_size": 32, **augment}).check()


def test_dropping_the_last_batch_shortens_the_epoch() -> None:
    config = dataclasses.replace(CONFIG, data=DataConfig(drop_last=True))
    plan = make_plan(config, images=100, world_size=2, global_batch=16)
    assert (plan.steps_per_epoch, plan.total_steps) == (6, 18)
    with pytest.raises(UserError, match="fewer than one batch of 16"):
        make_plan(config, images=15, world_size=2, global_batch=16)


@pytest.mark.parametrize("engine", ["torch", "mindspore"])
@pytest.mark.parametrize(
    ("batch_size", "accumulate", "image_size", "fits"),
    [(1, 1, 32, False), (2, 2, 32, False), (1, 1, 33, True), (2, 1, 32, True), (4, 2, 32, True)],
)
def test_batch_norm_needs_two_values_per_channel(
    engine: EngineName, batch_size: int, accumulate: int, image_size: int, fits: bool
) -> None:
    config = CONFIG.replace(batch_size=batch_size, image_size=image_size, engine=engine)
    config = config.replace(optim={"accumulate": accumulate}).check()
    if fits:
        make_plan(config, 100, 2, 2 * batch_size)
        return
    with pytest.raises(UserError, match=f"batch norm one value.*expected {2 * accumulate} or more"):
        make_plan(config, 100, 2, 2 * batch_size)
    grown = config.replace(image_size=64, augment={"start_size": image_size})
    with pytest.raises(UserError, match=r"value per channel.*--augment.start-size 33 or more"):
        make_plan(grown, 100, 2, 2 * batch_size)
    synchronised = config.replace(engine={"sync_bn": True})
    make_plan(synchronised, 100, 2, 2 * batch_size)


@pytest.mark.parametrize(
    ("changes", "world_size", "message"),
    [
        ({}, 3, "does not divide among 3 processes"),
        ({"augment": AugmentConfig(mixup=0.2)}, 16, "makes 1 each; mixup and cutmix need pairs"),
        ({"optim": OptimConfig(accumulate=4)}, 8, "makes 2 each, which optim.accumulate 4 does"),
        ({"engine": EngineConfig(virtual_shards=4)}, 8, "must be a multiple of the 8 processes"),
        ({"engine": EngineConfig(virtual_shards=12)}, 4, "divide the global batch of 16"),
    ],
)
def test_a_batch_that_cannot_be_dealt_is_refused(
    changes: dict[str, object], world_size: int, message: str
) -> None:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    make_plan(config, 100, 1, 48)  # possible alone
    with pytest.raises(UserError, match=message):
        make_plan(config, 100, world_size, 16)
