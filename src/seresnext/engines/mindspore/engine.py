"""The MindSpore engine: `MindSporeEngine` implements `engines.base.Engine`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .device import describe, prepare, threads_in_use  # first: it quiets MindSpore's import

import mindspore as ms  # isort: skip
from mindspore import Parameter, Tensor, ops  # isort: skip

from ...batch import Batch
from ...config import EngineConfig, LossConfig, OptimConfig
from ...errors import UserError
from ...model.architecture import weight_shapes
from ...model.saved_model import check_tensors
from ...model.spec import ModelSpec
from ..base import EngineState, Tensors
from .distributed import World
from .loss import Normalise, TrainingLoss
from .network import Arithmetic, SEResNeXt
from .step import Trainer

_TYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}


class MindSporeEngine:
    """One network on one device (of a world), with its optimizer unless it only predicts.

    Started by msrun, or with a rank table, it is one rank of the run. `precision` fp32, fp16 and
    fp16 with `fp16_batch_norm` are MindSpore's levels O0, O2 and O3. Ascend: written to
    MindSpore's documentation, not run on hardware.
    """

    name = "mindspore"

    def __init__(
        self,
        spec: ModelSpec,
        weights: Mapping[str, np.ndarray],
        engine: EngineConfig,
        optim: OptimConfig | None = None,
        loss: LossConfig | None = None,
    ) -> None:
        self.spec = spec
        arch = spec.architecture
        self._shapes = weight_shapes(arch)
        check_tensors(self._shapes, weights, "the starting weights")
        if engine.virtual_shards:
            raise UserError(
                "engine.virtual_shards: only the torch engine has them; set it to 0 or use "
                "--engine torch"
            )
        world = World.from_environment()
        target = prepare(engine.device, world.local_rank, engine.threads, world.local_size)
        self.device = describe(target)
        self.threads = threads_in_use(target)
        if target == "CPU" and engine.precision == "bf16":
            raise UserError(
                "engine.precision: MindSpore has no bfloat16 convolution on the CPU; use fp32 or "
                "fp16, or --engine torch"
            )
        self._world = world.join()
        self.rank, self.world_size = self._world.rank, self._world.size
        weights = self._world.from_first({name: weights[name] for name in self._shapes})
        arithmetic = Arithmetic(
            half=_TYPES[engine.precision],
            half_batch_norm=engine.fp16_batch_norm,
            bn_ranks=self.world_size if engine.sync_bn else 1,
            on_cpu=target == "CPU",
        )

        def network(prefix: str = "") -> SEResNeXt:
            return SEResNeXt(arch, weights, arithmetic, prefix)

        self._network = self._predictor = network()
        normalise = Normalise(spec.input.mean, spec.input.std)
        self._trainer: Trainer | None = None
        if optim is not None:
            average = network("ema.") if optim.ema_decay else None
            self._predictor = average or self._network
            training_loss = TrainingLoss(self._network, normalise, loss or LossConfig())
            self._trainer = Trainer(arch, training_loss, average, engine, optim, self._world)
        predictor = self._predictor

        def predict(images):  # type: ignore[no-untyped-def]
            return predictor(normalise(images))

        any_images = Tensor(shape=[None, None, None, 3], dtype=ms.uint8)
        self._predict = ms.enable_dynamic(images=any_images)(ms.jit(predict))

    # Training ----------------------------------------------------------------------------

    def train_step(self, batch: Batch, lr: float) -> Tensor:
        """One update. The returned scalars stay on the device until `fetch`."""
        assert self._trainer is not None, "an engine without `optim` only predicts"
        return self._trainer.step(batch, lr)

    def fetch(self, scalars: Tensor) -> dict[str, float]:
        """`loss`, `top1`, `grad_norm`, `finite` of a step; waits for it."""
        loss, rows, right, norm, finite = (float(value) for value in scalars.asnumpy())
        rows = max(rows, 1.0)
        return {"loss": loss / rows, "top1": right / rows, "grad_norm": norm, "finite": finite}

    # Prediction --------------------------------------------------------------------------

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 logits [N, K], any N."""
        if len(images) == 0:
            return np.zeros((0, self.spec.architecture.num_classes), np.float32)
        logits: np.ndarray = self._predict(Tensor(images)).asnumpy()
        return logits

    # State -------------------------------------------------------------------------------

    def state_dict(self) -> EngineState:
        """A copy of the state on the host, in canonical names and order."""
        state = EngineState(model=_arrays(self._network.tensors))
        if self._trainer is None:
            return state
        optimizer = self._trainer.optimizer
        state.scalars["updates"] = float(optimizer.updates.asnumpy())
        if optimizer.dynamic:
            state.scalars["loss_scale"] = float(optimizer.loss_scale.asnumpy())
            state.scalars["good_steps"] = float(optimizer.good_steps.asnumpy())
        if optimizer.mu.asnumpy() > 0 and state.scalars["updates"] > 0:
            state.momentum = _arrays(optimizer.momentum)
        if self._predictor is not self._network:
            state.ema = _arrays(self._predictor.tensors)
        return state

    def load_state_dict(self, state: EngineState) -> None:
        """Restore what `state_dict` gave, here or on another engine; strict about names."""
        check_tensors(self._shapes, state.model, "the checkpoint's weights")
        if state.ema:
            check_tensors(self._shapes, state.ema, "the checkpoint's averaged weights")
        if self._trainer is None:
            _load(self._network.tensors, state.ema or state.model)
            return
        optimizer = self._trainer.optimizer
        if state.momentum:
            shapes = {k: v.shape for k, v in optimizer.momentum.items()}
            check_tensors(shapes, state.momentum, "the checkpoint's momentum")
        averaged = self._predictor is not self._network
        if state.ema and not averaged:
            raise UserError(
                "the checkpoint holds averaged weights, but optim.ema_decay is 0; set it to "
                "the value of the run that wrote the checkpoint"
            )
        _load(self._network.tensors, state.model)
        if averaged:
            _load(self._predictor.tensors, state.ema or state.model)
        self._trainer.restart(state.momentum, state.scalars)

    # World -------------------------------------------------------------------------------

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        """Sum float64 or int64 values over all ranks, in rank order."""
        return self._world.all_sum(values)

    def close(self) -> None:
        """Leave the other processes."""
        self._world.leave()


def _arrays(tensors: Mapping[str, Parameter]) -> Tensors:
    return {name: tensor.asnumpy().copy() for name, tensor in tensors.items()}


def _load(tensors: Mapping[str, Parameter], arrays: Mapping[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        # Not `set_data`: a graph that has run goes on with the memory it had.
        ops.assign(tensor, Tensor(arrays[name], ms.float32))
