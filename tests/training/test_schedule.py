from __future__ import annotations

import math

import pytest
import torch

from seresnext.config import ScheduleConfig
from seresnext.training.plan import Plan
from seresnext.training.schedule import create_schedule, due


def curve(config: ScheduleConfig, total: int, per_epoch: float = 10.0) -> list[float]:
    plan = Plan(
        batch_size=32,
        global_batch=32,
        steps_per_epoch=per_epoch,
        total_steps=total,
        mixed_steps=total,
        sizes=((0, 224),),
        log_every=1,
        eval_every=0,
        save_every=0,
        max_bad_steps=1,
        peak_lr=0.4,
    )
    lr = create_schedule(config, plan)
    return [lr(step) for step in range(total)]


def test_cosine_is_torchs_after_the_warmup() -> None:
    ours = curve(ScheduleConfig(warmup="1 epochs"), 100)
    assert ours[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.4)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    for step in range(10, 100):
        assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        reference.step()


def test_final_ratio_linear_constant() -> None:
    cosine = curve(ScheduleConfig(warmup="0 steps", final_lr_ratio=0.1), 1000)
    assert cosine[0] == 0.4
    assert cosine[-1] == pytest.approx(0.04, abs=1e-4)
    linear = curve(ScheduleConfig(kind="linear", warmup="0 steps"), 100)
    assert linear == pytest.approx([0.4 * (1 - i / 100) for i in range(100)])
    assert set(curve(ScheduleConfig(kind="constant", warmup="0 steps"), 20)) == {0.4}


def test_step_schedule() -> None:
    config = ScheduleConfig(kind="step", warmup="0 steps", milestones=("3 epochs", "60 steps"))
    ours = curve(config, 100)
    assert ours[29] == 0.4
    assert ours[30] == pytest.approx(0.04)
    assert ours[59] == pytest.approx(0.04)
    assert ours[60] == pytest.approx(0.004)


def test_the_originals_curve() -> None:
    """Cosine per epoch with T_max 110 over 120 epochs: 0 at epoch 110, 0.0066 of 0.4 at 119."""
    config = ScheduleConfig(warmup="1 epochs", per_epoch=True, cosine_period="110 epochs")
    ours = curve(config, 1200)
    assert ours[0] == pytest.approx(0.04)
    for epoch in range(1, 120):
        expected = 0.4 * (1 + math.cos(math.pi * epoch / 110)) / 2
        assert ours[epoch * 10 : epoch * 10 + 10] == pytest.approx([expected] * 10)
    assert ours[1100] == pytest.approx(0, abs=1e-12)
    assert ours[-1] == pytest.approx(0.0066, abs=1e-4)


def test_a_warmup_longer_than_the_run_is_the_run() -> None:
    assert curve(ScheduleConfig(warmup="50 epochs"), 20)[-1] == pytest.approx(0.4)


def test_due_fires_once_per_interval_also_for_fractions() -> None:
    assert [s for s in range(1, 30) if due(s, 10)] == [10, 20]
    every = 1437 / 32
    fired = [s for s in range(1, 500) if due(s, every)]
    assert fired == [math.ceil(every * k) for k in range(1, 12)]
    assert not any(due(s, 0) for s in range(1, 50))
