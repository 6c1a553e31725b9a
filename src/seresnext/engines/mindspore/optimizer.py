"""One update of the weights, decided and made in the graph: SGD, clipping, loss scale, EMA.

What is done to every tensor is mapped over tuples of them: MindSpore compiles a loop three to ten
times as slowly.
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import operations as P

from ...config import EngineConfig, OptimConfig
from ...model.architecture import decays
from .network import SEResNeXt
from .statistics import Statistics

_FIRST_SCALE = 65536.0
_GROWTH_STEPS = 2000
"""Dynamic loss scaling as in arXiv:1710.03740, section 3.2: halved when a gradient overflows,
doubled after 2000 updates without."""


class Optimizer(nn.Cell):
    """SGD with momentum over a network's parameters, and the EMA of network and statistics.

    A step with a loss or gradient that is not finite changes nothing but the loss scale. The
    choice is a branch of the graph; the host learns of it when it fetches the step's scalars.
    """

    def __init__(
        self,
        network: SEResNeXt,
        average: SEResNeXt | None,
        statistics: Statistics,
        optim: OptimConfig,
        engine: EngineConfig,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.statistics = statistics
        trained = [p for p in network.tensors.values() if p.requires_grad]
        self.momentum = {p.name: _zeros(f"momentum.{p.name}", p.shape) for p in trained}
        # Kernels and matrices first, then BN and biases.
        kernels = [p for p in trained if decays(p.shape)]
        self.kernels = len(kernels)
        self.weights = (*kernels, *(p for p in trained if not decays(p.shape)))
        self.velocities = tuple(self.momentum[p.name] for p in self.weights)

        self.sources = tuple(network.tensors.values())
        self.averages = tuple(average.tensors.values()) if average is not None else ()
        self.ema_decay = optim.ema_decay
        self.clip_norm = optim.clip_norm
        self.weight_decay = optim.weight_decay
        self.mu = Tensor(optim.momentum, ms.float32)
        self.descend = _nesterov if optim.nesterov else _plain

        self.scaled = engine.precision == "fp16"
        self.dynamic = self.scaled and engine.loss_scale == 0
        scale = (engine.loss_scale or _FIRST_SCALE) if self.scaled else 1.0
        self.growth_steps = _GROWTH_STEPS
        self.updates = Parameter(Tensor(0, ms.int32), name="updates", requires_grad=False)
        self.loss_scale = Parameter(
            Tensor(scale, ms.float32), name="loss_scale", requires_grad=False
        )
        self.good_steps = Parameter(Tensor(0, ms.int32), name="good_steps", requires_grad=False)
        self.map = ops.HyperMap()

    def construct(self, gradients, loss, lr):  # type: ignore[no-untyped-def]
        """Update from `gradients`, in the order of `weights` and multiplied by `loss_scale`.

        Returns (`finite` bool, global L2 norm of the gradient before clipping, 0 when clipping
        is off), both scalars. `loss` only says whether it is finite.
        """
        norm = ops.zeros((), ms.float32)
        factor = 1 / self.loss_scale
        if self.clip_norm > 0:
            squares = self.map(_squares_by_row, gradients)
            norm = ops.sqrt(ops.concat(squares).sum()) / self.loss_scale
            finite = ops.isfinite(norm)
            factor = factor * ops.minimum(self.clip_norm / norm, 1.0)
        else:
            # Any sum does: it is finite exactly when no term is infinite or not a number.
            finite = ops.isfinite(ops.concat(self.map(_sums_by_row, gradients)).sum())
        finite = ops.logical_and(finite, ops.isfinite(loss))
        if finite:
            self.update(gradients, factor, lr)
            self.statistics.keep()
            self.move_averages()
        else:
            self.statistics.restore()
        if self.dynamic:
            self.rescale(finite)
        return finite, norm

    def update(self, gradients, factor, lr):  # type: ignore[no-untyped-def]
        """PyTorch's SGD: g += decay * w; v = mu * v + g; w -= lr * v."""
        n = self.kernels
        if self.scaled or self.clip_norm > 0:
            gradients = self.map(ops.partial(_multiply, factor), gradients)
        if self.weight_decay > 0:
            add = ops.partial(_add_scaled, self.weight_decay)
            gradients = self.map(add, gradients[:n], self.weights[:n]) + gradients[n:]
        descend = ops.partial(self.descend, lr, self.mu)
        self.map(descend, self.weights, self.velocities, gradients)
        ops.assign_add(self.updates, 1)

    def move_averages(self):  # type: ignore[no-untyped-def]
        """Move the averages towards the weights after update number t (the first is 1), by a
        decay of min(decay, (1 + t) / (10 + t))."""
        if self.ema_decay > 0:
            t = self.updates.astype(ms.float32)
            decay = ops.minimum((1 + t) / (10 + t), self.ema_decay)
            self.map(ops.partial(_move, 1 - decay), self.averages, self.sources)

    def rescale(self, finite):  # type: ignore[no-untyped-def]
        """Halve the loss scale after an overflow, double it after many steps without."""
        good = self.good_steps + 1
        grow = ops.logical_and(finite, good == self.growth_steps)
        factor = 0.5 + 0.5 * finite.astype(ms.float32) + grow.astype(ms.float32)
        ops.assign(self.loss_scale, self.loss_scale * factor)
        go_on = ops.logical_and(finite, ops.logical_not(grow))
        ops.assign(self.good_steps, good * go_on.astype(ms.int32))

    def load(self, momentum: Mapping[str, np.ndarray], scalars: Mapping[str, float]) -> None:
        """Restore what a checkpoint has; what it has not, begins anew."""
        for name, tensor in self.momentum.items():
            array = momentum[name] if momentum else np.zeros(tensor.shape)
            ops.assign(tensor, Tensor(array, ms.float32))
        ops.assign(self.updates, Tensor(int(scalars.get("updates", 0)), ms.int32))
        if self.dynamic and "loss_scale" in scalars:
            ops.assign(self.loss_scale, Tensor(scalars["loss_scale"], ms.float32))
            ops.assign(self.good_steps, Tensor(int(scalars["good_steps"]), ms.int32))


_product = P.MatMul()
_reshape = P.Reshape()
_apply_momentum = P.ApplyMomentum()
_gradient_descent = P.ApplyGradientDescent()


def _plain(lr, mu, weight, velocity, gradient):  # type: ignore[no-untyped-def]
    return _apply_momentum(weight, velocity, lr, gradient, mu)


def _nesterov(lr, mu, weight, velocity, gradient):  # type: ignore[no-untyped-def]
    """w -= lr * (g + mu * v). ApplyMomentum's own Nesterov is ignored by its CPU kernel (2.10)."""
    _apply_momentum(weight, velocity, lr * mu, gradient, mu)
    return _gradient_descent(weight, lr, gradient)


def _multiply(factor, tensor):  # type: ignore[no-untyped-def]
    return tensor * factor


def _add_scaled(scale, tensor, other):  # type: ignore[no-untyped-def]
    return tensor + other * scale


def _move(share, average, source):  # type: ignore[no-untyped-def]
    return ops.assign(average, ops.lerp(average, source, share))


def _sums_by_row(tensor):  # type: ignore[no-untyped-def]
    """[n, ...] -> [n]. By a matrix product: see reductions.py."""
    rows = _reshape(tensor, (tensor.shape[0], -1))
    return _reshape(_product(rows, ops.ones((rows.shape[1], 1), rows.dtype)), (-1,))


def _squares_by_row(tensor):  # type: ignore[no-untyped-def]
    return _sums_by_row(ops.square(tensor))


def _zeros(name: str, shape: tuple[int, ...]) -> Parameter:
    return Parameter(np.zeros(shape, np.float32), name=name, requires_grad=False)
