"""The model of a run, of one of its checkpoints, or of a model folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import UserError
from ..files import read_json
from ..model.architecture import check_tensors, weight_shapes
from ..model.saved_model import CONFIG_FILE, WEIGHTS_FILE, load_model
from ..model.spec import ModelSpec, parse_spec
from ..training.checkpoint import (
    MANIFEST,
    STATE,
    Checkpoint,
    checkpoint_path,
    load_checkpoint,
    newest_checkpoint,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """What `seresnext train` or `seresnext convert` wrote."""

    spec: ModelSpec
    weights: dict[str, NDArray[Any]]
    """Canonical name -> float32; the averaged ones where a checkpoint has both."""
    file: Path
    """The file of the weights."""


def load_trained(path: Path) -> TrainedModel:
    """Read a run folder, a checkpoint folder or a model folder of this package.

    Of a run that has no finished model its newest checkpoint is read, and a warning says so. Raises
    UserError for anything else, and where files are damaged.
    """
    model = find_trained(path)
    if model is None:
        raise UserError(
            f"{path} holds no finished model; expected a run folder (with model/ or checkpoints/), "
            f"one of its checkpoints, or a folder with {WEIGHTS_FILE} and {CONFIG_FILE}"
        )
    return model


def find_trained(path: Path) -> TrainedModel | None:
    """`load_trained`, but None for a folder that holds none of these."""
    for folder in (path / "model", path):
        if (folder / CONFIG_FILE).is_file() and _is_ours(folder / CONFIG_FILE):
            spec, weights = load_model(folder)
            return TrainedModel(spec, weights, folder / WEIGHTS_FILE)
    if (path / MANIFEST).is_file():
        return _of_checkpoint(path, load_checkpoint(path))
    checkpoint, problems = newest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        return None
    for problem in problems:
        _log.warning("passed over: %s", problem)
    _log.warning("%s is not finished; using its newest checkpoint, step %d", path, checkpoint.step)
    return _of_checkpoint(checkpoint_path(path / "checkpoints", checkpoint.step), checkpoint)


def _is_ours(config: Path) -> bool:
    data = read_json(config)
    return isinstance(data, dict) and "seresnext" in data


def _of_checkpoint(folder: Path, checkpoint: Checkpoint) -> TrainedModel:
    spec = parse_spec(checkpoint.state.get("model"), folder / STATE)
    group = "ema" if checkpoint.tensors.get("ema") else "model"
    weights, shapes = checkpoint.tensors.get(group, {}), weight_shapes(spec.architecture)
    check_tensors(shapes, weights, f"the weights in {folder}")
    ordered = {name: weights[name] for name in shapes}
    return TrainedModel(spec, ordered, folder / f"{group}.safetensors")
