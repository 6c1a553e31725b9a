"""`seresnext train`."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RECIPES, SHORT_NAMES, Config, EngineName, Precision, load_config
from ..config.recipes import recipe
from ..config.typed import config_flags, help_sections, with_flags
from ..errors import UsageError, UserError
from ..flags import flags, print_help, read
from ..launch.processes import launch
from ..launch.ranks import rank, rank_output, report_exit, world_size
from ..machine import usable_cores
from ..significance import interval_text
from .options import BadImagePolicy

_MIN_NPROC = 16
"""Processes that may be asked for on the smallest machine: it may have as many GPUs."""

PROGRAM = "seresnext train"
_SMALL = 50_000
"""A folder with more files is no folder of one's own photos; then the recipe has to be named."""
_IMAGE_BYTES = 100_000
"""Of an image in an archive, about: an archive counts as so many files."""


@dataclass(frozen=True)
class TrainingOptions:
    """What is trained: images, recipe, network, device."""

    data: str | None = None
    """Folder with train/<class>/ and val/<class>/, list, or tars."""
    train_data: str | None = None
    """Training folder <class>/, instead of --data."""
    recipe: str | None = None
    """Settings to start from; `seresnext recipes` lists them."""
    config: Path | None = None
    """Repeat a saved config.json instead of a recipe."""
    pretrained: str | None = None
    """Start from these weights: a file, a folder, or a model of the Hugging Face hub
    (timm/seresnext50_32x4d.racm_in1k, hf:OWNER/NAME)."""
    model: str | None = None
    """Network; `seresnext doctor` lists them."""
    batch_size: int | None = None
    """Images per device and update."""
    image_size: int | None = None
    """Side of the images, pixels."""
    seed: int | None = None
    """Seeds weights, order, augmentation and noise."""
    engine: EngineName | None = None
    """Framework."""
    device: str | None = None
    """auto, cpu, cuda, cuda:N, npu, mps, ascend."""
    precision: Precision | None = None
    """Arithmetic of the network; auto measures at the start whether bf16 is faster here."""
    workers: int | None = None
    """Decoding threads; 0 means one per core."""
    on_bad_image: BadImagePolicy | None = None
    """stop at an unreadable image, or skip it and list it in the run folder."""
    follow_links: bool = False
    """Follow links to files and folders."""
    max_pixels: int | None = None
    """Images with more pixels are not read."""


@dataclass(frozen=True)
class TrainArgs(TrainingOptions):
    """Train a classifier on a folder of images; run the same command again to resume.

    The defaults shown are those of the recipe. `seresnext train --help-all` shows the flags of
    every field of the configuration (`--optim.momentum 0.9`) too.
    """

    val_data: str | None = None
    """Validation folder <class>/, instead of the one below --data."""
    val_share: float | None = None
    """Share of each class held out for validation where there are no validation images."""
    out: str | None = None
    """Run folder: checkpoints, logs, the finished model."""
    epochs: float | None = None
    """Length of the run."""
    lr: float | None = None
    """Learning rate after the warmup. By default --optim.lr-per-256, scaled to the batch."""
    resume: str | None = None
    """auto (newest checkpoint of the run folder), never, or a checkpoint folder."""
    nproc: int = 1
    """Processes on this machine, each with a device (or its share of the cores) and --batch-size
    images. Several machines: docs/distributed.md."""
    virtual_shards: int | None = None
    """Same bits on the CPU for any --nproc that divides it; 0 is off."""
    allow_data_change: bool = False
    """Resume although images were added or removed."""


def arguments(argv: list[str]) -> dict[str, Any]:
    """Return what was typed, short flags and fields, by key (`epochs`, `run.duration`)."""
    return read(argv, [*flags(TrainArgs), *config_flags(Config())], PROGRAM)


def base_config(given: Mapping[str, Any]) -> tuple[Config, str]:
    """(the configuration that the flags change, a note where its recipe was chosen here)."""
    file, name = given.get("config"), given.get("recipe")
    if file and name:
        raise UsageError("give --config or --recipe, not both")
    if file:
        return load_config(file), ""
    if name:
        return recipe(name), ""
    folder = next((given[k] for k in ("data", "data.root", "train_data") if given.get(k)), "")
    if _more_files(folder, _SMALL):
        raise UserError(
            f"{folder} has more than {_SMALL} files; name the recipe: --recipe imagenet trains "
            "from random weights for several devices, --recipe finetune from --pretrained"
        )
    return recipe("finetune"), "recipe finetune (choose another with --recipe)"


def _more_files(folder: str, limit: int) -> bool:
    """Whether a folder and its archives hold more than `limit` files, links not followed. Shards
    at an address count as many."""
    from ..data.sources.remote import is_address

    if is_address(folder):
        return True
    count = 0
    for above, _, files in os.walk(folder) if folder else ():
        count += len(files)
        archives = [os.path.join(above, name) for name in files if name.endswith(".tar")]
        count += sum(os.lstat(archive).st_size for archive in archives) // _IMAGE_BYTES
        if count > limit:
            return True
    return False


def run(argv: list[str]) -> int:
    given = arguments(argv)
    base, note = base_config(given)
    if "help" in given:
        _print_help(base, given["help"])
    settings = {k: v for k, v in given.items() if k in SHORT_NAMES or "." in k}
    config = with_flags(base, settings)
    processes = given.get("nproc", 1)
    most = max(_MIN_NPROC, 4 * usable_cores())
    if not 1 <= processes <= most:
        raise UserError(f"--nproc: expected 1 to {most} on this machine, got {processes}")
    if processes > 1:
        if world_size() > 1:
            raise UserError(
                f"--nproc {processes}, but the environment says that this is one of "
                f"{world_size()} processes (WORLD_SIZE or MS_WORKER_NUM); unset it, or leave "
                "--nproc out"
            )
        return launch(config, _without(argv, "--nproc"), processes)
    report_exit()
    with rank_output(Path(config.run.out)):
        from ..api import train

        if note:
            print(note, flush=True)
        result = train(config)
    if rank() == 0:
        if result.metrics:
            metrics = result.metrics
            interval = interval_text(metrics.top1, metrics.images)
            within = f" (95 % interval {interval})" if interval else ""
            print(f"top-1 {metrics.top1:.2%} on {metrics.images} validation images{within}")
        print(f"model: {result.out}/model")
        if (result.out / "report.html").exists():
            print(f"report: {result.out}/report.html")
        print(f"next:  seresnext predict {result.out} IMAGE...")
    return 0


def _print_help(base: Config, word: str) -> None:
    """Print the help with the values of `base`; for `--help-all` with every field."""
    fields = {flag.key: flag.default for flag in config_flags(base)}
    shown = [
        dataclasses.replace(flag, default=fields.get(SHORT_NAMES.get(flag.key, ""), flag.default))
        for flag in flags(TrainArgs, TrainArgs(recipe=base.recipe))
    ]
    text = f"{inspect.getdoc(TrainArgs)}\n\nRecipes: {', '.join(RECIPES)}."
    sections = {"options": shown} | (help_sections(base) if word == "--help-all" else {})
    print_help(PROGRAM, text, sections)


def _without(argv: list[str], flag: str) -> list[str]:
    """The arguments without `flag VALUE` and `flag=VALUE`."""
    return [
        word
        for before, word in zip(["", *argv], argv, strict=False)
        if word != flag and before != flag and not word.startswith(f"{flag}=")
    ]
