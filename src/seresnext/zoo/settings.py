"""The original's options as this package's configuration."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import Config, EngineConfig, EngineName
from ..config.recipes import recipe
from ..config.typed import config_flags, help_sections, with_flags
from ..errors import UserError
from ..flags import print_help, read
from ..launch.ranks import world_size
from .checkpoints import from_newest_state
from .options import Options, Target, TrainOptions


def train_config(
    options: TrainOptions, flags: list[str] | None = None, processes: int | None = None
) -> tuple[Config, list[str]]:
    """(the configuration, notes for the user).

    `flags` set fields of `Config` as on the command line (`--model.layers 1 1 1 1`) and override
    the options. `processes` is the number of processes of the run, by default that of this world.
    Raises UserError naming the option or field that is wrong.
    """
    o, start = options, recipe(options.recipe)
    if o.pre_trained and not o.checkpoint_path:
        raise UserError("pre_trained is True: give --checkpoint_path, the weights to start from")
    root, train, val = _folders(o)
    engine = engine_config(o.device_target, o.device_id, o.engine)
    notes = []
    if engine.device == "cpu":
        notes.append("device_target CPU: float32; the original's float16 is for accelerators")
    else:
        engine = replace(
            engine,
            precision=start.engine.precision,
            fp16_batch_norm=start.engine.fp16_batch_norm,
            loss_scale=0.0 if o.is_dynamic_loss_scale else o.loss_scale,
        )
    global_batch = _global_batch(o, processes or world_size())
    lr_per_256 = start.optim.lr_per_256
    if o.lr_init is not None:
        lr_per_256 = o.lr_init * 256 / global_batch
    config = replace(start, engine=engine).replace(
        data={"root": root, "train": train, "val": val},
        augment={"image_size": image_size(o.image_height, o.image_width)},
        optim={"lr_per_256": lr_per_256, "momentum": o.momentum, "weight_decay": o.weight_decay},
        loss={"label_smoothing": o.label_smooth_factor if o.use_label_smooth else 0.0},
        schedule=_schedule(o, lr_per_256 * global_batch / 256),
        run={
            "out": o.out,
            "duration": f"{o.epoch_size:g} epochs",
            "batch_size": o.batch_size,
            "pretrained": o.checkpoint_path if o.pre_trained else "",
            "keep_checkpoint_max": o.keep_checkpoint_max,
        },
    )
    if flags:
        given = read(flags, config_flags(config), "train.py ... --")
        if "help" in given:
            print_help("train.py ... --", "Fields of the configuration.", help_sections(config))
        config = with_flags(config, given)
    return config.check(), notes


def _schedule(options: TrainOptions, peak: float) -> dict[str, Any]:
    """Fields of `ScheduleConfig`; `peak` is the learning rate after the warmup."""
    fields = {
        "kind": "cosine" if options.lr_scheduler == "cosine_annealing" else "step",
        "warmup": f"{options.warmup_epochs:g} epochs",
        "final_lr_ratio": _lowest_ratio(options.eta_min, peak),
        "milestones": tuple(f"{epoch:g} epochs" for epoch in options.lr_epochs),
        "gamma": options.lr_gamma,
    }
    if options.T_max is not None:
        fields["cosine_period"] = f"{options.T_max:g} epochs"
    return fields


def _folders(options: Options) -> tuple[str, str, str]:
    """(root, train, val) of `DataConfig`: data_path holds the class folders or the splits."""
    if not options.data_path:
        raise UserError(
            "data_path is not set: give --data_path DIR with DIR/<class>/<image>, or DIR/train and "
            "DIR/val, here or in the file of --config_path"
        )
    if Path(options.data_path, "train").is_dir():
        return options.data_path, "", options.val_data_path
    return "", options.data_path, options.val_data_path


def _global_batch(options: TrainOptions, processes: int) -> int:
    """Images per step on all devices; a resumed run keeps the number that it began with."""
    saved = from_newest_state(Path(options.out), lambda state: int(state["global_batch"]))
    return saved or options.batch_size * processes


def _lowest_ratio(eta_min: float, peak: float) -> float:
    """eta_min as a share of the peak rate."""
    if eta_min == 0:
        return 0.0
    if not 0 < eta_min <= peak:
        raise UserError(f"eta_min: expected 0 to the peak rate ({peak:g}), got {eta_min:g}")
    return eta_min / peak


def image_size(height: int, width: int) -> int:
    """The side of the square images. Raises UserError if height and width differ."""
    if height != width:
        raise UserError(f"images are square here: height is {height}, width {width}; give the same")
    return height


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
