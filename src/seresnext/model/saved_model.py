"""The model folder: `model.safetensors` and `config.json`, which timm opens as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, listed
from ..files import read_json, write_json
from ..tensors import list_safetensors, save_safetensors
from .architecture import (
    MODEL_NAMES,
    Architecture,
    architecture,
    check_tensors,
    weight_shapes,
)
from .spec import ModelSpec, parse_spec

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_TIMM_NAMES = set(MODEL_NAMES) - {"seresnext26_32x4d", "seresnext50d_32x4d"}
"""Networks that timm has under the same name; the others are written with its options."""


def save_model(folder: Path, spec: ModelSpec, weights: Mapping[str, NDArray[Any]]) -> None:
    """Write the model; each file appears whole or not at all.

    `config.json` has timm's local-directory layout with the full `ModelSpec` under `seresnext`. It
    names no architecture for a network that timm has not: with max-pool `same`, which it would open
    with the wrong padding, or without a bias. The weights file has the `ModelSpec` too, in its
    metadata, so that it can be opened alone. Raises UserError if a file cannot be written.
    """
    arch, inputs = spec.architecture, spec.input
    config = {
        **_timm_architecture(arch),
        "num_classes": arch.num_classes,
        "num_features": arch.num_features,
        "label_names": list(spec.class_names),
        "pretrained_cfg": {
            "input_size": [3, inputs.image_size, inputs.image_size],
            "fixed_input_size": False,
            "interpolation": inputs.interpolation,
            "crop_pct": inputs.crop_ratio,
            "crop_mode": "squash" if inputs.resize == "stretch" else "center",
            "mean": list(inputs.mean),
            "std": list(inputs.std),
            "num_classes": arch.num_classes,
            "pool_size": [-(-inputs.image_size // 32)] * 2,
            "first_conv": "conv1" if arch.stem == "conv7" else "conv1.0",
            "classifier": "fc",
        },
        "seresnext": spec.to_dict(),
    }
    # A single key: safetensors writes several in a random order.
    metadata = {"seresnext": json.dumps(spec.to_dict())}
    tensors = {**weights, **batch_counters(arch)}
    save_safetensors(folder / WEIGHTS_FILE, tensors, metadata)
    write_json(folder / CONFIG_FILE, config)


def _timm_architecture(arch: Architecture) -> dict[str, Any]:
    """The entries of timm's config.json that select the network: its name and options."""
    standard = Architecture()
    if any(
        getattr(arch, field) != getattr(standard, field)
        for field in ("max_pool", "se_reduction", "classifier_bias", "se_bias")
    ):
        return {"architecture": None}
    if arch.name in _TIMM_NAMES and weight_shapes(arch) == weight_shapes(
        architecture(arch.name, num_classes=arch.num_classes)
    ):
        return {"architecture": arch.name}
    options = {
        "layers": list(arch.layers),
        "cardinality": arch.cardinality,
        "base_width": arch.base_width,
        "avg_down": arch.downsample == "avg",
    }
    if arch.stem == "deep":
        options |= {"stem_width": 32, "stem_type": "deep"}
    return {"architecture": standard.name, "model_args": options}


def load_model(folder: Path) -> tuple[ModelSpec, dict[str, NDArray[Any]]]:
    """Read what `save_model` wrote.

    Raises UserError if a file is missing or damaged or the weights do not fit.
    """
    file = folder / CONFIG_FILE
    config = read_json(file, "model")
    spec = parse_spec(config.get("seresnext") if isinstance(config, dict) else None, file)
    path = folder / WEIGHTS_FILE
    stored, _ = list_safetensors(path)
    counters = batch_counters(spec.architecture)
    found = {name: tensor for name, tensor in stored.items() if name not in counters}
    shapes = weight_shapes(spec.architecture)
    check_tensors(shapes, found, f"the weights in {folder}")
    whole = [name for name in shapes if found[name].dtype.kind != "f"]
    if whole:
        raise UserError(f"{path} holds no floating-point numbers in {listed(whole)}")
    return spec, {name: np.require(found[name].read(), np.float32) for name in shapes}


def batch_counters(arch: Architecture) -> dict[str, NDArray[np.int64]]:
    """PyTorch's counters of batches, one for each BN: int64 zeros of shape ().

    This package does not use them; transformers lists every one that a file lacks.
    """
    means = [name for name in weight_shapes(arch) if name.endswith(".running_mean")]
    zero = np.zeros((), np.int64)
    return {name.replace("running_mean", "num_batches_tracked"): zero for name in means}
