"""Several processes of the PyTorch engine on one machine, over gloo."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.networks import tiny_spec
from engines.torch_rank import SCENARIOS, Outcome, run
from seresnext.engines.base import EngineState
from seresnext.model.init import init_weights

TESTS = Path(__file__).parent.parent


def start(world: int, command: list[str], **variables: str) -> list[subprocess.Popen]:
    """One process per rank, told of the others as torchrun does it; no thread variables."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in threads}
    environment |= {
        "PYTHONPATH": str(TESTS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        **variables,
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def run_world(world: int, names: list[str], folder: Path) -> list[dict[str, Any]]:
    code = f"from engines.torch_rank import *; main(Path({str(folder)!r}), {names!r})"
    ranks = start(world, ["-c", code])
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), "\n".join(errors)
    return [pickle.loads((folder / f"{r}.pickle").read_bytes()) for r in range(world)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    names = [
        "plain",
        "accumulate",
        "sync_bn",
        "poison",
        "shards4",
        "shards4_fp16",
        "shards4_poison",
    ]
    return run_world(2, names, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    names = ["shards4", "shards4_fp16", "shards4_poison"]
    return run_world(4, names, tmp_path_factory.mktemp("four"))


def assert_same_bits(a: EngineState, b: EngineState) -> None:
    assert a.scalars == b.scalars
    for part in ("model", "momentum", "ema"):
        ours, theirs = getattr(a, part), getattr(b, part)
        assert list(ours) == list(theirs)
        differ = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
        assert not differ, f"{part}: {differ[:5]}"


def assert_close(a: Outcome, b: Outcome, parts: tuple[str, ...], tolerance: float) -> None:
    for ours, theirs in zip(a.losses, b.losses, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance)
    for part in parts:
        ours, theirs = getattr(a.state, part), getattr(b.state, part)
        for name, value in theirs.items():
            error = np.linalg.norm(ours[name] - value)
            assert error <= tolerance * (1 + np.linalg.norm(value)), (part, name, error)


@pytest.mark.parametrize("name", ["shards4", "shards4_fp16", "shards4_poison"])
def test_virtual_shards_give_the_same_bits_in_every_world(
    name: str, two: list[dict[str, Any]], four: list[dict[str, Any]]
) -> None:
    one = run(SCENARIOS[name])
    for outcome in (r[name] for r in two + four):
        assert_same_bits(outcome.state, one.state)
        np.testing.assert_equal(outcome.losses, one.losses)  # NaN equals NaN here
        assert outcome.logits.tobytes() == one.logits.tobytes()


def test_the_comparison_of_bits_notices_one() -> None:
    one, other = run(SCENARIOS["shards4"]), run(SCENARIOS["shards4"])
    assert_same_bits(one.state, other.state)
    value = other.state.momentum["fc.bias"]
    value[0] = np.nextafter(value[0], np.float32(np.inf))
    with pytest.raises(AssertionError, match=r"fc\.bias"):
        assert_same_bits(one.state, other.state)


def test_ranks_hold_the_same_state(two: list[dict[str, Any]]) -> None:
    for name in ("plain", "accumulate", "sync_bn", "poison"):
        assert_same_bits(two[0][name].state, two[1][name].state)
        np.testing.assert_equal(two[0][name].losses, two[1][name].losses)


def test_gradients_and_statistics_are_averaged_over_ranks(two: list[dict[str, Any]]) -> None:
    """Two ranks are two shards: other code, equal up to rounding, masked rows included."""
    assert_close(two[0]["plain"], run(SCENARIOS["shards2"]), ("model", "momentum", "ema"), 1e-4)


def test_accumulation_beside_ranks(two: list[dict[str, Any]]) -> None:
    """Two pieces on each of two ranks are four shards, but for the order of BN's averages."""
    assert_close(two[0]["accumulate"], run(SCENARIOS["shards4"]), ("momentum",), 1e-4)


def test_sync_bn_sees_the_global_batch(two: list[dict[str, Any]]) -> None:
    assert_close(two[0]["sync_bn"], run(SCENARIOS["sync_bn"]), ("model", "momentum", "ema"), 1e-4)


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


def test_all_sum_adds_in_rank_order(two: list[dict[str, Any]], four: list[dict[str, Any]]) -> None:
    for rank in two:
        assert rank["sum"].tolist() == [1e16 + 1.0, 0.1 + 0.1, (2**54 + 1) % 1000]
    for rank in four:
        expected = [1e16 + 1.0 - 1e16 + 1.0, 0.1 + 0.1 + 0.1 + 0.1, (2**55 + 6) % 1000]
        assert rank["sum"].tolist() == expected
