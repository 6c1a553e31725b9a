"""Small networks whose logits depend on the image, and the logits of the torch engine."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from seresnext.config import EngineConfig
from seresnext.engines.base import create_engine
from seresnext.model.architecture import architecture
from seresnext.model.init import init_weights
from seresnext.model.spec import InputSpec, ModelSpec
from seresnext.runtimes.artifact import Artifact

CLASSES = ("blue", 'grün "&<', "red", "черный", "white")


def tiny_spec(
    image_size: int = 32, classes: tuple[str, ...] = CLASSES, **network: Any
) -> ModelSpec:
    arch = architecture(
        "seresnext26_32x4d", num_classes=len(classes), **({"layers": (1, 1, 1, 1)} | network)
    )
    inputs = InputSpec(image_size, 0.9, "bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return ModelSpec(arch, classes, inputs)


def random_weights(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Every BN different from the identity, so that folding changes the weights."""
    rng = np.random.default_rng(seed)
    weights = init_weights(spec.architecture, seed)
    for name, value in weights.items():
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith(".weight")):
            weights[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif value.ndim == 1:
            weights[name] = rng.normal(0, 0.2, value.shape).astype(np.float32)
    return weights


def random_images(count: int, side: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, side, side, 3]: patches of colour, so that they differ after pooling."""
    rng = np.random.default_rng(seed)
    steps = np.arange(side) * 4 // side
    patches = rng.integers(0, 256, (count, 4, 4, 3))[:, steps][:, :, steps]
    noise = rng.normal(0, 20, (count, side, side, 3))
    return np.clip(patches + noise, 0, 255).astype(np.uint8)


def artifact(spec: ModelSpec, **fields: Any) -> Artifact:
    return Artifact(spec, "5" * 64, "1.2.3", **fields)


@cache
def engine_logits(spec: ModelSpec, count: int = 9) -> np.ndarray:
    """float32 [count, K] of `random_weights` and `random_images`."""
    settings = EngineConfig(device="cpu", threads=1)
    engine = create_engine(spec, random_weights(spec), settings)
    return engine.predict(random_images(count, spec.input.image_size))


@cache
def engine_maps(spec: ModelSpec, count: int = 9) -> np.ndarray:
    """float32 [count, K, h, w]: each class's map, of the same network and images."""
    engine = create_engine(spec, random_weights(spec), EngineConfig(device="cpu", threads=1))
    features = engine.activations(random_images(count, spec.input.image_size)).features
    rows = random_weights(spec)["fc.weight"]
    return np.stack([[np.tensordot(row, f, axes=1) for row in rows] for f in features])


def difference(logits: np.ndarray, expected: np.ndarray) -> float:
    """Largest, relative to the largest expected logit."""
    assert logits.shape == expected.shape
    assert logits.dtype == np.float32
    return float(np.abs(logits - expected).max() / np.abs(expected).max())
