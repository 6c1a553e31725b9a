"""Folders of images: class folders, and images to predict."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...errors import UserError, printable
from ..formats import EXTENSIONS, remedies
from .file_list import FileList
from .names import match, some

SPLITS = ("train", "val", "valid", "validation", "test")
LAYOUT = "<class>/<image>"
_JUNK = (
    *("__macosx", "$recycle.bin", "system volume information", "@eadir", "lost+found"),
    *("__pycache__", "thumbs.db", "desktop.ini"),
)
"""What systems and archivers leave in folders, in lower case: ignored like hidden entries."""

_log = logging.getLogger(__name__)


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
    found = _class_folders(root, follow_links, skipped)
    folders = match(found, class_names, str(root))
    names = tuple(folders if class_names is None else class_names)
    paths: list[bytes] = []
    counts = [0] * len(names)
    for label, name in enumerate(names):
        if name in folders:
            images = sorted(map(os.fsencode, _walk(root, folders[name], follow_links, skipped)))
            counts[label] = len(images)
            paths += images
    if not paths:
        raise UserError(
            f"{root}: no images in {len(folders)} class folders{_listed(skipped)}; "
            f"expected {root}/{LAYOUT} ending in {', '.join(EXTENSIONS)}"
        )
    empty = [n for n, count in zip(names, counts, strict=True) if n in folders and not count]
    if empty and not allow_empty_classes:
        raise UserError(
            f"{root}: no images in class {some(empty)}{_listed(skipped)}; add some, remove the "
            "folder, or train with --data.allow-empty-classes"
        )
    report_skipped(root, skipped)
    return FileList(root, names, paths, np.repeat(np.arange(len(names)), counts))


def image_files(paths: Iterable[Path], *, follow_links: bool = False) -> list[Path]:
    """Return the given files, whatever their ending, and the images below the given folders.

    Images below a folder come in order of their paths; hidden files are skipped, and so are links
    unless `follow_links`. Raises UserError for a path that does not exist and for a folder without
    images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_file():
            files.append(path)
        elif path.is_dir():
            skipped: Counter[str] = Counter()
            found = sorted(_walk(path, "", follow_links, skipped), key=os.fsencode)
            if not found:
                raise UserError(
                    f"{path}: no images{_listed(skipped)}; looked for {', '.join(EXTENSIONS)}"
                )
            report_skipped(path, skipped)
            files += [path / name for name in found]
        else:
            raise UserError(f"no such file or folder: {path}")
    return files


def image_list(files: Iterable[Path]) -> FileList:
    """Return a source of unlabelled images (label -1), in the given order."""
    paths = [os.fsencode(path) for path in files]
    return FileList("", (), paths, np.full(len(paths), -1))


def is_split(path: Path) -> bool:
    """Return whether a folder holds class folders; one that holds images itself is a class."""
    if not path.is_dir():
        return False
    folders = False
    for entry in _entries(path):
        if entry.is_dir():
            folders = True
        elif entry.name.lower().endswith(EXTENSIONS):
            return False
    return folders


def has_folders(path: Path) -> bool:
    """Return whether a folder holds folders. Raises UserError where it cannot be read."""
    return any(entry.is_dir() for entry in _entries(path))


def is_junk(name: str) -> bool:
    """Return whether a name is hidden, or one that systems and archivers leave in folders."""
    return name.startswith(".") or name.lower() in _JUNK


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
        else:
            skipped[kind_of_ending(entry.name)] += 1
    if images and folders:
        skipped["images outside class folders"] = images
    if not folders:
        what = f"{images} images but no class folders" if images else "no class folders"
        raise UserError(f"{root}: {what}{_listed(skipped)}; expected {root}/{LAYOUT}")
    if "train" in folders and folders <= set(SPLITS) and all(is_split(root / n) for n in folders):
        raise UserError(
            f"{root} holds whole splits ({some(sorted(folders))}), not classes; "
            f"name one of them, such as {root}/train"
        )
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
            skipped[kind_of_ending(entry.name)] += 1


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield a folder's entries, without hidden ones and what systems leave there."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_junk(entry.name):
                    yield entry
    except OSError as error:
        raise UserError(f"cannot read folder {folder}: {error.strerror}") from None


def kind_of_ending(name: str) -> str:
    """Return a file's ending in lower case, for a message."""
    return printable(os.path.splitext(name)[1].lower()) or "no ending"


def report_skipped(root: Path, skipped: Counter[str]) -> None:
    """Warn of the files, counted by ending or kind, that are not read."""
    if skipped:
        _log.warning("%s: not read%s", printable(str(root)), _listed(skipped))


def _listed(skipped: Counter[str]) -> str:
    """Return what was skipped, for a message."""
    if not skipped:
        return ""
    kinds = [f"{kind} ({n})" for kind, n in sorted(skipped.items())]
    hints = ["--follow-links follows links"] if "links" in skipped else []
    return f" [passed over: {'; '.join([some(kinds, 8), *hints, *remedies(skipped)])}]"
