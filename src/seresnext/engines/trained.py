"""Which parameters a run trains, how fast, and which BN statistics follow the batches."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import OptimConfig
from ..model.architecture import Architecture, decays, is_buffer, weight_shapes
from ..model.stages import depth_below_output, stage_of, stages_between


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike."""

    names: tuple[str, ...]
    weight_decay: float
    rate: float
    """Factor of the learning rate."""


def trained_groups(arch: Architecture, optim: OptimConfig) -> list[Group]:
    """Return the trained parameters: those of no frozen stage, kernels and matrices (which decay)
    apart from BN and biases, by their rate."""
    frozen = stages_between(optim.freeze)
    groups: dict[tuple[bool, float], list[str]] = {}
    for name, shape in weight_shapes(arch).items():
        if not is_buffer(name) and stage_of(name) not in frozen:
            rate = optim.layer_decay ** depth_below_output(name, arch)
            groups.setdefault((decays(shape), rate), []).append(name)
    return [
        Group(tuple(names), optim.weight_decay if decay else 0.0, rate)
        for (decay, rate), names in groups.items()
    ]


def clipped_by_unit(name: str) -> bool:
    """Return whether adaptive gradient clipping concerns a parameter: not the classifier's
    (arXiv:2102.06171, section 4.1)."""
    return not name.startswith("fc.")


def fixed_statistics(arch: Architecture, optim: OptimConfig) -> frozenset[str]:
    """Return the BN statistics that training neither uses the batch for nor changes: those of
    frozen stages, or all."""
    frozen = stages_between(optim.freeze)
    return frozenset(
        name
        for name in weight_shapes(arch)
        if is_buffer(name) and (optim.freeze_bn or stage_of(name) in frozen)
    )
