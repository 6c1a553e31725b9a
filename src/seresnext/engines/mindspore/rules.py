"""How weights follow gradients: SGD, AdamW, LAMB, each a cell of the graph."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import operations as P

from ...config import OptimConfig
from ..trained import trained_groups
from .network import SEResNeXt
from .parameters import zeros
from .reductions import squares_by_row


class Rule(nn.Cell):
    """What all rules have: the trained parameters by groups, and their slots.

    `construct(gradients, lr, t)` moves `weights` by gradients in the same order, at update number t
    (the first is 1). `slots` are names in `EngineState.optimizer` -> parameter by weight, of all
    weights; slots of zeros must be equivalent to none.
    """

    def __init__(self, network: SEResNeXt, optim: OptimConfig, slots: tuple[str, ...]) -> None:
        super().__init__(auto_prefix=False)
        groups = trained_groups(network.arch, optim)
        trained = {name: p for name, p in network.tensors.items() if p.requires_grad}
        self.names = [name for group in groups for name in group.names]
        self.weights = tuple(trained[name] for name in self.names)
        self.slots = {
            slot: {name: zeros(f"{slot}.{name}", p.shape) for name, p in trained.items()}
            for slot in slots
        }
        parts, start = [], 0
        for group in groups:
            end = start + len(group.names)
            parts.append((start, end, group.weight_decay, group.rate))
            start = end
        self.parts = tuple(parts)
        """Of each group: start and end in `weights`, weight decay, factor of the rate."""
        self.map = ops.HyperMap()

    def in_order(self, slot: str) -> tuple[Parameter, ...]:
        """The parameters of a slot in the order of `weights`."""
        return tuple(self.slots[slot][name] for name in self.names)


class Sgd(Rule):
    """SGD as PyTorch's: g += decay * w; v = momentum * v + g; w -= lr * v."""

    def __init__(self, network: SEResNeXt, optim: OptimConfig) -> None:
        super().__init__(network, optim, ("momentum",))
        self.velocities = self.in_order("momentum")
        if not optim.momentum:
            self.slots = {}
        self.mu = Tensor(optim.momentum, ms.float32)
        self.descend = _nesterov if optim.nesterov else _plain

    def construct(self, gradients, lr, t):  # type: ignore[no-untyped-def]
        for start, end, decay, rate in self.parts:
            weights, part = self.weights[start:end], gradients[start:end]
            if decay > 0:
                part = self.map(ops.partial(_add_scaled, decay), part, weights)
            descend = ops.partial(self.descend, lr * rate, self.mu)
            self.map(descend, weights, self.velocities[start:end], part)


class AdamW(Rule):
    """AdamW as PyTorch's: the weight shrinks by lr * decay, then Adam's step."""

    def __init__(self, network: SEResNeXt, optim: OptimConfig) -> None:
        super().__init__(network, optim, ("exp_avg", "exp_avg_sq"))
        self.means, self.squares = self.in_order("exp_avg"), self.in_order("exp_avg_sq")
        self.betas, self.eps = optim.betas, optim.eps
        self.logs = (math.log(optim.betas[0]), math.log(optim.betas[1]))

    def construct(self, gradients, lr, t):  # type: ignore[no-untyped-def]
        first, root = -ops.expm1(t * self.logs[0]), ops.sqrt(-ops.expm1(t * self.logs[1]))
        # The kernel's own correction divides by the root before eps is added, PyTorch's after it.
        for start, end, decay, rate in self.parts:
            weights, step = self.weights[start:end], lr * rate
            if decay > 0:
                self.map(ops.partial(_scale, 1 - step * decay), weights)
            move = ops.partial(_adam, step * root / first, self.betas, self.eps * root)
            moments = (self.means[start:end], self.squares[start:end])
            self.map(move, weights, *moments, gradients[start:end])


class Lamb(Rule):
    """LAMB as timm's: Adam's update and weight decay, scaled to the norm of the weights. Groups
    without weight decay (BN, biases) are not scaled."""

    def __init__(self, network: SEResNeXt, optim: OptimConfig) -> None:
        super().__init__(network, optim, ("exp_avg", "exp_avg_sq"))
        self.means, self.squares = self.in_order("exp_avg"), self.in_order("exp_avg_sq")
        self.betas, self.eps = optim.betas, optim.eps
        self.logs = (math.log(optim.betas[0]), math.log(optim.betas[1]))

    def construct(self, gradients, lr, t):  # type: ignore[no-untyped-def]
        first, second = -ops.expm1(t * self.logs[0]), -ops.expm1(t * self.logs[1])
        for start, end, decay, rate in self.parts:
            weights = self.weights[start:end]
            means = self.map(
                ops.partial(_towards, self.betas[0]), self.means[start:end], gradients[start:end]
            )
            squares = self.map(
                ops.partial(_towards_square, self.betas[1]),
                self.squares[start:end],
                gradients[start:end],
            )
            updates = self.map(ops.partial(_ratio, first, second, self.eps), means, squares)
            if decay > 0:
                updates = self.map(ops.partial(_adapted, decay), updates, weights)
            self.map(ops.partial(_subtract, lr * rate), weights, updates)


def create_rule(network: SEResNeXt, optim: OptimConfig) -> Rule:
    """Return the configured update rule; another optimizer is another cell here."""
    rules = {"sgd": Sgd, "adamw": AdamW, "lamb": Lamb}
    return rules[optim.name](network, optim)


_apply_momentum = P.ApplyMomentum()
_gradient_descent = P.ApplyGradientDescent()
_apply_adam = P.Adam()


def _plain(lr, mu, weight, velocity, gradient):  # type: ignore[no-untyped-def]
    return _apply_momentum(weight, velocity, lr, gradient, mu)


def _nesterov(lr, mu, weight, velocity, gradient):  # type: ignore[no-untyped-def]
    """w -= lr * (g + mu * v). ApplyMomentum's own Nesterov is ignored by its CPU kernel (2.10)."""
    _apply_momentum(weight, velocity, lr * mu, gradient, mu)
    return _gradient_descent(weight, lr, gradient)


def _adam(lr, betas, eps, weight, mean, square, gradient):  # type: ignore[no-untyped-def]
    """Adam's update with powers of 0: `lr` and `eps` have the correction of the bias."""
    return _apply_adam(weight, mean, square, 0.0, 0.0, lr, betas[0], betas[1], eps, gradient)


def _add_scaled(scale, tensor, other):  # type: ignore[no-untyped-def]
    return tensor + other * scale


def _scale(factor, tensor):  # type: ignore[no-untyped-def]
    return ops.assign(tensor, tensor * factor)


def _towards(beta, average, value):  # type: ignore[no-untyped-def]
    return ops.assign(average, average + (value - average) * (1 - beta))


def _towards_square(beta, average, value):  # type: ignore[no-untyped-def]
    return ops.assign(average, average + (value * value - average) * (1 - beta))


def _ratio(first, second, eps, mean, square):  # type: ignore[no-untyped-def]
    return mean / first / (ops.sqrt(square / second) + eps)


def _adapted(decay, update, weight):  # type: ignore[no-untyped-def]
    """The update with weight decay, as long as the weight; unchanged where either is 0."""
    update = update + weight * decay
    norm, length = ops.sqrt(squares_by_row(weight).sum()), ops.sqrt(squares_by_row(update).sum())
    usable = ops.logical_and(norm > 0, length > 0)
    return update * ops.select(usable, norm / length, ops.ones_like(norm))


def _subtract(scale, tensor, other):  # type: ignore[no-untyped-def]
    return ops.assign_sub(tensor, other * scale)
