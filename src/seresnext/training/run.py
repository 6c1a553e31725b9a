"""One run on one rank: what the training loop works on, from its start to the written model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from ..batch import Batch
from ..config import Config
from ..data.loader import Reader, Share, eval_batches
from ..data.sources import Source
from ..engines.base import Engine, EngineState, Tensors
from ..errors import UserError, one_line
from ..evaluate import evaluate
from ..model.architecture import check_finite
from ..model.saved_model import save_model
from ..report.build import content, write_page
from ..report.history import read_history
from ..report.page import REPORT_FILE
from ..report.results import Answers, Results
from .advice import Ended, advice
from .checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from .interrupt import Interrupt, Interrupted
from .metrics import Metrics
from .plan import Plan
from .result import Result, write_result
from .run_folder import RunFolder
from .saver import Saver
from .schedule import due
from .state import Progress, checkpoint_state
from .step_log import StepLog

OnSaved = Callable[[Checkpoint], None]
"""Called on rank 0, by the thread that writes, when a checkpoint is complete on disk."""


@dataclass
class Run:
    """A run that can train: made by `open_run` (start.py), which also ends what it starts."""

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
    fingerprint: str
    """Of the training images, as they were at the start."""
    result: Result | None
    """Of a run that an earlier start has finished: there is nothing to do."""
    answers: dict[int, Results] = field(default_factory=dict)
    """Step -> answers for the validation images, of the best and of the last evaluation."""
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
        reader, answers = Reader(source, self.config.data), Answers(len(source))
        batch_size = self.config.run.eval_batch_size or self.config.run.batch_size
        share = Share(batch_size, self.engine.rank, self.engine.world_size)
        batches = eval_batches(reader, self.engine.spec.input, share)

        def until_stopped() -> Iterator[Batch]:
            for batch in batches:
                if self.stop_requested():
                    raise Interrupted
                yield batch

        with closing(batches):
            metrics = evaluate(
                self.engine.predict,
                until_stopped(),
                self.engine.all_sum,
                unread=lambda: reader.bad_images.count,
                observe=answers.add,
            )
        results = answers.results(self.engine.spec.class_names, self.engine.all_sum)
        best = self.progress.best_step  # of the evaluations before this one
        self.answers = {step: r for step, r in self.answers.items() if step == best}
        self.answers[self.progress.step] = results
        return metrics

    def save(self) -> None:
        """Write a checkpoint in the background, on rank 0; the state is copied before.

        Raises UserError for weights that are not finite: no later step can repair them.
        """
        if not self.writes:
            return
        self.saver.wait()  # one copy of the state in memory, not two
        state = self.engine.state_dict()
        self._check_finite({**state.model, **{f"average of {k}": v for k, v in state.ema.items()}})
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
                self.fingerprint,
                self.plan.global_batch,
                self.engine.world_size,
                self.plan.steps_per_epoch,
                engine,
            ),
            tensors=state.groups(),
        )
        self.saver.save(checkpoint, self.progress.best_step)

    def finish(self) -> Metrics | None:
        """Write `RUN/model` and return its metrics. Raises Interrupted after a signal."""
        self.saver.wait()
        if self.stopped:
            if self.writes:
                self.folder.record("stopped", self.progress.step)
            self.stop_requested()  # a rank that left earlier would make its launcher end rank 0
            raise Interrupted
        result, weights = self._shipped()
        if self.writes:
            self._check_finite(weights)
            save_model(self.folder.model, self.engine.spec, weights)
            write_result(self.folder.path, result)
            for sentence in [*self._ending(result), *self._advice(result)]:
                self.log.reporter.message(sentence)
            if self.config.run.report:
                self._write_report(result, weights)
        return result.metrics

    def _write_report(self, result: Result, weights: Tensors) -> None:
        """Write `RUN/report.html` about the shipped weights. Whatever fails is said, not raised."""
        try:
            page = [read_history(self.folder.path)]
            answers = self.answers.get(result.model_step)
            if self.val_source and answers:
                self.engine.load_state_dict(EngineState(weights))
                reader = Reader(self.val_source, self.config.data)
                shown = content(self.folder.path.name, page, self.engine, reader, answers)
            else:  # evaluated by an earlier start
                shown = content(self.folder.path.name, page)
            write_page(self.folder.path / REPORT_FILE, shown)
        except Exception as error:
            self.log.reporter.message(f"warning: {REPORT_FILE} was not written: {one_line(error)}")

    def _shipped(self) -> tuple[Result, Tensors]:
        """The weights that `run.ship` chooses, and their score. Every rank must call it."""
        progress, state = self.progress, self.engine.state_dict()
        step, average, choice = progress.step, bool(state.ema), self.config.run.ship
        metrics = progress.last_metrics if progress.evaluated_step == step else None
        if choice in ("auto", "best") and progress.best_step is not None:
            try:
                return self._best(progress.best_step, state)
            except UserError as error:
                self.log.reporter.message(f"warning: the best weights cannot be had: {error}")
                choice = "average"  # or the last ones: those that the last evaluation saw
        if choice != "last" and average:
            return Result(step, "average", step, metrics), state.ema
        if average and self.val_source:  # evaluations were the average's
            self.engine.load_state_dict(replace(state, ema=state.model))
            metrics = self._evaluate(self.val_source)
        return Result(step, "last", step, metrics), state.model

    def _best(self, best_step: int, state: EngineState) -> tuple[Result, Tensors]:
        """The best weights, which only rank 0 reads. Raises UserError where they are damaged."""
        weights = state.ema or state.model
        if best_step != self.progress.step and self.writes:
            best = load_checkpoint(self.folder.checkpoint(best_step)).tensors
            weights = best.get("ema") or best["model"]
        return Result(self.progress.step, "best", best_step, self.progress.best_metrics), weights

    def _ending(self, result: Result) -> Iterator[str]:
        """How fast the run was, why it ended early, and which model is written."""
        progress, total = self.progress, self.plan.total_steps
        if speed := self.log.speed():
            yield speed
        if progress.step < total:
            yield (
                f"stopped early, after step {progress.step} of {total}: "
                f"{progress.evaluations_since_best} evaluations without a better top-1 "
                "(run.early_stop)"
            )
        last = progress.last_metrics
        if result.model_step == progress.step or last is None:
            yield f"the model has the {result}"
        else:
            yield (
                f"the model has the {result}; the last ones, of step {progress.evaluated_step}: "
                f"top-1 {last.top1:.2%} (run.ship)"
            )

    def _advice(self, result: Result) -> list[str]:
        """What would help, where the figures of this start show it."""
        answers = self.answers.get(result.model_step)
        if answers is None:
            return []
        augment, plan = self.config.augment, self.plan
        mixed = bool(augment.mixup or augment.cutmix) and plan.mixed_steps >= plan.total_steps
        history = read_history(self.folder.path)
        return advice(Ended(self.config, history, answers, len(self.source), mixed))

    def _check_finite(self, weights: Tensors) -> None:
        try:
            check_finite(weights, f"the weights after step {self.progress.step}")
        except UserError as error:
            kept = list_checkpoints(self.folder.checkpoints)
            good = (
                f"The last good checkpoint is {kept[-1]}" if kept else "No checkpoint was written"
            )
            raise UserError(
                f"{error}; they are not saved. {good}. A "
                "lower learning rate (--optim.lr-per-256) or gradient clipping (--optim.clip-norm "
                "1) usually helps"
            ) from None


def finished(progress: Progress, plan: Plan, patience: int) -> bool:
    """Whether a run has had all its steps, or `patience` evaluations without a better top-1."""
    return progress.step >= plan.total_steps or 0 < patience <= progress.evaluations_since_best
