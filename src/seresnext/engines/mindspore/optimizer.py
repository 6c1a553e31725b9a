"""One update of the weights, decided and made in the graph: SGD, clipping, loss scale, EMA.

Operations on every tensor are mapped over tuples: MindSpore compiles a loop three to ten times as
slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import operations as P
from numpy.typing import NDArray

from ...config import EngineConfig, OptimConfig
from ...model.architecture import decays
from ..common import FIRST_LOSS_SCALE, LOSS_SCALE_GROWTH_STEPS
from .network import SEResNeXt
from .parameters import clear_arrays, load_arrays, to_arrays, zeros
from .statistics import Statistics


class Sgd(nn.Cell):
    """SGD as PyTorch's: g += decay * w; v = momentum * v + g; w -= lr * v."""

    def __init__(self, trained: list[Parameter], optim: OptimConfig) -> None:
        super().__init__(auto_prefix=False)
        momentum = {p.name: zeros(f"momentum.{p.name}", p.shape) for p in trained}
        self.slots = {"momentum": momentum} if optim.momentum else {}
        # Kernels and matrices, which decay, first; then BN and biases.
        kernels = [p for p in trained if decays(p.shape)]
        self.kernels = len(kernels)
        self.weights = (*kernels, *(p for p in trained if not decays(p.shape)))
        self.velocities = tuple(momentum[p.name] for p in self.weights)
        self.weight_decay = optim.weight_decay
        self.mu = Tensor(optim.momentum, ms.float32)
        self.descend = _nesterov if optim.nesterov else _plain
        self.map = ops.HyperMap()

    def construct(self, gradients, lr):  # type: ignore[no-untyped-def]
        """Move `weights` by `gradients`, a tuple in the same order."""
        n = self.kernels
        if self.weight_decay > 0:
            add = ops.partial(_add_scaled, self.weight_decay)
            gradients = self.map(add, gradients[:n], self.weights[:n]) + gradients[n:]
        descend = ops.partial(self.descend, lr, self.mu)
        self.map(descend, self.weights, self.velocities, gradients)


def create_rule(trained: list[Parameter], optim: OptimConfig) -> Sgd:
    """Return the configured update rule; another optimizer is another cell here.

    A rule has `weights`, the trained parameters in the order of its gradients, and `slots`: name in
    `EngineState.optimizer` -> parameter by weight. Slots of zeros must be equivalent to none.
    """
    return Sgd(trained, optim)


class Optimizer(nn.Cell):
    """A rule applied to a network's parameters, with clipping, a loss scale, and the EMA of network
    and statistics.

    A step whose loss or gradient is not finite changes nothing but the loss scale. The choice is a
    branch of the graph: the host sees it when it fetches the step's scalars.
    """

    def __init__(
        self,
        network: SEResNeXt,
        average: SEResNeXt | None,
        optim: OptimConfig,
        engine: EngineConfig,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.statistics = Statistics(network)
        self.sources = tuple(network.tensors.values())
        self.rule = create_rule([p for p in self.sources if p.requires_grad], optim)
        self.averages = tuple(average.tensors.values()) if average is not None else ()
        self.ema_decay, self.clip_norm = optim.ema_decay, optim.clip_norm

        self.scaled = engine.precision == "fp16"
        self.dynamic = self.scaled and engine.loss_scale == 0
        scale = (engine.loss_scale or FIRST_LOSS_SCALE) if self.scaled else 1.0
        self.growth_steps = LOSS_SCALE_GROWTH_STEPS
        self.updates = Parameter(Tensor(0, ms.int32), name="updates", requires_grad=False)
        self.loss_scale = Parameter(
            Tensor(scale, ms.float32), name="loss_scale", requires_grad=False
        )
        self.good_steps = Parameter(Tensor(0, ms.int32), name="good_steps", requires_grad=False)
        self.map = ops.HyperMap()

    def construct(self, gradients, loss, lr):  # type: ignore[no-untyped-def]
        """Update from `gradients`, in the order of `rule.weights` and multiplied by `loss_scale`.

        Returns (`finite` bool, global L2 norm of the gradient before clipping, 0 without
        clipping), both scalars. `loss` is only tested for being finite.
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
            if self.scaled or self.clip_norm > 0:
                gradients = self.map(ops.partial(_multiply, factor), gradients)
            self.rule(gradients, lr)
            ops.assign_add(self.updates, 1)
            self.statistics.keep()
            self.move_averages()
        else:
            self.statistics.restore()
        if self.dynamic:
            self.rescale(finite)
        return finite, norm

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

    def save(self) -> tuple[dict[str, dict[str, NDArray[Any]]], dict[str, float]]:
        """Return `EngineState.optimizer` and `EngineState.scalars`."""
        scalars = {"updates": float(self.updates.asnumpy())}
        if self.dynamic:
            scalars["loss_scale"] = float(self.loss_scale.asnumpy())
            scalars["good_steps"] = float(self.good_steps.asnumpy())
        slots = {slot: to_arrays(tensors) for slot, tensors in self.rule.slots.items()}
        return slots if scalars["updates"] > 0 else {}, scalars

    def load(
        self, slots: Mapping[str, Mapping[str, NDArray[Any]]], scalars: Mapping[str, float]
    ) -> None:
        """Restore what `save` returned, after the network; what is missing starts anew."""
        self.statistics.keep()
        ops.assign(self.updates, Tensor(int(scalars.get("updates", 0)), ms.int32))
        if self.dynamic and "loss_scale" in scalars:
            ops.assign(self.loss_scale, Tensor(scalars["loss_scale"], ms.float32))
            ops.assign(self.good_steps, Tensor(int(scalars["good_steps"]), ms.int32))
        for slot, tensors in self.rule.slots.items():
            if slot in slots:
                load_arrays(tensors, slots[slot])
            else:
                clear_arrays(tensors)


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
