"""Checkpoints in the original's format, written beside those that a run resumes from."""

from __future__ import annotations

import re
from pathlib import Path

from ..config import RunConfig
from ..config.durations import duration_steps, whole_steps
from ..errors import UserError
from ..model.spec import ModelSpec
from ..training.checkpoint import Checkpoint
from ..training.schedule import due
from ..weights.ckpt import write_ckpt
from ..weights.layouts import MAX_POOL, to_entries
from .log import epoch_and_step

_NAME = re.compile(r"train_senet_imagenet-(\d+)_(\d+)\.ckpt")


def ckpt_name(epoch: int, step: int) -> str:
    """The original's file name: epoch and step within the epoch, both counted from 1."""
    return f"train_senet_imagenet-{epoch}_{step}.ckpt"


def list_ckpts(folder: Path) -> list[Path]:
    """The files with such names, oldest first."""
    found = [
        (match, path) for path in folder.glob("*.ckpt") if (match := _NAME.fullmatch(path.name))
    ]
    return [path for match, path in sorted(found, key=lambda f: (int(f[0][1]), int(f[0][2])))]


def refuse_other_runs(folder: Path) -> None:
    """Raise UserError if `folder` has such files, but is not the folder of the run that wrote them.

    Old files are removed as new ones are written: those of another run must not be among them.
    """
    ckpts = list_ckpts(folder)
    if ckpts and not (folder / "checkpoints").is_dir():
        raise UserError(
            f"{folder} holds {len(ckpts)} checkpoints of another run, such as {ckpts[-1].name}; "
            "nothing of it is touched. Choose another folder with --out, or leave such files "
            "unwritten with --save_ckpt False"
        )


def write_if_due(folder: Path, run: RunConfig, checkpoint: Checkpoint) -> None:
    """Write a `.ckpt` every `run.save_every` and at the end of the run.

    Checkpoints saved in between, because the model was the best so far or the run was stopped, get
    none. The newest `run.keep_checkpoint_max` files stay. Raises what `write_zoo_ckpt` raises.
    """
    done, global_batch = checkpoint.step, int(checkpoint.state["global_batch"])
    steps_per_epoch = done / float(checkpoint.state["epoch"])
    total = max(whole_steps(run.duration, steps_per_epoch, global_batch), 1)
    every = duration_steps(run.save_every, steps_per_epoch, global_batch)
    if done == total or due(done, every):
        write_zoo_ckpt(folder / ckpt_name(*epoch_and_step(done, steps_per_epoch)), checkpoint)
        for old in list_ckpts(folder)[: -run.keep_checkpoint_max]:
            old.unlink()


def write_zoo_ckpt(path: Path, checkpoint: Checkpoint) -> None:
    """Write the weights of `checkpoint` (the averaged ones, if any) in the original's layout.

    A network with biases that the original's lacks (second SE layer, classifier) has additional
    entries for them, which every reader of this package accepts. Raises UserError for a network
    that the original's layout cannot hold, and if the file cannot be written.
    """
    arch = ModelSpec.from_dict(checkpoint.state["model"]).architecture
    if arch.max_pool != MAX_POOL["original"]:
        raise UserError(
            f"a .ckpt of the original means max-pool padding 'same', this network has "
            f"{arch.max_pool!r}; leave such files unwritten with --save_ckpt False"
        )
    weights = checkpoint.tensors.get("ema") or checkpoint.tensors["model"]
    write_ckpt(path, to_entries("original", arch, weights))
