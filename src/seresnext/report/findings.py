"""What `seresnext data check` found, as a page with pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.decode import ImageError, decode_image
from ..data.inspection import ODDITIES, Report, SplitReport
from ..data.sources import all_parts, open_part
from ..files import replacing
from .build import THUMBNAIL
from .charts import escape
from .maps import encode
from .page import data_uri, document, html_table

_GROUPS = 30
"""Groups shown of a kind."""
_PICTURES = 8
"""Pictures shown of a group or a kind."""


def write_findings(
    path: Path, root: Path, report: Report, *, follow_links: bool, max_pixels: int
) -> None:
    """Write the HTML file about the images at `root`, whole or not at all. Raises UserError."""
    files = {file for _, groups in _kinds(report) for g in groups[:_GROUPS] for file in g}
    for split in report.splits.values():
        files.update(file for found in split.oddities.values() for file in found[:_PICTURES])
    pictures = _pictures(root, files, follow_links, max_pixels)
    body = "".join(
        [
            *(_split(name, split, pictures) for name, split in report.splits.items()),
            *(_groups(title, groups, pictures) for title, groups in _kinds(report) if groups),
        ]
    )
    note = f"{sum(s.images for s in report.splits.values())} images, {report.unreadable} unreadable"
    with replacing(path) as temporary:
        temporary.write_text(document(f"Images of {root.name}", note, body), encoding="utf-8")


def _kinds(report: Report) -> Iterator[tuple[str, list[list[str]]]]:
    yield "The same bytes in several splits", report.duplicates_across
    yield "Alike in several splits", report.near_across
    yield "The same bytes", report.duplicates
    yield "Alike", report.near


def _pictures(root: Path, files: set[str], follow_links: bool, max_pixels: int) -> dict[str, bytes]:
    """Return file -> thumbnail, a JPEG, for those of `files` that can be read."""
    found, classes = {}, None
    for part in all_parts(root).values():
        source = open_part(
            part, class_names=classes, allow_empty_classes=True, follow_links=follow_links
        )
        classes = source.class_names
        for index in range(len(source)):
            file = source.describe(index)
            if file not in files:
                continue
            try:
                pixels = decode_image(source[index].data, max_pixels=max_pixels)
            except (ImageError, OSError):
                continue
            image = Image.fromarray(pixels)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            found[file] = encode(np.asarray(image), image.height)
    return found


def _split(name: str, split: SplitReport, pictures: Mapping[str, bytes]) -> str:
    classes = html_table(
        ("class", "images"), [[escape(k), str(n)] for k, n in sorted(split.classes.items())]
    )
    parts = [f"<section><h2>{escape(name)}</h2><p>{escape(split.data)}</p>{classes}"]
    if split.unreadable:
        rows = [[escape(bad["file"]), escape(bad["reason"])] for bad in split.unreadable]
        parts.append(f"<h3>Unreadable</h3>{html_table(('file', 'reason'), rows)}")
    for key, files in split.oddities.items():
        if files:
            parts.append(f"<h3>{len(files)} {ODDITIES[key]}</h3>{_cards(files, pictures)}")
    for names in split.names_alike:
        parts.append(f"<p>Names that differ in case or form only: {escape(', '.join(names))}</p>")
    return "".join([*parts, "</section>"])


def _groups(title: str, groups: list[list[str]], pictures: Mapping[str, bytes]) -> str:
    more = f"<p>And {len(groups) - _GROUPS} more.</p>" if len(groups) > _GROUPS else ""
    cards = "<hr>".join(_cards(group, pictures) for group in groups[:_GROUPS])
    return f"<section><h2>{title}: {len(groups)}</h2>{cards}{more}</section>"


def _cards(files: list[str], pictures: Mapping[str, bytes]) -> str:
    cards = []
    for file in files[:_PICTURES]:
        data = pictures.get(file)
        image = ""
        if data:
            image = f'<img alt="" src="{data_uri(data, "jpeg")}">'
        cards.append(f'<div class="card"><div>{image}</div>{escape(file)}</div>')
    more = f"<p>And {len(files) - _PICTURES} more.</p>" if len(files) > _PICTURES else ""
    return f'<div class="gallery">{"".join(cards)}</div>{more}'
