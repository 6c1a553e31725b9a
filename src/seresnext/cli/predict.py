"""`seresnext predict`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..config import EngineName
from ..errors import UserError


@dataclass(frozen=True)
class PredictArgs:
    """Name what is in images."""

    model: tyro.conf.Positional[Path]
    """Run folder, model folder, or artifact."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    top: int = 5
    """Classes per image."""
    batch_size: int = 32
    """Images per batch."""
    engine: EngineName = "torch"
    """Framework for run and model folders."""
    device: str = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object a line."""


def run(argv: list[str]) -> int:
    args = tyro.cli(PredictArgs, args=argv, prog="seresnext predict")
    if args.top < 1 or args.batch_size < 1:
        raise UserError("--top and --batch-size: expected 1 or more")
    if not args.images:
        raise UserError("no image given; name at least one file or folder after the model")
    from ..data.sources import image_files
    from ..predict import predict
    from ..runtimes.base import create_runtime

    files = image_files(args.images)
    model = create_runtime(args.model, device=args.device, engine=args.engine)
    failed = 0
    for prediction in predict(model, files, top=args.top, batch_size=args.batch_size):
        if args.json:
            print(json.dumps(prediction.to_dict()), flush=True)
        elif prediction.error:
            print(f"{prediction.file}: cannot be read: {prediction.error}", file=sys.stderr)
        else:
            answer = ", ".join(
                f"{name} {p:.1%}"
                for name, p in zip(prediction.classes, prediction.probabilities, strict=True)
            )
            print(f"{prediction.file}: {answer}", flush=True)
        failed += bool(prediction.error)
    return 1 if failed else 0
