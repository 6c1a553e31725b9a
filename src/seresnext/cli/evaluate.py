"""`seresnext evaluate`."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import UsageError, printable
from ..evaluate import Difference, Evaluation
from ..files import to_json
from ..flags import Positional, parse
from ..significance import interval_text
from .options import BadImagePolicy, ComputeOptions, DecodingOptions, JsonOption, ReadingOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs(JsonOption, ReadingOptions, DecodingOptions, ComputeOptions):
    """Evaluate a run, a model, an artifact or weights on a folder of images.

    Every image is counted exactly once, whatever the batch size. Several sizes or crop ratios are
    tried in every combination.
    """

    model: Positional[Path]
    """Run folder, model folder, artifact (.onnx, .xml, .mindir, .pt2) or weights file."""
    data: Path
    """Folder with val/<class>/ (or valid/, validation/, test/), or with <class>/ itself, or a list.
    Of the run's own folder without splits, the images that it held out count."""
    against: Path | None = None
    """Another model: evaluate it on the same images and test whether the two differ."""
    image_size: tuple[int, ...] = ()
    """Sides of the images, pixels, instead of the model's: 224,256,288."""
    crop_ratio: tuple[float, ...] = ()
    """Crop ratios instead of the model's: 0.875,0.95,1.0."""
    flip: bool = False
    """Answer by the mean of the logits for an image and its mirror image, at twice the work."""
    present_classes: bool = False
    """Choose among the classes that have images here (ImageNet-A, ImageNet-R)."""
    real_labels: Path | None = None
    """Also count answers that real.json allows, the ReaL labels of ImageNet's validation images."""
    val_share: float | None = None
    """Share of each class that was held out. By default the run's; 0 evaluates all images."""
    batch_size: int = 64
    """Images per batch; does not change the result."""
    on_bad_image: BadImagePolicy | None = None
    """stop at an unreadable image, or skip it, count it and list it on stderr. By default as the
    run did."""


def run(argv: list[str]) -> int:
    args = parse(EvaluateArgs, argv, "seresnext evaluate")
    settings = list(product(args.image_size or (None,), args.crop_ratio or (None,)))
    if args.against and len(settings) > 1:
        raise UsageError("--against takes one --image-size and one --crop-ratio at most")
    if args.against and args.real_labels:
        raise UsageError("--against compares by the labels of the folders, without --real-labels")
    from ..api import load

    with load(args.model, engine=args.engine, device=args.device) as model:
        model.reading = args.change(model.reading)
        if args.val_share is not None:
            model.reading = replace(
                model.reading, root=str(args.data), train="", val="", val_share=args.val_share
            )
        common: dict[str, Any] = {
            "batch_size": args.batch_size,
            "workers": args.workers,
            "on_bad_image": args.on_bad_image,
            "flip": args.flip,
            "present_classes": args.present_classes,
        }
        if args.against:
            size, ratio = settings[0]
            with load(args.against, engine=args.engine, device=args.device) as other:
                difference = model.compare(
                    other, args.data, image_size=size, crop_ratio=ratio, **common
                )
            _warn(difference.first)
            print(to_json(difference.to_dict()) if args.json else _compared(args, difference))
            return 0
        found = []
        common["real_labels"] = args.real_labels
        for size, ratio in settings:
            found.append(model.evaluate(args.data, image_size=size, crop_ratio=ratio, **common))
            if len(settings) > 1 and not args.json:
                print((f"{_HEAD}\n" if len(found) == 1 else "") + _row(found[-1]), flush=True)
    _warn(found[0])
    if args.json:
        print("\n".join(to_json(evaluation.to_dict()) for evaluation in found))
    elif len(found) > 1:
        print(_best(found))
    else:
        print(_text(found[0]))
    return 0


def _warn(evaluation: Evaluation) -> None:
    for name in evaluation.unread_images:
        print(f"unreadable: {printable(name)}", file=sys.stderr)
    if not math.isfinite(evaluation.loss):
        print("warning: the model answers NaN or infinity; such images are wrong", file=sys.stderr)


def _text(evaluation: Evaluation) -> str:
    """Figures for people, and what they are of."""
    temperature = evaluation.temperature
    lines = [
        f"top-1 {_accuracy(evaluation, evaluation.top1)}   "
        f"top-5 {_accuracy(evaluation, evaluation.top5)}   loss {evaluation.loss:.4f}   "
        f"{evaluation.images} images   {evaluation.images_per_second:.1f} images/s",
        f"calibration error {evaluation.calibration_error:.2%}"
        + ("" if temperature is None else f"   best temperature {temperature:.3g}"),
        _of(evaluation),
    ]
    return "\n".join(lines)


def _of(evaluation: Evaluation) -> str:
    """What the figures are of: images, classes, and what the brackets mean."""
    lines = [f"images: {printable(evaluation.data)}"]
    if interval_text(evaluation.top1, evaluation.images):
        lines.append("in brackets: 95 % intervals for so few images")
    if evaluation.flip:
        lines.append("answers: the mean of the logits for an image and its mirror image")
    if evaluation.real:
        real = evaluation.real
        lines.append(f"by the ReaL labels: top-1 {real.top1:.2%} of {real.images} images")
    missing = evaluation.classes - evaluation.classes_present
    if missing:
        lines.append(
            f"{missing} of {evaluation.classes} classes have no images here; --present-classes "
            "leaves them out of the answers"
        )
    if evaluation.unread:
        lines.append(f"{evaluation.unread} images could not be read and are in no figure above")
    return "\n".join(lines)


def _accuracy(evaluation: Evaluation, accuracy: float) -> str:
    interval = interval_text(accuracy, evaluation.images)
    return f"{accuracy:.2%}" + (f" ({interval})" if interval else "")


# Several settings, two models --------------------------------------------------------------

_HEAD = f"{'size':>5}  {'crop':>5}  {'top-1':<25}  {'top-5':<25}  {'loss':>7}  images/s"


def _row(evaluation: Evaluation) -> str:
    top1, top5 = (_accuracy(evaluation, a) for a in (evaluation.top1, evaluation.top5))
    return (
        f"{evaluation.image_size:>5}  {evaluation.crop_ratio:>5.4g}  {top1:<25}  {top5:<25}  "
        f"{evaluation.loss:>7.4f}  {evaluation.images_per_second:8.1f}"
    )


def _best(found: list[Evaluation]) -> str:
    best = max(found, key=lambda evaluation: (evaluation.top1, -evaluation.loss))
    return (
        f"best: --image-size {best.image_size} --crop-ratio {best.crop_ratio:.4g}, top-1 "
        f"{_accuracy(best, best.top1)}; the best of {len(found)} on these images, so expect "
        f"less on others\n{_of(best)}"
    )


def _compared(args: EvaluateArgs, difference: Difference) -> str:
    one, other = difference.first, difference.second
    names = [printable(str(path)) for path in (args.model, args.against)]
    low, high = difference.interval
    differs = "differ" if difference.p_value < 0.05 else "cannot be told apart"
    return (
        f"top-1 {_accuracy(one, one.top1)}   loss {one.loss:.4f}   {names[0]}\n"
        f"top-1 {_accuracy(other, other.top1)}   loss {other.loss:.4f}   {names[1]}\n"
        f"difference {100 * difference.difference:+.2f} points ({100 * low:+.2f} to "
        f"{100 * high:+.2f}); right in one only: {difference.only_first} and "
        f"{difference.only_second} of {one.images} images\n"
        f"McNemar's exact test: p = {difference.p_value:.3g}; the models {differs} on these images "
        f"(at 5 %)\n{_of(one)}"
    )
