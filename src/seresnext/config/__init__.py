"""The whole configuration of a run: frozen, typed, checked, written beside the results.

A recipe (`recipes.py`) returns a full `Config`; the command line changes single fields of it
(`--optim.lr-per-256 0.1`); `RUN/config.json` holds what was used and `--config` reruns it.
Standard library only, so that an engine can be used without the rest of the package.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..model.architecture import MODEL_NAMES, Architecture, architecture
from ..model.spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec, Interpolation

EngineName = Literal["torch", "mindspore"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class ModelConfig:
    """Which network of the family. A field left at `None` is as the name says."""

    name: str = "seresnext50_32x4d"
    """One of the family; `seresnext doctor` lists it."""
    drop_path: float = 0.0
    """Stochastic depth: rate of the last block, growing linearly from 0."""
    dropout: float = 0.0
    """Dropout rate before the classifier."""
    zero_init_last_bn: bool = True
    """Start every block as the identity."""
    max_pool: Literal["torch", "same"] = "torch"
    """Padding of the stem's max-pool; `same` for weights from the original zoo or mindcv."""
    layers: tuple[int, int, int, int] | None = None
    """Blocks per stage."""
    cardinality: int | None = None
    """Groups of the 3x3 convolution."""
    base_width: int | None = None
    """Channels per group in the first stage."""
    se_reduction: int | None = None
    """Squeeze ratio of the SE module."""
    stem: Literal["conv7", "deep"] | None = None
    """One 7x7 convolution, or three 3x3."""
    downsample: Literal["conv", "avg"] | None = None
    """Shortcut: strided 1x1, or average pool then 1x1."""

    def architecture(self, num_classes: int) -> Architecture:
        """The network this describes, for `num_classes` classes."""
        overrides = {k: v for k, v in vars(self).items() if k != "name" and v is not None}
        return architecture(self.name, num_classes=num_classes, **overrides)


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and what to do about bad ones."""

    root: str = ""
    """Folder with `train/<class>/` and `val/<class>/` (or `validation/`, `test/`)."""
    train: str = ""
    """Training folder `<class>/`, instead of `root`/train."""
    val: str = ""
    """Validation folder `<class>/`, instead of `root`/val."""
    workers: int = 0
    """Decoding threads; 0 means one per core. Never changes which sample is seen when, or how."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """`stop` at the first unreadable image, or `skip` it and list it in `RUN/bad-images.jsonl`.
    Another image never takes its place."""
    allow_empty_classes: bool = False
    """Accept class folders without a single image."""
    follow_links: bool = False
    """Follow links to files and folders, also out of the data folder; a loop is refused."""
    max_pixels: int = 100_000_000
    """Larger images are refused from their header."""
    drop_last: bool = False
    """False: epochs follow each other without a gap and a batch may span two, so no image is
    dropped. True: the incomplete last batch of an epoch is dropped (the original's rule)."""
    allow_change: bool = False
    """Resume although the data no longer matches the checkpoint's fingerprint."""


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation, in the order in which it is applied, and evaluation preprocessing."""

    image_size: int = 224
    """Side of training images, pixels (32 or more)."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Random-resized crop: share of the image's area. (1, 1) resizes the whole image."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Random-resized crop: range of the aspect ratio, drawn log-uniformly."""
    shift: int = 0
    """Random translation by up to this many pixels, edges repeated (small images, digits)."""
    rotate: float = 0.0
    """Random rotation by up to this many degrees, edges repeated."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue jitter; 0 is off."""
    erase: float = 0.0
    """Probability of random erasing (arXiv:1708.04896)."""
    mixup: float = 0.0
    """Alpha of mixup (arXiv:1710.09412); 0 is off."""
    cutmix: float = 0.0
    """Alpha of CutMix (arXiv:1905.04899); 0 is off. With both, each pair draws one of them."""
    eval_image_size: int = 0
    """Side of evaluation images, pixels; 0 means `image_size`."""
    eval_crop_ratio: float = 0.875
    """Evaluation: short side is resized to size / ratio, then the centre is cropped."""
    eval_interpolation: Interpolation = "bicubic"
    """Evaluation: resize filter (antialiased, Pillow's)."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Channel means that normalise pixels in 0..1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Channel standard deviations that normalise pixels in 0..1."""

    def input_spec(self) -> InputSpec:
        """The evaluation preprocessing that travels with the trained model."""
        return InputSpec(
            image_size=self.eval_image_size or self.image_size,
            crop_ratio=self.eval_crop_ratio,
            interpolation=self.eval_interpolation,
            mean=self.mean,
            std=self.std,
        )


@dataclass(frozen=True)
class OptimConfig:
    """Loss and SGD. No weight decay on BN and biases."""

    lr_per_256: float = 0.1
    """Learning rate per 256 images of global batch; scaled linearly (arXiv:1706.02677)."""
    momentum: float = 0.9
    """SGD momentum: v = momentum * v + g; w = w - lr * v."""
    nesterov: bool = False
    """Nesterov momentum: w = w - lr * (g + momentum * v)."""
    weight_decay: float = 1e-4
    """L2 penalty on kernels and matrices, added to the gradient."""
    clip_norm: float = 0.0
    """Scale gradients down to this global L2 norm; 0 is off."""
    accumulate: int = 1
    """Cut each batch into this many pieces to save memory. The update still sees `batch_size`
    images; BN statistics are per piece."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes (arXiv:1512.00567)."""
    smoothing_off_target: bool = False
    """Spread over the other K-1 classes only (the original zoo's rule) instead of all K."""
    ema_decay: float = 0.0
    """Exponential moving average of the weights, used for evaluation and shipped; 0 is off.
    The decay of update t is min(ema_decay, (1 + t) / (10 + t))."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run: linear warmup, then `kind`."""

    kind: Literal["cosine", "step", "linear", "constant"] = "cosine"
    """Shape after the warmup."""
    warmup: str = "5 epochs"
    """Duration of the linear warmup; part of the run's duration."""
    final_lr_ratio: float = 0.0
    """Cosine and linear end at this share of the peak."""
    milestones: tuple[str, ...] = ("30 epochs", "60 epochs", "90 epochs")
    """Step: durations after which the rate is multiplied by `gamma`."""
    gamma: float = 0.1
    """Step: factor at each milestone."""
    per_epoch: bool = False
    """Hold the rate constant within an epoch after the warmup (the original zoo's curve)."""
    cosine_period: str = ""
    """Cosine: duration of half a period, counted from the start of the run; empty means the
    run. Shorter than the run, the rate rises again afterwards (the original zoo's T_max)."""


@dataclass(frozen=True)
class EngineConfig:
    """What computes, and how."""

    name: EngineName = "torch"
    """Framework."""
    device: str = "auto"
    """torch: auto, cpu, cuda, cuda:N, npu, npu:N, mps. mindspore: auto, cpu, ascend, ascend:N."""
    precision: Precision = "fp32"
    """Arithmetic of convolutions and matrix products; weights and BN statistics stay float32."""
    fp16_batch_norm: bool = False
    """Run BN in half precision too (MindSpore's O3, as the original did)."""
    loss_scale: float = 0.0
    """Fixed loss scale for fp16; 0 means dynamic (where the device can)."""
    channels_last: bool = True
    """torch: NHWC memory layout."""
    compile: bool = False
    """torch: compile the step with `torch.compile`."""
    threads: int = 0
    """Compute threads on the CPU; 0 means the framework's choice, an equal share of the cores
    where several processes share a machine, and 1 with virtual shards."""
    sync_bn: bool = False
    """Batch statistics over all ranks instead of per rank."""
    virtual_shards: int = 0
    """Cut each global batch into this many shards, each with its own BN statistics and noise,
    combined in order: any world size that divides it gives the same bits on CPU. 0 is off."""


@dataclass(frozen=True)
class RunConfig:
    """Length, bookkeeping and safety of a run."""

    out: str = "runs/latest"
    """Run folder: config, logs, checkpoints, finished model."""
    duration: str = "90 epochs"
    """Length of the run: epochs, steps or images."""
    batch_size: int = 128
    """Images per device and update."""
    seed: int = 0
    """Seeds weights, order, augmentation and noise."""
    resume: str = "auto"
    """`auto` (newest valid checkpoint of the run folder), `never`, or a checkpoint folder."""
    pretrained: str = ""
    """Start from these weights: a run, model folder, .safetensors or .pth (weights only)."""
    log_every: str = "20 steps"
    """How often metrics are fetched from the device and logged."""
    eval_every: str = "1 epochs"
    """How often the validation set is evaluated; empty means only at the end."""
    save_every: str = "1 epochs"
    """How often a checkpoint is written."""
    keep_checkpoint_max: int = 3
    """Newest checkpoints kept; the best one is kept besides."""
    early_stop: int = 0
    """Stop after this many evaluations without a better top-1; 0 is off."""
    max_bad_steps: int = 10
    """Stop after this many steps in a row whose loss or gradient is not finite."""
    rank_timeout: float = 15.0
    """Seconds without a sign of life after which one of several processes counts as lost and the
    others end. Slow is not silent: compiling or waiting for data counts as life."""
    eval_batch_size: int = 0
    """Images per evaluation batch and device; 0 means `batch_size`."""


@dataclass(frozen=True)
class Config:
    """One run, complete."""

    recipe: str = "imagenet"
    """Recipe to start from: demo, imagenet, finetune, zoo, zoo-fixed. The fields below decide."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    run: RunConfig = field(default_factory=RunConfig)


# Durations ---------------------------------------------------------------------------------

_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*(epochs?|ep|steps?|images?)\s*", re.I)


def duration_steps(text: str, steps_per_epoch: float, global_batch: int, field_name: str) -> float:
    """Turn `"90 epochs"`, `"5000 steps"` or `"1e6 images"` into steps, fractions kept.

    Raises UserError naming `field_name` for any other text.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise UserError(
            f"{field_name}: cannot read {text!r}; write a number and a unit, "
            'such as "90 epochs", "5000 steps" or "1000000 images"'
        )
    value, unit = float(match[1]), match[2].lower()[0]
    if unit == "e":
        value *= steps_per_epoch
    elif unit == "i":
        value /= global_batch
    return value


def whole_steps(text: str, steps_per_epoch: float, global_batch: int, field_name: str) -> int:
    """`duration_steps` rounded up, forgiving the last bits of the arithmetic."""
    return math.ceil(duration_steps(text, steps_per_epoch, global_batch, field_name) - 1e-6)


# Validation --------------------------------------------------------------------------------


def validate(config: Config) -> Config:
    """Check every field against its range; return the config unchanged.

    Raises UserError naming the first field that is wrong, what it was and what was expected.
    """
    m, a, o, s, e, r = (
        config.model,
        config.augment,
        config.optim,
        config.schedule,
        config.engine,
        config.run,
    )

    def expect(condition: bool, name: str, value: object, expected: str) -> None:
        if not condition:
            raise UserError(f"{name}: expected {expected}, got {value!r}")

    expect(m.name in MODEL_NAMES, "model.name", m.name, f"one of {', '.join(MODEL_NAMES)}")
    m.architecture(1)
    expect(config.data.workers >= 0, "data.workers", config.data.workers, "0 or more")
    expect(config.data.max_pixels > 0, "data.max_pixels", config.data.max_pixels, "1 or more")
    expect(a.image_size >= 32, "augment.image_size", a.image_size, "32 or more")
    expect(
        a.eval_image_size == 0 or a.eval_image_size >= 32,
        "augment.eval_image_size",
        a.eval_image_size,
        "0 (same as image_size) or 32 or more",
    )
    expect(
        0 < a.crop_scale[0] <= a.crop_scale[1] <= 1,
        "augment.crop_scale",
        a.crop_scale,
        "0 < low <= high <= 1",
    )
    expect(
        0 < a.crop_ratio[0] <= a.crop_ratio[1],
        "augment.crop_ratio",
        a.crop_ratio,
        "0 < low <= high",
    )
    expect(0 <= a.hflip <= 1, "augment.hflip", a.hflip, "a probability")
    expect(0 <= a.erase <= 1, "augment.erase", a.erase, "a probability")
    expect(0 <= a.shift < a.image_size, "augment.shift", a.shift, "0 <= pixels < image_size")
    expect(0 <= a.rotate <= 180, "augment.rotate", a.rotate, "0 to 180 degrees")
    expect(
        min(a.color_jitter) >= 0 and max(a.color_jitter[:3]) <= 1 and a.color_jitter[3] <= 0.5,
        "augment.color_jitter",
        a.color_jitter,
        "brightness, contrast, saturation in 0..1 and hue in 0..0.5",
    )
    expect(a.mixup >= 0, "augment.mixup", a.mixup, "0 or more")
    expect(a.cutmix >= 0, "augment.cutmix", a.cutmix, "0 or more")
    expect(
        0 < a.eval_crop_ratio <= 1, "augment.eval_crop_ratio", a.eval_crop_ratio, "0 < ratio <= 1"
    )
    expect(min(a.std) > 0, "augment.std", a.std, "positive numbers")
    expect(
        math.isfinite(o.lr_per_256) and o.lr_per_256 >= 0,
        "optim.lr_per_256",
        o.lr_per_256,
        "0 or more",
    )
    expect(0 <= o.momentum < 1, "optim.momentum", o.momentum, "0 <= momentum < 1")
    expect(not o.nesterov or o.momentum > 0, "optim.nesterov", True, "a momentum above 0 beside it")
    expect(o.weight_decay >= 0, "optim.weight_decay", o.weight_decay, "0 or more")
    expect(o.clip_norm >= 0, "optim.clip_norm", o.clip_norm, "0 (off) or more")
    expect(0 <= o.label_smoothing < 1, "optim.label_smoothing", o.label_smoothing, "0 <= share < 1")
    expect(0 <= o.ema_decay < 1, "optim.ema_decay", o.ema_decay, "0 (off) <= decay < 1")
    expect(r.batch_size >= 1, "run.batch_size", r.batch_size, "1 or more")
    expect(r.eval_batch_size >= 0, "run.eval_batch_size", r.eval_batch_size, "0 or more")
    expect(o.accumulate >= 1, "optim.accumulate", o.accumulate, "1 or more")
    expect(
        r.batch_size % o.accumulate == 0,
        "optim.accumulate",
        o.accumulate,
        f"a divisor of run.batch_size ({r.batch_size})",
    )
    expect(
        (a.mixup == 0 and a.cutmix == 0) or r.batch_size % 2 == 0,
        "run.batch_size",
        r.batch_size,
        "an even number with mixup or cutmix",
    )
    expect(0 <= s.final_lr_ratio <= 1, "schedule.final_lr_ratio", s.final_lr_ratio, "0 to 1")
    expect(e.loss_scale >= 0, "engine.loss_scale", e.loss_scale, "0 (dynamic) or more")
    expect(e.threads >= 0, "engine.threads", e.threads, "0 or more")
    expect(e.virtual_shards >= 0, "engine.virtual_shards", e.virtual_shards, "0 (off) or more")
    expect(
        not (e.virtual_shards and (o.accumulate > 1 or e.sync_bn)),
        "engine.virtual_shards",
        e.virtual_shards,
        "optim.accumulate 1 and no engine.sync_bn beside it (a shard is the unit of both)",
    )
    expect(
        r.keep_checkpoint_max >= 1, "run.keep_checkpoint_max", r.keep_checkpoint_max, "1 or more"
    )
    expect(r.early_stop >= 0, "run.early_stop", r.early_stop, "0 (off) or more")
    expect(r.max_bad_steps >= 1, "run.max_bad_steps", r.max_bad_steps, "1 or more")
    expect(r.rank_timeout >= 5, "run.rank_timeout", r.rank_timeout, "5 seconds or more")
    expect(bool(r.out), "run.out", r.out, "a folder")
    for name, text in [
        ("run.duration", r.duration),
        ("run.log_every", r.log_every),
        ("run.save_every", r.save_every),
        ("schedule.warmup", s.warmup),
        *(("schedule.milestones", t) for t in s.milestones),
    ]:
        duration_steps(text, 1.0, 1, name)
    for name, text in [
        ("run.eval_every", r.eval_every),
        ("schedule.cosine_period", s.cosine_period),
    ]:
        if text:
            duration_steps(text, 1.0, 1, name)
    expect(
        duration_steps(r.duration, 1e6, 1, "run.duration") > 0,
        "run.duration",
        r.duration,
        "more than 0",
    )
    return config


# JSON --------------------------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain data for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type, data: Any, where: str = "") -> Any:
    """Build a config dataclass from plain data, strictly.

    Raises UserError naming the field for an unknown name or a value of the wrong type.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where or 'config'}: expected a group of fields, got {data!r}")
    types_of = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(types_of))
    if unknown:
        name = f"{where}.{unknown[0]}" if where else unknown[0]
        raise UserError(f"{name}: no such field; the fields here are {', '.join(types_of)}")
    values = {
        name: _coerce(types_of[name], value, f"{where}.{name}" if where else name)
        for name, value in data.items()
    }
    return cls(**values)


def _coerce(expected: Any, value: Any, name: str) -> Any:
    """`value` as the annotated type `expected`, or UserError naming the field."""
    if dataclasses.is_dataclass(expected):
        return from_dict(expected, value, name)  # type: ignore[arg-type]
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, name)
    if origin is Literal:
        if value in args:
            return value
        raise UserError(f"{name}: expected one of {', '.join(map(str, args))}, got {value!r}")
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            if args[-1] is Ellipsis:
                return tuple(_coerce(args[0], v, name) for v in value)
            if len(value) == len(args):
                return tuple(_coerce(a, v, name) for a, v in zip(args, value, strict=True))
        raise UserError(f"{name}: expected {_describe(expected)}, got {value!r}")
    if expected is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if type(value) is expected:
        return value
    raise UserError(f"{name}: expected {_describe(expected)}, got {value!r}")


def _describe(expected: Any) -> str:
    if typing.get_origin(expected) is tuple:
        args = typing.get_args(expected)
        kind = _describe(args[0])
        return f"a list of {kind}s" if args[-1] is Ellipsis else f"{len(args)} {kind}s"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(expected, str(expected))


def load_config(path: str | Path) -> Config:
    """Read `config.json` of a run (or one written by hand); checked. Raises UserError."""
    try:
        data = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"cannot read config {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"config {path} is not valid JSON: {error}") from None
    return validate(from_dict(Config, data))
