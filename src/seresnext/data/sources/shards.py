"""Images in tar archives: WebDataset shards, and plain archives of class folders."""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ..formats import EXTENSIONS
from ..parallel import in_order
from .base import Sample, Source, fingerprint
from .file_list import MAX_FILE_BYTES
from .folder import SPLITS, has_folders, is_junk, kind_of_ending
from .index import Found, Index, open_index
from .names import composed, match, some
from .tar import Member, Read, members, reading

CLASSES = "classes.txt"
"""Beside shards whose labels are numbers: the class names, one a line."""
_SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(SPLITS)})(?=\d*[-_.])")
"""The split in a shard's name: train-000000.tar, imagenet1k-validation-00.tar."""
_OPEN = 128
"""Archives that are open at a time, at most."""
_PIECE = 8 << 20
"""Bytes read at a time for a checksum."""
READ = os.O_RDONLY | os.O_CLOEXEC
_MAX_LABEL = 1024
"""Bytes of a .cls member."""


class Shards(Source):
    """Images of an index. Reading one is one `pread`, and its checksum is compared."""

    def __init__(
        self,
        place: Place,
        index: Index,
        rows: NDArray[np.int64],
        class_names: tuple[str, ...],
    ) -> None:
        """`rows` are the entries, whose labels mean `index.class_names`, which may be a subset of
        `class_names` in another order."""
        self.class_names = class_names
        places = {composed(name): place for place, name in enumerate(class_names)}
        known = np.array([places.get(composed(name), -1) for name in index.class_names], np.int32)
        self.labels = known[index.label[rows]]
        self.archives = index.archive[rows]
        self._place, self._index, self._rows = place, index, rows
        self._open = lru_cache(place.open_files)(lambda name: _Archive(place.open(name)))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._row(index)
        length = int(self._index.length[row])
        if length > MAX_FILE_BYTES:
            raise OSError(f"file of {length} bytes; at most {MAX_FILE_BYTES} are read")
        data = self._open(self._archive(row)).read(length, int(self._index.offset[row]))
        if len(data) < length:
            raise OSError("its archive ends early")
        if zlib.crc32(data) != self._index.crc32[row]:
            raise OSError("its bytes are not those that were indexed (CRC-32)")
        return Sample(data, int(self.labels[index]))

    def describe(self, index: int) -> str:
        return os.path.join(self._place.url, self._archive(self._row(index)), self.name(index))

    def name(self, index: int) -> str:
        return os.fsdecode(self._index.names[self._row(index)])

    def size(self, index: int) -> int:
        """As in the index: no archive is looked at."""
        return int(self._index.length[self._row(index)])

    def fingerprint(self) -> str:
        """That of a folder of the same files, so that a run may go on with the other of the two."""
        return fingerprint(self)

    def _row(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return int(self._rows[index])

    def _archive(self, row: int) -> str:
        return self._index.archives[self._index.archive[row]][0]


class Place(Protocol):
    """Where archives are."""

    url: str
    """Of their folder, for messages."""
    open_files: int
    """Archives that may be open at a time."""

    def open(self, name: str) -> int:
        """Open an archive, for reading. Raises UserError where it cannot be had, and OSError."""
        ...


class LocalFolder:
    """A folder of this machine."""

    open_files = _OPEN

    def __init__(self, path: Path) -> None:
        self.url = str(path)

    def open(self, name: str) -> int:
        return os.open(Path(self.url, name), READ)


class _Archive:
    """An open file, which is closed when no thread uses it any more."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __del__(self) -> None:
        os.close(self._handle)

    def read(self, count: int, offset: int) -> bytes:
        return os.pread(self._handle, count, offset)


# Opening -----------------------------------------------------------------------------------


def is_shards(path: Path) -> bool:
    """Return whether `path` is a folder of tar archives, with no folder beside them."""
    return bool(_shards(path)) and not has_folders(path)


def image_shards(
    path: Path,
    *,
    class_names: Sequence[str] | None = None,
    allow_empty_classes: bool = False,
    follow_links: bool = False,
    split: str = "",
) -> Shards:
    """Return the images of the archives in a folder: all, or those of a split.

    Their order is that of the archives' names, and the order within each. An image's label is in
    the member with its name and the ending .cls (a number or a class name); without one, it is the
    folder that the image lies in. `CLASSES` names the classes of numbers. Links have no effect:
    they are passed over in archives. Raises UserError.
    """
    archives = _shards(path)
    index = open_index(path, archives, partial(scan, path, archives))
    if index.numbered:
        index = named(index, path)
    wanted = [shard_split(name) == split or not split for name, _, _ in index.archives]
    return opened(
        LocalFolder(path),
        index,
        np.flatnonzero(np.array(wanted)[index.archive]),
        class_names,
        allow_empty_classes,
    )


def opened(
    place: Place,
    index: Index,
    rows: NDArray[np.int64],
    class_names: Sequence[str] | None,
    allow_empty_classes: bool,
) -> Shards:
    """Return the source of some entries; the options are those of `image_folder`."""
    where = place.url
    if not len(rows):
        raise UserError(f"{where}: no images in these archives")
    counts = np.bincount(index.label[rows], minlength=len(index.class_names))
    there = [index.class_names[k] for k in np.flatnonzero(counts)]
    if class_names is None:
        match(index.class_names, None, where)
        empty = [index.class_names[k] for k in np.flatnonzero(counts == 0)]
        if empty and not allow_empty_classes:
            raise UserError(
                f"{where}: no images of class {some(empty)}; train with --data.allow-empty-classes"
            )
    elif index.numbered and not set(there) <= set(class_names):
        raise UserError(
            f"{where}: its labels are numbers; write the class names to "
            f"{os.path.join(where, CLASSES)}, one a line, in the order of the numbers"
        )
    else:
        match(there, class_names, where)
    return Shards(place, index, rows, tuple(class_names or index.class_names))


def shard_splits(path: Path) -> set[str]:
    """Return the splits in the names of shards; none where no name has one. Raises UserError."""
    return splits_among(_shards(path), str(path))


def splits_among(names: Iterable[str], where: str) -> set[str]:
    """As `shard_splits`, of given names."""
    found = {name: shard_split(name) for name in names}
    without = [name for name, split in found.items() if not split]
    if without and len(without) < len(found):
        raise UserError(
            f"{where}: the names of some shards contain their split ({', '.join(SPLITS)}), that of "
            f"{some(without)} does not; rename or move them"
        )
    return set(found.values()) - {""}


def shard_split(name: str) -> str:
    """Return the split that a shard's name contains; empty without one."""
    found = _SPLIT.search(name.lower())
    return found[1] if found else ""


def _shards(path: Path) -> list[str]:
    """Return the names of the archives in a folder, sorted."""
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(".tar") and e.is_file()]
    except OSError:
        return []
    return sorted(name for name in names if not is_junk(name))


def named(index: Index, path: Path) -> Index:
    """Return the index with the names in `CLASSES`, if that exists. Raises UserError."""
    try:
        lines = (path / CLASSES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return index
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read class names {path / CLASSES}: {error}") from None
    if len(lines) < len(index.class_names) or not all(lines) or len(set(lines)) < len(lines):
        raise UserError(
            f"{path / CLASSES}: expected {len(index.class_names)} different class names, one a "
            f"line, got {len(lines)} lines"
        )
    return replace(index, class_names=tuple(lines), numbered=False)


# Making an index ---------------------------------------------------------------------------


def scan(
    folder: Path,
    archives: Sequence[str],
    advance: Callable[[int], None],
    skipped: Counter[str],
    fetch: Callable[[str], Path] | None = None,
) -> Iterator[tuple[int, list[Found]]]:
    """Yield the images of each archive (see `index.Scan`); `fetch` brings it into the folder."""

    def one(number: int) -> tuple[int, list[Found], Counter[str]]:
        name, passed = archives[number], Counter[str]()
        path = fetch(name) if fetch else folder / name
        with reading(path) as (read, size):
            images = list(samples(read, members(read, 0, size, str(path), passed), passed, path))
        advance(size)
        return number, images, passed

    for number, images, passed in in_order(one, range(len(archives))):
        skipped.update(passed)
        yield number, images


def samples(
    read: Read, found: Iterable[Member], skipped: Counter[str], path: Path
) -> Iterator[Found]:
    """Yield the images among an archive's members, with their labels. Raises UserError.

    Members that follow each other and have the same name up to its first dot are one sample. Where
    it has a .cls member, the image is NAME.jpg and not NAME.mask.png.
    """
    visible = (m for m in found if not any(map(is_junk, m.name.split("/"))))
    for key, group in groupby(visible, lambda member: _split_name(member.name)[0]):
        label: int | str | None = None
        images = []
        for member in group:
            ending = _split_name(member.name)[1].lower()
            if ending == ".cls":
                label = _label(read(min(member.size, _MAX_LABEL), member.offset), member, path)
            elif ending.endswith(EXTENSIONS):
                images.append((ending, member))
            else:
                skipped[kind_of_ending(member.name)] += 1
        for ending, member in images:
            if label is not None and ending not in EXTENSIONS:
                skipped["images beside a sample's image"] += 1
                continue
            folder = os.path.basename(os.path.dirname(member.name))
            if label is None and not folder:
                raise UserError(
                    f"{path}: {member.name} has no label: expected {key}.cls beside it, with the "
                    "class as a number or name, or the image in the folder of its class"
                )
            yield Found(member.name, folder if label is None else label, *checksum(read, member))


def checksum(read: Read, member: Member) -> tuple[int, int, int]:
    """Return offset, size and CRC-32 of a member."""
    crc = 0
    for start in range(0, member.size, _PIECE):
        crc = zlib.crc32(read(min(_PIECE, member.size - start), member.offset + start), crc)
    return member.offset, member.size, crc


def _split_name(name: str) -> tuple[str, str]:
    """Return a member's name up to the first dot in its last part, and the rest."""
    start = name.rfind("/") + 1
    dot = name.find(".", start)
    return (name, "") if dot < 0 else (name[:dot], name[dot:])


def _label(data: bytes, member: Member, path: Path) -> int | str:
    """Return the number or name in a .cls member. Raises UserError."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) < member.size or not text.isprintable():
        raise UserError(f"{path}: {member.name} holds no label; expected a number or class name")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
