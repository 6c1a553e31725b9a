"""One update of the weights, decided and made in the graph: SGD, clipping, loss scale, EMA."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import operations as P

from ...config import EngineConfig, OptimConfig
from ...model.architecture import decays
from .model import SEResNeXt

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
        self.clip_norm = optim.clip_norm
        self.ema_decay = optim.ema_decay
        self.weight_decay = optim.weight_decay
        self.weights = tuple(p for p in network.tensors.values() if p.requires_grad)
        self.decayed = tuple(decays(p.shape) and optim.weight_decay > 0 for p in self.weights)
        self.has_momentum = optim.momentum > 0
        self.momentum_by_name = {
            p.name: Parameter(
                np.zeros(p.shape, np.float32), name=f"momentum.{p.name}", requires_grad=False
            )
            for p in self.weights
        }
        self.momentum = tuple(self.momentum_by_name.values())
        self.sources = tuple(network.tensors.values())
        self.averages = tuple(average.tensors.values()) if average is not None else ()
        self.scaled = engine.precision == "fp16"
        self.dynamic = self.scaled and engine.loss_scale == 0
        scale = (engine.loss_scale or _FIRST_SCALE) if self.scaled else 1.0
        self.updates = _scalar("updates", 0, ms.int32)
        self.loss_scale = _scalar("loss_scale", scale, ms.float32)
        self.good_steps = _scalar("good_steps", 0, ms.int32)
        self.mu = Tensor(optim.momentum, ms.float32)
        # Not `use_nesterov`: the CPU kernel of MindSpore 2.10 ignores it.
        self.nesterov = optim.nesterov
        self.apply_momentum = P.ApplyMomentum()
        self.descend = P.ApplyGradientDescent()

    def construct(self, gradients, loss, lr):  # type: ignore[no-untyped-def]
        """Update from `gradients`, which are multiplied by `loss_scale`.

        Returns (`finite` bool, global L2 norm of the gradient before clipping, 0 when clipping
        is off), both scalars. `loss` only says whether it is finite.
        """
        norm = ops.zeros((), ms.float32)
        factor = None
        if self.clip_norm > 0:
            norm = ops.sqrt(total(gradients, True)) / self.loss_scale
            finite = ops.isfinite(norm)
            factor = ops.minimum(self.clip_norm / norm, 1.0) / self.loss_scale
        else:
            # Any sum does: it is finite exactly when no term is infinite or not a number.
            finite = ops.isfinite(total(gradients, False))
            if self.scaled:
                factor = 1 / self.loss_scale
        finite = ops.logical_and(finite, ops.isfinite(loss))
        if finite:
            self.update(gradients, factor, lr)
            self.statistics.keep()
            self.average()
        else:
            self.statistics.restore()
        if self.dynamic:
            self.rescale(finite)
        return finite, norm

    def load(self, momentum: Mapping[str, np.ndarray], scalars: Mapping[str, float]) -> None:
        """Restore what a checkpoint has; what it has not, begins anew."""
        for name, tensor in self.momentum_by_name.items():
            array = momentum[name] if momentum else np.zeros(tensor.shape)
            ops.assign(tensor, Tensor(array, ms.float32))
        ops.assign(self.updates, Tensor(int(scalars.get("updates", 0)), ms.int32))
        if self.dynamic and "loss_scale" in scalars:
            ops.assign(self.loss_scale, Tensor(scalars["loss_scale"], ms.float32))
            ops.assign(self.good_steps, Tensor(int(scalars["good_steps"]), ms.int32))

    def update(self, gradients, factor, lr):  # type: ignore[no-untyped-def]
        """Torch's SGD: g += decay * w; v = mu * v + g; w -= lr * v, or lr * (g + mu * v)."""
        for weight, momentum, gradient, decayed in zip(
            self.weights, self.momentum, gradients, self.decayed
        ):
            if factor is not None:
                gradient = gradient * factor
            if decayed:
                gradient = gradient + weight * self.weight_decay
            if self.nesterov:
                self.apply_momentum(weight, momentum, lr * self.mu, gradient, self.mu)
                self.descend(weight, lr, gradient)
            else:
                self.apply_momentum(weight, momentum, lr, gradient, self.mu)
        ops.assign_add(self.updates, 1)

    def average(self):  # type: ignore[no-untyped-def]
        """Move the averages towards the weights after update number t (the first is 1), by a
        decay of min(decay, (1 + t) / (10 + t))."""
        t = self.updates.astype(ms.float32)
        decay = ops.minimum((1 + t) / (10 + t), self.ema_decay)
        for average, source in zip(self.averages, self.sources):
            ops.assign(average, ops.lerp(average, source, 1 - decay))

    def rescale(self, finite):  # type: ignore[no-untyped-def]
        """Halve the loss scale after an overflow, double it after many steps without."""
        good = self.good_steps + 1
        grow = good == _GROWTH_STEPS
        factor = ops.select(finite, ops.select(grow, 2.0, 1.0), 0.5)
        ops.assign(self.loss_scale, self.loss_scale * factor)
        ops.assign(self.good_steps, ops.select(ops.logical_and(finite, ops.logical_not(grow)), good, 0))


class Statistics(nn.Cell):
    """The BN statistics of the last good step beside the ones that a step overwrites."""

    def __init__(self, network: SEResNeXt) -> None:
        super().__init__(auto_prefix=False)
        self.present = tuple(p for p in network.tensors.values() if not p.requires_grad)
        self.sizes = [p.size for p in self.present]
        self.ends = [int(n) for n in np.cumsum(self.sizes)]
        self.kept = Parameter(
            np.zeros(self.ends[-1], np.float32), name="statistics", requires_grad=False
        )
        self.restart()

    def restart(self) -> None:
        """Keep what was loaded into the network."""
        ops.assign(self.kept, Tensor(np.concatenate([p.asnumpy() for p in self.present])))

    def flat(self):  # type: ignore[no-untyped-def]
        return ops.concat(self.present)

    def load(self, flat):  # type: ignore[no-untyped-def]
        for tensor, size, end in zip(self.present, self.sizes, self.ends):
            ops.assign(tensor, flat[end - size : end])

    def keep(self):  # type: ignore[no-untyped-def]
        ops.assign(self.kept, self.flat())

    def restore(self):  # type: ignore[no-untyped-def]
        self.load(self.kept)


def total(tensors, squared):  # type: ignore[no-untyped-def]
    """Sum over all elements of all tensors, or of their squares; a float32 scalar.

    Rows are summed by matrix products: see reductions.py.
    """
    small, sums = [], []
    for tensor in tensors:
        if tensor.ndim == 1:
            small.append(tensor)
        else:
            rows = tensor.reshape(tensor.shape[0], -1)
            if squared:
                rows = ops.square(rows)
            sums.append(ops.matmul(rows, ops.ones((rows.shape[1], 1), rows.dtype)).reshape(-1))
    vector = ops.concat(small)
    if squared:
        vector = ops.square(vector)
    return ops.concat([*sums, vector]).sum()


def _scalar(name: str, value: float, dtype: ms.Type) -> Parameter:
    return Parameter(Tensor(value, dtype), name=name, requires_grad=False)
