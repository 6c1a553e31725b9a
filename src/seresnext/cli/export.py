"""`seresnext export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..exporters.options import ExportOptions
from ..files import to_json
from ..flags import Positional, parse
from ..runtimes.formats import FORMATS
from .options import JsonOption


@dataclass(frozen=True, kw_only=True)
class ExportArgs(JsonOption, ExportOptions):
    model: Positional[Path]
    """Run folder or model folder."""
    out: Path
    """File to write; with --format web a folder, which is replaced whole."""


def run(argv: list[str]) -> int:
    formats = ", ".join(f"{f.name} ({f.suffix or 'a folder'})" for f in FORMATS.values())
    description = (
        "Write an artifact, then compare it with the engine on real images. A file that is outside "
        f"the tolerance of its precision replaces no earlier file. Formats: {formats}; AIR is "
        "written on Ascend only (not run on hardware); web is a page that classifies in the "
        "browser, for any file host."
    )
    args = parse(ExportArgs, argv, "seresnext export", description)
    from ..api import export
    from ..exporters.report import print_report

    report = export(**{name: value for name, value in vars(args).items() if name != "json"})
    if args.json:
        print(to_json(report.to_dict()))
    else:
        print_report(report)
    return 0
