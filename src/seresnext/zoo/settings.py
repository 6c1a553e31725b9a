"""The original's options as this package's configuration."""

from __future__ import annotations

import importlib.util
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config, EngineConfig, EngineName
from ..config.recipes import recipe
from ..config.typed import config_flags, help_sections, with_flags
from ..errors import UserError
from ..flags import print_help, read
from ..launch.ranks import world_size
from ..training.checkpoint import from_newest_state, list_checkpoints
from .command import Given
from .options import Options, Target, TrainOptions


def train_config(
    given: Given[TrainOptions], processes: int | None = None
) -> tuple[Config, list[str]]:
    """(the configuration, notes for the user).

    The flags after `--` set fields of `Config` (`--model.layers 1 1 1 1`) and come before the
    names in a file and the defaults; one that contradicts a name typed beside it is refused.
    `processes` is the number of processes of the run, by default that of this world. Raises
    UserError naming the option or field that is wrong.
    """
    o, start = given.options, recipe(given.options.recipe)
    if o.pre_trained and not o.checkpoint_path:
        raise UserError("pre_trained is True: give --checkpoint_path, the weights to start from")
    root, train, val = _folders(given)
    engine = replace(
        engine_config(o.device_target, o.device_id, o.engine),
        precision="fp32" if o.device_target == "CPU" else start.engine.precision,
        fp16_batch_norm=start.engine.fp16_batch_norm,
        loss_scale=0.0 if o.is_dynamic_loss_scale else o.loss_scale,
    )
    global_batch = _global_batch(o, processes or world_size())
    lr_per_256 = start.optim.lr_per_256
    if o.lr_init is not None:
        lr_per_256 = o.lr_init * 256 / global_batch
    config = replace(start, engine=engine).replace(
        data={
            "root": root,
            "train": train,
            "val": val,
            "on_bad_image": o.on_bad_image,
            "max_pixels": o.max_pixels,
            "follow_links": o.follow_links,
        },
        augment={"image_size": image_size(o.image_height, o.image_width) or 224},
        optim={"lr_per_256": lr_per_256, "momentum": o.momentum, "weight_decay": o.weight_decay},
        loss={"label_smoothing": o.label_smooth_factor if o.use_label_smooth else 0.0},
        schedule=_schedule(o, lr_per_256 * global_batch / 256),
        run={
            "out": o.out,
            "duration": _epochs(o.epoch_size),
            "batch_size": o.batch_size,
            "pretrained": o.checkpoint_path if o.pre_trained else "",
            "keep_checkpoint_max": o.keep_checkpoint_max,
        },
    )
    if _with_flags(config, given).engine.precision != "fp16":
        # Nothing reads these; the record of a run in float32 does not speak of them.
        config = config.replace(engine={"fp16_batch_norm": False, "loss_scale": 0.0})
    final = _with_flags(config, given)
    _refuse_contradictions(config, final, given)
    return final.check(), _notes(final, given)


def _with_flags(config: Config, given: Given[TrainOptions]) -> Config:
    """`config` with the fields that follow `--`."""
    if not given.flags:
        return config
    flags = read(list(given.flags), config_flags(config), "train.py ... --")
    if "help" in flags:
        print_help("train.py ... --", "Fields of the configuration.", help_sections(config))
    return with_flags(config, flags)


def _refuse_contradictions(config: Config, final: Config, given: Given[TrainOptions]) -> None:
    """Raise UserError if a flag after `--` has changed what a name on the command line has set."""
    for option in fields(given.options):
        for field in option.metadata["sets"]:
            group, _, name = field.partition(".")
            was, now = (getattr(c, group) for c in (config, final))
            if name:
                was, now = getattr(was, name), getattr(now, name)
            if option.name in given.typed and was != now:
                flag = field.replace("_", "-")
                raise UserError(
                    f"--{option.name} {getattr(given.options, option.name)} and, after --, "
                    f"--{flag} {now} contradict each other; give one of them"
                )


def _notes(config: Config, given: Given[TrainOptions]) -> list[str]:
    """What the user may not expect of the configuration."""
    if config.engine.precision == "fp16":
        return []
    notes = []
    if given.options.device_target == "CPU" and config.engine.precision == "fp32":
        notes.append("device_target CPU: float32; the original's float16 is for accelerators")
    unused = sorted({"loss_scale", "is_dynamic_loss_scale"} & given.typed)
    notes += [
        f"--{name} has no effect: it is for float16 (-- --engine.precision fp16), and this run "
        f"computes in {config.engine.precision}"
        for name in unused
    ]
    return notes


def _epochs(number: float) -> str:
    """A duration in epochs, without an exponent."""
    return f"{np.format_float_positional(number, trim='-')} epochs"


def _schedule(options: TrainOptions, peak: float) -> dict[str, Any]:
    """Fields of `ScheduleConfig`; `peak` is the learning rate after the warmup."""
    values = {
        "kind": "cosine" if options.lr_scheduler == "cosine_annealing" else "step",
        "warmup": _epochs(options.warmup_epochs),
        "final_lr_ratio": _lowest_ratio(options.eta_min, peak),
        "milestones": tuple(map(_epochs, options.lr_epochs)),
        "gamma": options.lr_gamma,
    }
    if options.T_max is not None:
        values["cosine_period"] = _epochs(options.T_max)
    return values


def _folders(given: Given[TrainOptions]) -> tuple[str, str, str]:
    """(root, train, val) of `DataConfig`: data_path holds the class folders or the splits."""
    options = given.options
    if not options.data_path:
        raise UserError(
            "data_path is not set: give --data_path DIR with DIR/<class>/<image>, or DIR/train and "
            "DIR/val, here, in config.yaml or in the file of --config_path"
        )
    if Path(options.data_path, "train").is_dir():
        # A folder typed here brings its own validation images, whatever the file says.
        own = "data_path" in given.typed and "val_data_path" not in given.typed
        return options.data_path, "", "" if own else options.val_data_path
    return "", options.data_path, options.val_data_path


def validation_path(given: Given[Any]) -> str:
    """The images to evaluate on: what is typed, else `val_data_path`, else `data_path`.

    Raises UserError if neither is set.
    """
    options = given.options
    if "data_path" in given.typed and "val_data_path" not in given.typed:
        return str(options.data_path)
    if not options.val_data_path and not options.data_path:
        name = "val_data_path" if isinstance(options, Options) else "data_path"
        raise UserError(
            f"{name} is not set: give --{name} DIR with DIR/<class>/<image>, here, in config.yaml "
            "or in the file of --config_path"
        )
    return options.val_data_path or str(options.data_path)


def _global_batch(options: TrainOptions, processes: int) -> int:
    """Images per step on all devices; a resumed run keeps the number that it began with."""
    checkpoints = list_checkpoints(Path(options.out) / "checkpoints")
    saved = from_newest_state(checkpoints, lambda state: int(state["global_batch"]))
    return saved or options.batch_size * processes


def _lowest_ratio(eta_min: float, peak: float) -> float:
    """eta_min as a share of the peak rate."""
    if eta_min == 0:
        return 0.0
    if not 0 < eta_min <= peak:
        raise UserError(f"eta_min: expected 0 to the peak rate ({peak:g}), got {eta_min:g}")
    return eta_min / peak


def image_size(height: int | None, width: int | None) -> int | None:
    """The side of the square images, None if not given. Raises UserError if the two differ."""
    if height != width:
        raise UserError(
            f"images are square here: height is {height or 'not given'}, width "
            f"{width or 'not given'}; give the same"
        )
    return height


def has_ascend() -> bool:
    """Whether the driver of an Ascend device is here."""
    return any(Path("/dev").glob("davinci[0-9]*"))


def check_device(target: Target) -> None:
    """Raise UserError for Ascend, the original's default, on a machine without one."""
    if target == "Ascend" and not has_ascend():
        raise UserError(
            "device_target is Ascend, as in the original, and there is no Ascend device here; give "
            "--device_target CPU, or GPU"
        )


def engine_config(target: Target, device_id: int, engine: EngineName | None) -> EngineConfig:
    """Framework and device for `device_target`, `device_id` and `engine`, in float32.

    Raises UserError for a combination that does not exist.
    """
    name = engine or _usual_engine(target)
    if target == "CPU":
        return EngineConfig(name=name, device="cpu")
    if target == "GPU" and name == "mindspore":
        raise UserError(
            "device_target GPU needs --engine torch: MindSpore computes on CPU and Ascend here"
        )
    kind = {"GPU": "cuda", "Ascend": "ascend" if name == "mindspore" else "npu"}[target]
    several = world_size() > 1  # each process takes the device of its local rank
    return EngineConfig(name=name, device=kind if several else f"{kind}:{device_id}")


def _usual_engine(target: Target) -> EngineName:
    """MindSpore on Ascend, PyTorch on a GPU; on the CPU PyTorch if it is installed."""
    if target == "Ascend" or (target == "CPU" and importlib.util.find_spec("torch") is None):
        return "mindspore"
    return "torch"
