"""Batch statistics over all ranks instead of per rank (`engine.sync_bn`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Replace every BN of a network without storage by one over all ranks."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _synchronised(child, device))


def _synchronised(bn: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    if device.type != "cpu":
        convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        return convert(bn)
    with torch.device("meta"):
        synced = CpuSyncBatchNorm(bn.num_features, bn.eps, bn.momentum)
    synced.num_batches_tracked = None
    return synced


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """BN over the batches of all ranks, which must be of equal size.

    For `engine.sync_bn` on several CPU ranks: torch's own has no CPU kernel.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape and type; statistics in float32."""
        if not self.training:
            return super().forward(x)
        world = dist.get_world_size()
        over_ranks: Callable[[Tensor], Tensor] = _SumOverRanks.apply
        # Mean first, then the variance around it: E[x^2] - E[x]^2 would cancel in float32.
        mean = over_ranks(x.float().mean((0, 2, 3))) / world
        centred = x.float() - mean[:, None, None]
        variance = over_ranks(centred.square().mean((0, 2, 3))) / world
        with torch.no_grad():
            count = world * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _SumOverRanks(torch.autograd.Function):
    """Every rank's sum depends on every rank's term, so gradients are summed over ranks too."""

    @staticmethod
    def forward(ctx: Any, term: Tensor) -> Tensor:
        total = term.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
