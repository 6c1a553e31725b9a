"""`seresnext explain`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import printable
from ..flags import Positional, parse
from .options import ComputeOptions, ReadingOptions


@dataclass(frozen=True, kw_only=True)
class ExplainArgs(ReadingOptions, ComputeOptions):
    """Draw where the network sees a class: its exact activation map over each image.

    For runs, model folders, weights, and artifacts exported with maps.
    """

    model: Positional[Path]
    """Run folder, model folder, weights file, or artifact."""
    images: Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    out: Path
    """Folder for the pictures: the image as the network sees it, and the map over it."""
    class_name: str = ""
    """The class to look for (default: the most probable one of each image)."""


def run(argv: list[str]) -> int:
    args = parse(ExplainArgs, argv, "seresnext explain")
    from ..api import load
    from ..data.sources import image_files
    from ..report.explain import explain, write_picture

    failed, used = 0, set[str]()
    with load(args.model, engine=args.engine, device=args.device) as model:
        reading = args.change(model.reading)
        files = image_files(args.images, follow_links=reading.follow_links)
        for explanation in explain(model.runtime, files, args.class_name, reading.max_pixels):
            file = printable(str(explanation.file))
            if explanation.error:
                print(f"{file}: cannot be read: {explanation.error}", file=sys.stderr)
                failed += 1
                continue
            path = write_picture(args.out, explanation, used)
            print(
                f"{file}: {printable(explanation.class_name)} {explanation.probability:.1%}: {path}"
            )
    return 1 if failed else 0
