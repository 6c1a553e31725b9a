"""`seresnext predict`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import UserError, printable
from ..files import to_json
from .options import ComputeOptions, JsonOption


@dataclass(frozen=True, kw_only=True)
class PredictArgs(JsonOption, ComputeOptions):
    """Print the most probable classes of images."""

    model: tyro.conf.Positional[Path]
    """Run folder, model folder, artifact or weights file."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    top: int = 5
    """Classes per image."""
    batch_size: int = 32
    """Images per batch."""


def run(argv: list[str]) -> int:
    args = tyro.cli(PredictArgs, args=argv, prog="seresnext predict")
    if not args.images:
        raise UserError("no image given; name at least one file or folder after the model")
    from ..api import load
    from ..data.sources import image_files

    files = image_files(args.images)
    model = load(args.model, engine=args.engine, device=args.device)
    failed = 0
    for prediction in model.predict_each(files, top=args.top, batch_size=args.batch_size):
        name = printable(prediction.file)
        if args.json:
            print(to_json(prediction.to_dict()), flush=True)
        elif prediction.error:
            print(f"{name}: cannot be read: {printable(prediction.error)}", file=sys.stderr)
        else:
            print(f"{name}: {prediction}", flush=True)
        failed += bool(prediction.error)
    return 1 if failed else 0
