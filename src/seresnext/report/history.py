"""What run folders say of how training went."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import upgraded
from ..errors import UserError
from ..files import read_json
from ..training.log import METRICS_FILE, read_metrics
from ..training.run_folder import EVENTS_FILE
from ..training.step_log import BAD_STEPS_FILE


@dataclass(frozen=True)
class History:
    """One run: its settings and its records."""

    name: str
    settings: dict[str, Any]
    """Flat: "optim.momentum" -> value."""
    records: list[dict[str, float]]
    """As in `metrics.jsonl`."""
    bad_steps: tuple[int, ...]
    """Steps whose loss or gradient was not finite."""
    resumed: tuple[int, ...]
    """Steps after which the run was stopped, or killed, and went on."""

    def series(self, field: str) -> tuple[list[float], list[float]]:
        """Return the epochs and the values of the records that have `field`."""
        found = [(r["epoch"], r[field]) for r in self.records if field in r and "epoch" in r]
        return [x for x, _ in found], [y for _, y in found]

    def epoch(self, step: int) -> float:
        """Return where a step is on the axis of epochs."""
        known = next((r for r in self.records if r.get("epoch") and r["step"]), None)
        return step * known["epoch"] / known["step"] if known else 0.0

    def summary(self) -> dict[str, float | None]:
        """Return best and final figures; None where there are none."""
        top1 = self.series("val/top1")[1]
        speed = sorted(self.series("images_per_second")[1])
        return {
            "steps": int(max((r["step"] for r in self.records), default=0)),
            "best_val_top1": max(top1, default=None),
            "final_val_top1": top1[-1] if top1 else None,
            "final_val_loss": self._last("val/loss"),
            "final_train_loss": self._last("train/loss"),
            "images_per_second": speed[len(speed) // 2] if speed else None,
        }

    def _last(self, field: str) -> float | None:
        values = self.series(field)[1]
        return values[-1] if values else None


def has_history(path: Path) -> bool:
    """Whether `path` is a run folder with records, and not just a model."""
    return (path / METRICS_FILE).is_file()


def read_history(run: Path) -> History:
    """Read a run folder. Raises UserError when it has no records."""
    records = read_metrics(run)
    if not records:
        raise UserError(
            f"{run} has no metrics.jsonl with records; expected a run folder of `train`"
        )
    bad = tuple(r["step"] for r in _lines(run / BAD_STEPS_FILE))
    resumed = tuple(r["step"] for r in _lines(run / EVENTS_FILE) if r.get("event") == "resumed")
    settings = read_json(run / "config.json") if (run / "config.json").exists() else {}
    return History(run.resolve().name, _flat(upgraded(settings)), records, bad, resumed)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of JSON lines that have a step, without one cut short."""
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield record


def different_settings(histories: Sequence[History]) -> dict[str, list[Any]]:
    """Return the settings in which the runs differ: name -> value of each run."""
    names = dict.fromkeys(name for history in histories for name in history.settings)
    values = {n: [h.settings.get(n) for h in histories] for n in names if n != "run.out"}
    return {n: row for n, row in values.items() if any(v != row[0] for v in row[1:])}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
