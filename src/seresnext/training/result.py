"""`RUN/result.json`: how a run ended, and which model it left, with that model's own score."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..files import read_json, write_json
from ..model.saved_model import WEIGHTS_FILE
from .metrics import Metrics, metrics_from

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Result:
    """The end of a run."""

    step: int
    """Steps done."""
    ship: Literal["best", "last", "average", "unknown"] = "unknown"
    """Which weights the model has (`run.ship`); version 0.1 did not record it."""
    model_step: int = 0
    """The step that they are from."""
    metrics: Metrics | None = None
    """Of the model; None without validation images."""
    sha256: str = ""
    """Of the model's weights file."""

    def __str__(self) -> str:
        if self.ship == "unknown":
            return "weights of a version that recorded no score"
        score = f": top-1 {self.metrics.top1:.2%}" if self.metrics else ""
        return f"{self.ship} weights, of step {self.model_step}{score}"


def write_result(run: Path, result: Result) -> None:
    """Write the result of the model that has just been written. Raises UserError."""
    write_json(run / RESULT_FILE, asdict(replace(result, sha256=_digest(run))), sync=True)


def read_result(run: Path, step: int) -> Result | None:
    """Return the result of the model in the folder of a run that has ended after `step` steps.

    None without a model, and where the model is not the one that the file describes.
    """
    if not (run / RESULT_FILE).exists() and (run / "model" / WEIGHTS_FILE).exists():
        return Result(step)  # of version 0.1
    try:
        data: dict[str, Any] = read_json(run / RESULT_FILE)
        metrics = data["metrics"] and metrics_from(data["metrics"])
        result = Result(**{**data, "metrics": metrics})
        return result if result.sha256 == _digest(run) else None
    except (UserError, OSError, TypeError, KeyError):
        return None


def _digest(run: Path) -> str:
    with open(run / "model" / WEIGHTS_FILE, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
