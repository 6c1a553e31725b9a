"""`seresnext predict`."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError, UserError, printable
from ..files import to_json
from ..flags import Positional, parse
from ..predict import ImageLike, Prediction, is_url
from .options import ComputeOptions, JsonOption, ReadingOptions

STANDARD_INPUT = "-"


@dataclass(frozen=True, kw_only=True)
class PredictArgs(JsonOption, ReadingOptions, ComputeOptions):
    """Print the most probable classes of images.

    An image that cannot be read is reported, the others are predicted, and the exit code is 1.
    """

    model: Positional[Path]
    """Run folder, model folder, artifact or weights file."""
    images: Positional[tuple[str, ...]]
    """Image files, folders of them, http(s) addresses, or - for an image on standard input."""
    top: int = 5
    """Classes per image."""
    batch_size: int = 32
    """Images per batch."""
    csv: bool = False
    """Print CSV: file, rank, class, probability, error; a row for each class."""


def run(argv: list[str]) -> int:
    args = parse(PredictArgs, argv, "seresnext predict")
    if args.json and args.csv:
        raise UsageError("give --json or --csv, not both")
    from ..api import load

    model = load(args.model, engine=args.engine, device=args.device)
    model.reading = args.change(model.reading)
    show, failed = _printer(args), 0

    def images() -> Iterator[ImageLike]:
        nonlocal failed
        for word in args.images:
            try:
                yield from _named_by(word, model.reading.follow_links)
            except UserError as error:  # a folder without images
                failed += 1
                show(Prediction(word, (), (), str(error)))

    for answer in model.predict_each(images(), top=args.top, batch_size=args.batch_size):
        if not answer.file:
            answer = dataclasses.replace(answer, file=STANDARD_INPUT)
        show(answer)
        failed += bool(answer.error)
    return 1 if failed else 0


def _named_by(word: str, follow_links: bool) -> Iterator[ImageLike]:
    """Yield the images of a folder, the image on standard input, or the word itself."""
    from ..data.sources import image_files

    if word == STANDARD_INPUT:
        yield sys.stdin.buffer.read()
    elif not is_url(word) and Path(word).is_dir():
        yield from image_files([Path(word)], follow_links=follow_links)
    else:
        yield word


def _printer(args: PredictArgs) -> Callable[[Prediction], None]:
    """Return what prints one prediction in the form that is asked for."""
    if args.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["file", "rank", "class", "probability", "error"])

    def show(answer: Prediction) -> None:
        if args.json:
            print(to_json(answer.to_dict()), flush=True)
        elif args.csv:
            if answer.error:
                table.writerow([answer.file, "", "", "", answer.error])
            for rank, (name, p) in enumerate(
                zip(answer.classes, answer.probabilities, strict=True), 1
            ):
                table.writerow([answer.file, rank, name, f"{p:.6f}", ""])
        elif answer.error:
            text = f"{answer.file}: cannot be read: {answer.error}"
            print(printable(text), file=sys.stderr)
        else:
            print(f"{printable(answer.file)}: {answer}", flush=True)

    return show
