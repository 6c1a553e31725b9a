"""The training loop. It reads on one screen and knows no framework."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from ..batch import Batch
from ..config import Config
from ..data.loader import BadImages, eval_batches, train_batches
from ..data.sources import Source, open_splits
from ..engines.base import Engine, EngineState, create_engine
from ..errors import UserError
from ..evaluate import evaluate
from ..launch.heartbeat import Watch
from ..model.init import init_weights
from ..model.saved_model import save_model
from ..model.spec import ModelSpec
from ..weights.load import pretrained_weights
from .checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from .interrupt import Interrupt, Interrupted
from .log import Reporter
from .metrics import Metrics
from .plan import Plan, make_plan
from .run_folder import RunFolder
from .saver import Saver
from .schedule import create_schedule, due
from .state import Progress, check_resumable, checkpoint_state
from .step_log import StepLog


def train(config: Config, reporter: Reporter) -> Metrics | None:
    """Train as `config` says, going on from where its run folder stands.

    Returns the metrics of the last evaluation, None without a validation set; the finished model
    is in `RUN/model`. Raises UserError for what the user can mend, Interrupted after a signal
    (with the state saved).
    """
    with ExitStack() as stack:
        source, val_source = open_splits(config.data)
        spec = ModelSpec(
            config.model.architecture(len(source.class_names)),
            source.class_names,
            config.augment.input_spec(),
        )
        engine = create_engine(
            spec, start_weights(config, spec, reporter), config.engine, config.optim, config.loss
        )
        stack.callback(engine.close)
        stack.enter_context(
            Watch(engine.rank, engine.world_size, engine.all_sum, config.run.rank_timeout)
        )
        main = engine.rank == 0
        folder = RunFolder(config.run.out)
        if main:
            stack.enter_context(folder)
        progress, plan = resume(config, engine, folder, source, spec, reporter)
        if main:
            folder.write_config(config)
        bad_images = BadImages(folder.bad_images)
        batches = train_batches(
            source,
            config.data,
            config.augment,
            seed=config.run.seed,
            batch_size=plan.batch_size,
            rank=engine.rank,
            world_size=engine.world_size,
            start_step=progress.step,
            report=bad_images,
            shards=config.engine.virtual_shards // engine.world_size or config.optim.accumulate,
        )
        stack.enter_context(closing(batches))
        saver = Saver(
            folder.checkpoints,
            config.run.keep_checkpoint_max,
            lambda path, checkpoint: reporter.saved(path),
        )
        stack.callback(saver.wait)
        lr = create_schedule(
            config.schedule, plan.peak_lr, plan.total_steps, plan.steps_per_epoch, plan.global_batch
        )
        log = stack.enter_context(
            StepLog(
                reporter,
                plan,
                progress.step,
                engine.fetch,
                lambda index: all_samples(engine, index),
                config.run.max_bad_steps,
                folder.path if main else None,
            )
        )
        interrupt = stack.enter_context(Interrupt())

        # ------------------------------------------------------------------------- the loop
        # What an earlier start was stopped in, or before.
        evaluate_if_due(progress, config, plan, engine, val_source, log, interrupt)
        stop, finished = agree(engine, interrupt.requested), ended(progress, config, plan)
        while not finished and not stop:
            batch = log.wait_for(batches)
            rate = lr(progress.step)
            scalars = engine.train_step(batch, rate)
            progress.step += 1
            log.add(scalars, batch, rate)

            best = evaluate_if_due(progress, config, plan, engine, val_source, log, interrupt)
            stop, finished = agree(engine, interrupt.requested), ended(progress, config, plan)
            if finished or stop or due(progress.step, plan.log_every):
                log.flush()
            if main and (finished or stop or best or due(progress.step, plan.save_every)):
                saver.wait()  # one copy of the state in memory, not two
                saver.save(
                    snapshot(progress, config, engine, spec, source, plan), progress.best_step
                )
        # ----------------------------------------------------------------------------------

        saver.wait()
        if stop:
            agree(engine, True)  # a rank that left earlier would make its launcher end rank 0
            raise Interrupted
        if main:
            finish(config, folder, engine, spec, progress)
        return progress.last_metrics


def start_weights(config: Config, spec: ModelSpec, reporter: Reporter) -> dict[str, np.ndarray]:
    """Initial weights from the seed, or the pretrained ones."""
    if not config.run.pretrained:
        return init_weights(spec.architecture, config.run.seed)
    weights, notes = pretrained_weights(
        Path(config.run.pretrained), spec.architecture, config.run.seed
    )
    for note in notes:
        reporter.message(note)
    return weights


def resume(
    config: Config,
    engine: Engine,
    folder: RunFolder,
    source: Source,
    spec: ModelSpec,
    reporter: Reporter,
) -> tuple[Progress, Plan]:
    """Bring the engine to where the run stands; every rank takes the checkpoint rank 0 chose."""
    checkpoint = None
    if config.run.resume == "never":
        if engine.rank == 0:
            folder.refuse_overwriting()
    elif config.run.resume == "auto":
        checkpoint = newest_agreed(engine, folder, reporter)
    else:
        checkpoint = load_checkpoint(Path(config.run.resume))
    global_batch = config.run.batch_size * engine.world_size
    progress = Progress()
    if checkpoint:
        global_batch, remarks = check_resumable(
            checkpoint.state,
            config,
            spec,
            source.fingerprint(),
            engine.world_size,
            engine.threads,
        )
        progress = Progress.from_dict(checkpoint.state["progress"])
        engine.load_state_dict(
            EngineState(
                model=checkpoint.tensors["model"],
                momentum=checkpoint.tensors.get("momentum", {}),
                ema=checkpoint.tensors.get("ema", {}),
                scalars=checkpoint.state["engine"]["scalars"],
            )
        )
        for remark in remarks:
            reporter.message(remark)
    plan = make_plan(config, len(source), engine.world_size, global_batch)
    reporter.message(describe(config, engine, source, plan, progress))
    return progress, plan


def newest_agreed(engine: Engine, folder: RunFolder, reporter: Reporter) -> Checkpoint | None:
    """The newest checkpoint that rank 0 finds whole; the others load the same one."""
    checkpoint, step = None, -1
    if engine.rank == 0:
        checkpoint, problems = newest_checkpoint(folder.checkpoints)
        for problem in problems:
            reporter.message(f"warning: passed over: {problem}")
        step = checkpoint.step if checkpoint else -1
    chosen = int(engine.all_sum(np.array([step + 1 if engine.rank == 0 else 0], np.int64))[0]) - 1
    if engine.rank == 0 or chosen < 0:
        return checkpoint
    try:
        return load_checkpoint(folder.checkpoint(chosen))
    except UserError as error:
        raise UserError(
            f"{error}; rank 0 resumes from there, and all machines of a run must share its folder"
        ) from None


def describe(config: Config, engine: Engine, source: Source, plan: Plan, progress: Progress) -> str:
    """The run in a sentence or two, before its first step."""
    ranks = f" x {engine.world_size}" if engine.world_size > 1 else ""
    text = (
        f"{config.model.name} on {engine.name} {engine.device}{ranks}, {config.engine.precision}; "
        f"{len(source)} images in {len(source.class_names)} classes; "
        f"{plan.total_steps} steps of {plan.global_batch} images "
        f"({plan.total_steps / plan.steps_per_epoch:.1f} epochs)"
    )
    if ended(progress, config, plan):
        return f"{text}\nalready finished at step {progress.step}; nothing to train"
    if progress.step:
        return f"{text}\nresuming after step {progress.step}"
    return text


def ended(progress: Progress, config: Config, plan: Plan) -> bool:
    """Whether the run has had all its steps, or was stopped early."""
    patience = config.run.early_stop
    return progress.step >= plan.total_steps or 0 < patience <= progress.evaluations_since_best


def evaluate_if_due(
    progress: Progress,
    config: Config,
    plan: Plan,
    engine: Engine,
    source: Source | None,
    log: StepLog,
    interrupt: Interrupt,
) -> bool:
    """Evaluate at steps where that is due, once; True when the model is the best so far.

    A signal ends an evaluation unfinished; the run's continuation makes up for it.
    """
    last = progress.step == plan.total_steps
    if source is None or progress.evaluated_step == progress.step:
        return False
    if not last and not due(progress.step, plan.eval_every):
        return False
    log.flush()  # what comes now is not training time
    try:
        metrics = validate(config, engine, source, interrupt)
    except Interrupted:
        return False
    log.evaluated(metrics)
    return progress.record(metrics)


def all_samples(engine: Engine, index: np.ndarray) -> np.ndarray:
    """The sample numbers of the global batch, from this rank's."""
    everyone = np.zeros((engine.world_size, len(index)), np.int64)
    everyone[engine.rank] = index
    return engine.all_sum(everyone).ravel()


def agree(engine: Engine, stop: bool) -> bool:
    """Whether any rank was asked to stop, so that all stop after the same step."""
    if engine.world_size == 1:
        return stop
    return bool(engine.all_sum(np.array([int(stop)], np.int64))[0])


def validate(config: Config, engine: Engine, source: Source, interrupt: Interrupt) -> Metrics:
    """Metrics of the present weights. Raises Interrupted when a rank is asked to stop."""
    report = BadImages(None)
    batches = eval_batches(
        source,
        engine.spec.input,
        config.data,
        batch_size=config.run.eval_batch_size or config.run.batch_size,
        rank=engine.rank,
        world_size=engine.world_size,
        report=report,
    )

    def until_stopped() -> Iterator[Batch]:
        for batch in batches:
            if agree(engine, interrupt.requested):
                raise Interrupted
            yield batch

    with closing(batches):
        return evaluate(
            engine.predict, until_stopped(), engine.all_sum, unread=lambda: report.count
        )


def snapshot(
    progress: Progress,
    config: Config,
    engine: Engine,
    spec: ModelSpec,
    source: Source,
    plan: Plan,
) -> Checkpoint:
    """A copy of everything a resume needs; training may go on while it is written."""
    state = engine.state_dict()
    return Checkpoint(
        step=progress.step,
        state=checkpoint_state(
            progress,
            config,
            spec,
            source.fingerprint(),
            plan.global_batch,
            engine.world_size,
            plan.steps_per_epoch,
            {"name": engine.name, "threads": engine.threads, "scalars": state.scalars},
        ),
        tensors={"model": state.model, "momentum": state.momentum, "ema": state.ema},
    )


def finish(
    config: Config, folder: RunFolder, engine: Engine, spec: ModelSpec, progress: Progress
) -> None:
    """Write `RUN/model`: the last weights (averaged with EMA), or the best after early stopping."""
    if config.run.early_stop and progress.best_step is not None:
        tensors = load_checkpoint(folder.checkpoint(progress.best_step)).tensors
        weights = tensors.get("ema") or tensors["model"]
    else:
        state = engine.state_dict()
        weights = state.ema or state.model
    try:
        save_model(folder.model, spec, weights)
    except OSError as error:
        raise UserError(f"cannot write {folder.model}: {error.strerror}") from None
