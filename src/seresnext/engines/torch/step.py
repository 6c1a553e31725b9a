"""One training step: forward and backward of the pieces of a batch, reduction, update."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...batch import Batch
from ...config import OptimConfig
from ...errors import UserError
from ...model.noise import draw_noise
from ..base import EngineState
from ..trained import fixed_statistics
from .devices import Setup, Upload
from .distributed import all_reduce
from .flat import Flat, NetworkTensors
from .loss import TrainingLoss
from .network import SEResNeXt
from .optimizer import Average, Optimizer
from .shards import Shards

_DDP_OPTIONS = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_BUFFERS_STAY: dict[str, Any] = {
    # BN statistics are averaged over ranks, not sent from rank 0; renamed in PyTorch 2.13.
    next(k for k in ("forward_sync_buffers", "broadcast_buffers") if k in _DDP_OPTIONS): False
}
_BATCH_FIELDS = ("images", "labels", "mixed_labels", "mix", "mask", "teacher")


class TrainingStep:
    """One rank's training state (weights, BN statistics, optimizer, average) and its update."""

    def __init__(
        self, tensors: NetworkTensors, loss: TrainingLoss, optim: OptimConfig, setup: Setup
    ) -> None:
        """`tensors` are those of the network in `loss`, equal on all ranks."""
        self.arch = loss.network.arch
        self.tensors, self.world = tensors, setup.world
        self.upload = Upload(setup.device)
        self.optimizer = Optimizer(tensors.weights, loss.network, optim, setup.config)
        self.fixed = FixedStatistics(loss.network, tensors.statistics, optim)
        self.average = Average(tensors, optim.ema_decay) if optim.ema_decay else None
        if setup.config.compile:
            loss.compile(dynamic=False)
        self.loss: nn.Module = loss
        self.shards: Shards | None = None
        self.parts = optim.accumulate
        if setup.config.virtual_shards:
            self.parts = shards_per_rank(setup.config.virtual_shards, setup.world.size)
            self.shards = Shards(loss.network, tensors, setup.world)
        elif setup.world.size > 1:
            self.loss = nn.parallel.DistributedDataParallel(
                loss,
                device_ids=None if setup.device.type == "cpu" else [setup.device],
                init_sync=False,  # the engine has sent the weights
                gradient_as_bucket_view=True,
                **_BUFFERS_STAY,
            )

    def __call__(self, batch: Batch, lr: float) -> Tensor:
        """Make one update. Returns [loss sum, rows, correct rows, gradient norm, finite] over the
        global batch, float32 on the device."""
        self.loss.train()
        self.fixed.evaluate()
        rows = self.upload({"mask": batch.mask})["mask"].sum(dtype=torch.float32)
        rows = all_reduce(rows, self.world)
        factor = self.optimizer.loss_scale / rows.clamp(min=1)
        statistics = self.tensors.statistics.buffer
        before = statistics.clone()
        if self.shards is not None:
            sums = self.shards.backward(self._pieces(batch), self.loss, factor, before)
        else:
            sums = self._reduce(self._backward(batch, factor))
        finite, norm = self.optimizer.step(lr, sums[0])
        torch.where(finite & self.fixed.moving, statistics, before, out=statistics)
        if self.average is not None:
            self.average.update(self.optimizer.updates, finite)
        return torch.stack([sums[0], rows, sums[1], norm, finite.float()])

    def _backward(self, batch: Batch, factor: Tensor) -> Tensor:
        """Leave the gradient of the global loss in `.grad`, reduced over ranks with the last
        piece; return [loss sum, correct rows] of this rank."""
        self.optimizer.inner.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=factor.device)
        for number, piece in enumerate(self._pieces(batch)):
            with nullcontext() if number == self.parts - 1 else self._no_reduction():
                loss, correct = self.loss(**piece)
                # Times the world's size, because DistributedDataParallel averages over it.
                (loss * (factor * self.world.size)).backward()
            sums += torch.stack([loss.detach(), correct])
        return sums

    def _reduce(self, sums: Tensor) -> Tensor:
        """Average the BN statistics over ranks and return `sums` over all ranks, in one message."""
        if self.world.size == 1:
            return sums
        statistics = self.tensors.statistics.buffer
        message = all_reduce(torch.cat([statistics / self.world.size, sums]), self.world)
        statistics.copy_(message[:-2])
        return message[-2:]

    def _no_reduction(self) -> AbstractContextManager[None]:
        if isinstance(self.loss, nn.parallel.DistributedDataParallel):
            return self.loss.no_sync()
        return nullcontext()

    def _pieces(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """Yield the batch piece by piece on the device, each with its own noise."""
        if len(batch) % self.parts:
            raise UserError(
                f"run.batch_size: {len(batch)} images on each process cannot be cut into "
                f"{self.parts} equal pieces (engine.virtual_shards or optim.accumulate)"
            )
        for piece in batch.split(self.parts):
            noise = draw_noise(self.arch, len(piece), piece.seed)
            fields = {name: getattr(piece, name) for name in _BATCH_FIELDS}
            given = {name: array for name, array in fields.items() if array is not None}
            yield self.upload({**given, **noise})

    # State -------------------------------------------------------------------------------

    @property
    def averaged(self) -> NetworkTensors:
        """The tensors to predict with: the average if there is one."""
        return self.tensors if self.average is None else self.average.tensors

    def state_dict(self) -> EngineState:
        """Return a copy on the host."""
        slots, scalars = self.optimizer.state_dict()
        ema = {} if self.average is None else self.average.tensors.arrays()
        return EngineState(self.tensors.arrays(), slots, ema, scalars)

    def load_state_dict(self, state: EngineState) -> None:
        """Restore a state that `check_state` has accepted; a missing average starts anew."""
        self.tensors.load(state.model)
        self.optimizer.load_state_dict(state.optimizer, state.scalars)
        if self.average is not None:
            self.average.restart()
            if state.ema:
                self.average.tensors.load(state.ema)


class FixedStatistics:
    """BN layers that normalise by their running statistics in training, too."""

    def __init__(self, network: SEResNeXt, statistics: Flat, optim: OptimConfig) -> None:
        fixed = fixed_statistics(network.arch, optim)
        layers = {name.rpartition(".")[0] for name in fixed}
        self.layers = [network.get_submodule(name) for name in layers]
        moving = statistics.like()
        for name, view in moving.views.items():
            view.fill_(name not in fixed)
        self.moving = moving.buffer > 0
        """True in the buffer of statistics where training changes them."""

    def evaluate(self) -> None:
        """Put the layers into evaluation mode, after the network was put into training mode."""
        for layer in self.layers:
            layer.eval()


def shards_per_rank(shards: int, world: int) -> int:
    """Return how many virtual shards one rank computes. Raises UserError if the shards cannot be
    divided evenly."""
    if shards % world:
        raise UserError(
            f"engine.virtual_shards: {shards} shards cannot be dealt to {world} processes; "
            "use a multiple of the number of processes"
        )
    return shards // world
