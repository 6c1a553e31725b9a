"""`seresnext train`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..config import SHORT_NAMES, Config, EngineName, Precision, load_config
from ..config.recipes import recipe
from ..errors import UserError
from ..launch.processes import launch
from ..launch.ranks import rank, rank_output, report_exit, world_size
from ..machine import usable_cores

_MIN_NPROC = 16
"""Processes that may be asked for on the smallest machine: it may have as many GPUs."""


@dataclass(frozen=True)
class TrainArgs:
    """Train a classifier on a folder of images; run the same command again to resume.

    The flags without a dot are short for the fields that change most. Every field of the
    configuration has a flag of its own (`--optim.lr-per-256 0.1`), whose default is the recipe's.
    """

    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """Rerun a saved config.json instead of a recipe."""
    data: str | None = None
    """Folder with train/<class>/ and val/<class>/. Short for --data.root."""
    out: str | None = None
    """Run folder. Short for --run.out."""
    model: str | None = None
    """Network. Short for --model.name."""
    engine: EngineName | None = None
    """Framework. Short for --engine.name."""
    device: str | None = None
    """auto, cpu, cuda, cuda:N, npu, mps, ascend. Short for --engine.device."""
    precision: Precision | None = None
    """Short for --engine.precision."""
    epochs: float | None = None
    """Length of the run. Short for --run.duration "N epochs"."""
    batch_size: int | None = None
    """Images per device and update. Short for --run.batch-size."""
    image_size: int | None = None
    """Side of the images, pixels. Short for --augment.image-size."""
    seed: int | None = None
    """Short for --run.seed."""
    resume: str | None = None
    """auto, never, or a checkpoint folder. Short for --run.resume."""
    pretrained: str | None = None
    """Start from these weights. Short for --run.pretrained."""
    workers: int | None = None
    """Decoding threads. Short for --data.workers."""
    train_data: str | None = None
    """Training folder <class>/. Short for --data.train."""
    val_data: str | None = None
    """Validation folder <class>/. Short for --data.val."""
    allow_data_change: bool = False
    """Resume although images were added or removed. Short for --data.allow-change."""
    nproc: int = 1
    """Processes on this machine, each with a device (or its share of the cores) and --batch-size
    images. Several machines: docs/distributed.md."""
    virtual_shards: int | None = None
    """Same bits on CPU for any --nproc that divides it. Short for --engine.virtual-shards."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def resolve(args: TrainArgs) -> Config:
    """Return the configuration with the short flags applied, checked."""
    given = {name: getattr(args, name) for name in SHORT_NAMES}
    changes = {
        name: value for name, value in given.items() if value is not None and value is not False
    }
    return args.settings.replace(**changes).check()


def _base_config(argv: list[str]) -> Config:
    """The config that the other flags change: `--config FILE`'s or `--recipe NAME`'s."""

    def value(flag: str) -> str | None:
        for position, word in enumerate(argv):
            if word == flag and position + 1 < len(argv):
                return argv[position + 1]
            if word.startswith(f"{flag}="):
                return word.partition("=")[2]
        return None

    file, name = value("--config"), value("--recipe")
    if file and name:
        raise UserError("give --config or --recipe, not both")
    return load_config(file) if file else recipe(name or "imagenet")


def run(argv: list[str]) -> int:
    base = TrainArgs(settings=_base_config(argv))
    args = tyro.cli(TrainArgs, args=argv, default=base, prog="seresnext train")
    config = resolve(args)
    most = max(_MIN_NPROC, 4 * usable_cores())
    if not 1 <= args.nproc <= most:
        raise UserError(f"--nproc: expected 1 to {most} on this machine, got {args.nproc}")
    if args.nproc > 1:
        if world_size() > 1:
            raise UserError(
                f"--nproc {args.nproc}, but the environment says that this is one of "
                f"{world_size()} processes (WORLD_SIZE or MS_WORKER_NUM); unset it, or leave "
                "--nproc out"
            )
        return launch(config, _without(argv, "--nproc"), args.nproc)
    report_exit()
    with rank_output(Path(config.run.out)):
        from ..api import train

        result = train(config)
    if rank() == 0:
        if result.metrics:
            metrics = result.metrics
            print(f"top-1 {metrics.top1:.2%} on {metrics.images} validation images")
        print(f"model: {result.out}/model")
        if config.run.report:
            print(f"report: {result.out}/report.html")
        print(f"next:  seresnext predict {result.out} IMAGE...")
    return 0


def _without(argv: list[str], flag: str) -> list[str]:
    """The arguments without `flag VALUE` and `flag=VALUE`."""
    return [
        word
        for before, word in zip(["", *argv], argv, strict=False)
        if word != flag and before != flag and not word.startswith(f"{flag}=")
    ]
