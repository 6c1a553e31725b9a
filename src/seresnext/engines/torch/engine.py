"""The PyTorch engine: `TorchEngine` implements `engines.base.Engine`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ...batch import Batch
from ...config import EngineConfig, LossConfig, OptimConfig
from ...errors import UserError
from ...model.architecture import is_buffer, weight_shapes
from ...model.saved_model import check_tensors
from ...model.spec import ModelSpec
from ..base import EngineState
from .devices import describe, prepare, resolve_device
from .distributed import World
from .flat import Flat
from .loss import Normalise, TrainingLoss
from .network import attach, empty_network
from .predictor import Predictor
from .step import Trainer
from .sync_bn import synchronise

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """One network on one device (of a world), with its optimizer unless it only predicts.

    Started by torchrun, it is one rank of the run and takes the device of its local rank.
    """

    name = "torch"

    def __init__(
        self,
        spec: ModelSpec,
        weights: Mapping[str, np.ndarray],
        engine: EngineConfig,
        optim: OptimConfig | None = None,
        loss: LossConfig | None = None,
    ) -> None:
        self.spec = spec
        self._shapes = weight_shapes(spec.architecture)
        check_tensors(self._shapes, weights, "the starting weights")
        self._world = World.from_environment()
        self.rank, self.world_size = self._world.rank, self._world.size
        self._device = resolve_device(engine.device, self._world.local_rank, self._world.local_size)
        prepare(self._device, engine, self._world.local_size)
        self.threads = torch.get_num_threads() if self._device.type == "cpu" else 0
        self._world.join(self._device)
        self.device = describe(self._device)
        self._autocast = _AUTOCAST[engine.precision]

        trained = {k: v for k, v in self._shapes.items() if not is_buffer(k)}
        measured = {k: v for k, v in self._shapes.items() if is_buffer(k)}
        self._weights = Flat(trained, self._device, engine.channels_last)
        self._statistics = Flat(measured, self._device, engine.channels_last)
        for flat in (self._weights, self._statistics):
            flat.load(weights)
            self._world.broadcast(flat.buffer)
        self._network = empty_network(spec.architecture)
        if engine.sync_bn and self.world_size > 1:
            synchronise(self._network, self._device)
        attach(self._network, {**self._weights.views, **self._statistics.views})
        normalise = Normalise(spec.input.mean, spec.input.std, self._device, engine.channels_last)
        self._trainer: Trainer | None = None
        if optim is not None:
            training_loss = TrainingLoss(
                self._network, normalise, loss or LossConfig(), self._autocast
            )
            self._trainer = Trainer(
                training_loss, self._weights, self._statistics, engine, optim, self._world
            )
        self._predictor = Predictor(
            spec.architecture, normalise, engine, self._autocast, self._device
        )
        self._predictor_is_stale = True

    # Training ----------------------------------------------------------------------------

    def train_step(self, batch: Batch, lr: float) -> Tensor:
        """One update. The returned scalars stay on the device until `fetch`."""
        assert self._trainer is not None, "an engine without `optim` only predicts"
        self._predictor_is_stale = True
        return self._trainer.step(batch, lr)

    def fetch(self, scalars: Tensor) -> dict[str, float]:
        """`loss`, `top1`, `grad_norm`, `finite` of a step; waits for it."""
        loss, rows, right, norm, finite = scalars.tolist()
        rows = max(rows, 1.0)
        return {"loss": loss / rows, "top1": right / rows, "grad_norm": norm, "finite": finite}

    # Prediction --------------------------------------------------------------------------

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 logits [N, K], any N; by the average where there is one."""
        if self._predictor_is_stale:
            average = self._trainer.average if self._trainer is not None else None
            weights, statistics = average.averages if average else (self._weights, self._statistics)
            self._predictor.refresh(weights.views | statistics.views)
            self._predictor_is_stale = False
        return self._predictor(images)

    # State -------------------------------------------------------------------------------

    def state_dict(self) -> EngineState:
        """A copy of the state on the host, in canonical names and order."""
        state = EngineState(model=self._ordered(self._weights, self._statistics))
        if self._trainer is None:
            return state
        optimizer, average = self._trainer.optimizer, self._trainer.average
        state.scalars["updates"] = float(optimizer.updates)
        if optimizer.dynamic:
            state.scalars["loss_scale"] = float(optimizer.loss_scale)
            state.scalars["good_steps"] = float(optimizer.good_steps)
        if optimizer.momentum is not None and state.scalars["updates"] > 0:
            state.momentum = optimizer.momentum.arrays()
        if average is not None:
            state.ema = self._ordered(*average.averages)
        return state

    def load_state_dict(self, state: EngineState) -> None:
        """Restore what `state_dict` gave, here or on another engine; strict about names."""
        self._predictor_is_stale = True
        check_tensors(self._shapes, state.model, "the checkpoint's weights")
        if state.ema:
            check_tensors(self._shapes, state.ema, "the checkpoint's averaged weights")
        if state.momentum:
            check_tensors(self._weights.shapes, state.momentum, "the checkpoint's momentum")
        model = state.model
        if self._trainer is None and state.ema:
            model = state.ema
        for flat in (self._weights, self._statistics):
            flat.load(model)
        if self._trainer is not None:
            self._load_training(self._trainer, state)

    def _load_training(self, trainer: Trainer, state: EngineState) -> None:
        optimizer, average = trainer.optimizer, trainer.average
        optimizer.updates.fill_(int(state.scalars.get("updates", 0)))
        if optimizer.dynamic and "loss_scale" in state.scalars:
            optimizer.loss_scale.fill_(state.scalars["loss_scale"])
            optimizer.good_steps.fill_(int(state.scalars["good_steps"]))
        if optimizer.momentum is not None:
            optimizer.momentum.buffer.zero_()
            if state.momentum:
                optimizer.momentum.load(state.momentum)
        if average is not None:
            average.restart()
            if state.ema:
                for flat in average.averages:
                    flat.load(state.ema)
        elif state.ema:
            raise UserError(
                "the checkpoint holds averaged weights, but optim.ema_decay is 0; set it to "
                "the value of the run that wrote the checkpoint"
            )

    def _ordered(self, *flats: Flat) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for flat in flats:
            arrays.update(flat.arrays())
        return {name: arrays[name] for name in self._shapes}

    # World -------------------------------------------------------------------------------

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        """Sum float64 or int64 values over all ranks, in rank order."""
        return self._world.all_sum(values)

    def close(self) -> None:
        """Leave the process group."""
        self._world.leave()
