"""Looks at every image of a source: what cannot be read, what is odd, what is there twice."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg

from ..errors import UserError
from .decode import ImageError, open_image, read_orientation
from .formats import recognise
from .jpeg import segments
from .near import Sketch, groups, sketch
from .parallel import in_order, progress
from .png import parse_png
from .sources import Source, all_parts, imagenet, open_part
from .sources.names import composed

ODDITIES = {
    "cmyk": "CMYK, converted to RGB",
    "sixteen_bit": "16 bits a channel, reduced to 8",
    "rotated": "turned upright by their EXIF orientation",
    "wrong_ending": "named as another format than they have",
}
"""What images may have that is handled, but worth knowing -> its description."""
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WebP": (".webp",),
    "AVIF": (".avif",),
    "HEIC": (".heic", ".heif"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
}


class Look(NamedTuple):
    """What was seen of one image."""

    digest: bytes
    """Of its bytes; empty where they cannot be read."""
    problem: str
    """Why it cannot be decoded; empty otherwise."""
    oddities: tuple[str, ...] = ()
    """Keys of `ODDITIES`."""
    width: int = 0
    """Pixels, upright."""
    height: int = 0
    sketch: Sketch | None = None


@dataclass
class SplitReport:
    """What was seen of a split; images are given by where they are stored."""

    data: str
    images: int
    classes: dict[str, int]
    """Class name -> images."""
    unreadable: list[dict[str, str]] = field(default_factory=list)
    """`file` and `reason`."""
    oddities: dict[str, list[str]] = field(default_factory=lambda: {k: [] for k in ODDITIES})
    smallest: dict[str, Any] = field(default_factory=dict)
    """`file`, `width` and `height` of the image with the fewest pixels."""
    largest: dict[str, Any] = field(default_factory=dict)
    names_alike: list[list[str]] = field(default_factory=list)
    """Names that differ in upper and lower case or in their Unicode form only."""


@dataclass
class Report:
    """What was seen of a source."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    """Images of one split that have the same bytes."""
    duplicates_across: list[list[str]] = field(default_factory=list)
    """Images of several splits that have the same bytes."""
    near: list[list[str]] = field(default_factory=list)
    """Images of one split that look alike (`near.py`), copies left out."""
    near_across: list[list[str]] = field(default_factory=list)
    """Images of several splits that look alike."""

    @property
    def unreadable(self) -> int:
        return sum(len(split.unreadable) for split in self.splits.values())


def inspect_images(
    root: Path, *, max_pixels: int, workers: int = 0, follow_links: bool = False
) -> Report:
    """Read and decode every image at `root`. Raises UserError where there is no source."""
    report = Report()
    copies: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    sketches: dict[bytes, Sketch] = {}
    classes = None
    for name, part in all_parts(root).items():
        source = open_part(
            part, class_names=classes, allow_empty_classes=True, follow_links=follow_links
        )
        classes = source.class_names
        split = SplitReport(str(part), len(source), _counts(source))
        split.names_alike = _alike(source)
        report.splits[name] = split
        look = partial(_look, source, max_pixels=max_pixels)
        with progress(f"checking {len(source)} images of {part}", len(source)) as advance:
            for index, seen in enumerate(in_order(look, range(len(source)), workers)):
                file = source.describe(index)
                _add(split, file, seen)
                if seen.digest:
                    copies[seen.digest].append((name, file))
                if seen.sketch:
                    sketches[seen.digest] = seen.sketch
                advance(1)
    _group(copies.values(), report.duplicates, report.duplicates_across)
    first = [copies[digest][0] for digest in sketches]
    alike = [[first[k] for k in group] for group in groups(list(sketches.values()))]
    _group(alike, report.near, report.near_across)
    return report


def _group(
    found: Iterable[list[tuple[str, str]]], within: list[list[str]], across: list[list[str]]
) -> None:
    """Add the files of each group of (split, file) to those of one split or of several."""
    for group in found:
        if len(group) > 1:
            several = len({name for name, _ in group}) > 1
            (across if several else within).append([file for _, file in group])


def _look(source: Source, index: int, max_pixels: int) -> Look:
    try:
        data = source[index].data
    except OSError as error:
        return Look(b"", error.strerror or str(error))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        image = open_image(data, max_pixels)
        pixels = image.pixels()
        oddities = tuple(_oddities(data, source.name(index)))
    except ImageError as error:
        return Look(digest, str(error))
    return Look(digest, "", oddities, image.width, image.height, sketch(pixels))


def _oddities(data: bytes, name: str) -> Iterator[str]:
    """Yield the keys of `ODDITIES` of an image that can be decoded."""
    kind = recognise(data)
    orientation = 1
    if kind == "JPEG":
        orientation = read_orientation(data[segments(data)[0]][10:])
        try:
            if simplejpeg.decode_jpeg_header(data, strict=False)[2] in ("CMYK", "YCCK"):
                yield "cmyk"
        except (ValueError, KeyError):  # a subsampling without a name; the picture was decoded
            pass
    elif kind == "PNG":
        png = parse_png(data)
        orientation = read_orientation(png.exif)
        if png.depth == 16:
            yield "sixteen_bit"
    if orientation > 1:
        yield "rotated"
    if os.path.splitext(name)[1].lower() not in _ENDINGS[kind]:
        yield "wrong_ending"


def _add(split: SplitReport, file: str, seen: Look) -> None:
    if seen.problem:
        split.unreadable.append({"file": file, "reason": seen.problem})
        return
    for oddity in seen.oddities:
        split.oddities[oddity].append(file)
    entry = {"file": file, "width": seen.width, "height": seen.height}
    pixels = seen.width * seen.height
    if not split.smallest or pixels < split.smallest["width"] * split.smallest["height"]:
        split.smallest = entry
    if not split.largest or pixels > split.largest["width"] * split.largest["height"]:
        split.largest = entry


def _counts(source: Source) -> dict[str, int]:
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    return dict(zip(source.class_names, counts.tolist(), strict=True))


def _alike(source: Source) -> list[list[str]]:
    forms: dict[str, list[str]] = defaultdict(list)
    for name in map(source.name, range(len(source))):
        forms[composed(name).casefold()].append(name)
    return [names for names in forms.values() if len(names) > 1]


def compare_md5(root: Path) -> dict[str, bool]:
    """Return for each of ImageNet's archives in a folder whether it has the official MD5.

    Raises UserError where there is none.
    """
    found = [root / name for name in imagenet.MD5 if (root / name).is_file()]
    if not found:
        raise UserError(f"{root}: none of ImageNet's archives; --md5 is for {imagenet.TRAIN}, "
                        f"{imagenet.VAL} and {imagenet.DEVKIT}")  # fmt: skip
    same = {}
    with progress(f"MD5 of {len(found)} archives", sum(p.stat().st_size for p in found)) as advance:
        for path in found:
            digest = hashlib.md5(usedforsecurity=False)
            with path.open("rb") as file:
                while piece := file.read(8 << 20):
                    digest.update(piece)
                    advance(len(piece))
            same[path.name] = digest.hexdigest() == imagenet.MD5[path.name]
    return same
