"""Images named in a CSV or TSV file: path, label and, if there is a third column, split."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import UserError
from .file_list import FileList
from .folder import SPLITS
from .names import composed, match

_NAMES = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "set", "subset"),
}
"""Column -> the names that it may have in the first line."""


class Row(NamedTuple):
    """One line of a list."""

    path: str
    label: str
    split: str
    """One of `SPLITS`; empty in a list without that column."""


def is_table(path: Path) -> bool:
    """Return whether `path` is a list of images."""
    return path.suffix.lower() in (".csv", ".tsv") and path.is_file()


def image_table(
    path: Path,
    *,
    class_names: Sequence[str] | None = None,
    allow_empty_classes: bool = False,
    follow_links: bool = False,
    split: str = "",
) -> FileList:
    """Return the images of a list, in its order: all, or the rows of a split.

    Paths are relative to the list's folder, or absolute. A first line with the names of the columns
    is optional. Without `class_names` the classes are the labels of all rows, sorted as text. The
    other options have no effect: a link that is named is followed, and every class has an image.
    Raises UserError naming the line.
    """
    rows = list(_rows(path))
    found = match({row.label for row in rows}, class_names, str(path))
    names = tuple(found if class_names is None else class_names)
    numbers = {composed(name): number for number, name in enumerate(names)}
    chosen = [row for row in rows if row.split == split or not split]
    if not chosen:
        raise UserError(f"{path}: no images" + (f" with split {split}" if split else ""))
    paths = [os.fsencode(row.path) for row in chosen]
    return FileList(path.parent, names, paths, [numbers[composed(row.label)] for row in chosen])


def table_splits(path: Path) -> set[str]:
    """Return the splits that a list names; none without that column. Raises UserError."""
    return {row.split for row in _rows(path)} - {""}


def _rows(path: Path) -> Iterator[Row]:
    """Yield the rows. Raises UserError naming the line of one that is none."""
    labels: dict[str, str] = {}
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            tabs = path.suffix.lower() == ".tsv" or ("\t" in first and "," not in first)
            semicolons = ";" in first and "," not in first
            reader = csv.reader(file, delimiter="\t" if tabs else ";" if semicolons else ",")
            columns: Sequence[int] | None = None
            for fields in reader:
                line = reader.line_num
                if not any(fields):
                    continue
                if columns is None:
                    columns, named = _columns(fields)
                    if named:
                        continue
                row = _row(fields, columns)
                if labels.setdefault(row.path, row.label) != row.label:
                    raise ValueError(f"{row.path} has two labels, here and in an earlier line")
                yield row
    except OSError as error:
        raise UserError(f"cannot read list {path}: {error.strerror}") from None
    except (csv.Error, ValueError) as error:  # text that is not UTF-8 is a ValueError
        raise UserError(f"{path}, line {line}: {error}") from None


def _columns(first: list[str]) -> tuple[tuple[int, ...], bool]:
    """Return where path, label and split (if any) are, and whether the first line names them."""
    words = [word.strip().lower() for word in first]
    places = {
        column: next((n for n, word in enumerate(words) if word in names), -1)
        for column, names in _NAMES.items()
    }
    if places["path"] >= 0 and places["label"] >= 0:
        return tuple(place for place in places.values() if place >= 0), True
    if len(first) not in (2, 3):
        raise ValueError(
            f"expected path, label and optionally split, got {len(first)} columns; other lists "
            "need a first line that names the columns path and label"
        )
    return tuple(range(len(first))), False


def _row(fields: list[str], columns: Sequence[int]) -> Row:
    if max(columns) >= len(fields):
        raise ValueError(f"expected {max(columns) + 1} columns, got {len(fields)}")
    path, label, *rest = (fields[column].strip() for column in columns)
    if not path or not label or "\0" in path:
        raise ValueError("expected a path and a label")
    split = rest[0].lower() if rest else ""
    if rest and split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {rest[0]!r}")
    return Row(path, label, split)
