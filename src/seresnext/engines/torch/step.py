"""One training step: pieces of a batch forward and backward, reduction over ranks, update."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...batch import Batch
from ...config import EngineConfig, OptimConfig
from ...errors import UserError
from ...model.architecture import Architecture
from ...model.noise import draw_noise
from .devices import Upload
from .distributed import World
from .flat import Flat
from .loss import TrainingLoss
from .optimizer import Average, Optimizer
from .shards import Shards

_DDP_OPTIONS = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_BUFFERS_STAY: dict[str, Any] = {
    # BN statistics are averaged over ranks, not sent from rank 0; renamed in PyTorch 2.13.
    next(k for k in ("forward_sync_buffers", "broadcast_buffers") if k in _DDP_OPTIONS): False
}
_PIXELS_AND_LABELS = ("images", "labels", "mixed_labels", "mix", "mask")


class Trainer:
    """Loss, gradients and optimizer of one rank; the weights belong to the engine."""

    def __init__(
        self,
        loss: TrainingLoss,
        weights: Flat,
        statistics: Flat,
        engine: EngineConfig,
        optim: OptimConfig,
        world: World,
    ) -> None:
        self.arch: Architecture = loss.network.arch
        self.statistics, self.world, self.optim = statistics, world, optim
        self.upload = Upload(weights.device)
        parameters = dict(loss.network.named_parameters())
        self.optimizer = Optimizer(weights, parameters, optim, engine)
        self.average = Average(weights, statistics, optim.ema_decay) if optim.ema_decay else None
        if engine.compile:
            loss.compile(dynamic=False)
        self.loss: nn.Module = loss
        self.shards: Shards | None = None
        self.parts = optim.accumulate
        if engine.virtual_shards:
            self.parts = shards_per_rank(engine.virtual_shards, world.size)
            self.shards = Shards(loss.network, weights, statistics, world)
        elif world.size > 1:
            device = weights.device
            self.loss = nn.parallel.DistributedDataParallel(
                loss,
                device_ids=None if device.type == "cpu" else [device],
                init_sync=False,  # the engine has sent the weights
                gradient_as_bucket_view=True,
                **_BUFFERS_STAY,
            )

    def step(self, batch: Batch, lr: float) -> Tensor:
        """One update. Returns [loss sum, rows, right rows, gradient norm, finite] over the global
        batch, float32 on the device."""
        self.loss.train()
        rows = self.upload({"mask": batch.mask})["mask"].sum(dtype=torch.float32)
        rows = self.world.all_reduce(rows)
        before = self.statistics.buffer.clone()
        factor = self.optimizer.loss_scale / rows.clamp(min=1)
        if self.shards is not None:
            sums = self.shards.backward(self._pieces(batch), self.loss, factor, before)
        else:
            sums = self._backward(batch, factor)
        finite, norm = self.optimizer.step(lr, sums[0])
        torch.where(finite, self.statistics.buffer, before, out=self.statistics.buffer)
        if self.average is not None:
            self.average.update(self.optimizer.updates, finite)
        if not self.optim.clip_norm:
            norm = torch.zeros_like(norm)
        return torch.stack([sums[0], rows, sums[1], norm, finite.float()])

    def _backward(self, batch: Batch, factor: Tensor) -> Tensor:
        """Leave the gradient of the global loss in `.grad`; [loss sum, right rows] of all ranks."""
        self.optimizer.sgd.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=factor.device)
        for number, piece in enumerate(self._pieces(batch)):
            with nullcontext() if number == self.parts - 1 else self._no_reduction():
                loss, right = self.loss(**piece)
                # Times the world's size, because DistributedDataParallel averages over it.
                (loss * (factor * self.world.size)).backward()
            sums += torch.stack([loss.detach(), right])
        if self.world.size == 1:
            return sums
        everything = torch.cat([self.statistics.buffer / self.world.size, sums])
        self.world.all_reduce(everything)
        self.statistics.buffer.copy_(everything[:-2])
        return everything[-2:]

    def _no_reduction(self) -> AbstractContextManager[None]:
        if isinstance(self.loss, nn.parallel.DistributedDataParallel):
            return self.loss.no_sync()
        return nullcontext()

    def _pieces(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """The batch on the device, piece by piece, each with noise of its own."""
        if len(batch) % self.parts:
            raise UserError(
                f"run.batch_size: {len(batch)} images on each process cannot be cut into "
                f"{self.parts} equal pieces (engine.virtual_shards or optim.accumulate)"
            )
        for piece in batch.split(self.parts):
            noise = draw_noise(self.arch, len(piece), piece.seed)
            fields = {name: getattr(piece, name) for name in _PIXELS_AND_LABELS}
            yield self.upload({**fields, **noise})


def shards_per_rank(shards: int, world: int) -> int:
    """How many virtual shards one rank computes; UserError if they cannot be dealt evenly."""
    if shards % world:
        raise UserError(
            f"engine.virtual_shards: {shards} shards cannot be dealt to {world} processes; "
            "use a multiple of the number of processes"
        )
    return shards // world
