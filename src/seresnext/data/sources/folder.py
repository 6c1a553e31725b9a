"""Images in files: class folders, and plain lists of files."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from .base import Sample, Source

EXTENSIONS = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
"""Files with these endings are listed (in any case); the content decides how they are decoded."""

MAX_FILE_BYTES = 1 << 29
"""Larger files are not read: images within `DataConfig.max_pixels` are far smaller."""

SPLITS = ("train", "val", "validation", "test")
LAYOUT = "<class>/<image>"
_UNREADABLE_IMAGES = (".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".tif", ".tiff")

_log = logging.getLogger(__name__)


class FileList(Source):
    """Files, each with a label.

    A path takes its length plus 8 bytes of memory: 47 MB for ImageNet's 1.28 million, where `Path`
    objects would take half a gigabyte.
    """

    def __init__(
        self,
        root: str | Path,
        class_names: Sequence[str],
        paths: Sequence[bytes],
        labels: Sequence[int] | NDArray[np.integer[Any]],
    ) -> None:
        """`paths` are relative to `root` or absolute, encoded by `os.fsencode`."""
        assert len(paths) == len(labels)
        self._root = os.fspath(root)
        self.class_names = tuple(class_names)
        self.labels = np.asarray(labels, np.int32)
        self._paths = b"".join(paths)
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        with open(self.describe(index), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise OSError(f"file of {size} bytes; at most {MAX_FILE_BYTES} are read")
            data = file.readall()
        return Sample(data, int(self.labels[index]))

    def describe(self, index: int) -> str:
        return os.path.join(self._root, os.fsdecode(self._path(index)))

    def fingerprint(self) -> str:
        """SHA-256 over the class names and each file's path, label and size. Raises UserError.

        It changes when files are added, removed, renamed, moved to another class or changed in
        size. Bytes changed in place at the same size go unnoticed: finding them would mean reading
        every file.
        """
        if not self._fingerprint:
            digest = hashlib.sha256()
            for class_name in self.class_names:
                digest.update(b"%b\0" % class_name.encode())
            for index, label in enumerate(self.labels.tolist()):
                path = self.describe(index)
                try:
                    size = os.stat(path).st_size
                except OSError as error:
                    raise UserError(f"cannot look at {path}: {error.strerror}") from None
                digest.update(b"%b\0%d\0%d\0" % (self._path(index), label, size))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _path(self, index: int) -> bytes:
        """The path as it was given."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        start = self._ends[index - 1] if index else 0
        return self._paths[start : self._ends[index]]


def image_folder(
    root: Path,
    *,
    class_names: Sequence[str] | None = None,
    allow_empty_classes: bool = False,
    follow_links: bool = False,
) -> FileList:
    """List the images of `root/<class>/`, sorted by class, then by path.

    Without `class_names` the classes are the folder names, sorted. With `class_names` (a trained
    model's, or the training split's for validation) labels are positions in it: a folder with
    another name is an error, a class without a folder has no images.

    Hidden files and folders are skipped, and so are links unless `follow_links`, which follows
    them wherever they lead.

    Raises UserError for a folder that is missing or has another layout, for a class folder
    without images unless `allow_empty_classes`, and for a link back to a folder that contains it.
    """
    skipped: Counter[str] = Counter()
    folders = _class_folders(root, follow_links, skipped)
    names = tuple(sorted(folders) if class_names is None else class_names)
    unknown = sorted(set(folders) - set(names))
    if unknown:
        raise UserError(
            f"{root}: class folders that are no known class: {_some(unknown)}; the {len(names)} "
            f"known ones are {_some(names)}. Rename or remove those folders, or train with them"
        )
    paths: list[bytes] = []
    counts = [0] * len(names)
    for label, name in enumerate(names):
        if name in folders:
            found = sorted(map(os.fsencode, _walk(root, name, follow_links, skipped)))
            counts[label] = len(found)
            paths += found
    if not paths:
        raise UserError(
            f"{root}: no images in {len(folders)} class folders{_listed(skipped)}; "
            f"expected {root}/{LAYOUT} ending in {', '.join(EXTENSIONS)}"
        )
    empty = [n for n, count in zip(names, counts, strict=True) if n in folders and not count]
    if empty and not allow_empty_classes:
        raise UserError(
            f"{root}: no images in class {_some(empty)}{_listed(skipped)}; add some, remove the "
            "folder, or accept it with --data.allow-empty-classes"
        )
    unread = {k: n for k, n in skipped.items() if "link" in k or k in _UNREADABLE_IMAGES}
    if unread:
        _log.warning("%s: not read%s", root, _listed(unread))
    return FileList(root, names, paths, np.repeat(np.arange(len(names)), counts))


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, whatever their ending, and the images below the given folders.

    Images below a folder come in order of their paths; hidden files and links are skipped. Raises
    UserError for a path that does not exist and for a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_file():
            files.append(path)
        elif path.is_dir():
            skipped: Counter[str] = Counter()
            found = sorted(_walk(path, "", False, skipped), key=os.fsencode)
            if not found:
                raise UserError(
                    f"{path}: no images{_listed(skipped)}; looked for {', '.join(EXTENSIONS)}"
                )
            files += [path / name for name in found]
        else:
            raise UserError(f"no such file or folder: {path}")
    return files


def image_list(files: Iterable[Path]) -> FileList:
    """Return a source of unlabelled images (label -1), in the given order."""
    paths = [os.fsencode(path) for path in files]
    return FileList("", (), paths, np.full(len(paths), -1))


# Walking -----------------------------------------------------------------------------------


def _class_folders(root: Path, follow_links: bool, skipped: Counter[str]) -> set[str]:
    """Return the names of the class folders. Raises UserError for another layout."""
    folders: set[str] = set()
    images = 0
    for entry in _entries(root):
        if entry.is_symlink() and not follow_links:
            skipped["links"] += 1
        elif entry.is_dir():
            folders.add(entry.name)
        elif entry.name.lower().endswith(EXTENSIONS):
            images += 1
    if not folders:
        what = f"{images} images but no class folders" if images else "no class folders"
        raise UserError(f"{root}: {what}{_listed(skipped)}; expected {root}/{LAYOUT}")
    if "train" in folders and folders <= set(SPLITS):
        raise UserError(
            f"{root} holds whole splits ({_some(sorted(folders))}), not classes; "
            f"name one of them, such as {root}/train"
        )
    for name in sorted(folders):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{root}: the name of class folder {os.fsencode(name)!r} is not UTF-8; rename it"
            ) from None
    return folders


def _walk(
    root: Path,
    folder: str,
    follow_links: bool,
    skipped: Counter[str],
    inside: tuple[tuple[int, int], ...] = (),
) -> Iterator[str]:
    """Yield the paths of the images below `root/folder`, relative to `root`, in no order.

    Counts in `skipped`, by ending, what it leaves out. `inside` identifies the folders above.
    """
    if follow_links:
        here = os.stat(os.path.join(root, folder))
        if (here.st_dev, here.st_ino) in inside:
            raise UserError(
                f"{os.path.join(root, folder)} is a link to a folder that it lies in; remove it"
            )
        inside = (*inside, (here.st_dev, here.st_ino))
    for entry in _entries(os.path.join(root, folder)):
        path = os.path.join(folder, entry.name)
        if entry.is_symlink() and not follow_links:
            skipped["links"] += 1
        elif entry.is_dir():
            yield from _walk(root, path, follow_links, skipped, inside)
        elif not entry.is_file():
            skipped["broken links" if entry.is_symlink() else "special files"] += 1
        elif entry.name.lower().endswith(EXTENSIONS):
            yield path
        else:
            skipped[os.path.splitext(entry.name)[1].lower() or "no ending"] += 1


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield a folder's entries, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry
    except OSError as error:
        raise UserError(f"cannot read folder {folder}: {error.strerror}") from None


def _some(names: Sequence[str], most: int = 5) -> str:
    """Return the first few names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _listed(skipped: dict[str, int]) -> str:
    """Return what was skipped, for a message."""
    kinds = [f"{kind} ({n})" for kind, n in sorted(skipped.items())]
    hint = "; --data.follow-links follows links" if "links" in skipped else ""
    return f" [passed over: {_some(kinds, 8)}{hint}]" if skipped else ""
