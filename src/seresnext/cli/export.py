"""`seresnext export`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..config import EngineName


@dataclass(frozen=True)
class ExportArgs:
    """Write an artifact, then compare it with the engine on real images.

    A file that is outside the tolerance of its precision takes no good file's place.
    """

    model: tyro.conf.Positional[Path]
    """Run folder or model folder."""
    format: Literal["onnx", "openvino", "mindir", "air", "torch"]
    """Format of the artifact. AIR is written on Ascend only (not run on hardware)."""
    out: Path
    """File to write: .onnx, .xml, .mindir, .air or .pt2."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """fp16 halves the file; int8 also quantises (onnx, openvino)."""
    calibration: Path | None = None
    """int8: folder of typical images. By default the run's own training data."""
    data: Path | None = None
    """Labelled images for the comparison. By default the run's own validation data."""
    with_preprocessing: bool = False
    """Take uint8 [B, S, S, 3] and normalise in the graph."""
    max_drop: float = 0.5
    """int8: points of accuracy that may be lost; layers that cost more stay in float."""
    max_images: int = 1000
    """Images to compare on, spread evenly over the folder; 0 means all."""
    engine: EngineName = "torch"
    """The reference."""
    device: str = "auto"
    """Where the reference computes."""
    workers: int = 0
    """Decoding threads; 0 means one per core."""
    json: bool = False
    """Print one JSON object."""


def run(argv: list[str]) -> int:
    args = tyro.cli(ExportArgs, args=argv, prog="seresnext export")
    from ..exporters.run import Options, export, print_report

    options = Options(
        precision=args.precision,
        calibration=args.calibration,
        data=args.data,
        with_preprocessing=args.with_preprocessing,
        max_drop=args.max_drop,
        max_images=args.max_images,
        engine=args.engine,
        device=args.device,
        workers=args.workers,
    )
    report = export(args.model, args.format, args.out, options)
    if args.json:
        print(json.dumps(report.to_dict()))
    else:
        print_report(report)
    return 0
