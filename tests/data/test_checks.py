"""Warnings about the images before training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seresnext.data.checks import warnings
from seresnext.data.sources import open_source


def write(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for k in range(first, first + count):
            (root / name / f"{k}.png").write_text(f"{name} {k:04}")
    return root


@pytest.mark.parametrize(
    ("train", "val", "first", "expected"),
    [
        ({"a": 5, "b": 5}, {"a": 1, "b": 1}, 9, []),
        ({"a": 5, "b": 5}, None, 9, ["no validation images: .*--val-share 0.2"]),
        ({"a": 5, "b": 4}, {"a": 1, "b": 1}, 9, [r"fewer than 5 training images: b \(4\)"]),
        ({"a": 61, "b": 6}, {"a": 1, "b": 1}, 99, ["61 training images of a, 6 of b: --data.bal"]),
        ({"a": 5, "b": 5}, {"a": 1}, 9, ["classes without validation images: b"]),
        (
            {"a": 5, "b": 5},
            {"a": 2, "b": 1},
            4,
            [r"validation images that are training images, too: 2"],
        ),
    ],
)
def test_warnings(
    tmp_path: Path,
    train: dict[str, int],
    val: dict[str, int] | None,
    first: int,
    expected: list[str],
) -> None:
    source = open_source(write(tmp_path / "train", train))
    held_out = val and open_source(
        write(tmp_path / "val", val, first), class_names=source.class_names
    )
    found = list(warnings(source, held_out or None))
    assert len(found) == len(expected), found
    for text, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, text)
