"""The training loop."""

from __future__ import annotations

from ..config import Config
from .log import Reporter
from .metrics import Metrics
from .run import OnSaved
from .start import open_run


def train(config: Config, reporter: Reporter, on_saved: OnSaved | None = None) -> Metrics | None:
    """Train by `config`, going on from where its run folder stands; write `RUN/model` at the end.

    Returns the metrics of that model, None without a validation set. `on_saved` is called with each
    checkpoint once it is on disk. Raises UserError for what the user can fix, and Interrupted after
    a signal, with the state saved.
    """
    with open_run(config, reporter, on_saved) as run:
        if run.result:  # finished before
            return run.result.metrics
        engine, plan, progress, log = run.engine, run.plan, run.progress, run.log

        # An earlier start may have been stopped before the evaluation that was due at this step.
        run.evaluate_if_due()
        leaving = run.leaving()
        while not leaving:
            batch = log.wait_for(run.batches)
            lr = run.learning_rate(progress.step)
            scalars = engine.train_step(batch, lr)  # stays on the device; nothing waits here
            progress.step += 1
            log.add(scalars, batch, lr)

            improved = run.evaluate_if_due()
            leaving = run.leaving()
            if leaving or run.due(plan.log_every):
                log.flush()
            if leaving or improved or run.due(plan.save_every):
                run.save()
        return run.finish()
