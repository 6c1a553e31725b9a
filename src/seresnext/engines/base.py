"""The interface between the training loop and a framework: an engine makes one whole step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ..batch import Batch
from ..config import EngineConfig, LossConfig, OptimConfig, Precision
from ..frameworks import load_module
from ..model.spec import ModelSpec

Tensors = dict[str, NDArray[Any]]
"""Canonical name -> float32 array, in the order of `model.architecture.weight_shapes`."""


@dataclass
class EngineState:
    """All that an engine restores to continue with the same bits. NumPy arrays, engine-neutral."""

    model: Tensors
    """Weights and BN running statistics."""
    optimizer: dict[str, Tensors] = field(default_factory=dict)
    """The optimizer's slots by name, each an array per trained parameter. SGD with momentum has
    the slot `momentum`, AdamW and LAMB have `exp_avg` and `exp_avg_sq`; zeros for frozen
    parameters. Empty before the first update."""
    ema: Tensors = field(default_factory=dict)
    """Averaged weights and statistics; empty without EMA."""
    scalars: dict[str, float] = field(default_factory=dict)
    """`updates` (optimizer updates made), `loss_scale` and `good_steps` (dynamic scaling)."""

    def groups(self) -> dict[str, Tensors]:
        """Return the tensors as a checkpoint groups them: `model`, `ema`, `optimizer.SLOT`."""
        slots = {f"optimizer.{slot}": tensors for slot, tensors in self.optimizer.items()}
        return {"model": self.model, **slots, "ema": self.ema}

    @classmethod
    def from_groups(
        cls, groups: Mapping[str, Tensors], scalars: Mapping[str, float]
    ) -> EngineState:
        """Return the state of a checkpoint's groups and its scalars."""
        slots = {
            group.removeprefix("optimizer."): tensors
            for group, tensors in groups.items()
            if group.startswith("optimizer.")
        }
        return cls(groups["model"], slots, groups.get("ema", {}), dict(scalars))


@dataclass(frozen=True)
class Activations:
    """What a network computed inside, for reports and explanations. float32."""

    logits: NDArray[Any]
    """[N, K]."""
    features: NDArray[Any]
    """[N, C, h, w], the last feature map; its mean over h and w goes into the classifier."""
    gates: Tensors
    """Block ("layer1.0") -> its squeeze-and-excitation gates, 0 to 1, [N, channels]."""


@runtime_checkable
class Engine(Protocol):
    """One model on one device (of `world_size`), with its optimizer."""

    name: str
    device: str
    """Description of the device: "cpu (2 threads)", "cuda:0 NVIDIA H100"."""
    threads: int
    """Compute threads of this process on the CPU; the last bits depend on it. 0 elsewhere."""
    precision: Precision
    """What it computes in, the same on every rank; never `auto`."""
    precision_reason: str
    """What decided it, a sentence, where `auto` was asked for; else empty."""
    rank: int
    world_size: int
    spec: ModelSpec

    def train_step(self, batch: Batch, lr: float) -> Any:
        """Make one update from one batch; return scalars that stay on the device, without waiting.

        If the loss or a gradient is not finite, nothing is updated: weights, optimizer slots, BN
        statistics and EMA stay as they were.
        """
        ...

    def fetch(self, scalars: Any) -> dict[str, float]:
        """Wait for a step and return its scalars: the only synchronisation with the device.

        Keys: `loss` (mean over the rows of the global batch that carry an image), `top1` (share
        of rows whose largest logit is `labels`; training accuracy), `grad_norm` (global L2 before
        clipping; 0 when clipping is off), `finite` (1.0 or 0.0).
        """
        ...

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, H, W, 3] -> float32 logits [N, K], with the EMA weights if there are any."""
        ...

    def activations(self, images: NDArray[Any]) -> Activations:
        """uint8 [N, H, W, 3] -> logits as `predict` gives, with what led to them."""
        ...

    def state_dict(self) -> EngineState:
        """Return a copy of the state on the host. It is the same on every rank."""
        ...

    def load_state_dict(self, state: EngineState) -> None:
        """Restore a state. Raises UserError that lists every name or shape that does not fit."""
        ...

    def all_sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of float64 or int64 `values` over all ranks, added in rank order.

        The only collective of the loop: sums of an evaluation, agreement to stop, barriers.
        """
        ...

    def close(self) -> None:
        """Leave the process group. The engine is not used afterwards."""
        ...


_ENGINES = {
    "torch": ("seresnext.engines.torch.engine", "TorchEngine"),
    "mindspore": ("seresnext.engines.mindspore.engine", "MindSporeEngine"),
}


def create_engine(
    spec: ModelSpec,
    weights: Mapping[str, NDArray[Any]],
    engine: EngineConfig,
    optim: OptimConfig | None = None,
    loss: LossConfig | None = None,
) -> Engine:
    """Return the configured engine on its device, with these weights.

    Without `optim` it only predicts; without `loss` it trains with the default loss. The framework
    is imported here; if it is missing, UserError names the extra to install.
    """
    module_name, class_name = _ENGINES[engine.name]
    module = load_module(module_name, engine.name, f"the {engine.name} engine")
    built: Engine = getattr(module, class_name)(spec, weights, engine, optim, loss)
    return built
