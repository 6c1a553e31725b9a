"""What `engine.precision auto` stands for: a measurement on this machine decides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from ...config import EngineConfig, LossConfig, Precision
from ...machine import cpu_has_bf16
from ...model.spec import ModelSpec
from ..common import World
from .distributed import broadcast
from .flat import NetworkTensors
from .loss import Normalise, TrainingLoss
from .network import attach, empty_network

_ORDER: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
_GAIN = 1.1
"""bf16 is taken from this speed on: below it, noise of the measurement could decide."""
_PIXELS, _FEWEST, _MOST = 4 * 224 * 224, 4, 32
"""Size of the measured batch: about so many pixels, and so many images."""
_ROUNDS, _SECONDS = 3, 1.0
"""The measurement ends when both are reached."""


class Choice(NamedTuple):
    precision: Precision
    reason: str
    """A sentence where it was measured, else empty."""


def settle(
    engine: EngineConfig,
    spec: ModelSpec,
    weights: Mapping[str, NDArray[Any]],
    device: torch.device,
    world: World,
    trains: bool,
) -> Choice:
    """Return the precision of all ranks: the one that rank 0 is told, or measures. A collective.

    An engine that only predicts takes `auto` for fp32.
    """
    choice = Choice(engine.precision, "")
    if choice.precision == "auto":
        choice = Choice("fp32", "")
        if trains and world.rank == 0:
            choice = _measured(engine, spec, weights, device)
    number = torch.tensor(_ORDER.index(choice.precision), device=device)
    broadcast(number, world)
    return choice._replace(precision=_ORDER[int(number)])


def _measured(
    engine: EngineConfig,
    spec: ModelSpec,
    weights: Mapping[str, NDArray[Any]],
    device: torch.device,
) -> Choice:
    if not has_bf16(device):
        return Choice("fp32", f"this {device.type} has no bfloat16 arithmetic that we know of")
    size = spec.input.image_size
    images = min(max(_PIXELS // size**2, _FEWEST), _MOST)
    full, half = step_seconds(engine, spec, weights, device, images)
    faster = full / half >= _GAIN
    return Choice(
        "bf16" if faster else "fp32",
        f"a step of {images} images takes {full:.3g} s in fp32 and {half:.3g} s in bf16 "
        f"({full / half:.2f}x as fast"
        + (")" if faster else f"; {_GAIN}x is needed to lower the precision)"),
    )


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bf16()


def step_seconds(
    engine: EngineConfig,
    spec: ModelSpec,
    weights: Mapping[str, NDArray[Any]],
    device: torch.device,
    images: int,
) -> tuple[float, float]:
    """Return the seconds of a forward and backward pass, in fp32 and in bf16.

    Of a copy of the network, uncompiled, in turns; medians.
    """
    tensors = NetworkTensors(
        {name: array.shape for name, array in weights.items()}, device, engine.channels_last
    )
    tensors.load(weights)
    network = empty_network(spec.architecture)
    attach(network, tensors.views)
    normalise = Normalise(spec.input.mean, spec.input.std, device, engine.channels_last)
    size = spec.input.image_size
    pixels = torch.randint(
        256, (images, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).to(device)
    labels = torch.zeros(images, dtype=torch.int64, device=device)
    rows = torch.ones(images, device=device)

    def passes(autocast: torch.dtype | None) -> Callable[[], float]:
        loss = TrainingLoss(network, normalise, LossConfig(), autocast).train()

        def seconds() -> float:
            start = time.perf_counter()
            loss.zero_grad()
            loss(pixels, labels, labels, rows, rows.bool())[0].backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - start

        return seconds

    full, half = passes(None), passes(torch.bfloat16)
    end = time.perf_counter() + _SECONDS
    for first in (full, half):
        first()  # allocates and chooses kernels
    times = [(full(), half()) for _ in range(_ROUNDS)]
    while time.perf_counter() < end:
        times.append((full(), half()))
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)
