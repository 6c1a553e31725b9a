"""What the number of processes may change, and what it may not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from faults.runs import TRAIN, VAL, digest, finish, records, seresnext, start, torchrun, words
from seresnext.data.order import SampleOrder

RECORDING = str(Path(__file__).parents[1] / "faults" / "recording.py")


def evaluations(run: Path) -> list[dict[str, float]]:
    return [record for record in records(run) if "val/top1" in record]


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_virtual_shards_give_the_same_bits(
    images: Path, shards: tuple[Path, str], tmp_path: Path, processes: int
) -> None:
    out = tmp_path / "run"
    more = ("--virtual-shards", 4, "--nproc", processes)
    seresnext(words(images, out, 12, 8 // processes, *more))
    assert digest(out) == shards[1]
    # 13 images in batches of 8, 4 and 2: each is counted once.
    for ours, theirs in zip(evaluations(out), evaluations(shards[0]), strict=True):
        assert ours["val/images"] == VAL
        assert (ours["step"], ours["val/top1"]) == (theirs["step"], theirs["val/top1"])
        assert ours["val/loss"] == pytest.approx(theirs["val/loss"], rel=1e-6)


def test_without_them_the_bits_differ(one: tuple[Path, str], two: tuple[Path, str]) -> None:
    """The tests here can fail: BN over 2 images is not BN over 4."""
    assert one[1] != two[1]
    assert [e["val/images"] for e in evaluations(two[0])] == [VAL] * 4


def recorded(notes: Path, stop: int, processes: int, given: list[str]) -> tuple[list[int], str]:
    """Samples of all steps in the order of the stream, and what rank 0 said."""
    notes.mkdir()
    launcher = torchrun(processes)[:-1] if processes > 1 else [sys.executable]
    done = finish(start([*launcher, RECORDING, str(notes), str(stop), *given]), timeout=120)
    assert done.returncode == (0 if not stop else 1 if processes > 1 else 75), done.stderr
    ranks = [
        [json.loads(line) for line in (notes / f"rank-{rank}.jsonl").read_text().splitlines()]
        for rank in range(processes)
    ]
    return [i for step in zip(*ranks, strict=True) for part in step for i in part], done.stdout


@pytest.mark.slow
def test_two_processes_then_one_then_two(
    images: Path, shards: tuple[Path, str], tmp_path: Path
) -> None:
    """One order of samples, and with virtual shards the bits of a run that never changed."""
    out, samples = tmp_path / "run", []
    for stage, (processes, stop) in enumerate([(2, 5), (1, 4), (2, 0)]):
        given = words(images, out, 12, 8 // processes, "--virtual-shards", 4)
        seen, said = recorded(tmp_path / str(stage), stop, processes, given)
        samples += seen
        if stage:
            before = 3 - processes
            assert f"processes: {before} before, {processes} now; the order of the samples" in said
    order = SampleOrder(TRAIN, 0, 8)
    assert samples == [order.sample(position)[1] for position in range(12 * 8)]
    assert sorted(samples[:TRAIN]) == list(range(TRAIN))  # each once in the first epoch
    assert digest(out) == shards[1]


@pytest.mark.slow
def test_the_thread_count_is_kept_and_another_one_is_remarked(
    images: Path, shards: tuple[Path, str]
) -> None:
    newest = sorted((shards[0] / "checkpoints").iterdir())[-1]
    assert json.loads((newest / "state.json").read_text())["engine"]["threads"] == 1
    again = words(images, shards[0], 12, 8, "--virtual-shards", 4)
    assert "threads" not in seresnext(again).stdout.replace("1 thread)", "")
    done = seresnext([*again, "--engine.threads", "2"])
    assert "compute threads per process: 1 before, 2 now; the result may differ" in done.stdout


def test_another_global_batch_is_refused(images: Path, two: tuple[Path, str]) -> None:
    done = seresnext(words(images, two[0], 24, 3), check=False)
    assert done.returncode == 1
    assert "the checkpoint's global batch is 4 images" in done.stderr


@pytest.mark.slow
def test_shards_that_cannot_be_dealt_are_refused(images: Path, tmp_path: Path) -> None:
    given = words(images, tmp_path / "run", 4, 4, "--virtual-shards", 3, "--nproc", 2)
    done = seresnext(given, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "engine.virtual_shards" in done.stderr
