"""The kinds of sources: what a path is, what opens it, which splits it holds itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .base import Source
from .folder import image_folder, is_split
from .imagenet import imagenet, imagenet_splits, is_imagenet
from .remote import is_remote, remote_shards, remote_splits
from .shards import image_shards, is_shards, shard_splits
from .table import image_table, is_table, table_splits


class Kind(NamedTuple):
    """One kind of source."""

    matches: Callable[[Path], bool]
    """Whether a path is one."""
    opens: Callable[..., Source]
    """Its options are those of `image_folder`, and `split` where there are `splits`."""
    splits: Callable[[Path], set[str]]
    """The names of the splits that one holds; opened without `split`, it is all of them."""


FOLDER = Kind(is_split, image_folder, lambda path: set())
"""A folder of class folders; its splits are the folders below it."""

KINDS = (
    Kind(is_table, image_table, table_splits),
    Kind(is_remote, remote_shards, remote_splits),
    Kind(is_imagenet, imagenet, imagenet_splits),
    Kind(is_shards, image_shards, shard_splits),
    FOLDER,
)
"""The first that matches counts."""


def kind_of(path: Path) -> Kind | None:
    """Return what kind of source a path is; None where it is none."""
    return next((kind for kind in KINDS if kind.matches(path)), None)
