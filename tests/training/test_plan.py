from __future__ import annotations

import dataclasses

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
