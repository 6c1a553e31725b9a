"""LAMB (arXiv:1904.00962), for which torch has no kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """Layer-wise adaptive moments, as timm's: Adam's update and weight decay, scaled to the norm of
    the weights. Groups without weight decay (BN, biases) are not scaled.

    Told on the device whether to do anything, as torch's fused optimizers are.
    """

    grad_scale: Tensor | None = None
    """Divisor of the gradients."""
    found_inf: Tensor | None = None
    """1.0 leaves weights and state as they are."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        fused: bool,
    ) -> None:
        """`fused` has no effect: there is one implementation."""
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.betas, self.eps = betas, eps

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group["lr"], group["weight_decay"])

    def _update(self, weight: Tensor, lr: float, decay: float) -> None:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if self.grad_scale is not None:
            gradient = gradient / self.grad_scale
        active = torch.ones((), device=weight.device)
        if self.found_inf is not None:
            active -= self.found_inf
            gradient = torch.where(active > 0, gradient, 0.0)  # 0 times infinity is not 0
        state["step"] += active
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, (1 - self.betas[0]) * active)
        square.lerp_(gradient.square(), (1 - self.betas[1]) * active)
        steps = state["step"].clamp(min=1)
        first, second = (-torch.expm1(steps * math.log(beta)) for beta in self.betas)
        update = mean / first / ((square / second).sqrt() + self.eps)
        if decay:
            update = update.add(weight, alpha=decay)
            norm, length = weight.norm(), update.norm()
            ratio = torch.where((norm > 0) & (length > 0), norm / length, 1.0)
            update = update * ratio
        weight.sub_(update * (lr * active))
