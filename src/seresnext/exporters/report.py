"""The result of an export: what was written, and how it compares with the engine."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import printable
from ..runtimes.artifact import Artifact
from .comparison import TOLERANCES, Comparison


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with the engine.

    >>> report = seresnext.export("runs/mine", "mine.onnx", data="photos")
    >>> report.files, report.comparison.flips
    ((...Path('mine.onnx'),), 0)
    """

    files: tuple[Path, ...]
    bytes: int
    """Of all files together."""
    format: str
    artifact: Artifact
    versions: str
    """Of the format and the library that wrote it."""
    images: str
    """What the comparison was made on."""
    calibration: str
    """int8: the images that gave the ranges of activations; else empty."""
    in_float: tuple[str, ...]
    """int8: blocks left in float because they cost accuracy."""
    comparison: Comparison | None
    """None if no runtime opens the format (AIR, which only Ascend's tools read)."""
    not_fp16: str = ""
    """web: why it is fp32 and not fp16; else empty."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **{k: v for k, v in vars(self).items() if k not in ("artifact", "comparison")},
            "files": [str(path) for path in self.files],
            "precision": self.artifact.precision,
            "with_preprocessing": self.artifact.with_preprocessing,
            "source_sha256": self.artifact.source_sha256,
            "comparison": self.comparison.to_dict() if self.comparison else None,
        }


def print_report(report: ExportReport) -> None:
    """Print the report as a table."""
    artifact = report.artifact
    table = Table(box=box.SIMPLE, show_header=False)
    files = Text(printable(", ".join(map(str, report.files))))
    table.add_row("written", files, f"{report.bytes / 1e6:.1f} MB")
    if report.format == "web":
        look = f"python -m http.server --directory {shlex.quote(str(report.files[0]))}"
        table.add_row("try it by", Text(printable(look)), "")
    pixels = "uint8" if artifact.with_preprocessing else "float32"
    shape = [artifact.batch_size or "any", *artifact.input_shape]
    text = f"{artifact.input_name}: {pixels} [{', '.join(map(str, shape))}]"
    table.add_row("input", Text(text), artifact.precision)
    if report.not_fp16:
        table.add_row("not in fp16", Text(printable(report.not_fp16)), "")
    table.add_row("made with", report.versions, "")
    if report.calibration:
        table.add_row("calibrated on", Text(printable(report.calibration)), "")
        left = ", ".join(report.in_float) or "nothing but squeeze-and-excitation"
        table.add_row("left in float", left, "")
    if report.comparison is None:
        text = f"not at all: no runtime of this package reads {report.format}"
        table.add_row("compared", text, "")
    else:
        for name, text in _comparison_rows(report, report.comparison):
            table.add_row(
                name, Text(printable(text)), "" if name in ("compared with", "on") else "ok"
            )
    Console().print(table)


def _comparison_rows(report: ExportReport, result: Comparison) -> list[tuple[str, str]]:
    sizes = " and ".join(map(str, result.batch_sizes))
    limit = TOLERANCES[report.artifact.precision].relative
    ties = f", {result.ties} of them ties" if result.ties else ""
    rows = [
        ("compared with", result.engine),
        ("on", f"{report.images}, batch sizes {sizes}"),
        (
            "logit difference",
            f"{result.difference:.2e}, relative {result.relative:.2e} (tolerance {limit:.0e})",
        ),
        (
            "same top-1",
            f"{result.agreement:.2%} ({result.flips} of {result.images} differ{ties})",
        ),
    ]
    if result.engine_metrics and result.artifact_metrics:
        before, after = result.engine_metrics, result.artifact_metrics
        top1 = f"top-1 {before.top1:.2%} -> {after.top1:.2%}"
        rows.append(("accuracy", f"{top1}, top-5 {before.top5:.2%} -> {after.top5:.2%}"))
    return rows
