"""`seresnext average`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import EngineConfig, changed, run_data
from ..flags import Positional, parse
from .options import BadImagePolicy, ComputeOptions, DecodingOptions, ReadingOptions


@dataclass(frozen=True, kw_only=True)
class AverageArgs(ReadingOptions, DecodingOptions, ComputeOptions):
    """Average the weights of several models into one model folder.

    The models are the last checkpoints of a run (RUN/checkpoints/step-*), or runs that were
    fine-tuned from the same weights. Models trained from different random weights have no average.
    """

    models: Positional[tuple[Path, ...]]
    """Run folders, checkpoints, model folders or weights files, two or more."""
    out: Path
    """Model folder to write."""
    data: Path | None = None
    """Labelled images (their train split, if there is one) to measure the BN statistics of the
    averaged network on. Without, the statistics are averaged."""
    max_images: int = 2000
    """At most so many of these images, chosen at random; each costs as much as in training."""
    batch_size: int = 64
    """Images per batch; BN statistics are those of batches."""
    on_bad_image: BadImagePolicy | None = None
    """stop at an unreadable image, or skip its batch. By default as the first model's run did."""


def run(argv: list[str]) -> int:
    args = parse(AverageArgs, argv, "seresnext average")
    from ..average import average

    reading = changed(
        args.change(run_data(args.models[0])),
        workers=args.workers,
        on_bad_image=args.on_bad_image,
    )
    print(
        average(
            args.models,
            args.out,
            data=args.data,
            reading=reading,
            max_images=args.max_images,
            batch_size=args.batch_size,
            engine=EngineConfig(name=args.engine, device=args.device),
        )
    )
    return 0
