"""`seresnext train` that records its steps: python recording.py NOTES STOP train ARGUMENTS...

Each rank writes the samples of its steps to NOTES/rank-N.jsonl and at its end the SHA-256 of its
weights to NOTES/weights-N. In step number STOP after the start, the last rank sends itself SIGTERM,
or SIGKILL when STOP is `N:SIGKILL`; 0 means never.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import seresnext.training.start as start_module
from seresnext.batch import Batch
from seresnext.cli import main

notes = Path(sys.argv[1])
stop, _, signal_name = sys.argv[2].partition(":")
create_engine = start_module.create_engine


def recorded_engine(*arguments: Any) -> Any:
    engine = create_engine(*arguments)
    train_step, close, steps = engine.train_step, engine.close, 0

    def step(batch: Batch, lr: float) -> Any:
        nonlocal steps
        steps += 1
        with open(notes / f"rank-{engine.rank}.jsonl", "a") as file:
            file.write(json.dumps(batch.index.tolist()) + "\n")
        if steps == int(stop) and engine.rank == engine.world_size - 1:
            os.kill(os.getpid(), signal.Signals[signal_name or "SIGTERM"])
        return train_step(batch, lr)

    def end() -> None:
        tensors = engine.state_dict().model
        digest = hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors)))
        (notes / f"weights-{engine.rank}").write_text(digest.hexdigest())
        close()

    engine.train_step, engine.close = step, end
    return engine


start_module.create_engine = recorded_engine
sys.exit(main(sys.argv[3:]))
