"""Virtual shards: the same additions in the same order, however many ranks share the work.

A global batch is cut into V shards of equal shape, each with its own BN batch statistics and
noise. Rank r of W computes shards r * V/W to (r+1) * V/W, one at a time. Float addition depends on
the order, so gradients, statistics and losses are added from the first shard to the last on
every world size, never rank by rank.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...model.architecture import BN_MOMENTUM
from ..common import World, ordered_sum
from .distributed import exchange, gather
from .flat import Flat, NetworkTensors


class Shards:
    """Computes the gradient of a global batch as the ordered sum over its shards."""

    def __init__(self, network: nn.Module, tensors: NetworkTensors, world: World) -> None:
        self.statistics, self.world = tensors.statistics, world
        self.total = tensors.weights.like()
        self.shard = tensors.weights.like()
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
        """Leave the gradient of `factor` times the global loss sum in `.grad` and advance the BN
        statistics by one step from `statistics`; return [loss sum, correct rows] of the global
        batch."""
        gradients: list[Tensor] = []
        small: list[Tensor] = []
        self._collect_in(self.shard)
        for number, shard in enumerate(shards):
            self.shard.buffer.zero_()
            loss_sum, correct = loss(**shard)
            (loss_sum * factor).backward()
            row = torch.stack([loss_sum.detach(), correct])
            small.append(torch.cat([self.statistics.buffer, row]))
            if self.world.size > 1:
                gradients.append(self.shard.buffer.clone())
            elif number == 0:
                self.total.buffer.copy_(self.shard.buffer)
            else:
                self.total.buffer.add_(self.shard.buffer)
        if self.world.size > 1:
            self._sum_over_ranks(torch.stack(gradients))
        self._collect_in(self.total)
        sums = ordered_sum(gather(torch.stack(small), self.world).flatten(0, 1).unbind())
        count = self.world.size * len(small)
        torch.lerp(statistics, sums[:-2] / count, BN_MOMENTUM, out=self.statistics.buffer)
        return sums[-2:]

    def _sum_over_ranks(self, gradients: Tensor) -> None:
        """[shards here, n] -> `total`. Each rank adds up one slice of all shards, then the sums are
        gathered: 2n floats per rank, where gathering all shards would take V * n."""
        world, total = self.world, self.total.buffer
        width = -(-total.numel() // world.size)
        padded = nn.functional.pad(gradients, (0, world.size * width - total.numel()))
        sent = padded.view(len(gradients), world.size, width).transpose(0, 1)
        received = exchange(sent.reshape(world.size, -1), world)  # [rank, its shards * width]
        slice_sum = ordered_sum(received.view(world.size * len(gradients), width).unbind())
        total.copy_(gather(slice_sum, world).flatten()[: total.numel()])

    def _collect_in(self, flat: Flat) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = flat.views[name]
