"""The MindSpore engine: `MindSporeEngine` implements `engines.base.Engine`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import describe, prepare, threads_in_use  # first: it silences MindSpore's import

import mindspore as ms  # isort: skip
from mindspore import Tensor  # isort: skip

from ...batch import Batch
from ...config import EngineConfig, LossConfig, OptimConfig, Precision
from ...errors import UserError
from ...model.architecture import check_tensors, weight_shapes
from ...model.spec import ModelSpec
from ..base import Activations, EngineState
from ..common import World, all_sum, check_state, step_metrics
from ..trained import fixed_statistics
from .distributed import from_first, gather, join, leave, world_from_environment
from .loss import Normalise, TrainingLoss
from .network import Arithmetic, SEResNeXt
from .parameters import load_arrays, to_arrays
from .step import TrainingStep

_TYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}


class MindSporeEngine:
    """One network on one device (of a world), with its training state unless it only predicts.

    Started by msrun, or with a rank table, it is one rank of the run. `precision` fp32, fp16 and
    fp16 with `fp16_batch_norm` are MindSpore's levels O0, O2 and O3; `auto` is fp32. Ascend:
    written to MindSpore's documentation, not run on hardware.
    """

    name = "mindspore"

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
        world = World() if optim is None else world_from_environment()
        target = prepare(engine.device, world.local_rank, engine.threads, world.local_size)
        self.device = describe(target)
        self.threads = threads_in_use(target)
        measured = engine.precision == "auto"
        self.precision: Precision = "fp32" if measured else engine.precision
        self.precision_reason = "MindSpore does not measure it" if measured else ""
        if target == "CPU" and self.precision == "bf16":
            raise UserError(
                "engine.precision: MindSpore has no bfloat16 convolution on the CPU; use fp32 or "
                "fp16, or --engine torch"
            )
        self._world = world = join(world)
        self.rank, self.world_size = world.rank, world.size
        weights = from_first({name: weights[name] for name in self._shapes}, world)
        arithmetic = Arithmetic(
            half=_TYPES[self.precision],
            half_batch_norm=engine.fp16_batch_norm,
            bn_ranks=world.size if engine.sync_bn else 1,
            on_cpu=target == "CPU",
            fixed=fixed_statistics(spec.architecture, optim or OptimConfig()),
        )
        self._network = SEResNeXt(spec.architecture, weights, arithmetic)
        normalise = Normalise(spec.input.mean, spec.input.std)
        self._step: TrainingStep | None = None
        if optim is not None:
            function = TrainingLoss(self._network, normalise, loss or LossConfig())
            self._step = TrainingStep(function, optim, engine, world)
        predictor = self._network if self._step is None else self._step.averaged

        def predict(images):  # type: ignore[no-untyped-def]
            return predictor(normalise(images))

        self._predictor, self._normalise = predictor, normalise
        any_images = Tensor(shape=[None, None, None, 3], dtype=ms.uint8)
        self._predict = ms.enable_dynamic(images=any_images)(ms.jit(predict))

    def train_step(self, batch: Batch, lr: float) -> Tensor:
        """Make one update. The returned scalars stay on the device until `fetch`."""
        assert self._step is not None, "an engine without `optim` only predicts"
        return self._step(batch, lr)

    def fetch(self, scalars: Tensor) -> dict[str, float]:
        """Wait for a step; return its `loss`, `top1`, `grad_norm`, `finite`."""
        return step_metrics(scalars.asnumpy().tolist())

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, H, W, 3] -> float32 logits [N, K], any N; with the average if there is one."""
        if len(images) == 0:
            return np.zeros((0, self.spec.architecture.num_classes), np.float32)
        logits: NDArray[Any] = self._predict(Tensor(images)).asnumpy()
        return logits

    def activations(self, images: NDArray[Any]) -> Activations:
        """uint8 [N, H, W, 3] -> logits as `predict` gives, with what led to them; N at least 1."""
        logits, features, gates = self._predictor.activations(self._normalise(Tensor(images)))
        names = [block.name for block in self.spec.architecture.blocks()]
        arrays = [tensor.astype(ms.float32).asnumpy() for tensor in (logits, features, *gates)]
        return Activations(arrays[0], arrays[1], dict(zip(names, arrays[2:], strict=True)))

    def state_dict(self) -> EngineState:
        """Return a copy of the state on the host, in canonical names and order."""
        if self._step is None:
            return EngineState(to_arrays(self._network.tensors))
        return self._step.state_dict()

    def load_state_dict(self, state: EngineState) -> None:
        """Restore a state of this or another engine. Raises UserError if it does not fit."""
        takes_average = self._step is None or self._step.average is not None
        check_state(state, self._shapes, takes_average)
        if self._step is None:
            load_arrays(self._network.tensors, state.ema or state.model)
        else:
            self._step.load_state_dict(state)

    def all_sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of float64 or int64 values over all ranks, added in rank order."""
        return all_sum(values, lambda row: gather(row, self._world))

    def close(self) -> None:
        """Leave the other processes."""
        leave(self._world)
