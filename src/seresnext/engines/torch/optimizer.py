"""One update of the weights: SGD, clipping, loss scale, averaging, none of it waiting."""

from __future__ import annotations

import torch
from torch import Tensor

from ...config import EngineConfig, OptimConfig
from ...model.architecture import decays
from .flat import Flat

_FIRST_SCALE = 65536.0
_GROWTH_STEPS = 2000
"""Dynamic loss scaling as in arXiv:1710.03740, section 3.2: halved when a gradient overflows,
doubled after 2000 updates without (torch.amp.GradScaler's numbers)."""


class Optimizer:
    """SGD with momentum over a network's parameters.

    A step with a loss or gradient that is not finite changes nothing but the loss scale. That is
    decided on the device: the host learns of it when it fetches the step's scalars.
    """

    def __init__(
        self,
        weights: Flat,
        parameters: dict[str, torch.nn.Parameter],
        optim: OptimConfig,
        engine: EngineConfig,
    ) -> None:
        self.optim = optim
        self.parameters = parameters
        self.momentum = weights.like() if optim.momentum else None
        self.updates = torch.zeros((), dtype=torch.int64, device=weights.device)
        self.scaled = engine.precision == "fp16"
        self.dynamic = self.scaled and engine.loss_scale == 0
        scale = (engine.loss_scale or _FIRST_SCALE) if self.scaled else 1.0
        self.loss_scale = torch.tensor(scale, device=weights.device)
        self.good_steps = torch.zeros((), dtype=torch.int64, device=weights.device)
        self.use_fused(weights.device.type in ("cpu", "cuda"))

    def use_fused(self, fused: bool) -> None:
        """Choose between the kernel that reads and writes each tensor once, and can be told on
        the device to do nothing, and plain operations, for which the host waits to know."""
        self.fused = fused
        self.sgd = self._sgd()

    def _sgd(self) -> torch.optim.SGD:
        groups: list[dict] = [
            {"params": [p for p in self.parameters.values() if decays(p.shape)]},
            {
                "params": [p for p in self.parameters.values() if not decays(p.shape)],
                "weight_decay": 0.0,
            },
        ]
        sgd = torch.optim.SGD(
            groups,
            lr=0.0,
            momentum=self.optim.momentum,
            nesterov=self.optim.nesterov,
            weight_decay=self.optim.weight_decay,
            fused=self.fused,
        )
        if self.momentum is not None:
            # From zeros v = momentum * 0 + g, which is also what SGD's first step does; but its
            # own first step would leave v undefined if it were told to do nothing.
            for name, parameter in self.parameters.items():
                sgd.state[parameter]["momentum_buffer"] = self.momentum.views[name]
        return sgd

    def step(self, lr: float, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Update from the parameters' `.grad`, which is multiplied by `loss_scale`.

        Returns (`finite` bool, global L2 norm of the gradient before clipping), both scalars on
        the device. `loss` only says whether it is finite.
        """
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) / self.loss_scale
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        divisor = self.loss_scale if self.scaled else None
        if self.optim.clip_norm:
            divisor = self.loss_scale / (self.optim.clip_norm / norm).clamp(max=1.0)
        for group in self.sgd.param_groups:
            group["lr"] = lr
        if self.fused:
            self.sgd.grad_scale = divisor  # type: ignore[attr-defined]
            self.sgd.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.sgd.step()
        elif bool(finite):
            if divisor is not None:
                for gradient in gradients:
                    gradient.div_(divisor)
            self.sgd.step()
        self.updates += finite
        if self.dynamic:
            self._rescale(finite)
        return finite, norm

    def _rescale(self, finite: Tensor) -> None:
        good = self.good_steps + 1
        grow = good == _GROWTH_STEPS
        factor = torch.where(finite, torch.where(grow, 2.0, 1.0), 0.5)
        self.loss_scale *= factor
        self.good_steps.copy_(torch.where(finite & ~grow, good, 0))


class Average:
    """Exponential moving average of weights and BN statistics."""

    def __init__(self, weights: Flat, statistics: Flat, decay: float) -> None:
        self.sources = (weights, statistics)
        self.averages = (weights.like(), statistics.like())
        self.decay = decay
        self.restart()

    def restart(self) -> None:
        """Begin at the present weights."""
        for average, source in zip(self.averages, self.sources, strict=True):
            average.buffer.copy_(source.buffer)

    def update(self, updates: Tensor, finite: Tensor) -> None:
        """Move towards the weights after update number `updates` (the first is 1), by a decay of
        min(decay, (1 + updates) / (10 + updates)); not at all if it was not `finite`."""
        decay = ((1 + updates) / (10 + updates)).clamp(max=self.decay)
        weight = torch.where(finite, 1 - decay, 0.0)
        for average, source in zip(self.averages, self.sources, strict=True):
            average.buffer.lerp_(source.buffer, weight)
