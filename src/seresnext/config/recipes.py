"""Recipes: functions that return a full `Config`.

Each docstring ends with the lines of `LABELS`, which `seresnext recipes` prints: the command, the
hardware and time, the accuracy with where it is from, and whether anybody has run it here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import UserError
from . import imagenet
from .config import Config
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

LABELS = ("Command", "Hardware", "Accuracy", "Run here")


def demo() -> Config:
    """SE-ResNeXt50 on scikit-learn's handwritten digits at 32 px, as `make demo` runs it.

    Command: seresnext train --recipe demo --data data/digits
    Hardware: one device of 32 images; 3 to 4 minutes on two CPU cores.
    Accuracy: 99.15 % top-1 on 355 digits, measured (docs/benchmarks.md).
    Run here: yes, at every release.
    """
    return Config(
        recipe="demo",
        data=DataConfig(root="data/digits"),
        augment=AugmentConfig(
            image_size=32,
            crop_scale=(1.0, 1.0),
            crop_ratio=(1.0, 1.0),
            shift=2,
            rotate=10.0,
            hflip=0.0,
            color_jitter=(0.0, 0.0, 0.0, 0.0),
            eval_crop_ratio=1.0,
            eval_interpolation="bilinear",
        ),
        optim=OptimConfig(lr_per_256=0.24, nesterov=True),
        schedule=ScheduleConfig(warmup="1 epochs"),
        run=RunConfig(
            out="runs/demo",
            duration="12 epochs",
            batch_size=32,
            eval_batch_size=64,
            log_every="10 steps",
            save_every="3 epochs",
        ),
    )


def finetune() -> Config:
    """Fine-tune on a folder of one's own photos, from `--pretrained`; laptop-sized defaults.

    Few photos are seen more often: 200 steps at least, which is 32 epochs of 200 photos
    (docs/recipes.md says what that gains).

    Command: seresnext train --recipe finetune --data MY_PHOTOS --pretrained WEIGHTS
    Hardware: one device of 32 images, 15 epochs or 200 steps; 2 CPU cores take about 0.4 s per
        image and epoch at 224 px (docs/benchmarks.md).
    Accuracy: depends on the photos.
    Run here: in the tests, on small images.
    """
    return Config(
        recipe="finetune",
        augment=AugmentConfig(crop_scale=(0.25, 1.0), color_jitter=(0.2, 0.2, 0.2, 0.0)),
        optim=OptimConfig(lr_per_256=0.08, nesterov=True, weight_decay=5e-5),
        schedule=ScheduleConfig(warmup="1 epochs"),
        model=ModelConfig(drop_path=0.0),
        run=RunConfig(
            out="runs/finetune",
            duration="15 epochs, at least 200 steps",
            batch_size=32,
            log_every="10 steps",
        ),
    )


def zoo() -> Config:
    """The original model zoo's training, exactly; its README's commands use it (docs/zoo.md).

    0.05 per 128 images is its 0.4 on 8 devices of 128 and 0.05 on one. The cosine, stepped by the
    epoch, reaches 0 at epoch 110 and rises again to the end.

    Command: seresnext train --nproc 8 --recipe zoo --data IMAGENET --engine mindspore
        (or python train.py --data_path IMAGENET/train --val_data_path IMAGENET/val)
    Hardware: 8 devices of 128 images, 120 epochs; 9.41 h on 8 Ascend 910, published.
    Accuracy: 79.35 % top-1, 94.64 % top-5, published by the original for 8 Ascend 910.
    Run here: no.
    """
    return Config(
        recipe="zoo",
        model=ModelConfig(
            max_pool="same", zero_init_last_bn=False, classifier_bias=False, se_bias=False
        ),
        data=DataConfig(drop_last=True),
        augment=AugmentConfig(eval_interpolation="bilinear"),
        loss=LossConfig(smoothing_off_target=True),
        optim=OptimConfig(lr_per_256=0.1),
        schedule=ScheduleConfig(warmup="1 epochs", per_epoch=True, cosine_period="110 epochs"),
        engine=EngineConfig(precision="fp16", fp16_batch_norm=True, loss_scale=1024.0),
        run=RunConfig(
            out="runs/zoo",
            duration="120 epochs",
            batch_size=128,
            # Divides the epoch, so that its end is always logged.
            log_every="0.01 epochs",
            save_every="2 epochs",
            keep_checkpoint_max=20,
        ),
    )


def zoo_fixed() -> Config:
    """`zoo` without its faults, for new runs on old habits.

    - The cosine ends with the run instead of rising again in its last ten epochs.
    - BN computes in float32.
    - No image is dropped at the end of an epoch.

    Command: seresnext train --nproc 8 --recipe zoo-fixed --data IMAGENET --engine mindspore
        (or python train.py --recipe zoo-fixed with the original's paths)
    Hardware: 8 devices of 128 images, 120 epochs.
    Accuracy: unknown. `zoo`, with the faults: 79.35 % top-1, published.
    Run here: no.
    """
    fixed = zoo()
    return replace(
        fixed,
        recipe="zoo-fixed",
        data=replace(fixed.data, drop_last=False),
        schedule=replace(fixed.schedule, cosine_period=""),
        engine=replace(fixed.engine, fp16_batch_norm=False),
        run=replace(fixed.run, out="runs/zoo-fixed"),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(demo, finetune, imagenet.imagenet, imagenet.imagenet_300, imagenet.imagenet_distill),
        *(imagenet.a1, imagenet.a2, imagenet.a3),
        *(imagenet.imagenet_fast_16, imagenet.imagenet_fast_40, imagenet.imagenet_fast_88),
        *(imagenet.senet, zoo, zoo_fixed),
    )
}


def recipe(name: str) -> Config:
    """Return the named recipe's full configuration. Raises UserError for an unknown name.

    `seresnext recipes` lists the names; `Config.replace` changes fields.

    >>> seresnext.recipe("demo").run.duration
    '12 epochs'
    """
    return _function(name)()


def _function(name: str) -> Callable[[], Config]:
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}; the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]


@dataclass(frozen=True)
class Intended:
    """What a recipe is made for."""

    images: int
    val_images: int
    devices: int


_IMAGENET = Intended(1_281_167, 50_000, 8)
INTENDED = {
    "demo": Intended(1442, 355, 1),
    **{name: _IMAGENET for name in RECIPES if name not in ("demo", "finetune")},
}
"""Recipes for a data set of a known size."""


@dataclass(frozen=True)
class Description:
    """What a recipe's docstring says."""

    summary: str
    text: str
    """Further paragraphs, as written."""
    facts: dict[str, str]
    """Label -> its text on one line; the labels are `LABELS`."""


def describe(name: str) -> Description:
    """Return what the named recipe is. Raises UserError for an unknown name."""
    text = inspect.getdoc(_function(name)) or ""
    body, *parts = re.split(rf"^({'|'.join(LABELS)}): ", text, flags=re.MULTILINE)
    summary, _, more = body.partition("\n")
    texts = (" ".join(part.split()) for part in parts[1::2])
    return Description(summary, more.strip(), dict(zip(parts[::2], texts, strict=True)))
