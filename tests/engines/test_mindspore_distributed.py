"""Two processes of the MindSpore engine on one machine, started by msrun."""

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

pytest.importorskip("seresnext.engines.mindspore.engine", reason="needs MindSpore")

from engines.contract import assert_close, assert_same_bits
from engines.mindspore_rank import make, step

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two ranks."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [
        *("-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2"),
        *(f"--master_port={port}", "--join=True", f"--log_dir={folder}"),
        *("python", "-m", "engines.mindspore_rank", str(folder)),
    ]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "PATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    logs = "\n".join(f"{f}\n{f.read_text()[-3000:]}" for f in sorted(folder.glob("*.log")))
    assert done.returncode == 0, logs
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


def test_the_world(two: list[dict[str, Any]]) -> None:
    assert [r["world"][:2] for r in two] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("sync_bn", [False, True])
def test_ranks_agree_to_the_bit(two: list[dict[str, Any]], sync_bn: bool) -> None:
    records, states = zip(*(r[f"sync_bn={sync_bn}"] for r in two), strict=True)
    assert records[0] == records[1]
    assert_same_bits(*states)


def test_two_ranks_are_two_pieces(two: list[dict[str, Any]]) -> None:
    """A step of two ranks is one of two pieces, but for the BN statistics, which are averaged."""
    record, state = two[0]["sync_bn=False"]
    alone = make(sync_bn=False, accumulate=2)
    start = alone.state_dict().model
    assert step(alone, 0) == pytest.approx(record, rel=1e-5)
    expected = alone.state_dict()
    assert_close(state.optimizer["momentum"], expected.optimizer["momentum"], 1e-4)
    for name, after in expected.model.items():
        if not name.endswith(("running_mean", "running_var")):
            np.testing.assert_allclose(state.model[name], after, rtol=1e-4, atol=1e-6)
        else:
            # s = 0.81 s0 + 0.09 a + 0.1 b in two pieces, 0.9 s0 + 0.05 (a + b) as an average:
            # a and b are of the same size, so the latter is near the former and not equal to it.
            apart = np.linalg.norm(state.model[name] - after)
            moved = np.linalg.norm(after - start[name])
            assert apart < 0.6 * moved, name


def test_synchronised_bn_is_the_whole_batch(two: list[dict[str, Any]]) -> None:
    record, state = two[0]["sync_bn=True"]
    alone = make(sync_bn=True)
    assert step(alone, 0) == pytest.approx(record, rel=1e-5)
    expected = alone.state_dict()
    assert_close(state.optimizer["momentum"], expected.optimizer["momentum"], 1e-3)
    assert_close(state.model, expected.model, 1e-5)
    assert_close(state.ema, expected.ema, 1e-5)


@pytest.mark.parametrize("sync_bn", [False, True])
def test_one_bad_rank_stops_the_update_of_all(two: list[dict[str, Any]], sync_bn: bool) -> None:
    for results in two:
        record, before, after = results[f"poison, sync_bn={sync_bn}"]
        assert record["finite"] == 0.0
        assert_same_bits(before, after)


def test_sums_go_by_rank(two: list[dict[str, Any]]) -> None:
    for results in two:
        np.testing.assert_array_equal(results["sum"], [-1e16, 0.2, 1])
        assert results["counts"].tolist() == [[2**54 + 1]]
