"""Virtual shards: the same additions in the same order, however many ranks share the work.

A global batch is cut into V shards of equal shape, each with its own BN batch statistics and
noise. Rank r computes shards r * V/W to (r+1) * V/W, one at a time. Float addition depends on
its order, so gradients, statistics and losses are added from the first shard to the last on
every world size, never rank by rank.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...model.architecture import BN_MOMENTUM
from .distributed import World
from .flat import Flat


class Shards:
    """Gradient of a global batch as the ordered sum over its shards."""

    def __init__(self, network: nn.Module, weights: Flat, statistics: Flat, world: World) -> None:
        self.statistics, self.world = statistics, world
        self.total = weights.like()
        self.shard = weights.like()
        self.parameters = dict(network.named_parameters())
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # the buffers then hold the shard's own statistics

    def backward(
        self,
        shards: Iterable[dict[str, Tensor]],
        loss: nn.Module,
        factor: Tensor,
        statistics: Tensor,
    ) -> Tensor:
        """Leave the gradient of `factor` times the global loss sum in `.grad`, and BN statistics
        moved on once from `statistics`; return [loss sum, right rows] of the global batch."""
        gradients: list[Tensor] = []
        small: list[Tensor] = []
        self._collect_in(self.shard)
        for number, shard in enumerate(shards):
            self.shard.buffer.zero_()
            loss_sum, right = loss(**shard)
            (loss_sum * factor).backward()
            small.append(torch.cat([self.statistics.buffer, loss_sum.detach()[None], right[None]]))
            if self.world.size > 1:
                gradients.append(self.shard.buffer.clone())
            elif number == 0:
                self.total.buffer.copy_(self.shard.buffer)
            else:
                self.total.buffer.add_(self.shard.buffer)
        if self.world.size > 1:
            self._sum_over_ranks(torch.stack(gradients))
        self._collect_in(self.total)
        sums = _ordered_sum(self.world.gather(torch.stack(small)).flatten(0, 1))
        count = self.world.size * len(small)
        torch.lerp(statistics, sums[:-2] / count, BN_MOMENTUM, out=self.statistics.buffer)
        return sums[-2:]

    def _sum_over_ranks(self, gradients: Tensor) -> None:
        """[shards here, n] -> `total`. Each rank adds up one slice of all shards, then all
        slices go to everyone: 2n floats a rank, where gathering all shards would take V * n."""
        world, total = self.world, self.total.buffer
        width = -(-total.numel() // world.size)
        padded = nn.functional.pad(gradients, (0, world.size * width - total.numel()))
        sent = padded.view(len(gradients), world.size, width).transpose(0, 1)
        received = world.exchange(sent.reshape(world.size, -1))  # [rank, its shards * width]
        slice_sum = _ordered_sum(received.view(world.size * len(gradients), width))
        total.copy_(world.gather(slice_sum).flatten()[: total.numel()])

    def _collect_in(self, flat: Flat) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = flat.views[name]


def _ordered_sum(rows: Tensor) -> Tensor:
    """[V, n] -> [n], from the first row to the last."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total
