"""Where images come from. Callers open every source here, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...config import DataConfig
from ...errors import UserError
from .base import Sample, Source, Subset
from .folder import image_files, image_list
from .kinds import FOLDER, kind_of
from .splits import (
    Part,
    all_parts,
    divided,
    evaluation_part,
    refuse_inside,
    settled,
    split_parts,
    training_part,
)

__all__ = [
    "Part",
    "Sample",
    "Source",
    "Subset",
    "all_parts",
    "evaluation_part",
    "evaluation_path",
    "image_files",
    "image_list",
    "open_evaluation",
    "open_part",
    "open_source",
    "open_splits",
    "refuse_inside",
    "settled",
    "split_parts",
    "training_part",
]


def open_source(path: Path, **options: Any) -> Source:
    """Open the labelled images at `path`. The options are those of `image_folder`.

    Raises UserError when there is no source, or one that does not fit the options.
    """
    return (kind_of(path) or FOLDER).opens(path, **options)


def open_part(
    part: Part,
    *,
    class_names: Sequence[str] | None = None,
    allow_empty_classes: bool = False,
    follow_links: bool = False,
) -> Source:
    """Open some of the labelled images at a path. The options are those of `image_folder`.

    Raises UserError.
    """
    source = open_source(
        part.path,
        class_names=class_names,
        allow_empty_classes=allow_empty_classes,
        follow_links=follow_links,
        **({"split": part.split} if part.split else {}),
    )
    return Subset(source, divided(source, part)) if part.share else source


def open_splits(data: DataConfig) -> tuple[Source, Source | None]:
    """Open the training images and, where there are any, the validation images.

    Validation labels follow the training classes. With `data.balance` the images of rarer classes
    are repeated. Raises UserError, also for a single class.
    """
    train_part, val_part = split_parts(data)
    opener = partial(
        open_part, allow_empty_classes=data.allow_empty_classes, follow_links=data.follow_links
    )
    train = opener(train_part)
    if len(train.class_names) < 2:
        raise UserError(
            f"{train_part.path}: one class only ({train.class_names[0]}); a classifier needs two "
            "or more. Add a class folder for what is something else"
        )
    val = opener(val_part, class_names=train.class_names) if val_part else None
    return (_balanced(train) if data.balance else train), val


def _balanced(source: Source) -> Source:
    """Return the images, those of rarer classes repeated until all classes have equally many."""
    classes = [np.flatnonzero(source.labels == k) for k in range(len(source.class_names))]
    most = max(map(len, classes))
    repeated = [np.resize(members, most) for members in classes if len(members)]
    return Subset(source, np.concatenate(repeated))


def open_evaluation(
    path: Path, class_names: Sequence[str] | None = None, data: DataConfig | None = None
) -> Source:
    """Open the images of `evaluation_part`; links as in `data`.

    Labels follow `class_names` (a trained model's) where given; classes without images are
    accepted. Raises UserError.
    """
    return open_part(
        evaluation_part(path, data),
        class_names=class_names,
        allow_empty_classes=True,
        follow_links=data.follow_links if data else False,
    )


def evaluation_path(path: Path) -> Path:
    """Return the folder or list of `evaluation_part`."""
    return evaluation_part(path).path
