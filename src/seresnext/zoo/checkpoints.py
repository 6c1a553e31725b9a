"""Checkpoints under the original's name and in its format, beside those a run resumes from."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import UserError
from ..model.spec import ModelSpec
from ..training.checkpoint import Checkpoint
from ..weights.ckpt import write_ckpt
from ..weights.layouts import MAX_POOL, to_entries

_NAME = re.compile(r"train_senet_imagenet-(\d+)_(\d+)\.ckpt")


def ckpt_name(epoch: int, step: int) -> str:
    """The original's file name; `epoch` from 1, `step` within the epoch, from 1."""
    return f"train_senet_imagenet-{epoch}_{step}.ckpt"


def list_ckpts(folder: Path) -> list[Path]:
    """The files of that name, oldest first."""
    found = [
        (match, path) for path in folder.glob("*.ckpt") if (match := _NAME.fullmatch(path.name))
    ]
    return [path for match, path in sorted(found, key=lambda f: (int(f[0][1]), int(f[0][2])))]


def refuse_foreign(folder: Path) -> None:
    """Raise UserError where `folder` has such files, but no run of this package wrote them.

    Old ones are removed as new ones are written: those of another run must not be among them.
    """
    ckpts = list_ckpts(folder)
    if ckpts and not (folder / "checkpoints").is_dir():
        raise UserError(
            f"{folder} holds {len(ckpts)} checkpoints of another run, such as {ckpts[-1].name}; "
            "nothing of it is touched. Choose another folder with --out, or leave such files "
            "unwritten with --save_ckpt False"
        )


def write_zoo_ckpt(folder: Path, checkpoint: Checkpoint, epoch: int, step: int, keep: int) -> Path:
    """Write the weights of `checkpoint` in the original's layout; keep the newest `keep` files.

    Our network has biases that the original's lacks (second SE layer, classifier); they are
    entries of their own, which every reader of this package takes. Averaged weights go first.
    Raises UserError for a network that the original's layout cannot hold, and a full disk.
    """
    arch = ModelSpec.from_dict(checkpoint.state["model"]).architecture
    if arch.max_pool != MAX_POOL["original"]:
        raise UserError(
            f"a .ckpt of the original means max-pool padding 'same', this network has "
            f"{arch.max_pool!r}; leave such files unwritten with --save_ckpt False"
        )
    weights = checkpoint.tensors.get("ema") or checkpoint.tensors["model"]
    path = folder / ckpt_name(epoch, step)
    write_ckpt(path, to_entries("original", arch, weights, biases=True))
    for old in list_ckpts(folder)[:-keep]:
        old.unlink()
    return path
