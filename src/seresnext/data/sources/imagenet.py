"""ImageNet (ILSVRC 2012) in its three official archives, as they are downloaded.

Names, order and labels are those of the folders that everybody makes of them: train/WNID/*.JPEG
and val/WNID/*.JPEG, classes in order of their WordNet ids.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import UserError
from ..formats import EXTENSIONS
from ..parallel import in_order
from .index import Found, open_index
from .mat import read_structs
from .shards import LocalFolder, Shards, checksum, opened
from .tar import Member, Read, members, reading

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
MD5 = {
    TRAIN: "1d675b47d978889d74fa0da5fadfb00e",
    VAL: "29b22e2961454d5413ddabcf34fc5622",
    DEVKIT: "fa75699e90414af021442c21a62c3abf",
}
IMAGES = {"train": 1_281_167, "val": 50_000}
_SPLITS = {"train": TRAIN, "val": VAL}
_CLASS = re.compile(r"(?:.*/)?(n\d{8})\.tar")
_NUMBER = re.compile(r"(?:.*/)?(ILSVRC2012_val_(\d{8})\.JPEG)")
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
_MAX_DEVKIT = 256 << 20


def is_imagenet(path: Path) -> bool:
    """Return whether a folder holds the archive of the training or the validation images."""
    return any((path / archive).is_file() for archive in _SPLITS.values())


def imagenet(
    path: Path,
    *,
    class_names: Sequence[str] | None = None,
    allow_empty_classes: bool = False,
    follow_links: bool = False,
    split: str = "",
) -> Shards:
    """Return the images of the archives: all, or those of `train` or `val`.

    Links have no effect: they are passed over in archives. Raises UserError.
    """
    archives = [name for name in MD5 if (path / name).is_file()]
    if VAL in archives and DEVKIT not in archives:
        raise UserError(
            f"{path}: the labels of {VAL} are in {DEVKIT}, which is not there; download it from "
            f"image-net.org, or move {VAL} away"
        )
    index = open_index(path, archives, partial(_scan, path, archives))
    wanted = [name == _SPLITS.get(split) or not split for name in archives]
    rows = np.flatnonzero(np.array(wanted)[index.archive])
    return opened(LocalFolder(path), index, rows, class_names, allow_empty_classes)


def imagenet_splits(path: Path) -> set[str]:
    """Return the splits whose archives are there."""
    return {split for split, archive in _SPLITS.items() if (path / archive).is_file()}


# Making an index ---------------------------------------------------------------------------


def _scan(
    folder: Path, archives: Sequence[str], advance: Callable[[int], None], skipped: Counter[str]
) -> Iterator[tuple[int, list[Found]]]:
    """Yield the images of the archives (see `index.Scan`)."""
    if TRAIN in archives:
        with reading(folder / TRAIN) as (read, size):
            outer = members(read, 0, size, str(folder / TRAIN), skipped)
            classes = {m[1]: inner for inner in outer if (m := _CLASS.fullmatch(inner.name))}
            scan = partial(_class, read, str(folder / TRAIN))
            for inner, images in in_order(scan, sorted(classes.items())):
                advance(inner)
                yield archives.index(TRAIN), images
    if VAL in archives:
        truth = _ground_truth(folder / DEVKIT)
        with reading(folder / VAL) as (read, size):
            inside = members(read, 0, size, str(folder / VAL), skipped)
            images = _validation(read, inside, truth, advance, folder / VAL)
        yield archives.index(VAL), sorted(images)


def _class(read: Read, where: str, found: tuple[str, Member]) -> tuple[int, list[Found]]:
    """Return the size of a class's archive, which lies in that of the training images, and its
    images in order of their names."""
    wnid, outer = found
    end = outer.offset + outer.size
    images = [
        Found(f"{wnid}/{member.name}", wnid, *checksum(read, member))
        for member in members(read, outer.offset, end, f"{where}: {outer.name}", Counter())
        if member.name.lower().endswith(EXTENSIONS)
    ]
    return outer.size, sorted(images)


def _validation(
    read: Read,
    found: Iterator[Member],
    truth: list[str],
    advance: Callable[[int], None],
    archive: Path,
) -> list[Found]:
    """Return the validation images; the number in a name is the line of the ground truth."""
    images = []
    for member in found:
        name = _NUMBER.fullmatch(member.name)
        if not name:
            continue
        if not 1 <= int(name[2]) <= len(truth):
            raise UserError(
                f"{archive}: {member.name} is not one of the {len(truth)} images whose labels are "
                f"in {DEVKIT}; these archives do not belong together"
            )
        wnid = truth[int(name[2]) - 1]
        images.append(Found(f"{wnid}/{name[1]}", wnid, *checksum(read, member)))
        advance(member.size)
    return images


def _ground_truth(devkit: Path) -> list[str]:
    """Return the WordNet id of each validation image. Raises UserError."""
    try:
        with gzip.open(devkit) as file:
            data = file.read(_MAX_DEVKIT)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {devkit}: {error}; download it again") from None

    def read(count: int, offset: int) -> bytes:
        return data[offset : offset + count]

    files = {}
    for member in members(read, 0, len(data), str(devkit), Counter()):
        for wanted in (_TRUTH, _META):
            if f"/{member.name}".endswith(f"/{wanted}"):
                files[wanted] = read(member.size, member.offset)
    try:
        synsets = read_structs(files[_META], "synsets")
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        return [wnids[int(line)] for line in files[_TRUTH].split()]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{devkit} does not hold the labels of the validation images ({error}); download it "
            "again"
        ) from None
