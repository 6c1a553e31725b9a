"""The names that the original's programs take, with their defaults and help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Target = Literal["CPU", "GPU", "Ascend"]


def named(default: Any, text: str) -> Any:
    """A field of an options class: its default and its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """The original's configuration, shared by training and evaluation."""

    name: Literal["imagenet", "imagenet2012"] = named("imagenet", "data set; any image folder")
    dataset_name: Literal["imagenet", "imagenet2012"] = named("imagenet", "the same, by argument")
    data_path: str = named("", "training images: a folder of <class>/, or of train/ and val/")
    val_data_path: str = named("", "validation images: a folder of <class>/")
    num_classes: int | None = named(None, "checked against the images where given")
    image_height: int = named(224, "side of the images, pixels")
    image_width: int = named(224, "as image_height")
    batch_size: int = named(128, "images per device and step")
    epoch_size: float = named(120.0, "epochs")
    lr_init: float | None = named(
        None, "peak learning rate at the global batch (default 0.05 per 128 images: 0.4 on 8x128)"
    )
    lr_scheduler: Literal["cosine_annealing", "exponential"] = named(
        "cosine_annealing", "curve after the warmup; exponential is by steps at lr_epochs"
    )
    lr_epochs: tuple[float, ...] = named(
        (30.0, 60.0, 90.0, 120.0), "exponential: where the rate falls"
    )
    lr_gamma: float = named(0.1, "exponential: by which factor")
    eta_min: float = named(0.0, "cosine_annealing: lowest learning rate")
    T_max: float | None = named(
        None, "cosine_annealing: epochs of half a period (default 110; the run with zoo-fixed)"
    )
    warmup_epochs: float = named(1.0, "epochs of linear warmup")
    momentum: float = named(0.9, "of SGD")
    weight_decay: float = named(1e-4, "on convolutions and matrices")
    is_dynamic_loss_scale: bool = named(False, "float16: dynamic instead of fixed loss scale")
    loss_scale: float = named(1024.0, "float16: fixed loss scale")
    use_label_smooth: bool = named(True, "smooth the labels")
    label_smooth_factor: float = named(0.1, "share of the target that goes to the other classes")
    pre_trained: bool = named(False, "train from the weights in checkpoint_path")
    checkpoint_path: str = named("", "train: weights to start from; eval: what to evaluate")
    keep_checkpoint_max: int = named(20, "newest checkpoints kept")
    device_target: Literal["CPU", "GPU", "Ascend"] = named(
        "Ascend", "what to compute on; Ascend was not run on hardware"
    )
    device_id: int = named(0, "which device; each process has its own in a distributed run")
    engine: Literal["torch", "mindspore"] | None = named(
        None, "framework (default: torch on CPU and GPU, mindspore on Ascend)"
    )


@dataclass(frozen=True)
class TrainOptions(Options):
    """`train.py`."""

    recipe: Literal["zoo", "zoo-fixed"] = named(
        "zoo", "the original's training as it was, or with its faults fixed"
    )
    out: str = named("./ckpt_0", "run folder: checkpoints, logs, model")
    save_ckpt: bool = named(True, "also write train_senet_imagenet-{epoch}_{step}.ckpt there")


@dataclass(frozen=True)
class EvalOptions(Options):
    """`eval.py`."""

    checkpoint_path: str = named("./ckpt_0", "folder of checkpoints, or one of them")


@dataclass(frozen=True)
class ExportOptions:
    """`export.py`."""

    ckpt_file: str = named("", "checkpoint to export")
    file_name: str = named("seresnext50", "file to write; the format's ending is added")
    file_format: Literal["AIR", "ONNX", "MINDIR"] = named("MINDIR", "what to write")
    batch_size: int = named(1, "accepted; the exported model takes any number of images")
    width: int = named(224, "side of the images, pixels")
    height: int = named(224, "as width")
    device_target: Literal["CPU", "GPU", "Ascend"] = named(
        "Ascend", "what to compute on; Ascend was not run on hardware"
    )
    device_id: int = named(0, "which device")
    engine: Literal["torch", "mindspore"] | None = named(
        None, "framework to compare with (default: torch on CPU and GPU, mindspore on Ascend)"
    )
    data_path: str = named(
        "", "images to name the classes and to compare on (default: those of the run)"
    )


ALL_OPTIONS = (TrainOptions, EvalOptions, ExportOptions)
"""The classes whose names a YAML file may hold."""
