"""The command line: verbs, flags from the dataclasses, exit codes.

Exit codes: 0 done; 1 a user's error (one line, no traceback); 2 wrong usage; 75 interrupted by a
signal after saving (the same command resumes).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .config import Config, EngineName, Precision, load_config, validate
from .errors import UserError
from .launch import launch, rank, rank_output, report, world_size
from .recipes import RECIPES, recipe
from .training.interrupt import INTERRUPTED_EXIT, Interrupted

if TYPE_CHECKING:
    from .training.metrics import Metrics


# train -------------------------------------------------------------------------------------


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


_SHORT = {
    "data": "data.root",
    "train_data": "data.train",
    "val_data": "data.val",
    "workers": "data.workers",
    "out": "run.out",
    "batch_size": "run.batch_size",
    "seed": "run.seed",
    "resume": "run.resume",
    "pretrained": "run.pretrained",
    "model": "model.name",
    "engine": "engine.name",
    "device": "engine.device",
    "precision": "engine.precision",
    "image_size": "augment.image_size",
    "virtual_shards": "engine.virtual_shards",
}


def resolve(args: TrainArgs) -> Config:
    """The config with the short flags applied, checked."""
    changes: dict[str, Any] = {
        path: getattr(args, name)
        for name, path in _SHORT.items()
        if getattr(args, name) is not None
    }
    if args.epochs is not None:
        changes["run.duration"] = f"{args.epochs:g} epochs"
    if args.allow_data_change:
        changes["data.allow_change"] = True
    config = args.settings
    for path, value in changes.items():
        group, name = path.split(".")
        part = dataclasses.replace(getattr(config, group), **{name: value})
        config = dataclasses.replace(config, **{group: part})
    return validate(config)


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


def run_train(argv: list[str]) -> int:
    base = TrainArgs(settings=_base_config(argv))
    args = tyro.cli(TrainArgs, args=argv, default=base, prog="seresnext train")
    config = resolve(args)
    if args.nproc < 1:
        raise UserError(f"--nproc: expected 1 or more, got {args.nproc}")
    if args.nproc > 1 and world_size() == 1:
        return launch(config, _without(argv, "--nproc"), args.nproc)
    report()
    with rank_output(Path(config.run.out)):
        from .train import train
        from .training.log import console_reporter

        metrics = train(config, console_reporter())
    if rank() == 0:
        _say_trained(config, metrics)
    return 0


def _without(argv: list[str], flag: str) -> list[str]:
    """The words but for `flag VALUE` and `flag=VALUE`."""
    return [
        word
        for before, word in zip(["", *argv], argv, strict=False)
        if word != flag and before != flag and not word.startswith(f"{flag}=")
    ]


def _say_trained(config: Config, metrics: Metrics | None) -> None:
    out = config.run.out
    if metrics:
        print(f"top-1 {metrics.top1:.2%} on {metrics.images} validation images")
    print(f"model: {out}/model")
    print(f"next:  seresnext predict {out} IMAGE...")


# evaluate, predict ---------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluateArgs:
    """Evaluate a run, a model folder or an exported artifact on a folder of images.

    Every image is counted exactly once, whatever the batch size.
    """

    model: tyro.conf.Positional[Path]
    """Run folder, model folder, or artifact (.onnx, .xml, .mindir, .pt2)."""
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


def run_evaluate(argv: list[str]) -> int:
    args = tyro.cli(EvaluateArgs, args=argv, prog="seresnext evaluate")
    from .evaluate import evaluate_folder
    from .runtimes.base import create_runtime

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


def run_predict(argv: list[str]) -> int:
    args = tyro.cli(PredictArgs, args=argv, prog="seresnext predict")
    if args.top < 1 or args.batch_size < 1:
        raise UserError("--top and --batch-size: expected 1 or more")
    if not args.images:
        raise UserError("no image given; name at least one file or folder after the model")
    from .data.source import image_files
    from .predict import predict
    from .runtimes.base import create_runtime

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


# data, doctor --------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataDemoArgs:
    """Write the handwritten digits that scikit-learn ships (1,797 scans) as an image folder."""

    out: Path = Path("data/digits")
    """Where to."""


def run_data(argv: list[str]) -> int:
    if argv[:1] != ["demo"]:
        known = not argv or argv[0] in ("-h", "--help")
        print("usage: seresnext data demo [--out DIR]", file=sys.stdout if known else sys.stderr)
        return 0 if known else 2
    args = tyro.cli(DataDemoArgs, args=argv[1:], prog="seresnext data demo")
    from .data.demo import write_digits

    write_digits(args.out)
    print(f"digits: {args.out}/train, {args.out}/val")
    return 0


@dataclass(frozen=True)
class DoctorArgs:
    """Show versions and devices, which engines and runtimes work here, and what to install."""


def run_doctor(argv: list[str]) -> int:
    tyro.cli(DoctorArgs, args=argv, prog="seresnext doctor")
    from .doctor import report

    print(report())
    return 0


# the verbs -----------------------------------------------------------------------------------

VERBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (run_train, "train on a folder of images; run again to resume"),
    "evaluate": (run_evaluate, "accuracy of a run, model or artifact on a folder of images"),
    "predict": (run_predict, "name what is in images"),
    "data": (run_data, "make the demo data set"),
    "doctor": (run_doctor, "what works on this machine, and what to install"),
}


def usage() -> str:
    lines = ["usage: seresnext VERB [OPTIONS]", ""]
    lines += [f"  {name:<10} {text}" for name, (_, text) in VERBS.items()]
    lines += [
        "",
        f"recipes: {', '.join(RECIPES)}",
        "`seresnext VERB --help` lists a verb's options.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from . import __version__

        print(f"seresnext {__version__}")
        return 0
    if argv[0] not in VERBS:
        print(f"seresnext: no verb {argv[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    code = _run(argv[0], argv[1:])
    report(code)
    return code


def _run(verb: str, words: list[str]) -> int:
    try:
        return VERBS[verb][0](words)
    except UserError as error:
        print(f"seresnext: error: {error}", file=sys.stderr)
        return 1
    except Interrupted:
        print("interrupted; saved. The same command goes on from here.", file=sys.stderr)
        return INTERRUPTED_EXIT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
