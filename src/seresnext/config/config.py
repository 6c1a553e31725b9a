"""The whole configuration of one run, and how it is changed.

A recipe (`recipes.py`) returns a full `Config`. The command line (`--optim.lr-per-256 0.1`) and
`Config.replace` change fields of it. `RUN/config.json` holds what was used; `--config` reruns it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from pydantic import Field

from ..batch import check_batch_size
from ..errors import UserError
from ..schema import checked
from .groups import (
    AugmentConfig,
    DataConfig,
    EngineConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
)

SHORT_NAMES = {
    "data": "data.root",
    "train_data": "data.train",
    "val_data": "data.val",
    "val_share": "data.val_share",
    "workers": "data.workers",
    "on_bad_image": "data.on_bad_image",
    "follow_links": "data.follow_links",
    "max_pixels": "data.max_pixels",
    "allow_data_change": "data.allow_change",
    "out": "run.out",
    "epochs": "run.duration",
    "batch_size": "run.batch_size",
    "seed": "run.seed",
    "resume": "run.resume",
    "pretrained": "run.pretrained",
    "model": "model.name",
    "engine": "engine.name",
    "device": "engine.device",
    "precision": "engine.precision",
    "virtual_shards": "engine.virtual_shards",
    "image_size": "augment.image_size",
    "lr": "optim.lr",
}
"""Short name -> field, for the fields that change most; `epochs` is a number of epochs."""

MOST_ADAPTIVE = 0.05
"""Learning rate per 256 images that no run with AdamW or LAMB wants to have."""

Group = Mapping[str, Any]


class Changes(TypedDict, total=False):
    """What `Config.replace` takes: short names, and fields of whole groups."""

    data: str | Group
    train_data: str
    val_data: str
    val_share: float
    workers: int
    on_bad_image: str
    follow_links: bool
    max_pixels: int
    allow_data_change: bool
    out: str
    epochs: float
    batch_size: int
    seed: int
    resume: str
    pretrained: str
    model: str | Group
    engine: str | Group
    device: str
    precision: str
    virtual_shards: int
    image_size: int
    lr: float
    augment: Group
    loss: Group
    optim: Group
    schedule: Group
    run: Group


@checked("")
class Config:
    """One run, complete: what `train` takes.

    >>> seresnext.recipe("demo").optim.nesterov
    True
    """

    recipe: str = "imagenet"
    """Recipe to start from (`seresnext recipes`). The fields below decide."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    run: RunConfig = Field(default_factory=RunConfig)

    def replace(self, **changes: Unpack[Changes]) -> Config:
        """Return a copy with some fields changed.

        A name is one of the command line's short flags (`data="photos"`, `epochs=5`) or a group
        with its fields (`optim={"momentum": 0.95}`). Raises UserError naming the field for an
        unknown name or a value out of range.

        >>> config = seresnext.recipe("finetune").replace(data="photos", optim={"momentum": 0.95})
        >>> config.data.root, config.optim.momentum
        ('photos', 0.95)
        """
        values: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            if isinstance(value, Mapping):
                values.setdefault(name, {}).update(value)
            elif name in SHORT_NAMES:
                group, field = SHORT_NAMES[name].split(".")
                if name == "epochs":
                    value = f"{value:g} epochs"
                values.setdefault(group, {})[field] = str(value) if field == "root" else value
            else:
                raise UserError(f"no setting {name!r}; the names are {', '.join(SHORT_NAMES)}")
        if "lr_per_256" in values.get("optim", ()):  # of the two rates, the one set last counts
            values["optim"].setdefault("lr", None)
        if values.get("data", {}).get("train"):  # no validation images of another data set
            values["data"].setdefault("root", "")
        return dataclasses.replace(
            self,
            **{
                group: dataclasses.replace(getattr(self, group), **fields)
                for group, fields in values.items()
            },
        )

    def check(self) -> Config:
        """Return the configuration itself if its fields go together.

        Each field's own range is checked when its group is made. Raises UserError naming the field
        that does not go with another one.

        >>> seresnext.recipe("demo").replace(optim={"accumulate": 5}).check()
        Traceback (most recent call last):
        seresnext.errors.UserError: optim.accumulate: expected a divisor of run.batch_size...
        """
        self.model.architecture(1)
        self.augment.input_spec()
        check_batch_size(self.run.batch_size, self.augment.image_size, "run.batch_size")
        eval_size = self.run.eval_batch_size or self.run.batch_size
        check_batch_size(eval_size, self.augment.input_spec().image_size, "run.eval_batch_size")
        augment, optim, engine, batch_size = (
            self.augment,
            self.optim,
            self.engine,
            self.run.batch_size,
        )
        mixing = augment.mixup > 0 or augment.cutmix > 0
        rules = [
            (
                augment.start_size <= augment.image_size,
                *("augment.start_size", f"augment.image_size ({augment.image_size}) or less"),
            ),
            (
                augment.grow_begin <= augment.grow_end,
                *("augment.grow_begin", f"augment.grow_end ({augment.grow_end:g}) or less"),
            ),
            (
                augment.shift < augment.smallest_size,
                *("augment.shift", f"less than the {augment.smallest_size} px of the images"),
            ),
            (
                optim.momentum > 0 or not optim.nesterov,
                *("optim.nesterov", "a momentum above 0 beside it"),
            ),
            (
                batch_size % optim.accumulate == 0,
                *("optim.accumulate", f"a divisor of run.batch_size ({batch_size})"),
            ),
            (
                batch_size % 2 == 0 or not mixing,
                *("run.batch_size", "an even number with mixup or cutmix"),
            ),
            (
                augment.repeats == 1 or not self.data.drop_last,
                *("augment.repeats", "1 with data.drop_last"),
            ),
            (
                not augment.mix_off or mixing,
                *("augment.mix_off", "none without augment.mixup or augment.cutmix"),
            ),
            (
                self.run.ship != "average" or optim.ema_decay > 0,
                *("run.ship", "best or last without optim.ema_decay, which makes the average"),
            ),
            (
                optim.name == "sgd" or optim.lr is not None or optim.lr_per_256 <= MOST_ADAPTIVE,
                "optim.lr_per_256",
                f"{MOST_ADAPTIVE} or less with optim.name {optim.name}, whose rates are smaller "
                "than SGD's (adamw: --lr 1e-3 or less, lamb: --lr 5e-3 at 2048 images)",
            ),
            (
                not optim.clip_unit or not optim.clip_norm,
                *("optim.clip_unit", "0 beside optim.clip_norm: one of the two clips"),
            ),
            (
                not optim.freeze or self.run.pretrained or self.run.resume not in ("auto", "never"),
                "optim.freeze",
                "none without --pretrained, because random weights would stay random",
            ),
            (
                self.loss.threshold is None or self.loss.kind == "binary",
                *("loss.threshold", "none without --loss.kind binary, whose targets it makes"),
            ),
            (
                bool(self.loss.teacher) or self.loss.teacher_share == LossConfig().teacher_share,
                *("loss.teacher_share", "none without --loss.teacher"),
            ),
            (
                bool(self.loss.teacher) or self.loss.temperature == 1,
                *("loss.temperature", "none without --loss.teacher, whose answers it softens"),
            ),
            (
                not self.loss.class_weights or self.loss.class_balance == 0,
                *("loss.class_balance", "0 beside loss.class_weights, which say the same"),
            ),
            (
                not engine.virtual_shards or engine.name == "torch",
                *("engine.virtual_shards", "0, or --engine torch, which alone has them"),
            ),
            (
                not engine.virtual_shards or (optim.accumulate == 1 and not engine.sync_bn),
                "engine.virtual_shards",
                "optim.accumulate 1 and no engine.sync_bn (a shard is the unit of both)",
            ),
        ]
        for holds, name, expected in rules:
            if not holds:
                group, field = name.split(".")
                value = getattr(getattr(self, group), field)
                raise UserError(f"{name}: expected {expected}, got {value!r}")
        return self
