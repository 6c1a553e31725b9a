"""Recipes: functions that return a full `Config`.

Each docstring says the command, the hardware and time, and the accuracy with where it is from:
*measured* here, *published* by others, or *not run*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..errors import UserError
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


def demo() -> Config:
    """SE-ResNeXt50 on scikit-learn's handwritten digits at 32 px, as `make demo` runs it."""
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


def imagenet() -> Config:
    """ImageNet-1k from scratch, a sane modern default for 8 devices of 128 images.

    `torchrun --nproc-per-node 8 -m seresnext train --recipe imagenet --data IMAGENET`

    Accuracy: not run here. It is the original zoo's recipe (published: 79.35 top-1 after 120
    epochs with 0.1 per 256, 94.64 top-5) with the cosine brought to its end, Nesterov momentum,
    weight averaging and mild mixup.
    """
    return Config(
        recipe="imagenet",
        augment=AugmentConfig(mixup=0.1),
        optim=OptimConfig(lr_per_256=0.1, nesterov=True, weight_decay=5e-5, ema_decay=0.9998),
        schedule=ScheduleConfig(warmup="5 epochs"),
        engine=EngineConfig(precision="bf16"),
        run=RunConfig(duration="120 epochs", batch_size=128, log_every="100 steps"),
    )


def finetune() -> Config:
    """Fine-tune on a folder of one's own photos, from `--pretrained`; laptop-sized defaults.

    `seresnext train --recipe finetune --data MY_PHOTOS --pretrained WEIGHTS --out runs/mine`

    Accuracy depends on the photos; time on a 2-core CPU is about 0.4 s per image and epoch at
    224 px (measured figures are in docs/benchmarks.md).
    """
    return Config(
        recipe="finetune",
        augment=AugmentConfig(crop_scale=(0.25, 1.0), color_jitter=(0.2, 0.2, 0.2, 0.0)),
        optim=OptimConfig(lr_per_256=0.08, nesterov=True, weight_decay=5e-5),
        schedule=ScheduleConfig(warmup="1 epochs"),
        model=ModelConfig(drop_path=0.0),
        run=RunConfig(
            out="runs/finetune", duration="15 epochs", batch_size=32, log_every="10 steps"
        ),
    )


def zoo() -> Config:
    """The original model zoo's training, exactly; its README's commands use it (docs/zoo.md).

    `python train.py --data_path IMAGENET/train --val_data_path IMAGENET/val`, or
    `seresnext train --recipe zoo --data IMAGENET --engine mindspore`

    0.05 per 128 images is its 0.4 on 8 devices of 128 and 0.05 on one. The cosine, stepped by the
    epoch, reaches 0 at epoch 110 and rises again to the end.

    Accuracy and time: not run here. Published for 8 Ascend 910: 79.35 top-1, 94.64 top-5 in 9.41 h.
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

    `python train.py --recipe zoo-fixed --data_path IMAGENET/train --val_data_path IMAGENET/val`

    Accuracy and time: not run.
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
    for function in (demo, imagenet, finetune, zoo, zoo_fixed)
}


def recipe(name: str) -> Config:
    """Return the named recipe's full configuration. Raises UserError for an unknown name.

    The names are demo, imagenet, finetune, zoo and zoo-fixed; `Config.replace` changes fields.

    >>> seresnext.recipe("demo").run.duration
    '12 epochs'
    """
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}; the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()
