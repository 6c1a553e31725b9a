"""What one rank of `test_mindspore_distributed.py` does; alone, the same in a world of one."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.networks import optim_and_loss, random_batch, tiny_spec
from seresnext.batch import Batch
from seresnext.config import EngineConfig
from seresnext.engines.mindspore.engine import MindSporeEngine
from seresnext.model.init import init_weights

GLOBAL_BATCH = 16
OPTIM = {"label_smoothing": 0.1, "ema_decay": 0.9, "clip_norm": 1.0, "nesterov": True}


def batch_of_rank(step: int, rank: int, world: int) -> Batch:
    """This rank's slice of a global batch in which three rows carry no image."""
    whole = random_batch(GLOBAL_BATCH, seed=1000 + step)
    whole.mask[[0, 1, 6]] = False
    return replace(whole.split(world)[rank], seed=whole.seed + rank)


def make(sync_bn: bool, accumulate: int = 1, first: int = 0) -> MindSporeEngine:
    noise = {} if sync_bn else {"drop_path": 0.3, "dropout": 0.3}
    spec = tiny_spec(**noise)
    weights = init_weights(spec.architecture, first)
    config = EngineConfig(name="mindspore", device="cpu", sync_bn=sync_bn)
    return MindSporeEngine(
        spec, weights, config, *optim_and_loss(OPTIM | {"accumulate": accumulate})
    )


def step(engine: MindSporeEngine, number: int, poison: bool = False) -> dict[str, float]:
    batch = batch_of_rank(number, engine.rank, engine.world_size)
    if poison and engine.rank == engine.world_size - 1:
        batch.mix[-1] = np.nan
    return engine.fetch(engine.train_step(batch, 0.02))


def run() -> dict[str, Any]:
    results: dict[str, Any] = {}
    for sync_bn in (False, True):
        # The last rank brings other weights, which do not count.
        engine = make(sync_bn, first=int(os.environ.get("RANK_ID", "0")))
        record = step(engine, 0)
        results[f"sync_bn={sync_bn}"] = (record, engine.state_dict())
        before = engine.state_dict()
        results[f"poison, sync_bn={sync_bn}"] = (step(engine, 1, True), before, engine.state_dict())
    # What comes out depends on the order.
    value = [1e16, 1.0][engine.rank] - 1e16
    results["sum"] = engine.all_sum(np.array([value, 0.1, engine.rank]))
    results["counts"] = engine.all_sum(np.array([[2**53 + engine.rank]], np.int64))
    results["world"] = (engine.rank, engine.world_size, engine.threads)
    engine.close()
    return results


if __name__ == "__main__":
    results = run()
    Path(sys.argv[1], f"{results['world'][0]}.pickle").write_bytes(pickle.dumps(results))
