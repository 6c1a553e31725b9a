"""One training step as compiled graphs: pieces forward and backward, reduction, update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ...batch import Batch
from ...config import EngineConfig, OptimConfig
from ...model.architecture import Architecture
from ...model.noise import draw_noise
from .distributed import AllReduce, World
from .loss import TrainingLoss
from .network import SEResNeXt
from .optimizer import Optimizer
from .statistics import Statistics


class Trainer:
    """Loss, gradients and optimizer of one rank; the networks belong to the engine.

    A batch in one piece is one graph. Several pieces are one graph, run for each, that adds to
    parameters, and a second one that updates from those. The learning rate is a tensor, so
    nothing is compiled again when it changes.
    """

    def __init__(
        self,
        arch: Architecture,
        loss: TrainingLoss,
        average: SEResNeXt | None,
        engine: EngineConfig,
        optim: OptimConfig,
        world: World,
    ) -> None:
        self.arch, self.parts = arch, optim.accumulate
        statistics = Statistics(loss.network)
        optimizer = self.optimizer = Optimizer(loss.network, average, statistics, optim, engine)
        self.statistics = statistics
        all_reduce, over_tensors = AllReduce(world), ops.HyperMap()
        ranks, reduce_gradients = world.size, None
        if ranks > 1:
            reduce_gradients = nn.DistributedGradReducer(
                optimizer.weights, mean=False, degree=ranks
            )

        def scaled(factor, *piece):  # type: ignore[no-untyped-def]
            loss_sum, right = loss(*piece)
            return loss_sum * factor, loss_sum, right

        differentiate = ms.value_and_grad(scaled, None, optimizer.weights, has_aux=True)

        def backward(rows, piece):  # type: ignore[no-untyped-def]
            """Gradients of the global loss as far as this piece goes, times the loss scale."""
            rows = all_reduce((rows,))[0]
            factor = optimizer.loss_scale / ops.maximum(rows, 1.0)
            (_, loss_sum, right), gradients = differentiate(factor, *piece)
            return rows, gradients, ops.stack([loss_sum, right])

        def update(rows, gradients, sums, lr):  # type: ignore[no-untyped-def]
            if ranks > 1:
                gradients = reduce_gradients(gradients)
                everything = all_reduce((*statistics.present, sums))
                statistics.load(over_tensors(ops.partial(_divide, ranks), everything[:-1]))
                sums = everything[-1]
            finite, norm = optimizer(gradients, sums[0], lr)
            return ops.stack([sums[0], rows, sums[1], norm, finite.astype(ms.float32)])

        def whole(rows, lr, *piece):  # type: ignore[no-untyped-def]
            rows, gradients, sums = backward(rows, piece)
            return update(rows, gradients, sums, lr)

        self._whole = ms.jit(whole)
        if self.parts == 1:
            return
        added = tuple(
            Parameter(np.zeros(p.shape, np.float32), name=f"sum.{p.name}", requires_grad=False)
            for p in optimizer.weights
        )
        added_sums = Parameter(np.zeros(2, np.float32), name="sums", requires_grad=False)

        def clear():  # type: ignore[no-untyped-def]
            return over_tensors(_clear, (*added, added_sums))

        def add(rows, *piece):  # type: ignore[no-untyped-def]
            rows, gradients, sums = backward(rows, piece)
            over_tensors(_add, (*added, added_sums), (*gradients, sums))
            return rows

        def update_from_sums(rows, lr):  # type: ignore[no-untyped-def]
            return update(rows, added, added_sums, lr)

        self._clear, self._add = ms.jit(clear), ms.jit(add)
        self._update_from_sums = ms.jit(update_from_sums)

    def step(self, batch: Batch, lr: float) -> Tensor:
        """One update. Returns [loss sum, rows, right rows, gradient norm, finite] over the global
        batch, float32 on the device."""
        rows = Tensor(np.float32(batch.mask.sum()))
        rate = Tensor(np.float32(lr))
        if self.parts == 1:
            return self._whole(rows, rate, *self._tensors(batch))
        self._clear()
        for piece in batch.split(self.parts):
            all_rows = self._add(rows, *self._tensors(piece))
        return self._update_from_sums(all_rows, rate)

    def restart(self, momentum: Mapping[str, np.ndarray], scalars: Mapping[str, float]) -> None:
        """Go on from a checkpoint whose weights and BN statistics have been loaded."""
        self.optimizer.load(momentum, scalars)
        self.statistics.keep()

    def _tensors(self, piece: Batch) -> list[Tensor | None]:
        """What `TrainingLoss` takes; noise that the network has none of is None."""
        noise: dict[str, Any] = draw_noise(self.arch, len(piece), piece.seed)
        arrays = (
            *(piece.images, piece.labels, piece.mixed_labels, piece.mix, piece.mask),
            *(noise.get("drop_path"), noise.get("dropout")),
        )
        return [None if a is None else Tensor(a) for a in arrays]


def _divide(divisor, tensor):  # type: ignore[no-untyped-def]
    return tensor / divisor


def _clear(tensor):  # type: ignore[no-untyped-def]
    return ops.assign(tensor, ops.zeros_like(tensor))


def _add(tensor, term):  # type: ignore[no-untyped-def]
    return ops.assign_add(tensor, term)
