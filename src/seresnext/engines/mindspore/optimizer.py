"""One update of the weights, decided and made in the graph: rule, clipping, loss scale, EMA.

Operations on every tensor are mapped over tuples: MindSpore compiles a loop three to ten times as
slowly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from numpy.typing import NDArray

from ...config import EngineConfig, OptimConfig
from ..common import (
    FIRST_LOSS_SCALE,
    LEAST_GRADIENT_NORM,
    LEAST_WEIGHT_NORM,
    LOSS_SCALE_GROWTH_STEPS,
)
from ..trained import clipped_by_unit
from .network import SEResNeXt
from .parameters import clear_arrays, load_arrays, to_arrays
from .reductions import squares_by_row, sums_by_row
from .rules import create_rule
from .statistics import Statistics


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
        self.rule = create_rule(network, optim)
        self.averages = tuple(average.tensors.values()) if average is not None else ()
        self.ema_decay, self.clip_norm = optim.ema_decay, optim.clip_norm
        self.clip_unit = optim.clip_unit
        self.unit_clips = tuple(
            Tensor(optim.clip_unit if clipped_by_unit(name) else math.inf, ms.float32)
            for name in self.rule.names
        )

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
            squares = self.map(squares_by_row, gradients)
            norm = ops.sqrt(ops.concat(squares).sum()) / self.loss_scale
            finite = ops.isfinite(norm)
            factor = factor * ops.minimum(self.clip_norm / norm, 1.0)
        else:
            # Any sum does: it is finite exactly when no term is infinite or not a number.
            finite = ops.isfinite(ops.concat(self.map(sums_by_row, gradients)).sum())
        finite = ops.logical_and(finite, ops.isfinite(loss))
        if finite:
            if self.clip_unit > 0:
                clip = ops.partial(_clip_units, self.loss_scale)
                gradients = self.map(clip, self.unit_clips, self.rule.weights, gradients)
            if self.scaled or self.clip_norm > 0:
                gradients = self.map(ops.partial(_multiply, factor), gradients)
            ops.assign_add(self.updates, 1)
            self.rule(gradients, lr, self.updates.astype(ms.float32))
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


def _multiply(factor, tensor):  # type: ignore[no-untyped-def]
    return tensor * factor


def _clip_units(loss_scale, clip, weight, gradient):  # type: ignore[no-untyped-def]
    """As `clip_units` of the torch engine."""
    of_weight, of_gradient = _squares_by_unit(weight), _squares_by_unit(gradient)
    most = ops.maximum(ops.sqrt(of_weight), LEAST_WEIGHT_NORM) * clip * loss_scale
    return gradient * ops.minimum(
        most / ops.maximum(ops.sqrt(of_gradient), LEAST_GRADIENT_NORM), 1.0
    )


def _squares_by_unit(tensor):  # type: ignore[no-untyped-def]
    """[n, ...] -> [n, 1, ...], or [n] -> [1]: sums of squares."""
    if tensor.ndim == 1:
        return ops.square(tensor).sum().reshape((1,))
    return squares_by_row(tensor).reshape((-1,) + (1,) * (tensor.ndim - 1))


def _move(share, average, source):  # type: ignore[no-untyped-def]
    return ops.assign(average, ops.lerp(average, source, share))
