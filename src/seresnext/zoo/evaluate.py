"""`eval.py`: the accuracy of every checkpoint in a folder, as the original prints it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from ..config import DataConfig
from ..config.recipes import zoo
from ..data.sources import evaluation_path, open_source
from ..engines.base import Engine, EngineState, create_engine
from ..errors import UserError, printable
from ..evaluate import EvaluateOptions, evaluate_folder
from ..model.spec import ModelSpec
from ..training.checkpoint import (
    MANIFEST,
    from_newest_state,
    list_checkpoints,
    load_checkpoint,
)
from ..training.metrics import Metrics
from ..weights.load import load_weights
from ..weights.translate import LoadedWeights
from .command import Given, parse
from .log import accuracy_text
from .options import EvalOptions
from .postprocess import unread_line
from .settings import check_device, engine_config, image_size, validation_path
from .wording import own_words, reworded


def main(argv: list[str]) -> int:
    """Print one line per checkpoint; return 1 if one of them could not be evaluated."""
    given = parse(EvalOptions, argv, "eval.py")
    options, failed = given.options, 0
    with own_words(given):
        paths = checkpoints_in(Path(options.checkpoint_path))
        evaluator = Evaluator(given)
        check_device(options.device_target)
        for path in paths:
            try:
                metrics = evaluator(path)
            except UserError as error:
                message = printable(reworded(str(error), given))
                print(f"model {path}: {message}", file=sys.stderr, flush=True)
                failed = 1
                continue
            print(accuracy_line(options.checkpoint_path, path, metrics), flush=True)
            if metrics.unread:
                print(unread_line(metrics), file=sys.stderr, flush=True)
    return failed


def accuracy_line(given: str, path: Path, metrics: Metrics) -> str:
    """The original's line; the path is printed as it was given, `./` included."""
    folder = given.rstrip("/") or "/"
    name = given if Path(given) == path else f"{folder}/{path.relative_to(given)}"
    return f"model {name}'s accuracy is {accuracy_text(metrics.top1, metrics.top5)}"


def checkpoints_in(path: Path) -> list[Path]:
    """What to evaluate: `path` itself if it is a checkpoint, else the `.ckpt` files in it, else the
    checkpoints of a run folder, else its model.

    Files are ordered by the numbers in their names. Raises UserError if there is none of these.
    """
    if path.is_file() or (path / MANIFEST).is_file():
        return [path]
    if path.is_dir():
        files = [p for p in path.iterdir() if p.suffix == ".ckpt" and not p.name.startswith(".")]
        found = (
            sorted(files, key=_numbers_in_order)
            or list_checkpoints(path / "checkpoints")
            or list_checkpoints(path)
        )
        if found:
            return found
        if (path / "model.safetensors").is_file() or (path / "model").is_dir():
            return [path]
    raise UserError(
        f"checkpoint_path: no checkpoint in {path}; expected a folder with .ckpt files, a run "
        "folder or a model folder"
    )


def _numbers_in_order(path: Path) -> list[tuple[int, int, str]]:
    """Sorting key by which -2_11 comes before -10_11."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


class Evaluator:
    """Checkpoint -> metrics on the validation images; equal networks share one engine."""

    def __init__(self, given: Given[EvalOptions]) -> None:
        self.options = options = given.options
        self.engine: Engine | None = None
        self.folder = evaluation_path(Path(validation_path(given)))
        self.reading = DataConfig(
            on_bad_image=options.on_bad_image,
            max_pixels=options.max_pixels,
            follow_links=options.follow_links,
        )
        self.class_names = open_source(
            self.folder, allow_empty_classes=True, follow_links=options.follow_links
        ).class_names
        self.side = image_size(options.image_height, options.image_width)
        found, expected = len(self.class_names), options.num_classes
        if expected is not None and found != expected:
            raise UserError(f"num_classes is {expected}, but {self.folder} has {found} classes")

    def __call__(self, path: Path) -> Metrics:
        """Metrics over all images of the folder, each counted once. Raises UserError."""
        if path.is_dir() and (path / MANIFEST).is_file():
            load_checkpoint(path)  # checks the hashes, which `load_weights` does not
        loaded = load_weights(path)
        spec = spec_of(path, loaded, self.class_names, self.side)
        o = self.options
        if o.eval_resize == "original":
            spec = replace(spec, input=replace(spec.input, resize="original"))
        if self.engine and self.engine.spec == spec:
            self.engine.load_state_dict(EngineState(model=loaded.weights))
        else:
            if self.engine:
                self.engine.close()
            settings = engine_config(o.device_target, o.device_id, o.engine)
            self.engine = create_engine(spec, loaded.weights, settings)
        options = EvaluateOptions(batch_size=o.batch_size, reading=self.reading)
        return evaluate_folder(self.engine, self.folder, options)


def spec_of(
    path: Path, loaded: LoadedWeights, class_names: tuple[str, ...], side: int | None
) -> ModelSpec:
    """Class names and input of a checkpoint: those of the run that wrote it, if known, else the
    given ones and the original's preprocessing (short side 256, centre crop 224, bilinear).

    A `side` that is given decides; a line on stderr says where it is not the run's. Raises
    UserError if the number of classes is not the checkpoint's.
    """
    spec = loaded.spec or from_newest_state(
        list_checkpoints(path.parent / "checkpoints"),
        lambda state: ModelSpec.from_dict(state["model"]),
    )
    classes = loaded.architecture.num_classes
    if spec and len(spec.class_names) == classes:
        class_names, inputs = spec.class_names, spec.input
        if side and side != inputs.image_size:
            print(
                f"{path}: computed at {side} px, as given; it was trained at "
                f"{inputs.image_size} px",
                file=sys.stderr,
            )
    else:
        inputs = zoo().augment.input_spec()
    if classes != len(class_names):
        raise UserError(f"it has {classes} classes, the images {len(class_names)} class folders")
    return ModelSpec(
        loaded.architecture, class_names, replace(inputs, image_size=side or inputs.image_size)
    )
