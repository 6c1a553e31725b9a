"""Several processes of the PyTorch engine on one machine, over gloo."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.contract import assert_same_bits
from engines.networks import tiny_spec
from engines.torch_rank import SCENARIOS, Outcome, run
from seresnext.engines.base import EngineState
from seresnext.engines.common import World
from seresnext.engines.torch.distributed import world_from_environment
from seresnext.engines.torch.step import shards_per_rank
from seresnext.errors import UserError
from seresnext.model.init import init_weights

TESTS = Path(__file__).parent.parent


@contextmanager
def started(world: int, code: str) -> Iterator[list[subprocess.Popen]]:
    """One Python process per rank with the variables that torchrun sets, but OMP_NUM_THREADS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in threads}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", f"from engines.torch_rank import *; {code}"],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def run_world(world: int, names: list[str], folder: Path) -> list[dict[str, Any]]:
    with started(world, f"main(Path({str(folder)!r}), {names!r})") as ranks:
        errors = [rank.communicate(timeout=300)[1] for rank in ranks]
        assert not any(rank.returncode for rank in ranks), "\n".join(errors)
    return [pickle.loads((folder / f"{r}.pickle").read_bytes()) for r in range(world)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    names = ["plain", "accumulate", "sync_bn", "poison", "shards4", "shards4_poison"]
    return run_world(2, names, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    names = ["shards4", "shards4_poison"]
    return run_world(4, names, tmp_path_factory.mktemp("four"))


EVERYTHING = ("model", "optimizer.momentum", "ema")


def assert_close(a: Outcome, b: Outcome, parts: tuple[str, ...], tolerance: float) -> None:
    for ours, theirs in zip(a.losses, b.losses, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance)
    for part in parts:
        ours, theirs = a.state.groups()[part], b.state.groups()[part]
        for name, value in theirs.items():
            error = np.linalg.norm(ours[name] - value)
            assert error <= tolerance * (1 + np.linalg.norm(value)), (part, name, error)


@pytest.mark.slow  # the command with two processes: tests/distributed/test_worlds.py
@pytest.mark.parametrize("world", [2, 4])
def test_virtual_shards_give_the_same_bits_in_every_world(
    world: int, request: pytest.FixtureRequest
) -> None:
    ranks = request.getfixturevalue({2: "two", 4: "four"}[world])
    for name in ("shards4", "shards4_poison"):
        one = run(SCENARIOS[name])
        for outcome in (rank[name] for rank in ranks):
            assert_same_bits(outcome.state, one.state)
            np.testing.assert_equal(outcome.losses, one.losses)  # NaN equals NaN here
            assert outcome.logits.tobytes() == one.logits.tobytes()


def test_the_comparison_of_bits_notices_one() -> None:
    one, other = run(SCENARIOS["shards4"]), run(SCENARIOS["shards4"])
    assert_same_bits(one.state, other.state)
    value = other.state.optimizer["momentum"]["fc.bias"]
    value[0] = np.nextafter(value[0], np.float32(np.inf))
    with pytest.raises(AssertionError, match=r"fc\.bias"):
        assert_same_bits(one.state, other.state)


def test_ranks_hold_the_same_state(two: list[dict[str, Any]]) -> None:
    for name in ("plain", "accumulate", "sync_bn", "poison"):
        assert_same_bits(two[0][name].state, two[1][name].state)
        np.testing.assert_equal(two[0][name].losses, two[1][name].losses)


def test_gradients_and_statistics_are_averaged_over_ranks(two: list[dict[str, Any]]) -> None:
    """Two ranks are two shards: other code, equal up to rounding, masked rows included."""
    assert_close(two[0]["plain"], run(SCENARIOS["shards2"]), EVERYTHING, 1e-4)


def test_accumulation_beside_ranks(two: list[dict[str, Any]]) -> None:
    """Two pieces on each of two ranks are four shards, but for the order of BN's averages."""
    assert_close(two[0]["accumulate"], run(SCENARIOS["shards4"]), ("optimizer.momentum",), 1e-4)


def test_sync_bn_sees_the_global_batch(two: list[dict[str, Any]]) -> None:
    assert_close(two[0]["sync_bn"], run(SCENARIOS["sync_bn"]), EVERYTHING, 1e-4)


@pytest.mark.parametrize("name", ["poison", "shards4_poison"])
def test_a_bad_row_on_one_rank_stops_the_update_on_all(
    name: str, two: list[dict[str, Any]]
) -> None:
    for rank in two:
        outcome = rank[name]
        assert [x["finite"] for x in outcome.losses] == [1.0, 0.0]
        assert_same_bits(outcome.state, outcome.before_last)


def test_rank_0_gives_the_weights(two: list[dict[str, Any]]) -> None:
    expected = EngineState(init_weights(tiny_spec().architecture, 0))
    for rank in two:
        assert_same_bits(rank["weights"], expected)


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        (2, [1e16 + 1.0, 0.1 + 0.1, (2**54 + 1) % 1000]),
        pytest.param(
            4,
            [1e16 + 1.0 - 1e16 + 1.0, 0.1 + 0.1 + 0.1 + 0.1, (2**55 + 6) % 1000],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_all_sum_adds_in_rank_order(
    world: int, expected: list[float], request: pytest.FixtureRequest
) -> None:
    for rank in request.getfixturevalue({2: "two", 4: "four"}[world]):
        assert rank["sum"].tolist() == expected


def test_shards_that_cannot_be_dealt_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shards_per_rank(4, 2) == 2
    with pytest.raises(UserError, match=r"4 shards cannot be dealt to 3 processes"):
        shards_per_rank(4, 3)


def test_a_world_without_its_variables_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"WORLD_SIZE is 2, but RANK, LOCAL_RANK.*torchrun"):
        world_from_environment()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert world_from_environment() == World(rank=0, size=1)


@pytest.mark.slow
def test_a_killed_rank_ends_the_other_at_once(tmp_path: Path) -> None:
    with started(2, f"train_for_ever(Path({str(tmp_path)!r}))") as ranks:
        while not all((tmp_path / f"{r}.started").exists() for r in range(2)):
            assert all(rank.poll() is None for rank in ranks)
            time.sleep(0.2)
        ranks[0].send_signal(signal.SIGKILL)
        _, errors = ranks[1].communicate(timeout=30)
        assert ranks[1].returncode > 0
    assert "onnection" in errors  # gloo names the lost connection
