"""Where images come from. Callers open every source here, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ...config import DataConfig
from ...errors import UserError
from .base import Sample, Source, Subset
from .folder import LAYOUT, SPLITS, image_files, image_folder, image_list

__all__ = [
    "Sample",
    "Source",
    "Subset",
    "evaluation_path",
    "image_files",
    "image_list",
    "open_evaluation",
    "open_source",
    "open_splits",
    "split_paths",
]

_KINDS: tuple[tuple[Callable[[Path], bool], Callable[..., Source]], ...] = (
    (Path.is_dir, image_folder),
)
"""(Whether a path is such a source, what opens it), the first match counts."""


def open_source(
    path: Path,
    *,
    class_names: Sequence[str] | None = None,
    allow_empty_classes: bool = False,
    follow_links: bool = False,
) -> Source:
    """Open the labelled images at `path`. The options are those of `image_folder`.

    Raises UserError when there is no source, or one that does not fit the options.
    """
    opener = next((opens for matches, opens in _KINDS if matches(path)), image_folder)
    return opener(
        path,
        class_names=class_names,
        allow_empty_classes=allow_empty_classes,
        follow_links=follow_links,
    )


def open_splits(data: DataConfig) -> tuple[Source, Source | None]:
    """Open the training images and, where there are any, the validation images.

    Validation labels follow the training classes. Raises UserError.
    """
    train_path, val_path = split_paths(data)
    opener = partial(
        open_source, allow_empty_classes=data.allow_empty_classes, follow_links=data.follow_links
    )
    train = opener(train_path)
    return train, opener(val_path, class_names=train.class_names) if val_path else None


def open_evaluation(path: Path, class_names: Sequence[str] | None = None) -> Source:
    """Open the images to evaluate on: `path`/val, validation or test, else `path` itself.

    Labels follow `class_names` (a trained model's) where given; classes without images are
    accepted. Raises UserError.
    """
    return open_source(evaluation_path(path), class_names=class_names, allow_empty_classes=True)


def split_paths(data: DataConfig) -> tuple[Path, Path | None]:
    """Return where the training and the validation images are: as configured, else below the root.

    The defaults are `data.root`/train, and `data.root`/val, validation or test, whichever exists
    first; None without any. Raises UserError when there are no training images or a configured
    path has no source.
    """
    if not data.train and not data.root:
        raise UserError("no data: give --data DIR with DIR/train/<class>/, or --train-data DIR")
    train = Path(data.train) if data.train else Path(data.root, "train")
    if not _is_source(train):
        raise UserError(
            f"no training folder {train}; expected {train}/{LAYOUT}"
            + ("" if data.train else ", or name the folder itself with --train-data")
        )
    if data.val:
        if not _is_source(Path(data.val)):
            raise UserError(f"no validation folder {data.val}; expected {data.val}/{LAYOUT}")
        return train, Path(data.val)
    return train, _held_out(Path(data.root)) if data.root else None


def evaluation_path(path: Path) -> Path:
    """Return `path`/val, validation or test, whichever exists first; else `path` itself."""
    return _held_out(path) or path


def _held_out(root: Path) -> Path | None:
    return next((root / name for name in SPLITS[1:] if _is_source(root / name)), None)


def _is_source(path: Path) -> bool:
    return any(matches(path) for matches, _ in _KINDS)
