"""The learning rate as a pure function of the step."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

from ..config import ScheduleConfig
from ..config.durations import whole_steps
from .plan import Plan


def due(done: int, every: float) -> bool:
    """Return whether step number `done` (from 1) completes another `every` steps; 0 is never.

    `every` may be a fraction (an epoch of 44.9 steps): due at the first step past each multiple.
    """
    return every > 0 and math.floor(done / every + 1e-9) > math.floor((done - 1) / every + 1e-9)


def create_schedule(config: ScheduleConfig, plan: Plan) -> Callable[[int], float]:
    """Return `lr(step)` for steps 0 to `plan.total_steps` - 1.

    Warmup is linear in (step + 1) / warmup steps, so the first step is not zero and the last
    warmup step has the peak rate (arXiv:1706.02677, section 2.2). Cosine is
    arXiv:1608.03983 without restarts.
    """
    peak, total_steps, steps_per_epoch = plan.peak_lr, plan.total_steps, plan.steps_per_epoch

    def steps(text: str) -> int:
        return whole_steps(text, steps_per_epoch, plan.global_batch)

    warmup = min(steps(config.warmup), total_steps)
    milestones = sorted(steps(text) for text in config.milestones)
    period = steps(config.cosine_period)
    last = max(total_steps - warmup, 1)

    def shape(step: float) -> float:
        """Share of the peak after the warmup."""
        if config.kind == "constant":
            return 1.0
        if config.kind == "step":
            return config.gamma ** bisect.bisect_right(milestones, step)
        # Without a period of its own the curve ends with the run.
        progress = step / period if period else (step - warmup) / last
        if config.kind == "cosine":
            fall = (1 + math.cos(math.pi * progress)) / 2
        else:
            fall = max(1 - progress, 0.0)
        return config.final_lr_ratio + (1 - config.final_lr_ratio) * fall

    def lr(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        if config.per_epoch:
            return peak * shape(math.floor(step / steps_per_epoch) * steps_per_epoch)
        return peak * shape(step)

    return lr
