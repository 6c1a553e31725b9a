"""What a run takes, before anybody starts it: steps, hours, cost, and the memory of its state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import Config
from ..model.architecture import count_parameters
from .plan import Plan, make_plan
from .schedule import due

BACKWARD = 3
"""A training image computes three times what an evaluated one does: the backward pass has a product
for the inputs and one for the weights beside each product of the forward pass."""
_MOMENTS = {"sgd": 1, "adamw": 2, "lamb": 2}
"""Numbers that an optimizer keeps for each parameter."""


@dataclass(frozen=True)
class Estimate:
    """A run in numbers."""

    plan: Plan
    images: int
    """Seen by the run, all devices."""
    relative_pixels: float
    """Pixels of a training image, the mean over the run, relative to one of `augment.image_size`:
    1 where images do not grow."""
    evaluations: int
    hours: float | None
    """With evaluations; None without a rate."""
    device_hours: float | None
    cost: float | None
    """None without a price."""
    state_bytes: int
    """Weights, gradients, optimizer and average on each device, all trained. The activations, which
    take more, are not in it: they depend on the framework."""


def estimate(
    config: Config,
    images: int,
    val_images: int,
    devices: int,
    images_per_second: float | None = None,
    price: float | None = None,
) -> Estimate:
    """Return what a run of `config` on so many images and devices takes.

    `images_per_second` is of all devices together, at `augment.image_size`; the time of an image is
    taken to be proportional to its pixels. `price` is of one device and hour. Raises UserError for
    a batch that does not fit the data.
    """
    plan = make_plan(config, images, devices, devices * config.run.batch_size)
    seen = plan.total_steps * plan.global_batch
    every, last = plan.eval_every, plan.total_steps
    during = math.floor(last / every + 1e-9) if every else 0
    evaluations = during + (not due(last, every)) if val_images else 0
    side, eval_side = config.augment.image_size, config.augment.input_spec().image_size
    relative_pixels = plan.pixels(0, last) / (last * side**2)
    evaluated = evaluations * val_images * (eval_side / side) ** 2
    work = seen * relative_pixels + evaluated / BACKWARD
    hours = work / images_per_second / 3600 if images_per_second else None
    device_hours = None if hours is None else hours * devices
    cost = None if device_hours is None or price is None else device_hours * price
    memory = _state_bytes(config)
    return Estimate(plan, seen, relative_pixels, evaluations, hours, device_hours, cost, memory)


def _state_bytes(config: Config) -> int:
    copies = 2 + _MOMENTS[config.optim.name] + (config.optim.ema_decay > 0)
    return 4 * copies * count_parameters(config.model.architecture(1000))
