"""One training step as compiled graphs: forward and backward of pieces, reduction, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ...batch import Batch
from ...config import EngineConfig, OptimConfig
from ...model.noise import draw_noise
from ..base import EngineState
from ..common import World
from .distributed import AllReduce
from .loss import TrainingLoss
from .network import SEResNeXt
from .optimizer import Optimizer
from .parameters import load_arrays, to_arrays, zeros


class TrainingStep:
    """One rank's training state (weights, BN statistics, optimizer, average) and its update.

    A batch in one piece is one graph. For several pieces there are two: the first runs for each
    piece and adds to parameters, the second updates from those. The learning rate is a tensor, so
    a change of it compiles nothing.
    """

    def __init__(
        self, loss: TrainingLoss, optim: OptimConfig, engine: EngineConfig, world: World
    ) -> None:
        self.network = loss.network
        self.parts = optim.accumulate
        self.average = self.network.copy("ema.") if optim.ema_decay else None
        self.optimizer = Optimizer(self.network, self.average, optim, engine)
        backward, update = _step_functions(loss, self.optimizer, world)
        if self.parts == 1:
            self._update = _in_one_piece(backward, update)
        else:
            sums = tuple(zeros(f"sum.{p.name}", p.shape) for p in self.optimizer.rule.weights)
            self._clear, self._add, self._update = _in_pieces(
                backward, update, (*sums, zeros("sums", (2,)))
            )

    def __call__(self, batch: Batch, lr: float) -> Tensor:
        """Make one update. Returns [loss sum, rows, correct rows, gradient norm, finite] over the
        global batch, float32 on the device."""
        rows = Tensor(np.float32(batch.mask.sum()))
        rate = Tensor(np.float32(lr))
        if self.parts == 1:
            return self._update(rows, rate, *self._tensors(batch))
        self._clear()
        for piece in batch.split(self.parts):
            all_rows = self._add(rows, *self._tensors(piece))
        return self._update(all_rows, rate)

    def _tensors(self, piece: Batch) -> list[Tensor | None]:
        """Return the arguments of `TrainingLoss`; None for noise and a teacher that a run does not
        have."""
        noise: dict[str, Any] = draw_noise(self.network.arch, len(piece), piece.seed)
        arrays = (
            *(piece.images, piece.labels, piece.mixed_labels, piece.mix, piece.mask),
            *(noise.get("drop_path"), noise.get("dropout"), piece.teacher),
        )
        return [None if a is None else Tensor(a) for a in arrays]

    # State -------------------------------------------------------------------------------

    @property
    def averaged(self) -> SEResNeXt:
        """The network to predict with: the average if there is one."""
        return self.average or self.network

    def state_dict(self) -> EngineState:
        """Return a copy on the host."""
        slots, scalars = self.optimizer.save()
        ema = {} if self.average is None else to_arrays(self.average.tensors)
        return EngineState(to_arrays(self.network.tensors), slots, ema, scalars)

    def load_state_dict(self, state: EngineState) -> None:
        """Restore a state that `check_state` has accepted; a missing average starts anew."""
        load_arrays(self.network.tensors, state.model)
        if self.average is not None:
            load_arrays(self.average.tensors, state.ema or state.model)
        self.optimizer.load(state.optimizer, state.scalars)


Graph = Callable[..., Any]


def _step_functions(loss: TrainingLoss, optimizer: Optimizer, world: World) -> tuple[Graph, Graph]:
    """Return `backward`, for a piece of the batch, and `update`, from the sums over its pieces."""
    all_reduce, over_tensors = AllReduce(world), ops.HyperMap()
    weights, statistics = optimizer.rule.weights, optimizer.statistics
    ranks, reduce_gradients = world.size, None
    if ranks > 1:
        reduce_gradients = nn.DistributedGradReducer(weights, mean=False, degree=ranks)

    def forward(factor, *piece):  # type: ignore[no-untyped-def]
        loss_sum, correct = loss(*piece)
        return loss_sum * factor, loss_sum, correct

    differentiate = ms.value_and_grad(forward, None, weights, has_aux=True)

    def backward(rows, piece):  # type: ignore[no-untyped-def]
        """Rows with an image of the global batch, this piece's share of the gradient of its mean
        loss, times the loss scale, and [loss sum, correct rows] of this piece."""
        rows = all_reduce((rows,))[0]
        factor = optimizer.loss_scale / ops.maximum(rows, 1.0)
        (_, loss_sum, correct), gradients = differentiate(factor, *piece)
        return rows, gradients, ops.stack([loss_sum, correct])

    def update(rows, gradients, sums, lr):  # type: ignore[no-untyped-def]
        if ranks > 1:
            gradients = reduce_gradients(gradients)
            reduced = all_reduce((*statistics.present, sums))
            if len(statistics.present) > 0:
                statistics.load(over_tensors(ops.partial(_divide, ranks), reduced[:-1]))
            sums = reduced[-1]
        finite, norm = optimizer(gradients, sums[0], lr)
        return ops.stack([sums[0], rows, sums[1], norm, finite.astype(ms.float32)])

    return backward, update


def _in_one_piece(backward: Graph, update: Graph) -> Graph:
    """Compile a step of one piece."""

    def step(rows, lr, *piece):  # type: ignore[no-untyped-def]
        rows, gradients, sums = backward(rows, piece)
        return update(rows, gradients, sums, lr)

    compiled: Graph = ms.jit(step)
    return compiled


def _in_pieces(
    backward: Graph, update: Graph, added: tuple[Parameter, ...]
) -> tuple[Graph, Graph, Graph]:
    """Compile the parts of a step that adds up its pieces in `added`: gradients, then
    [loss sum, correct rows]. Returns the graphs that clear, add a piece, and update."""
    over_tensors = ops.HyperMap()

    def clear():  # type: ignore[no-untyped-def]
        return over_tensors(_clear, added)

    def add(rows, *piece):  # type: ignore[no-untyped-def]
        rows, gradients, sums = backward(rows, piece)
        over_tensors(_add, added, (*gradients, sums))
        return rows

    def update_from_sums(rows, lr):  # type: ignore[no-untyped-def]
        return update(rows, added[:-1], added[-1], lr)

    return ms.jit(clear), ms.jit(add), ms.jit(update_from_sums)


def _divide(divisor, tensor):  # type: ignore[no-untyped-def]
    return tensor / divisor


def _clear(tensor):  # type: ignore[no-untyped-def]
    return ops.assign(tensor, ops.zeros_like(tensor))


def _add(tensor, term):  # type: ignore[no-untyped-def]
    return ops.assign_add(tensor, term)
