"""`seresnext evaluate`."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import printable
from ..files import to_json
from ..flags import Positional, parse
from .options import BadImagePolicy, ComputeOptions, DecodingOptions, JsonOption, ReadingOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs(JsonOption, ReadingOptions, DecodingOptions, ComputeOptions):
    """Evaluate a run, a model, an artifact or weights on a folder of images.

    Every image is counted exactly once, whatever the batch size.
    """

    model: Positional[Path]
    """Run folder, model folder, artifact (.onnx, .xml, .mindir, .pt2) or weights file."""
    data: Path
    """Folder with val/<class>/ (or valid/, validation/, test/), or with <class>/ itself, or a list.
    Of the run's own folder without splits, the images that it held out count."""
    val_share: float | None = None
    """Share of each class that was held out. By default the run's; 0 evaluates all images."""
    batch_size: int = 64
    """Images per batch; does not change the result."""
    on_bad_image: BadImagePolicy | None = None
    """stop at an unreadable image, or skip it, count it and list it on stderr. By default as the
    run did."""


def run(argv: list[str]) -> int:
    args = parse(EvaluateArgs, argv, "seresnext evaluate")
    from ..api import load

    model = load(args.model, engine=args.engine, device=args.device)
    model.reading = args.change(model.reading)
    if args.val_share is not None:
        model.reading = replace(
            model.reading, root=str(args.data), train="", val="", val_share=args.val_share
        )
    metrics = model.evaluate(
        args.data,
        batch_size=args.batch_size,
        workers=args.workers,
        on_bad_image=args.on_bad_image,
    )
    for name in metrics.unread_images:
        print(f"unreadable: {printable(name)}", file=sys.stderr)
    if not math.isfinite(metrics.loss):
        print("warning: the model answers NaN or infinity; such images are wrong", file=sys.stderr)
    if args.json:
        print(to_json(metrics.to_dict()))
        return 0
    print(
        f"top-1 {metrics.top1:.2%}   top-5 {metrics.top5:.2%}   loss {metrics.loss:.4f}   "
        f"{metrics.images} images   {metrics.images_per_second:.1f} images/s\n"
        f"images: {printable(metrics.data)}"
    )
    if metrics.unread:
        print(f"{metrics.unread} images could not be read and are in no figure above")
    return 0
