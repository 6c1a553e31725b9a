"""The seam between the training loop and a framework: an engine owns one whole step."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..batch import Batch
from ..config import EngineConfig, LossConfig, OptimConfig
from ..errors import UserError
from ..model.spec import ModelSpec

Tensors = dict[str, np.ndarray]
"""Canonical name -> float32 array, in the order of `model.architecture.weight_shapes`."""


@dataclass
class EngineState:
    """Everything an engine must restore to go on to the bit. Plain numpy, engine-neutral."""

    model: Tensors
    """Weights and BN running statistics."""
    momentum: Tensors = field(default_factory=dict)
    """SGD momentum by parameter name; empty before the first step."""
    ema: Tensors = field(default_factory=dict)
    """Averaged weights and statistics; empty without EMA."""
    scalars: dict[str, float] = field(default_factory=dict)
    """`updates` (optimizer updates made), `loss_scale` and `good_steps` (dynamic scaling)."""


@runtime_checkable
class Engine(Protocol):
    """One model on one device (of `world_size`), with its optimizer."""

    name: str
    device: str
    """What it runs on, for people: "cpu (2 threads)", "cuda:0 NVIDIA H100"."""
    threads: int
    """Compute threads of a process on the CPU, whose number decides the last bits; 0 elsewhere."""
    rank: int
    world_size: int
    spec: ModelSpec

    def train_step(self, batch: Batch, lr: float) -> Any:
        """One update from one batch. Returns scalars that stay on the device; no waiting.

        If the loss or a gradient is not finite, nothing is updated: weights, momentum, BN
        statistics and EMA stay as they were.
        """
        ...

    def fetch(self, scalars: Any) -> dict[str, float]:
        """Wait for a step and bring its scalars over: the only synchronisation.

        Keys: `loss` (mean over the rows of the global batch that carry an image), `top1` (share
        of rows whose largest logit is `labels`; training accuracy), `grad_norm` (global L2 before
        clipping; 0 when clipping is off), `finite` (1.0 or 0.0).
        """
        ...

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 logits [N, K], by the EMA weights where there are any."""
        ...

    def state_dict(self) -> EngineState:
        """A copy of the state on the host. Every rank may call it; all hold the same."""
        ...

    def load_state_dict(self, state: EngineState) -> None:
        """Restore. Names and shapes are checked strictly; UserError lists what differs."""
        ...

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        """Sum float64 or int64 `values` over all ranks, in rank order; identity in a world of one.

        The loop's only collective: evaluation sums, agreement to stop, barriers.
        """
        ...

    def close(self) -> None:
        """Leave the process group, free the device. The engine is not used afterwards."""
        ...


_ENGINES = {
    "torch": ("seresnext.engines.torch.engine", "TorchEngine"),
    "mindspore": ("seresnext.engines.mindspore.engine", "MindSporeEngine"),
}


def create_engine(
    spec: ModelSpec,
    weights: Mapping[str, np.ndarray],
    engine: EngineConfig,
    optim: OptimConfig | None = None,
    loss: LossConfig | None = None,
) -> Engine:
    """Build the configured engine with these weights on its device.

    Without `optim` it only predicts. The framework is imported here and nowhere else; UserError
    names the extra to install when it is missing.
    """
    module_name, class_name = _ENGINES[engine.name]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"the {engine.name} engine cannot be loaded ({error}); "
            f"install it with: pip install 'seresnext[{engine.name}]'"
        ) from error
    return getattr(module, class_name)(spec, weights, engine, optim, loss or LossConfig())
