"""What both engines share: NumPy and plain Python only."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..config import LossConfig
from ..errors import UserError
from ..model.architecture import check_tensors, is_buffer
from .base import EngineState

FIRST_LOSS_SCALE = 65536.0
LOSS_SCALE_GROWTH_STEPS = 2000
"""Dynamic loss scaling as in arXiv:1710.03740, section 3.2: halved when a gradient overflows,
doubled after 2000 updates without an overflow (the numbers of `torch.amp.GradScaler`)."""

LEAST_WEIGHT_NORM, LEAST_GRADIENT_NORM = 1e-3, 1e-6
"""Adaptive gradient clipping takes smaller norms for these (arXiv:2102.06171; timm)."""

Array = TypeVar("Array")


@dataclass(frozen=True)
class World:
    """The ranks of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """Ranks on this machine; 0 where the environment does not tell."""


def ordered_sum(rows: Iterable[Array]) -> Array:
    """Return the sum of the rows from the first to the last: float addition depends on the order.

    Of at least two rows the result is a new array; of one row it is that row.
    """
    return functools.reduce(operator.add, rows)


def all_sum(values: NDArray[Any], gather: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Return the sum of float64 or int64 `values` over all ranks, with the same bits on each.

    `gather` takes the values of this rank, [n], and returns those of all ranks, [ranks, n], in
    rank order. In a world of one it is the identity, and the result is a copy.
    """
    assert values.dtype in (np.float64, np.int64), values.dtype
    rows = gather(values.ravel()).reshape(-1, *values.shape)
    return np.array(ordered_sum(rows))


def step_metrics(scalars: Sequence[float]) -> dict[str, float]:
    """Return `Engine.fetch`'s record from [loss sum, rows, correct rows, gradient norm, finite].

    Rows are those of the global batch that carry an image.
    """
    loss, rows, correct, norm, finite = scalars
    rows = max(rows, 1.0)
    return {"loss": loss / rows, "top1": correct / rows, "grad_norm": norm, "finite": finite}


class Smoothing(NamedTuple):
    """Coefficients of the smoothed target: `on` times the target, plus `off` for every class."""

    on: float
    off: float


def smoothing_coefficients(loss: LossConfig, classes: int) -> Smoothing:
    """Return the coefficients for `classes` classes.

    `label_smoothing` of the target is spread over all classes (arXiv:1512.00567, section 7), or
    with `smoothing_off_target` over all classes but the label's. Both are linear in the target,
    so they apply to a mixture of two labels as a whole.
    """
    share = loss.label_smoothing
    if loss.smoothing_off_target:
        off = share / max(classes - 1, 1)
        return Smoothing(1 - share - off, off)
    return Smoothing(1 - share, share / classes)


def check_state(
    state: EngineState, shapes: Mapping[str, tuple[int, ...]], takes_average: bool
) -> None:
    """Raise UserError unless `state` fits a network whose tensors have these shapes.

    `takes_average` tells whether the engine has a use for averaged weights.
    """
    check_tensors(shapes, state.model, "the checkpoint's weights")
    if state.ema:
        check_tensors(shapes, state.ema, "the checkpoint's averaged weights")
    if state.ema and not takes_average:
        raise UserError(
            "the checkpoint holds averaged weights, but optim.ema_decay is 0; set it to "
            "the value of the run that wrote the checkpoint"
        )
    trained = {name: shape for name, shape in shapes.items() if not is_buffer(name)}
    for slot, tensors in state.optimizer.items():
        check_tensors(trained, tensors, f"the checkpoint's {slot}")
