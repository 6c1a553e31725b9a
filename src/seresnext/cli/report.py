"""`seresnext report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import changed, run_data
from ..errors import UserError
from ..flags import Positional, parse
from .options import BadImagePolicy, ComputeOptions, DecodingOptions, ReadingOptions


@dataclass(frozen=True, kw_only=True)
class ReportArgs(ReadingOptions, DecodingOptions, ComputeOptions):
    """Write a page about a run or a model: curves, mistakes, calibration, what the network sees.

    Several runs are compared; the answers are those of the first.
    """

    models: Positional[tuple[Path, ...]]
    """Run folders; or one model folder, artifact or weights file."""
    data: Path | None = None
    """Labelled images, as for `evaluate` (default: the run's validation images)."""
    out: Path | None = None
    """HTML file to write (default: report.html in the run folder)."""
    json: Path | None = None
    """Write the figures to this JSON file, too."""
    batch_size: int = 64
    """Images per batch; does not change the result."""
    on_bad_image: BadImagePolicy | None = None
    """stop at an unreadable image, or skip it, count it and list it in the report. By default as
    the run did."""


def run(argv: list[str]) -> int:
    args = parse(ReportArgs, argv, "seresnext report")
    first = args.models[0]
    if args.out is None and not first.is_dir():
        raise UserError(f"{first} is not a run folder; say where to write the page with --out FILE")
    from ..api import load
    from ..files import write_json
    from ..report.build import content, numbers, write_page
    from ..report.history import has_history, read_history
    from ..report.page import REPORT_FILE
    from ..report.results import collect, labelled_images

    runs = [path for path in args.models if len(args.models) > 1 or has_history(path)]
    histories = [read_history(path) for path in runs]
    reading = changed(
        args.change(run_data(first)), workers=args.workers, on_bad_image=args.on_bad_image
    )
    reader = labelled_images(first, args.data, reading)
    if reader is None:
        page = content(first.name, histories)
    else:
        with load(first, engine=args.engine, device=args.device) as model:
            results = collect(model.runtime, reader, args.batch_size)
            page = content(first.name, histories, model.runtime, reader, results)
    out = args.out or first / REPORT_FILE
    write_page(out, page)
    if args.json:
        write_json(args.json, numbers(page))
    print(out)
    return 0
