"""The start of a run on one rank: data, engine, run folder, and the checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..console import guarded_output
from ..data.bad_images import BadImages
from ..data.checks import warnings
from ..data.loader import Reader, Share, train_batches
from ..data.sources import open_splits, refuse_inside, settled, split_parts
from ..engines.base import Engine, EngineState, create_engine
from ..errors import UserError
from ..launch.heartbeat import Watch
from ..launch.ranks import world_size
from ..model.init import init_weights
from ..model.spec import ModelSpec
from ..weights.hub import advice
from ..weights.load import pretrained_weights
from .checkpoint import (
    Checkpoint,
    from_newest_state,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
)
from .class_weights import with_class_weights
from .interrupt import Interrupt
from .log import Reporter
from .plan import Plan, make_plan
from .result import Result, read_result
from .run import OnSaved, Run, finished
from .run_folder import RunFolder
from .saver import Saver
from .schedule import create_schedule
from .state import Progress, check_resumable
from .step_log import StepLog
from .teacher import open_teacher, taught


@contextmanager
def open_run(config: Config, reporter: Reporter, on_saved: OnSaved | None = None) -> Iterator[Run]:
    """Open the data, the engine and the run folder, and go on from the newest checkpoint.

    Everything is closed at the end of the block, in the reverse order. Raises UserError for
    whatever does not fit the run folder.
    """
    with ExitStack() as stack:
        stack.enter_context(guarded_output(survives=True))
        refuse_inside(Path(config.run.out), config.data)
        config = replace(config, data=settled(config.data))
        source, val_source = open_splits(config.data)
        if config.run.ship == "best" and val_source is None:
            raise UserError(
                "run.ship: best needs validation images; give --val-data, or choose last or average"
            )
        spec = ModelSpec(
            config.model.architecture(len(source.class_names)),
            source.class_names,
            config.augment.input_spec(),
        )
        folder = RunFolder(config.run.out, reporter.message)
        if not list_checkpoints(folder.checkpoints):  # else the global batch is the checkpoint's
            make_plan(config, len(source), world_size(), config.run.batch_size * world_size())
            if config.recipe == "finetune" and not config.run.pretrained:
                reporter.message(
                    "warning: fine-tuning starts from random weights, which needs many more images "
                    f"and epochs; {advice(config.model.name)}"
                )
        loss = with_class_weights(config.loss, source.labels, len(source.class_names))
        weights = start_weights(config, spec, reporter)
        asked, kept = config.engine.precision, kept_precision(config, folder)
        if kept:
            config = config.replace(precision=kept)
        engine = create_engine(spec, weights, config.engine, config.optim, loss)
        stack.callback(engine.close)
        config = config.replace(precision=engine.precision)
        timeout = config.run.rank_timeout
        stack.enter_context(Watch(engine.rank, engine.world_size, engine.all_sum, timeout))
        if engine.rank == 0:
            stack.enter_context(folder)
        checkpoint = starting_checkpoint(config, engine, folder, reporter)
        fingerprint = source.fingerprint() if checkpoint or engine.rank == 0 else ""
        progress, global_batch = Progress(), config.run.batch_size * engine.world_size
        remarks: list[str] = []
        if checkpoint:
            global_batch, remarks = check_resumable(
                checkpoint.state, config, spec, fingerprint, engine.world_size, engine.threads
            )
            progress = Progress.from_dict(checkpoint.state["progress"])
            if config.run.resume != "auto" and not began_as(config.run.resume, checkpoint):
                progress.forget_best()
            engine.load_state_dict(
                EngineState.from_groups(checkpoint.tensors, checkpoint.state["engine"]["scalars"])
            )
        plan = make_plan(config, len(source), engine.world_size, global_batch)
        result = earlier_result(folder, progress, plan, config.run.early_stop, engine)
        for remark in remarks:
            reporter.message(f"{'not used' if result else 'warning'}: {remark}")
        teacher = None
        if config.loss.teacher and result is None:
            teacher = open_teacher(config, engine, reporter.message)
            stack.callback(teacher.close)
        writes = engine.rank == 0 and result is None
        if writes:
            folder.write_config(config)
            folder.record("resumed" if checkpoint else "started", progress.step)
        batches = train_batches(
            Reader(source, config.data, BadImages(folder.bad_images)),
            config.augment,
            Share(
                plan.batch_size,
                engine.rank,
                engine.world_size,
                config.engine.virtual_shards // engine.world_size or config.optim.accumulate,
            ),
            config.run.seed,
            progress.step,
            plan.mixed_steps,
            plan.image_size,
        )
        stack.enter_context(closing(batches))
        if teacher:
            batches = taught(batches, teacher)
            stack.enter_context(closing(batches))
        saver = Saver(folder.checkpoints, config.run.keep_checkpoint_max, on_saved)
        stack.callback(saver.wait)
        records = folder.path if writes else None
        log = StepLog(reporter, engine, plan, progress.step, records)
        run = Run(
            config,
            engine,
            source,
            val_source,
            folder,
            progress,
            plan,
            create_schedule(config.schedule, plan),
            batches,
            stack.enter_context(log),
            saver,
            stack.enter_context(Interrupt()),
            fingerprint,
            result,
        )
        if asked == "auto":
            why = engine.precision_reason or "as the run computed before"
            reporter.message(f"precision auto: {engine.precision}, {why}")
        for text in describe(run):
            reporter.message(text)
        say_data(run)
        if result is None:
            log.start()
        yield run


def say_data(run: Run) -> None:
    """Say on rank 0 which images train and validate, and what is odd about them."""
    if not run.writes:
        return
    say, (train, val) = run.log.reporter.message, split_parts(run.config.data)
    say(f"training on {train}")
    if val and run.val_source:
        say(f"validating on {val}: {len(run.val_source)} images")
    if run.result is None:
        for text in warnings(run.source, run.val_source):
            say(f"warning: {text}")


def earlier_result(
    folder: RunFolder, progress: Progress, plan: Plan, patience: int, engine: Engine
) -> Result | None:
    """Return the result of a run that is finished and whose model is written. A collective."""
    if not finished(progress, plan, patience):
        return None
    found = read_result(folder.path, progress.step) if engine.rank == 0 else None
    if found and found.step < min(progress.step, plan.total_steps):
        found = None  # of a shorter run; this one was killed before it wrote its model
    exists = engine.all_sum(np.array([int(found is not None)], np.int64))[0]
    return found or (Result(progress.step) if exists else None)


def start_weights(config: Config, spec: ModelSpec, reporter: Reporter) -> dict[str, NDArray[Any]]:
    """Return initial weights drawn from the seed, or the pretrained ones."""
    if not config.run.pretrained:
        return init_weights(spec.architecture, config.run.seed)
    weights, notes = pretrained_weights(
        Path(config.run.pretrained), spec.architecture, config.run.seed, spec.class_names
    )
    for note in notes:
        reporter.message(note)
    return weights


def kept_precision(config: Config, folder: RunFolder) -> str | None:
    """Return what `auto` stands for in a run that goes on: what it computed in before, by the same
    engine. None where nothing is kept."""
    if config.engine.precision != "auto":
        return None

    def read(state: dict[str, Any]) -> str | None:
        saved = state["config"]["engine"]
        return str(saved["precision"]) if saved["name"] == config.engine.name else None

    checkpoints = list_checkpoints(folder.checkpoints)
    if not checkpoints and config.run.resume not in ("auto", "never"):
        checkpoints = [Path(config.run.resume)]
    return from_newest_state(checkpoints, read)


def starting_checkpoint(
    config: Config, engine: Engine, folder: RunFolder, reporter: Reporter
) -> Checkpoint | None:
    """Return the checkpoint to go on from, the same on every rank; None starts anew."""
    checkpoint = own_checkpoint(config.run.resume, folder, reporter) if engine.rank == 0 else None
    step = checkpoint.step if checkpoint else -1
    chosen = int(engine.all_sum(np.array([step + 1 if engine.rank == 0 else 0], np.int64))[0]) - 1
    if chosen < 0 and config.run.resume not in ("auto", "never"):
        return load_checkpoint(Path(config.run.resume))
    if engine.rank == 0 or chosen < 0:
        return checkpoint
    try:
        return load_checkpoint(folder.checkpoint(chosen))
    except UserError as error:
        raise UserError(
            f"{error}; rank 0 resumes from there, and all machines of a run must share its folder"
        ) from None


def own_checkpoint(resume: str, folder: RunFolder, reporter: Reporter) -> Checkpoint | None:
    """Return the newest checkpoint of the run folder; None where it has none.

    Raises UserError when it holds another run than the one that `resume` tells to go on with.
    """
    try:
        checkpoint, problems = newest_checkpoint(folder.checkpoints)
    except UserError as error:
        raise UserError(
            f"{error}; choose another --out, or remove that folder to start anew in this one"
        ) from None
    if checkpoint and resume != "auto" and not began_as(resume, checkpoint):
        raise UserError(
            f"{folder.path} holds checkpoints of an earlier run, from which --resume auto goes on; "
            f"for --resume {resume} choose another --out, or remove the folder yourself"
        )
    for problem in problems:
        reporter.message(f"warning: passed over: {problem}")
    return checkpoint


def began_as(resume: str, checkpoint: Checkpoint) -> bool:
    """Whether the run of `checkpoint` was started with this `--resume CHECKPOINT`."""
    config = checkpoint.state.get("config", {})
    return resume != "never" and config.get("run", {}).get("resume") == resume


def describe(run: Run) -> list[str]:
    """Return the run in a sentence or two, each a line."""
    config, engine, plan, progress = run.config, run.engine, run.plan, run.progress
    ranks = f" x {engine.world_size}" if engine.world_size > 1 else ""
    text = (
        f"{config.model.name} on {engine.name} {engine.device}{ranks}, {config.engine.precision}; "
        f"{len(run.source)} images in {len(run.source.class_names)} classes; "
        f"{plan.total_steps} steps of {plan.global_batch} images "
        f"({plan.total_steps / plan.steps_per_epoch:.1f} epochs)"
    )
    if run.result:
        return [
            text,
            f"already finished at step {progress.step}; nothing to train, nothing is written. The "
            f"model in {run.folder.model} has the {run.result}. Train on with more --epochs, or "
            "anew in another folder (--out)",
        ]
    if run.finished():
        return [text, f"already finished at step {progress.step}; its model is written now"]
    if len(plan.sizes) > 1:
        sizes = ", ".join(f"{side} px from step {first + 1}" for first, side in plan.sizes)
        text += f"; images grow: {sizes}"
    if progress.step:
        return [text, f"resuming after step {progress.step}"]
    return [text]
