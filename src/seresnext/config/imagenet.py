"""Recipes for ImageNet-1k, with the settings that papers publish; see `recipes.py`."""

from __future__ import annotations

from .config import Config
from .groups import (
    AugmentConfig,
    EngineConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
)


def imagenet() -> Config:
    """ImageNet-1k from scratch, the default for several devices.

    The original zoo's recipe with the cosine brought to its end, Nesterov momentum, weight
    averaging and mild mixup.

    Command: seresnext train --nproc 8 --recipe imagenet --data IMAGENET
    Hardware: 8 devices of 128 images, 120 epochs.
    Accuracy: unknown. The original zoo's recipe: 79.35 % top-1, 94.64 % top-5, published.
    Run here: no.
    """
    return Config(
        recipe="imagenet",
        augment=AugmentConfig(mixup=0.1),
        optim=OptimConfig(lr_per_256=0.1, nesterov=True, weight_decay=5e-5, ema_decay=0.9998),
        schedule=ScheduleConfig(warmup="5 epochs"),
        engine=EngineConfig(precision="bf16"),
        run=RunConfig(duration="120 epochs", batch_size=128, log_every="100 steps"),
    )


def imagenet_300() -> Config:
    """ImageNet-1k in 300 epochs for the best accuracy; `a2` with an average of the weights.

    Command: seresnext train --nproc 8 --recipe imagenet-300 --data IMAGENET
    Hardware: 8 devices of 252 images, 300 epochs.
    Accuracy: unknown. Of `a2` and a ResNet-50: 79.8 % top-1, published (arXiv:2110.00476). The best
        SE-ResNeXt50 of timm, whose settings are not known: 81.27 % top-1, published
        (seresnext50_32x4d.racm_in1k).
    Run here: no.
    """
    return _strikes_back("imagenet-300", epochs=300).replace(optim={"ema_decay": 0.9998})


def imagenet_distill() -> Config:
    """`imagenet-300` with a teacher, whose answers have most of the loss.

    The teacher is a run, a model folder or an artifact that knows ImageNet's classes. Without
    `--loss.teacher` the recipe is refused.

    Command: seresnext train --nproc 8 --recipe imagenet-distill --data IMAGENET
        --loss.teacher MODEL
    Hardware: 8 devices of 252 images, 300 epochs, and the teacher's time.
    Accuracy: unknown. Of ResNet-50s with teachers: 82.8 % top-1, published (arXiv:2106.05237, for
        9,600 epochs).
    Run here: no.
    """
    found = _strikes_back("imagenet-distill", epochs=300)
    return found.replace(loss={"teacher_share": 0.9}, optim={"ema_decay": 0.9998})


def a1() -> Config:
    """ResNet strikes back, the longest: 600 epochs.

    LAMB of 5e-3, binary cross-entropy, three repeats of each image, RandAugment, mixup and CutMix
    (arXiv:2110.00476, table 2). Not as theirs: the network; steps of 2,016 images, which three
    repeats divide, instead of 2,048; crops resized bilinearly.

    Command: seresnext train --nproc 8 --recipe a1 --data IMAGENET
    Hardware: 8 devices of 252 images, 600 epochs.
    Accuracy: unknown. Of a ResNet-50: 80.4 % top-1, published (arXiv:2110.00476).
    Run here: no.
    """
    found = _strikes_back("a1", epochs=600)
    return found.replace(
        augment={"mixup": 0.2}, loss={"label_smoothing": 0.1}, optim={"weight_decay": 0.01}
    )


def a2() -> Config:
    """ResNet strikes back in 300 epochs; `a1` with less mixup and no label smoothing.

    Command: seresnext train --nproc 8 --recipe a2 --data IMAGENET
    Hardware: 8 devices of 252 images, 300 epochs.
    Accuracy: unknown. Of a ResNet-50: 79.8 % top-1, published (arXiv:2110.00476).
    Run here: no.
    """
    return _strikes_back("a2", epochs=300)


def a3() -> Config:
    """ResNet strikes back, the shortest: 100 epochs at 160 px, evaluated at 224.

    Command: seresnext train --nproc 8 --recipe a3 --data IMAGENET
    Hardware: 8 devices of 252 images, 100 epochs.
    Accuracy: unknown. Of a ResNet-50: 78.1 % top-1, published (arXiv:2110.00476).
    Run here: no.
    """
    found = _strikes_back("a3", epochs=100)
    return found.replace(
        model={"drop_path": 0.0},
        augment={
            "image_size": 160,
            "eval_image_size": 224,
            "repeats": 1,
            "policy": "rand-m6-n2-mstd0.5-inc1",
        },
        optim={"lr": 8e-3},
    )


def _strikes_back(name: str, epochs: int) -> Config:
    """Return procedure A2 of arXiv:2110.00476, for so many epochs."""
    return Config(
        recipe=name,
        model=ModelConfig(drop_path=0.05),
        augment=AugmentConfig(
            policy="rand-m7-n2-mstd0.5-inc1",
            color_jitter=(0.0, 0.0, 0.0, 0.0),
            mixup=0.1,
            cutmix=1.0,
            repeats=3,
            eval_crop_ratio=0.95,
        ),
        loss=LossConfig(kind="binary", threshold=0.2, label_smoothing=0.0),
        optim=OptimConfig(name="lamb", lr=5e-3, eps=1e-6, weight_decay=0.02),
        schedule=ScheduleConfig(warmup="5 epochs"),
        engine=EngineConfig(precision="bf16"),
        run=RunConfig(
            out=f"runs/{name}",
            duration=f"{epochs} epochs",
            batch_size=252,  # three repeats divide a batch of 8 devices, 2,016
            log_every="100 steps",
        ),
    )


def imagenet_fast_16() -> Config:
    """ImageNet-1k in 16 epochs, from images that grow: FFCV's training of ResNet-50.

    SGD of 1.7 at 4,096 images, rising for 2 epochs and falling linearly to 0; images of 160 px, and
    of 192 px after three quarters of the run (rn50_configs of github.com/libffcv/ffcv-imagenet,
    arXiv:2306.12517). Not as FFCV's: the network; strided convolutions without a blur before them;
    evaluation at 224 px, where its configurations have 256, and of the image alone, without its
    mirror image; bf16, where it has fp16; no decay of biases.

    Command: seresnext train --nproc 8 --recipe imagenet-fast-16 --data IMAGENET
    Hardware: 8 devices of 512 images, 16 epochs.
    Accuracy: unknown. Of FFCV's ResNet-50, with what is not here: 73.8 % top-1,
        90.8 % top-5, 14.9 minutes on 8 A100, published (github.com/libffcv/ffcv-imagenet).
    Run here: no.
    """
    return _imagenet_fast(16, 11, 13)


def imagenet_fast_40() -> Config:
    """ImageNet-1k in 40 epochs; `imagenet-fast-16` for longer.

    Command: seresnext train --nproc 8 --recipe imagenet-fast-40 --data IMAGENET
    Hardware: 8 devices of 512 images, 40 epochs.
    Accuracy: unknown. Of FFCV's ResNet-50, with what is not here: 77.2 % top-1,
        93.2 % top-5, 35.6 minutes on 8 A100, published (github.com/libffcv/ffcv-imagenet).
    Run here: no.
    """
    return _imagenet_fast(40, 29, 34)


def imagenet_fast_88() -> Config:
    """ImageNet-1k in 88 epochs; `imagenet-fast-16` for longer.

    Command: seresnext train --nproc 8 --recipe imagenet-fast-88 --data IMAGENET
    Hardware: 8 devices of 512 images, 88 epochs.
    Accuracy: unknown. Of FFCV's ResNet-50, with what is not here: 78.4 % top-1,
        94.1 % top-5, 77.2 minutes on 8 A100, published (github.com/libffcv/ffcv-imagenet).
    Run here: no.
    """
    return _imagenet_fast(88, 65, 76)


def _imagenet_fast(epochs: int, grow_begin: int, grow_end: int) -> Config:
    """Return FFCV's training of so many epochs; images grow from one of them to another."""
    name = f"imagenet-fast-{epochs}"
    return Config(
        recipe=name,
        model=ModelConfig(zero_init_last_bn=False),
        augment=AugmentConfig(
            image_size=192,
            start_size=160,
            grow_begin=grow_begin / epochs,
            grow_end=grow_end / epochs,
            color_jitter=(0.0, 0.0, 0.0, 0.0),
            eval_image_size=224,
            eval_interpolation="bilinear",
        ),
        optim=OptimConfig(lr_per_256=1.7 / 16),
        schedule=ScheduleConfig(kind="linear", warmup="2 epochs"),
        engine=EngineConfig(precision="bf16"),
        run=RunConfig(
            out=f"runs/{name}",
            duration=f"{epochs} epochs",
            batch_size=512,
            log_every="100 steps",
        ),
    )


def senet() -> Config:
    """The training of the SE-ResNeXt's own paper, Squeeze-and-Excitation Networks.

    SGD of 0.6 at 1,024 images, divided by 10 every 30 epochs, without warmup (arXiv:1709.01507v4,
    section 5.1). The paper names no weight decay; 1e-4 here.

    Command: seresnext train --nproc 8 --recipe senet --data IMAGENET
    Hardware: 8 devices of 128 images, 100 epochs.
    Accuracy: 79.03 % top-1, 94.46 % top-5, published by its authors (github.com/hujie-frank/SENet)
        for a longer training, of 256 images a step at a rate of 0.1.
    Run here: no.
    """
    return Config(
        recipe="senet",
        model=ModelConfig(zero_init_last_bn=False),
        augment=AugmentConfig(color_jitter=(0.0, 0.0, 0.0, 0.0), eval_interpolation="bilinear"),
        loss=LossConfig(label_smoothing=0.0),
        optim=OptimConfig(lr_per_256=0.15),
        schedule=ScheduleConfig(kind="step", warmup="0 epochs"),
        run=RunConfig(
            out="runs/senet", duration="100 epochs", batch_size=128, log_every="100 steps"
        ),
    )
