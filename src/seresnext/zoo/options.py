"""The names that the original's programs take, with their defaults, ranges and help."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import DataConfig

Target = Literal["CPU", "GPU", "Ascend"]
Range = tuple[str, Callable[[float], bool]]
"""What a number must be, in words and as a test."""

COUNT: Range = ("1 to 2147483647", lambda value: 1 <= value < 2**31)
INDEX: Range = ("0 or more", lambda value: 0 <= value < 2**31)
SIDE: Range = ("32 to 4096", lambda value: 32 <= value <= 4096)
EPOCHS: Range = ("0 to 1000000", lambda value: 0 <= value <= 1e6)
SOME_EPOCHS: Range = ("more than 0, at most 1000000", lambda value: 0 < value <= 1e6)
NOT_NEGATIVE: Range = ("0 or more", lambda value: value >= 0)
SCALE: Range = ("more than 0", lambda value: value > 0)
SHARE: Range = ("0 or more and less than 1", lambda value: 0 <= value < 1)
ANY: Range = ("a number", math.isfinite)


def named(default: Any, text: str, range: Range = ANY, *, sets: str = "", also: str = "") -> Any:
    """A field of an options class: its default and its help text.

    `range` is that of a number, or of each number of a list. `sets` are the fields of the
    configuration, or the options of `seresnext`, that it stands for; `also` is another name.
    """
    metadata = {"help": text, "range": range, "sets": tuple(sets.split()), "also": also}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """The original's configuration, shared by training and evaluation."""

    name: Literal["imagenet", "imagenet2012"] = named("imagenet", "data set; any image folder")
    dataset_name: Literal["imagenet", "imagenet2012"] = named("imagenet", "the same, by argument")
    data_path: str = named(
        "",
        "training images: a folder of <class>/, or of train/ and val/",
        sets="data.train data.root",
    )
    val_data_path: str = named("", "validation images: a folder of <class>/", sets="data.val")
    num_classes: int | None = named(None, "checked against the images where given", COUNT)
    image_height: int | None = named(
        None,
        "side of the images, pixels (default 224; in evaluation that of the run)",
        SIDE,
        sets="augment.image_size",
    )
    image_width: int | None = named(None, "as image_height", SIDE)
    batch_size: int = named(128, "images per device and step", COUNT, sets="run.batch_size")
    epoch_size: float = named(120.0, "epochs", SOME_EPOCHS, sets="run.duration")
    lr_init: float | None = named(
        None,
        "peak learning rate at the global batch (default 0.05 per 128 images: 0.4 on 8x128)",
        NOT_NEGATIVE,
        sets="optim.lr_per_256 optim.lr",
    )
    lr_scheduler: Literal["cosine_annealing", "exponential"] = named(
        "cosine_annealing",
        "curve after the warmup; exponential is by steps at lr_epochs",
        sets="schedule.kind",
    )
    lr_epochs: tuple[float, ...] = named(
        (30.0, 60.0, 90.0, 120.0),
        "exponential: where the rate falls",
        EPOCHS,
        sets="schedule.milestones",
    )
    lr_gamma: float = named(
        0.1, "exponential: by which factor", NOT_NEGATIVE, sets="schedule.gamma"
    )
    eta_min: float = named(
        0.0,
        "cosine_annealing: lowest learning rate",
        NOT_NEGATIVE,
        sets="schedule.final_lr_ratio",
    )
    T_max: float | None = named(
        None,
        "cosine_annealing: epochs of half a period (default 110; the run with zoo-fixed)",
        SOME_EPOCHS,
        sets="schedule.cosine_period",
    )
    warmup_epochs: float = named(1.0, "epochs of linear warmup", EPOCHS, sets="schedule.warmup")
    momentum: float = named(0.9, "of SGD", SHARE, sets="optim.momentum")
    weight_decay: float = named(
        1e-4, "on convolutions and matrices", NOT_NEGATIVE, sets="optim.weight_decay"
    )
    is_dynamic_loss_scale: bool = named(False, "float16: dynamic instead of fixed loss scale")
    loss_scale: float = named(1024.0, "float16: fixed loss scale", SCALE, sets="engine.loss_scale")
    use_label_smooth: bool = named(True, "smooth the labels")
    label_smooth_factor: float = named(
        0.1,
        "share of the target that goes to the other classes",
        SHARE,
        sets="loss.label_smoothing",
    )
    pre_trained: bool = named(False, "train from the weights in checkpoint_path")
    checkpoint_path: str = named(
        "", "train: weights to start from; eval: what to evaluate", sets="run.pretrained"
    )
    keep_checkpoint_max: int = named(
        20, "newest checkpoints kept", COUNT, sets="run.keep_checkpoint_max"
    )
    device_target: Literal["CPU", "GPU", "Ascend"] = named(
        "Ascend", "what to compute on; Ascend was not run on hardware", sets="engine.device"
    )
    device_id: int = named(0, "which device; each process has its own in a distributed run", INDEX)
    engine: Literal["torch", "mindspore"] | None = named(
        None, "framework (default: torch on CPU and GPU, mindspore on Ascend)", sets="engine.name"
    )
    on_bad_image: Literal["stop", "skip"] = named(
        "stop", "stop at an unreadable image, or leave such images out", sets="data.on_bad_image"
    )
    max_pixels: int = named(
        DataConfig().max_pixels, "larger images are refused", COUNT, sets="data.max_pixels"
    )
    follow_links: bool = named(False, "follow links to files and folders", sets="data.follow_links")


@dataclass(frozen=True)
class TrainOptions(Options):
    """`train.py`."""

    recipe: Literal["zoo", "zoo-fixed"] = named(
        "zoo", "the original's training as it was, or with its faults fixed", sets="recipe"
    )
    out: str = named("./ckpt_0", "run folder: checkpoints, logs, model", sets="run.out")
    save_ckpt: bool = named(True, "also write train_senet_imagenet-{epoch}_{step}.ckpt there")


@dataclass(frozen=True)
class EvalOptions(Options):
    """`eval.py`."""

    checkpoint_path: str = named("./ckpt_0", "folder of checkpoints, or one of them")
    eval_resize: Literal["model", "original"] = named(
        "model", "original: the original's pixels (OpenCV's bilinear resize, not antialiased)"
    )


@dataclass(frozen=True)
class ExportOptions:
    """`export.py`."""

    ckpt_file: str = named("", "checkpoint to export")
    file_name: str = named("senet", "file to write; the format's ending is added", sets="out")
    onnx_filename: str = named("", "ONNX: the default of file_name, as in the original's config")
    air_filename: str = named("", "AIR: the default of file_name, as in the original's config")
    file_format: Literal["AIR", "ONNX", "MINDIR"] = named("MINDIR", "what to write", sets="format")
    batch_size: int = named(1, "images at once, with fixed_shape", COUNT, sets="batch_size")
    fixed_shape: bool = named(
        False,
        "take exactly batch_size images, in an input called actual_input_1, as the original's "
        "converter lines expect (default: any number of images, in pixel_values)",
    )
    width: int | None = named(
        None, "side of the images, pixels (default: that of the run, else 224)", SIDE
    )
    height: int | None = named(None, "as width", SIDE, sets="augment.image_size")
    device_target: Literal["CPU", "GPU", "Ascend"] = named(
        "Ascend", "what to compute on; Ascend was not run on hardware", sets="engine.device"
    )
    device_id: int = named(0, "which device", INDEX)
    engine: Literal["torch", "mindspore"] | None = named(
        None,
        "framework to compare with (default: torch on CPU and GPU, mindspore on Ascend)",
        sets="engine.name",
    )
    data_path: str = named(
        "", "images to name the classes and to compare on (default: those of the run)", sets="data"
    )
    val_data_path: str = named("", "the same, in a file; a run's own images come first")


@dataclass(frozen=True)
class PreprocessOptions:
    """`preprocess.py`."""

    dataset_name: Literal["imagenet2012", "imagenet"] = named("imagenet2012", "any image folder")
    data_path: str = named("", "validation images: a folder of <class>/, or one with val/")
    val_data_path: str = named("", "the same, in a file")
    output_path: str = named("./preprocess_Result", "where imagenet_label.json is written")
    mindir: str = named("", "model whose class order numbers the labels (else the sorted folders)")


@dataclass(frozen=True)
class PostprocessOptions:
    """`postprocess.py`."""

    dataset_name: Literal["imagenet2012", "imagenet"] = named("imagenet2012", "any image folder")
    label_path: str = named("./preprocess_Result/imagenet_label.json", "name -> class index")
    result_path: str = named(
        "./result_Files", "folder of <name>_0.bin, float32 logits", also="result_dir"
    )


@dataclass(frozen=True)
class InferOptions:
    """What messages may name of the options of `run_infer_310.sh`."""

    device_target: str = named("", "what to compute on", sets="device engine.device")
    on_bad_image: str = named("stop", "as in eval.py", sets="data.on_bad_image")
    max_pixels: str = named("", "as in eval.py", sets="data.max_pixels")


ALL_OPTIONS = (TrainOptions, EvalOptions, ExportOptions, PreprocessOptions, PostprocessOptions)
"""The classes whose names a YAML file may hold."""
