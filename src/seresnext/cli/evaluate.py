"""`seresnext evaluate`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..config import EngineName


@dataclass(frozen=True)
class EvaluateArgs:
    """Evaluate a run, a model folder or an exported artifact on a folder of images.

    Every image is counted exactly once, whatever the batch size.
    """

    model: tyro.conf.Positional[Path]
    """Run folder, model folder, or artifact of `seresnext export`."""
    data: Path
    """Folder with val/<class>/ (or validation/, test/), or with <class>/ itself."""
    batch_size: int = 64
    """Images per batch; does not change the result."""
    engine: EngineName = "torch"
    """Framework for run and model folders."""
    device: str = "auto"
    """Where to compute."""
    workers: int = 0
    """Decoding threads; 0 means one per core."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """Stop at an unreadable image, or leave it out, count it and list it on stderr."""
    json: bool = False
    """Print one JSON object."""


def run(argv: list[str]) -> int:
    args = tyro.cli(EvaluateArgs, args=argv, prog="seresnext evaluate")
    from ..evaluate import evaluate_folder
    from ..runtimes.base import create_runtime

    model = create_runtime(args.model, device=args.device, engine=args.engine)
    metrics, unread = evaluate_folder(
        model,
        args.data,
        batch_size=args.batch_size,
        workers=args.workers,
        on_bad_image=args.on_bad_image,
    )
    for name in unread:
        print(f"unreadable: {name}", file=sys.stderr)
    if args.json:
        print(json.dumps(metrics.to_dict()))
        return 0
    print(
        f"top-1 {metrics.top1:.2%}   top-5 {metrics.top5:.2%}   loss {metrics.loss:.4f}   "
        f"{metrics.images} images   {metrics.images_per_second:.1f} images/s"
    )
    if metrics.unread:
        print(f"{metrics.unread} images could not be read and are in no figure above")
    return 0
