"""The PyTorch engine: `TorchEngine` implements `engines.base.Engine`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ...batch import Batch
from ...config import EngineConfig, LossConfig, OptimConfig
from ...model.architecture import check_tensors, weight_shapes
from ...model.spec import ModelSpec
from ..base import Activations, EngineState
from ..common import World, all_sum, check_state, step_metrics
from .devices import Setup, describe, prepare, resolve_device
from .distributed import broadcast, gather, join, leave, world_from_environment
from .flat import NetworkTensors
from .loss import Normalise, TrainingLoss
from .network import attach, empty_network
from .precision import settle
from .predictor import Predictor
from .step import TrainingStep
from .sync_bn import synchronise


class TorchEngine:
    """One network on one device (of a world), with its training state unless it only predicts.

    Started by torchrun to train, it is one rank of the run and takes its local rank's device.
    """

    name = "torch"

    def __init__(
        self,
        spec: ModelSpec,
        weights: Mapping[str, NDArray[Any]],
        engine: EngineConfig,
        optim: OptimConfig | None = None,
        loss: LossConfig | None = None,
    ) -> None:
        self.spec = spec
        self._shapes = weight_shapes(spec.architecture)
        check_tensors(self._shapes, weights, "the starting weights")
        self._world = world = World() if optim is None else world_from_environment()
        self.rank, self.world_size = world.rank, world.size
        device = resolve_device(engine.device, world.local_rank, world.local_size)
        prepare(device, engine, world.local_size)
        self.threads = torch.get_num_threads() if device.type == "cpu" else 0
        join(world, device)
        self.device = describe(device)
        choice = settle(engine, spec, weights, device, world, trains=optim is not None)
        self.precision, self.precision_reason = choice.precision, choice.reason
        engine = replace(engine, precision=choice.precision)
        setup = Setup(device, world, engine)

        self._tensors = NetworkTensors(self._shapes, device, engine.channels_last)
        self._tensors.load(weights)
        for buffer in self._tensors.buffers:
            broadcast(buffer, world)
        network = empty_network(spec.architecture)
        if engine.sync_bn and world.size > 1:
            synchronise(network, device)
        attach(network, self._tensors.views)
        normalise = Normalise(spec.input.mean, spec.input.std, device, engine.channels_last)
        self._step: TrainingStep | None = None
        if optim is not None:
            function = TrainingLoss(network, normalise, loss or LossConfig(), setup.autocast)
            self._step = TrainingStep(self._tensors, function, optim, setup)
        self._predictor = Predictor(spec.architecture, normalise, setup)
        self._predictor_is_stale = True

    def train_step(self, batch: Batch, lr: float) -> Tensor:
        """Make one update. The returned scalars stay on the device until `fetch`."""
        assert self._step is not None, "an engine without `optim` only predicts"
        self._predictor_is_stale = True
        return self._step(batch, lr)

    def fetch(self, scalars: Tensor) -> dict[str, float]:
        """Wait for a step; return its `loss`, `top1`, `grad_norm`, `finite`."""
        return step_metrics(scalars.tolist())

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, H, W, 3] -> float32 logits [N, K], any N; with the average if there is one."""
        return self._fresh_predictor()(images)

    def activations(self, images: NDArray[Any]) -> Activations:
        """uint8 [N, H, W, 3] -> logits as `predict` gives, with what led to them."""
        return self._fresh_predictor().activations(images)

    def _fresh_predictor(self) -> Predictor:
        if self._predictor_is_stale:
            tensors = self._tensors if self._step is None else self._step.averaged
            self._predictor.refresh(tensors.views)
            self._predictor_is_stale = False
        return self._predictor

    def state_dict(self) -> EngineState:
        """Return a copy of the state on the host, in canonical names and order."""
        if self._step is None:
            return EngineState(self._tensors.arrays())
        return self._step.state_dict()

    def load_state_dict(self, state: EngineState) -> None:
        """Restore a state of this or another engine. Raises UserError if it does not fit."""
        takes_average = self._step is None or self._step.average is not None
        check_state(state, self._shapes, takes_average)
        self._predictor_is_stale = True
        if self._step is None:
            self._tensors.load(state.ema or state.model)
        else:
            self._step.load_state_dict(state)

    def all_sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of float64 or int64 values over all ranks, added in rank order."""
        return all_sum(values, lambda row: gather(torch.tensor(row), self._world).numpy())

    def close(self) -> None:
        """Leave the process group."""
        leave(self._world)
