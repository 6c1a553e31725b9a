"""What one rank of `test_torch_distributed.py` does: run scenarios, write what came of each.

The test also imports it and runs the same scenarios in a world of one.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.networks import optim_and_loss, random_batch, tiny_spec
from seresnext.batch import Batch
from seresnext.config import EngineConfig, OptimConfig
from seresnext.engines.base import EngineState
from seresnext.engines.torch.engine import TorchEngine
from seresnext.model.init import init_weights

GLOBAL_BATCH = 16
STEPS = 2


@dataclass(frozen=True)
class Scenario:
    """Two steps of one configuration."""

    engine: dict[str, Any]
    optim: dict[str, Any]
    poison: bool = False
    """The second batch's last row, which is on the last rank, has a loss that is NaN."""


OPTIM = {"label_smoothing": 0.1, "ema_decay": 0.9, "clip_norm": 1.0, "nesterov": True}
SCENARIOS = {
    "plain": Scenario({"threads": 1}, OPTIM),
    "accumulate": Scenario({"threads": 1}, OPTIM | {"accumulate": 2}),
    "sync_bn": Scenario({"threads": 1, "sync_bn": True}, OPTIM),
    "poison": Scenario({"threads": 1}, OPTIM, poison=True),
    # The number of threads decides the last bits, so with virtual shards it has a default of its
    # own; nothing sets it here.
    "shards2": Scenario({"virtual_shards": 2}, OPTIM),
    "shards4": Scenario({"virtual_shards": 4}, OPTIM),
    "shards4_poison": Scenario({"virtual_shards": 4}, OPTIM, poison=True),
}


@dataclass
class Outcome:
    losses: list[dict[str, float]]
    state: EngineState
    before_last: EngineState
    logits: np.ndarray


def batch_of_rank(step: int, rank: int, world: int, poison: bool, parts: int) -> Batch:
    """This rank's slice of a global batch in which three rows carry no image. As the loader does,
    it leaves a seed to each of the `parts` into which a rank cuts its batch."""
    whole = random_batch(GLOBAL_BATCH, seed=1000 + step)
    whole.mask[[0, 1, 6]] = False
    if poison and step == STEPS - 1:
        whole.mix[-1] = np.nan
    return replace(whole.split(world)[rank], seed=whole.seed + rank * parts)


def run(scenario: Scenario) -> Outcome:
    noise = {} if scenario.engine.get("sync_bn") else {"drop_path": 0.3, "dropout": 0.3}
    spec = tiny_spec(**noise)
    config = EngineConfig(device="cpu", **scenario.engine)
    engine = TorchEngine(
        spec, init_weights(spec.architecture, 0), config, *optim_and_loss(scenario.optim)
    )
    shards = config.virtual_shards // engine.world_size
    parts = shards or scenario.optim.get("accumulate", 1)
    losses = []
    for step in range(STEPS):
        before = engine.state_dict()
        batch = batch_of_rank(step, engine.rank, engine.world_size, scenario.poison, parts)
        losses.append(engine.fetch(engine.train_step(batch, lr=0.1)))
    logits = engine.predict(random_batch(3).images)
    return Outcome(losses, engine.state_dict(), before, logits)


def joined() -> TorchEngine:
    """An engine of this rank; one that could not train would not join the others."""
    spec, config = tiny_spec(), EngineConfig(device="cpu")
    return TorchEngine(spec, init_weights(spec.architecture, 0), config, OptimConfig())


def weights_of_rank_0_win() -> EngineState:
    spec = tiny_spec()
    config = EngineConfig(device="cpu", threads=1)
    own = TorchEngine(spec, init_weights(spec.architecture, 0), config, OptimConfig()).rank
    weights = init_weights(spec.architecture, own)
    engine = TorchEngine(spec, weights, config, OptimConfig())
    return EngineState(engine.state_dict().model)


def ordered_sum() -> np.ndarray:
    """1e16 + 1 - 1e16 ...: what comes out depends on the order."""
    engine = joined()
    value = [1e16, 1.0, -1e16, 1.0][engine.rank]
    count = engine.all_sum(np.array(engine.rank + 2**53, np.int64))
    assert count.shape == ()
    return np.array([*engine.all_sum(np.array([value, 0.1])), float(count % 1000)])


def train_for_ever(folder: Path) -> None:
    engine = joined()
    while True:
        engine.fetch(engine.train_step(random_batch(4), lr=0.01))
        (folder / f"{engine.rank}.started").touch()


def main(folder: Path, names: list[str]) -> None:
    results: dict[str, Any] = {name: run(SCENARIOS[name]) for name in names}
    results["weights"] = weights_of_rank_0_win()
    results["sum"] = ordered_sum()
    engine = joined()
    (folder / f"{engine.rank}.pickle").write_bytes(pickle.dumps(results))
    engine.close()
