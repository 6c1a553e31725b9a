"""A finished model on disk: `model.safetensors` + `config.json`, which timm opens as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..errors import UserError
from .architecture import MODEL_NAMES, Architecture, architecture, weight_shapes
from .spec import ModelSpec

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_TIMM_NAMES = set(MODEL_NAMES) - {"seresnext26_32x4d", "seresnext50d_32x4d"}
"""Networks that timm knows by the same name; the others it builds from options."""


def save_model(folder: Path, spec: ModelSpec, weights: Mapping[str, np.ndarray]) -> None:
    """Write the model; each file appears whole or not at all.

    `config.json` is timm's local-directory layout with the full `ModelSpec` under `seresnext`.
    A network with max-pool `same` names no architecture for timm, which would open it silently
    wrong. The weights carry the `ModelSpec` too (safetensors metadata), so that the file alone
    still says which network it belongs to.
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
            "crop_mode": "center" if inputs.resize == "short" else "squash",
            "mean": list(inputs.mean),
            "std": list(inputs.std),
            "num_classes": arch.num_classes,
            "pool_size": [-(-inputs.image_size // 32)] * 2,
            "first_conv": "conv1" if arch.stem == "conv7" else "conv1.0",
            "classifier": "fc",
        },
        "seresnext": spec.to_dict(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS_FILE}.{os.getpid()}"
    # A single key: safetensors would write several in a random order.
    metadata = {"seresnext": json.dumps(spec.to_dict())}
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, temporary, metadata)
    os.replace(temporary, folder / WEIGHTS_FILE)
    temporary = folder / f".{CONFIG_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(temporary, folder / CONFIG_FILE)


def _timm_architecture(arch: Architecture) -> dict[str, Any]:
    """timm's name for the network and the options that it needs besides."""
    standard = Architecture()
    if arch.max_pool != standard.max_pool or arch.se_reduction != standard.se_reduction:
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


def load_model(folder: Path) -> tuple[ModelSpec, dict[str, np.ndarray]]:
    """Read what `save_model` wrote. Raises UserError for anything missing, damaged or unfitting."""
    try:
        data = json.loads((folder / CONFIG_FILE).read_text())
        spec = ModelSpec.from_dict(data["seresnext"])
    except OSError as error:
        raise UserError(f"cannot read model {folder}: {error.strerror}: {CONFIG_FILE}") from None
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{folder / CONFIG_FILE} does not describe a model of this package ({error!r}); "
            "expected a folder written by `seresnext train` or `seresnext convert`"
        ) from None
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read weights {folder / WEIGHTS_FILE}: {error}") from None
    check_tensors(weight_shapes(spec.architecture), weights, f"the weights in {folder}")
    return spec, {name: weights[name] for name in weight_shapes(spec.architecture)}


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray], what: str
) -> None:
    """Raise UserError listing every name or shape of `found` that differs from `expected`."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(f"{what} do not fit the network: {'; '.join(problems[:8])}{more}")
