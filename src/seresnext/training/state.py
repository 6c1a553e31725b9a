"""Where a run stands, and whether a checkpoint may continue as this run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..config import Config, upgraded
from ..errors import UserError
from ..model.spec import ModelSpec
from .metrics import Metrics, metrics_from


@dataclass
class Progress:
    """Everything about a run that is not in the engine and not in the config."""

    step: int = 0
    """Steps done."""
    best_top1: float = -1.0
    best_step: int | None = None
    evaluations_since_best: int = 0
    evaluated_step: int = 0
    """Step of the last evaluation."""
    last_metrics: Metrics | None = None
    best_metrics: Metrics | None = None
    """Of `best_step`; None where a checkpoint of version 0.1 does not tell."""

    def record(self, metrics: Metrics) -> bool:
        """Take an evaluation at the present step; True when it is the best so far.

        The higher top-1 is better, of equal ones the lower loss. Early stopping counts
        evaluations without a higher top-1.
        """
        self.last_metrics, self.evaluated_step = metrics, self.step
        best, higher = self.best_metrics, metrics.top1 > self.best_top1
        self.evaluations_since_best = 0 if higher else self.evaluations_since_best + 1
        if higher or (best and metrics.top1 == best.top1 and metrics.loss < best.loss):
            self.best_top1, self.best_step, self.best_metrics = metrics.top1, self.step, metrics
            return True
        return False

    def forget_best(self) -> None:
        """Take no earlier evaluation as the best: its weights are not in this run's folder."""
        self.best_top1, self.best_step, self.best_metrics = -1.0, None, None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Progress:
        found = {name: data.get(name) for name in ("last_metrics", "best_metrics")}
        return cls(**{**data, **{k: metrics_from(v) if v else None for k, v in found.items()}})


def checkpoint_state(
    progress: Progress,
    config: Config,
    spec: ModelSpec,
    fingerprint: str,
    global_batch: int,
    world_size: int,
    steps_per_epoch: float,
    engine: dict[str, Any],
) -> dict[str, Any]:
    """The JSON state of a checkpoint."""
    return {
        "progress": progress.to_dict(),
        "samples_seen": progress.step * global_batch,
        "epoch": progress.step / steps_per_epoch,
        "config": dataclasses.asdict(config),
        "model": spec.to_dict(),
        "data_fingerprint": fingerprint,
        "global_batch": global_batch,
        "world_size": world_size,
        "engine": engine,
    }


_ORDER_FIELDS = {
    "run.seed": None,
    "data.drop_last": None,
    "augment.repeats": 1,
    "data.shuffle_archives": 0,
}
"""Fields that decide which sample is seen when: a run cannot continue under other values. With the
value that a version had which knew no such field."""
_FREE_FIELDS = (
    *("run.out", "run.resume", "run.rank_timeout", "run.report"),
    *("data.workers", "data.root", "data.train", "data.val"),
)
"""Fields that change nothing of the result; not worth a word when they differ."""


def check_resumable(
    state: dict[str, Any],
    config: Config,
    spec: ModelSpec,
    fingerprint: str,
    world_size: int,
    threads: int,
) -> tuple[int, list[str]]:
    """May this run go on from a checkpoint with `state`?

    Returns the global batch to go on with and remarks for the user. Raises UserError naming what
    differs: network, classes, input, data, seed or batch.
    """
    try:
        saved_spec = ModelSpec.from_dict(state["model"])
        saved_config, saved_print = upgraded(dict(state["config"])), state["data_fingerprint"]
        saved_batch, saved_world = int(state["global_batch"]), int(state["world_size"])
        saved_threads = int(state["engine"]["threads"])
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"the checkpoint's state.json lacks or garbles {error}") from None
    _check_spec(saved_spec, spec)
    if saved_print != fingerprint and not config.data.allow_change:
        raise UserError(
            "the training images are not those of the checkpoint (fingerprint "
            f"{fingerprint[:12]}, checkpoint {saved_print[:12]}): files were added, removed or "
            "changed in size, or --val-share or --data.balance differs. Restore them, start in "
            "another --out, or pass --allow-data-change"
        )
    remarks = []
    if saved_print != fingerprint:
        remarks.append("the training images have changed since the checkpoint, as allowed")
    saved, now = _flat(saved_config), _flat(dataclasses.asdict(config))
    for name, early in _ORDER_FIELDS.items():
        if (before := saved.get(name, early)) != now[name]:
            raise UserError(
                f"{name} was {before!r} in the checkpoint and is {now[name]!r} now; the order of "
                "the samples depends on it. Use the old value or another --out"
            )
    if (before := saved.get("optim.name", "sgd")) != now["optim.name"]:
        raise UserError(
            f"optim.name was {before!r} in the checkpoint and is {now['optim.name']!r} now, which "
            "has no use for its state. Use the old value, or begin in another --out, with the "
            "checkpoint's weights by --pretrained"
        )
    before = saved.get("optim.freeze", "")
    if before != now["optim.freeze"] and now["optim.name"] != "sgd":
        raise UserError(
            f"optim.freeze was {before!r} in the checkpoint and is {now['optim.freeze']!r} now; "
            f"{now['optim.name']} needs averages of the gradient from the first step on. Use the "
            "old value, or begin in another --out, with the checkpoint's weights by --pretrained"
        )
    if saved.get("run.batch_size") != now["run.batch_size"] and (
        now["run.batch_size"] * world_size != saved_batch
    ):
        raise UserError(
            f"the checkpoint's global batch is {saved_batch} images; --batch-size "
            f"{now['run.batch_size']} on {world_size} processes makes "
            f"{now['run.batch_size'] * world_size}. Use the old value or another --out"
        )
    if saved_world != world_size:
        remarks.append(
            f"processes: {saved_world} before, {world_size} now; the order of the samples is the "
            "same, the arithmetic may differ in rounding"
            + (" (not with virtual shards)" if config.engine.virtual_shards else "")
        )
    if saved_threads != threads:
        remarks.append(
            f"compute threads per process: {saved_threads} before, {threads} now; the result may "
            "differ in the last bits"
        )
    remarks += [
        f"{name} changed since the checkpoint: {saved[name]!r} -> {now[name]!r}"
        for name in now
        if name in saved
        and not _same(saved[name], now[name])
        and name not in (*_FREE_FIELDS, "run.batch_size", "data.allow_change")
    ]
    return saved_batch, remarks


def _check_spec(saved: ModelSpec, now: ModelSpec) -> None:
    different = _different(vars(saved.architecture), vars(now.architecture))
    if different:
        raise UserError(
            f"the network is not the checkpoint's ({'; '.join(different)}); "
            "use the old settings or another --out"
        )
    if saved.class_names != now.class_names:
        gone = sorted(set(saved.class_names) - set(now.class_names))
        come = sorted(set(now.class_names) - set(saved.class_names))
        detail = f"missing {gone[:5]}, new {come[:5]}" if gone or come else "another order"
        raise UserError(f"the classes are not the checkpoint's: {detail}; use another --out")
    different = _different(vars(saved.input), vars(now.input))
    if different:
        raise UserError(
            f"the model's input is not the checkpoint's ({'; '.join(different)}); "
            "use the old settings or another --out"
        )


def _different(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{k}: {old[k]!r} -> {new[k]!r}" for k in new if not _same(old[k], new[k])]


def _flat(group: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{prefix}{name}."))
        else:
            out[prefix + name] = value
    return out


def _same(a: Any, b: Any) -> bool:
    """Equality after a journey through JSON (tuples become lists)."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
