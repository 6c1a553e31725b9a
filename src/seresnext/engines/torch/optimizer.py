"""One update of the weights: rule, clipping, loss scale, averaging; the host never waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...config import EngineConfig, OptimConfig
from ..common import (
    FIRST_LOSS_SCALE,
    LEAST_GRADIENT_NORM,
    LEAST_WEIGHT_NORM,
    LOSS_SCALE_GROWTH_STEPS,
)
from ..trained import clipped_by_unit, trained_groups
from .flat import Flat, NetworkTensors
from .lamb import Lamb
from .network import SEResNeXt


@dataclass(frozen=True)
class Rule:
    """How weights follow gradients: an optimizer that can be told on the device to do nothing, as
    those of `torch.optim` with a fused kernel."""

    create: Callable[..., torch.optim.Optimizer]
    """Called with parameter groups, `lr` and `fused`."""
    slots: dict[str, str]
    """Slot of `EngineState.optimizer` -> its key in the optimizer's state of a parameter. A slot
    of zeros must be equivalent to none, as before the first update."""


def create_rule(optim: OptimConfig) -> Rule:
    """Return the configured rule; another optimizer is another branch here."""
    if optim.name == "sgd":
        sgd = partial(torch.optim.SGD, momentum=optim.momentum, nesterov=optim.nesterov)
        return Rule(sgd, {"momentum": "momentum_buffer"} if optim.momentum else {})
    adaptive = torch.optim.AdamW if optim.name == "adamw" else Lamb
    moments = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
    return Rule(partial(adaptive, betas=optim.betas, eps=optim.eps), moments)


class Optimizer:
    """A rule applied to a network's parameters, with clipping and a loss scale.

    A step whose loss or gradient is not finite changes nothing but the loss scale. That is decided
    on the device: the host sees it when it fetches the step's scalars.
    """

    def __init__(
        self,
        weights: Flat,
        network: SEResNeXt,
        optim: OptimConfig,
        engine: EngineConfig,
    ) -> None:
        self.groups = trained_groups(network.arch, optim)
        self.clip_norm, self.clip_unit = optim.clip_norm, optim.clip_unit
        trained = {name for group in self.groups for name in group.names}
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
        self.parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self.rule = create_rule(optim)
        self.slots = {slot: weights.like() for slot in self.rule.slots}
        self.updates = torch.zeros((), dtype=torch.int64, device=weights.device)
        self.scaled = engine.precision == "fp16"
        self.dynamic = self.scaled and engine.loss_scale == 0
        scale = (engine.loss_scale or FIRST_LOSS_SCALE) if self.scaled else 1.0
        self.loss_scale = torch.tensor(scale, device=weights.device)
        self.good_steps = torch.zeros((), dtype=torch.int64, device=weights.device)
        self.use_fused(weights.device.type in ("cpu", "cuda"))

    def use_fused(self, fused: bool) -> None:
        """Choose between the kernel that reads and writes each tensor once, and can be told on
        the device to do nothing, and plain operations, for which the host waits to know."""
        self.fused = fused
        groups = [
            {
                "params": [self.parameters[name] for name in group.names],
                "weight_decay": group.weight_decay,
                "rate": group.rate,
            }
            for group in self.groups
        ]
        self.inner = self.rule.create(groups, lr=0.0, fused=fused)
        # From zeros v = momentum * 0 + g, which is also what SGD's first step does; but its own
        # first step would leave v undefined if it were told to do nothing.
        for name, parameter in self.parameters.items():
            state = {key: self.slots[slot].views[name] for slot, key in self.rule.slots.items()}
            state["step"] = torch.zeros((), device=parameter.device)  # SGD does not use it
            self.inner.state[parameter].update(state)

    def step(self, lr: float, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Update from the parameters' `.grad`, which is multiplied by `loss_scale`.

        Returns (`finite` bool, global L2 norm of the gradient before clipping, 0 without
        clipping), both scalars on the device. `loss` is only tested for being finite.
        """
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients) / self.loss_scale
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        divisor = self.loss_scale if self.scaled else None
        if self.clip_unit:
            for name, parameter in self.parameters.items():
                if clipped_by_unit(name):
                    clip_units(parameter, self.clip_unit * self.loss_scale)
        if self.clip_norm:
            divisor = self.loss_scale / (self.clip_norm / norm).clamp(max=1.0)
        for group in self.inner.param_groups:
            group["lr"] = lr * group["rate"]
        if self.fused:
            self.inner.grad_scale = divisor  # type: ignore[attr-defined]
            self.inner.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.inner.step()
        elif bool(finite):
            if divisor is not None:
                for gradient in gradients:
                    gradient.div_(divisor)
            self.inner.step()
        self.updates += finite
        if self.dynamic:
            self._rescale(finite)
        return finite, norm if self.clip_norm else torch.zeros_like(norm)

    def _rescale(self, finite: Tensor) -> None:
        good = self.good_steps + 1
        grow = good == LOSS_SCALE_GROWTH_STEPS
        factor = torch.where(finite, torch.where(grow, 2.0, 1.0), 0.5)
        self.loss_scale *= factor
        self.good_steps.copy_(torch.where(finite & ~grow, good, 0))

    def state_dict(self) -> tuple[dict[str, dict[str, NDArray[Any]]], dict[str, float]]:
        """Return `EngineState.optimizer` and `EngineState.scalars`."""
        scalars = {"updates": float(self.updates)}
        if self.dynamic:
            scalars["loss_scale"] = float(self.loss_scale)
            scalars["good_steps"] = float(self.good_steps)
        slots = {slot: flat.arrays() for slot, flat in self.slots.items()}
        return slots if scalars["updates"] > 0 else {}, scalars

    def load_state_dict(
        self, slots: Mapping[str, Mapping[str, NDArray[Any]]], scalars: Mapping[str, float]
    ) -> None:
        """Restore what `state_dict` returned; what is missing starts anew."""
        self.updates.fill_(int(scalars.get("updates", 0)))
        if self.dynamic and "loss_scale" in scalars:
            self.loss_scale.fill_(scalars["loss_scale"])
            self.good_steps.fill_(int(scalars["good_steps"]))
        for state in self.inner.state.values():
            state["step"].copy_(self.updates)
        for slot, flat in self.slots.items():
            flat.buffer.zero_()
            if slot in slots:
                flat.load(slots[slot])


class Average:
    """Exponential moving average of weights and BN statistics."""

    def __init__(self, source: NetworkTensors, decay: float) -> None:
        self.source, self.tensors, self.decay = source, source.like(), decay
        self.restart()

    def restart(self) -> None:
        """Start from the present weights."""
        for average, source in zip(self.tensors.buffers, self.source.buffers, strict=True):
            average.copy_(source)

    def update(self, updates: Tensor, finite: Tensor) -> None:
        """Move towards the weights after update number `updates` (the first is 1), by a decay of
        min(decay, (1 + updates) / (10 + updates)); not at all if it was not `finite`."""
        decay = ((1 + updates) / (10 + updates)).clamp(max=self.decay)
        weight = torch.where(finite, 1 - decay, 0.0)
        for average, source in zip(self.tensors.buffers, self.source.buffers, strict=True):
            average.lerp_(source, weight)


def clip_units(parameter: nn.Parameter, clip: Tensor) -> None:
    """Scale each row of the `.grad` of kernels and matrices, and that of vectors as one, down to
    `clip` times the norm of its weights (arXiv:2102.06171, equation 3)."""
    weight, gradient = parameter.detach(), parameter.grad
    if gradient is None:
        return
    along = tuple(range(weight.ndim > 1, weight.ndim))
    of_weight, of_gradient = (
        torch.linalg.vector_norm(tensor, dim=along, keepdim=True) for tensor in (weight, gradient)
    )
    most = of_weight.clamp(min=LEAST_WEIGHT_NORM) * clip
    gradient.mul_((most / of_gradient.clamp(min=LEAST_GRADIENT_NORM)).clamp(max=1.0))
