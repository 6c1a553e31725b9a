"""Which images train and which validate: one rule for every verb."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...config import DataConfig
from ...errors import UserError
from .base import Source
from .folder import LAYOUT, SPLITS
from .kinds import kind_of
from .remote import is_address, is_remote, local, shown

HELD_OUT = SPLITS[1:]
"""Names of the images that are not for training; the first that exists is taken."""
DEFAULT_SHARE = 0.2
"""Held out of data that has no splits of its own."""


@dataclass(frozen=True)
class Part:
    """Images for one purpose: where they are, and which of those that are there."""

    path: Path
    """Folder of class folders, list, or folder of archives."""
    split: str = ""
    """Of a list: the rows of this split; of archives: those with its name."""
    share: float = 0.0
    """Of each class, the share that is held out for validation; 0 divides nothing."""
    seed: int = 0
    held_out: bool = False
    """With a share: the images held out, instead of the others."""

    def __str__(self) -> str:
        rows = f" (split {self.split})" if self.split else ""
        if not self.share:
            return f"{shown(self.path)}{rows}"
        share = self.share if self.held_out else 1 - self.share
        held_out = ", held out by --val-share" if self.held_out else ""
        return f"{shown(self.path)}{rows} ({share:.0%} of each class{held_out})"


def split_parts(data: DataConfig) -> tuple[Part, Part | None]:
    """Return the training and the validation images: as configured, else those of the root.

    Those are `data.root`/train, and `data.root`/val, valid, validation or test, whichever exists
    first; in a list, the rows of these splits; among archives, those named so. A root without them
    is divided: `data.val_share` of each class is held out. Raises UserError when there are no such
    images.
    """
    if not data.train and not data.root:
        raise UserError("no data: give --data DIR with DIR/<class>/, or --train-data DIR")
    train = _named(data.train, "training") if data.train else _split(local(data.root), ("train",))
    val = _named(data.val, "validation") if data.val else None
    if data.root and not data.val:
        val = _split(local(data.root), HELD_OUT)
    share = data.val_share
    if train is None:
        train = Part(_whole(local(data.root), val))
        share = DEFAULT_SHARE if share is None and val is None else share
    if not share:
        return train, val
    if val is not None:
        raise UserError(
            f"--val-share {share:g}: {val} holds validation images already; --val-share 0 takes "
            "those"
        )
    train = replace(train, share=share, seed=data.val_seed)
    return train, replace(train, held_out=True)


def all_parts(root: Path) -> dict[str, Part]:
    """Return every split that `root` has, by name; without any, all of it under an empty name."""
    root = local(root)
    found = {name: part for name in SPLITS if (part := _split(root, (name,)))}
    return found or {"": Part(root)}


def settled(data: DataConfig) -> DataConfig:
    """Return the settings with the share that is held out as a number, for the record."""
    return replace(data, val_share=split_parts(data)[0].share)


def evaluation_part(path: Path, data: DataConfig | None = None) -> Part:
    """Return the images to evaluate on: `path`/val, valid, validation or test, else all of `path`.

    Where `data` (a run's) held a share of the same images out, it is that share.
    """
    path = local(path)
    if data is not None and data.val_share and _same(path, data.train or data.root):
        held_out = split_parts(data)[1]
        if held_out and held_out.share:
            return held_out
    return _split(path, HELD_OUT) or Part(path)


def training_part(path: Path, data: DataConfig) -> Part:
    """Return the images of `path` to train on: `path`/train, else all of `path`, without those that
    `data` (a run's) held out of it."""
    path = local(path)
    if data.val_share and _same(path, data.train or data.root):
        return split_parts(data)[0]
    return _split(path, ("train",)) or Part(path)


def refuse_inside(out: Path, data: DataConfig) -> None:
    """Raise UserError for a run folder inside the images, which would be taken for one of them."""
    for folder in (data.root, data.train, data.val):
        if not folder or is_address(folder):
            continue
        if Path(folder).resolve() in (out.resolve(), *out.resolve().parents):
            raise UserError(
                f"--out {out} lies inside the data folder {folder}; choose one outside, such as "
                f"--out {Path(folder).resolve().parent / 'runs' / out.name}"
            )


def divided(source: Source, part: Part) -> NDArray[np.int64]:
    """Return the indices of the images of a part that has a share, in ascending order.

    Of each class, those whose names have the smallest hashes are held out: the division does not
    change when the source is moved, and hardly when images are added. One image at least is held
    out and one is not, where a class has two.
    """
    seed = b"%d\0" % part.seed
    hashes = [
        hashlib.blake2b(seed + os.fsencode(source.name(index)), digest_size=8).digest()
        for index in range(len(source))
    ]
    chosen: list[int] = []
    for label in range(len(source.class_names)):
        members = sorted(np.flatnonzero(source.labels == label).tolist(), key=hashes.__getitem__)
        count = min(max(1, round(part.share * len(members))), len(members) - 1)
        chosen += members[:count] if part.held_out else members[max(count, 0) :]
    return np.sort(np.array(chosen, np.int64))


def _same(path: Path, recorded: str) -> bool:
    """Return whether both are the same folder or list."""
    try:
        return bool(recorded) and path.samefile(local(recorded))
    except OSError:
        return False


def _named(path: str, purpose: str) -> Part:
    found = local(path)
    if not found.is_dir() and not kind_of(found):
        raise UserError(
            f"no {purpose} images at {path}; expected a folder with {LAYOUT}, a folder of tar "
            "shards, or a .csv or .tsv list"
        )
    return Part(found)


def _split(root: Path, names: tuple[str, ...]) -> Part | None:
    """Return the first of the splits that `root` has: in itself, else as folders below it."""
    kind = kind_of(root)
    there = kind.splits(root) if kind else set()
    if there:
        return next((Part(root, name) for name in names if name in there), None)
    return next((Part(root / name) for name in names if kind_of(root / name)), None)


def _whole(root: Path, val: Part | None) -> Path:
    """Return `root`, which has no training split. Raises UserError unless it can be divided."""
    below: Callable[[str], Path] = root.joinpath
    if (not root.is_dir() or is_remote(root)) and kind_of(root) and val is None:
        return root
    if not root.is_dir() or val is not None or (below("train").is_dir() and not _has_classes(root)):
        raise UserError(
            f"no training images: expected {root}/train/{LAYOUT}, or {root}/{LAYOUT} with every "
            "image in the folder of its class, or tar shards; or name it with train --train-data"
        )
    return root


def _has_classes(root: Path) -> bool:
    """Return whether `root` has folders that are not named like a split."""
    return any(e.is_dir() and e.name not in SPLITS and e.name[0] != "." for e in root.iterdir())
