"""Where images come from: an index -> bytes and label, and the class names that labels mean."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import UserError

EXTENSIONS = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
"""Files with these endings are listed (any case). What is inside decides how they are read."""

MAX_FILE_BYTES = 1 << 29
"""Larger files are not read into memory; no image within `DataConfig.max_pixels` comes near."""

_SPLITS = ("train", "val", "validation", "test")
_UNREADABLE_IMAGES = (".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".tif", ".tiff")
_LAYOUT = "<class>/<image>"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One image as it is stored."""

    data: bytes
    """The encoded file."""
    label: int
    """Class index; -1 where it is not known."""
    name: str
    """What to call it in a report: its path relative to the source."""


class Source(Protocol):
    """Random access to encoded images. Every method may be called from many threads at once."""

    root: Path
    """Where it lies; names are relative to it."""
    class_names: tuple[str, ...]
    """Index -> name."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Image `index`, the same each time. Raises OSError when it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """`Sample.name`, without reading the image."""
        ...

    def fingerprint(self) -> str:
        """Hex digest that changes when the images, their order or their labels do."""
        ...


class FileList(Source):
    """Files below one folder, each with a label.

    A path costs its bytes and 8 more: ImageNet's 1.28 M take 47 MB, as `Path` objects they would
    take half a gigabyte.
    """

    def __init__(
        self,
        root: Path,
        class_names: Sequence[str],
        paths: Sequence[bytes],
        labels: Sequence[int] | np.ndarray,
    ) -> None:
        """`paths` are relative to `root` or absolute, encoded by `os.fsencode`."""
        assert len(paths) == len(labels)
        self.root = root
        self.class_names = tuple(class_names)
        self.labels = np.asarray(labels, np.int32)
        self._paths = b"".join(paths)
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        name = self.name(index)
        with open(os.path.join(self.root, name), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise OSError(f"file of {size} bytes; above {MAX_FILE_BYTES} none is read")
            data = file.readall()
        return Sample(data, int(self.labels[index]), name)

    def name(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._paths[start : self._ends[index]])

    def fingerprint(self) -> str:
        """SHA-256 over the class names and each file's path, label and size. Raises UserError.

        It sees files that were added, removed, renamed, moved to another class or changed in
        size. It does not see bytes changed in place with the size kept: that would mean reading
        everything.
        """
        if not self._fingerprint:
            digest = hashlib.sha256()
            for class_name in self.class_names:
                digest.update(b"%b\0" % class_name.encode())
            for index, label in enumerate(self.labels.tolist()):
                path = os.path.join(self.root, self.name(index))
                try:
                    size = os.stat(path).st_size
                except OSError as error:
                    raise UserError(f"cannot look at {path}: {error.strerror}") from None
                name = os.fsencode(self.name(index))
                digest.update(b"%b\0%d\0%d\0" % (name, label, size))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


class ImageFolder(FileList):
    """`root/<class>/**/<image>`, torchvision's layout. Built by `image_folder`."""


def image_folder(
    root: Path,
    *,
    class_names: Sequence[str] | None = None,
    allow_empty_classes: bool = False,
    follow_links: bool = False,
) -> ImageFolder:
    """List the images of `root/<class>/`, sorted by class, then by path.

    Without `class_names` the classes are the folder names, sorted. With them (a trained model's,
    or the training split's for validation) labels follow them: a folder that is none of them is
    an error, one of them that has no folder simply has no images here.

    Hidden files and folders are passed over, and links too unless `follow_links`; then they are
    followed wherever they lead.

    Raises UserError for a folder that is missing or laid out otherwise, for a class folder
    without images unless `allow_empty_classes`, and for a link back to a folder it lies in.
    """
    other: Counter[str] = Counter()
    folders = _class_folders(root, follow_links, other)
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
            found = sorted(map(os.fsencode, _walk(root, name, follow_links, other)))
            counts[label] = len(found)
            paths += found
    if not paths:
        raise UserError(
            f"{root}: no images in {len(folders)} class folders{_listed(other)}; "
            f"expected {root}/{_LAYOUT} ending in {', '.join(EXTENSIONS)}"
        )
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    empty = [name for name in empty if name in folders]
    if empty and not allow_empty_classes:
        raise UserError(
            f"{root}: no images in class {_some(empty)}{_listed(other)}; add some, remove the "
            "folder, or accept it with --data.allow-empty-classes"
        )
    missed = {kind: n for kind, n in other.items() if "link" in kind or kind in _UNREADABLE_IMAGES}
    if missed:
        _log.warning("%s: not read%s", root, _listed(missed))
    return ImageFolder(root, names, paths, np.repeat(np.arange(len(names)), counts))


def split_folders(root: str, train: str = "", val: str = "") -> tuple[Path, Path | None]:
    """The training and the validation folder: as given, else below `root`.

    `root`/train, and `root`/val, validation or test, the first there is; None without any.
    Raises UserError when there is no training folder or a given folder is missing.
    """
    if not train and not root:
        raise UserError("no data: give --data DIR with DIR/train/<class>/, or --train-data DIR")
    train_folder = Path(train) if train else Path(root, "train")
    if not train_folder.is_dir():
        raise UserError(
            f"no training folder {train_folder}; expected {train_folder}/{_LAYOUT}"
            + ("" if train else ", or name the folder itself with --train-data")
        )
    if val:
        if not Path(val).is_dir():
            raise UserError(f"no validation folder {val}; expected {val}/{_LAYOUT}")
        return train_folder, Path(val)
    found = [Path(root, name) for name in _SPLITS[1:] if root and Path(root, name).is_dir()]
    return train_folder, found[0] if found else None


def evaluation_folder(root: Path) -> Path:
    """`root`/val, validation or test, the first there is; else `root` itself."""
    return next((root / name for name in _SPLITS[1:] if (root / name).is_dir()), root)


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The files to predict: those given, whatever their ending, and the images below folders given.

    Folders are read in order of path, hidden files and links in them passed over. Raises
    UserError for a path that is not there and for a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_file():
            files.append(path)
        elif path.is_dir():
            other: Counter[str] = Counter()
            found = sorted(_walk(path, "", False, other), key=os.fsencode)
            if not found:
                raise UserError(
                    f"{path}: no images{_listed(other)}; looked for {', '.join(EXTENSIONS)}"
                )
            files += [path / name for name in found]
        else:
            raise UserError(f"no such file or folder: {path}")
    return files


def image_list(files: Iterable[Path]) -> FileList:
    """Unlabelled images (label -1), in the given order."""
    paths = [os.fsencode(path) for path in files]
    return FileList(Path(), (), paths, np.full(len(paths), -1))


# Walking -----------------------------------------------------------------------------------


def _class_folders(root: Path, follow_links: bool, other: Counter[str]) -> set[str]:
    """Names of the class folders; UserError for anything but `root/<class>/`."""
    folders: set[str] = set()
    images = 0
    for entry in _entries(root):
        if entry.is_symlink() and not follow_links:
            other["links"] += 1
        elif entry.is_dir():
            folders.add(entry.name)
        elif entry.name.lower().endswith(EXTENSIONS):
            images += 1
    if not folders:
        what = f"{images} images but no class folders" if images else "no class folders"
        raise UserError(f"{root}: {what}{_listed(other)}; expected {root}/{_LAYOUT}")
    if "train" in folders and folders <= set(_SPLITS):
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
    root: Path, folder: str, follow_links: bool, other: Counter[str], inside: tuple = ()
) -> Iterator[str]:
    """Paths of the images below `root/folder`, relative to `root`, in no order.

    Counts in `other` what it passes over, by ending. `inside` identifies the folders above.
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
            other["links"] += 1
        elif entry.is_dir():
            yield from _walk(root, path, follow_links, other, inside)
        elif not entry.is_file():
            other["broken links" if entry.is_symlink() else "special files"] += 1
        elif entry.name.lower().endswith(EXTENSIONS):
            yield path
        else:
            other[os.path.splitext(entry.name)[1].lower() or "no ending"] += 1


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, without hidden entries."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry
    except OSError as error:
        raise UserError(f"cannot read folder {folder}: {error.strerror}") from None


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _listed(other: dict[str, int]) -> str:
    """What was passed over, for a message."""
    kinds = [f"{kind} ({n})" for kind, n in sorted(other.items())]
    hint = "; --data.follow-links follows links" if "links" in other else ""
    return f" [passed over: {_some(kinds, 8)}{hint}]" if other else ""
