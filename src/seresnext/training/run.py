"""One run on one rank: what the training loop works on, from its start to the written model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..config import Config
from ..data.bad_images import BadImages
from ..data.loader import Reader, Share, eval_batches, train_batches
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

OnSaved = Callable[[Checkpoint], None]
"""Called on rank 0, by the thread that writes, when a checkpoint is complete on disk."""


@dataclass
class Run:
    """A run that can train: made by `open_run`, which also ends what it starts."""

    config: Config
    engine: Engine
    source: Source
    val_source: Source | None
    folder: RunFolder
    progress: Progress
    plan: Plan
    learning_rate: Callable[[int], float]
    """Step (from 0) -> learning rate."""
    batches: Generator[Batch, None, None]
    """This rank's batches, from the present step on, without end."""
    log: StepLog
    saver: Saver
    interrupt: Interrupt
    stopped: bool = False
    """A signal ended the loop before all steps were done, or with the last one."""

    @property
    def writes(self) -> bool:
        """Whether this rank writes the run folder: rank 0."""
        return self.engine.rank == 0

    def finished(self) -> bool:
        """Whether all steps are done, or early stopping has ended the run."""
        return finished(self.progress, self.plan, self.config.run.early_stop)

    def leaving(self) -> bool:
        """Whether the loop ends after this step, on every rank alike. A collective."""
        self.stopped = self.stop_requested()
        return self.stopped or self.finished()

    def stop_requested(self) -> bool:
        """Whether any rank received a signal. A collective: all stop after the same step."""
        requested = self.interrupt.requested
        if self.engine.world_size == 1:
            return requested
        return bool(self.engine.all_sum(np.array([int(requested)], np.int64))[0])

    def due(self, every: float) -> bool:
        """Whether the step just done completes another `every` steps."""
        return due(self.progress.step, every)

    def evaluate_if_due(self) -> bool:
        """Evaluate at steps where that is due, once; return whether the model is the best so far.

        A signal ends an evaluation early; the run's continuation repeats it.
        """
        step = self.progress.step
        if self.val_source is None or self.progress.evaluated_step == step:
            return False
        if step != self.plan.total_steps and not self.due(self.plan.eval_every):
            return False
        self.log.flush()  # the time of an evaluation is not training time
        try:
            metrics = self._evaluate(self.val_source)
        except Interrupted:
            return False
        self.log.evaluated(metrics)
        return self.progress.record(metrics)

    def _evaluate(self, source: Source) -> Metrics:
        """Evaluate the present weights. Raises Interrupted when a rank is asked to stop."""
        reader = Reader(source, self.config.data)
        batch_size = self.config.run.eval_batch_size or self.config.run.batch_size
        share = Share(batch_size, self.engine.rank, self.engine.world_size)
        batches = eval_batches(reader, self.engine.spec.input, share)

        def until_stopped() -> Iterator[Batch]:
            for batch in batches:
                if self.stop_requested():
                    raise Interrupted
                yield batch

        with closing(batches):
            return evaluate(
                self.engine.predict,
                until_stopped(),
                self.engine.all_sum,
                unread=lambda: reader.bad_images.count,
            )

    def save(self) -> None:
        """Write a checkpoint in the background, on rank 0; the state is copied before."""
        if not self.writes:
            return
        self.saver.wait()  # one copy of the state in memory, not two
        state = self.engine.state_dict()
        engine = {
            "name": self.engine.name,
            "threads": self.engine.threads,
            "scalars": state.scalars,
        }
        checkpoint = Checkpoint(
            step=self.progress.step,
            state=checkpoint_state(
                self.progress,
                self.config,
                self.engine.spec,
                self.source.fingerprint(),
                self.plan.global_batch,
                self.engine.world_size,
                self.plan.steps_per_epoch,
                engine,
            ),
            tensors=state.groups(),
        )
        self.saver.save(checkpoint, self.progress.best_step)

    def finish(self) -> Metrics | None:
        """Write `RUN/model` and return the last evaluation. Raises Interrupted after a signal.

        The model has the last weights (averaged with EMA), or the best ones after early stopping.
        """
        self.saver.wait()
        if self.stopped:
            self.stop_requested()  # a rank that left earlier would make its launcher end rank 0
            raise Interrupted
        if self.writes:
            if self.config.run.early_stop and self.progress.best_step is not None:
                best = load_checkpoint(self.folder.checkpoint(self.progress.best_step)).tensors
                weights = best.get("ema") or best["model"]
            else:
                state = self.engine.state_dict()
                weights = state.ema or state.model
            save_model(self.folder.model, self.engine.spec, weights)
        return self.progress.last_metrics


def finished(progress: Progress, plan: Plan, patience: int) -> bool:
    """Whether a run has had all its steps, or `patience` evaluations without a better top-1."""
    return progress.step >= plan.total_steps or 0 < patience <= progress.evaluations_since_best


# Start -------------------------------------------------------------------------------------


@contextmanager
def open_run(config: Config, reporter: Reporter, on_saved: OnSaved | None = None) -> Iterator[Run]:
    """Open the data, the engine and the run folder, and go on from the newest checkpoint.

    Everything is closed at the end of the block, in the reverse order. Raises UserError for
    whatever does not fit the run folder.
    """
    with ExitStack() as stack:
        source, val_source = open_splits(config.data)
        spec = ModelSpec(
            config.model.architecture(len(source.class_names)),
            source.class_names,
            config.augment.input_spec(),
        )
        weights = start_weights(config, spec, reporter)
        engine = create_engine(spec, weights, config.engine, config.optim, config.loss)
        stack.callback(engine.close)
        timeout = config.run.rank_timeout
        stack.enter_context(Watch(engine.rank, engine.world_size, engine.all_sum, timeout))
        folder = RunFolder(config.run.out)
        if engine.rank == 0:
            stack.enter_context(folder)
        checkpoint = starting_checkpoint(config, engine, folder, reporter)
        progress, global_batch = Progress(), config.run.batch_size * engine.world_size
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
                EngineState.from_groups(checkpoint.tensors, checkpoint.state["engine"]["scalars"])
            )
            for remark in remarks:
                reporter.message(remark)
        plan = make_plan(config, len(source), engine.world_size, global_batch)
        if engine.rank == 0:
            folder.write_config(config)
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
        )
        stack.enter_context(closing(batches))
        saver = Saver(folder.checkpoints, config.run.keep_checkpoint_max, on_saved)
        stack.callback(saver.wait)
        records = folder.path if engine.rank == 0 else None
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
        )
        reporter.message(describe(run))
        log.start()
        yield run


def start_weights(config: Config, spec: ModelSpec, reporter: Reporter) -> dict[str, NDArray[Any]]:
    """Return initial weights drawn from the seed, or the pretrained ones."""
    if not config.run.pretrained:
        return init_weights(spec.architecture, config.run.seed)
    weights, notes = pretrained_weights(
        Path(config.run.pretrained), spec.architecture, config.run.seed
    )
    for note in notes:
        reporter.message(note)
    return weights


def starting_checkpoint(
    config: Config, engine: Engine, folder: RunFolder, reporter: Reporter
) -> Checkpoint | None:
    """Return the checkpoint to go on from, the same on every rank; None starts anew."""
    if config.run.resume == "never":
        if engine.rank == 0:
            folder.refuse_overwriting()
        return None
    if config.run.resume != "auto":
        return load_checkpoint(Path(config.run.resume))
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


def describe(run: Run) -> str:
    """Return the run in a sentence or two, for its first lines."""
    config, engine, plan, progress = run.config, run.engine, run.plan, run.progress
    ranks = f" x {engine.world_size}" if engine.world_size > 1 else ""
    text = (
        f"{config.model.name} on {engine.name} {engine.device}{ranks}, {config.engine.precision}; "
        f"{len(run.source)} images in {len(run.source.class_names)} classes; "
        f"{plan.total_steps} steps of {plan.global_batch} images "
        f"({plan.total_steps / plan.steps_per_epoch:.1f} epochs)"
    )
    if run.finished():
        return f"{text}\nalready finished at step {progress.step}; nothing to train"
    if progress.step:
        return f"{text}\nresuming after step {progress.step}"
    return text
