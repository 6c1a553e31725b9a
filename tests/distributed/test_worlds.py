"""Results that do not depend on the number of processes, and those that do."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from runs import (
    RECORDING,
    TRAIN,
    VAL,
    Run,
    digest,
    evaluations,
    finish,
    refused,
    run_cli,
    run_process,
    start,
    torchrun,
    train_arguments,
)
from seresnext.data.order import SampleOrder


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_virtual_shards_give_the_same_bits(
    images: Path, shards: Run, tmp_path: Path, processes: int
) -> None:
    out = tmp_path / "run"
    more = ("--virtual-shards", 4, "--nproc", processes)
    run_process(*train_arguments(images, out, 12, 8 // processes, *more))
    assert digest(out) == shards.digest
    # 13 images in batches of 8, 4 and 2: each is counted once.
    for ours, theirs in zip(evaluations(out), evaluations(shards.folder), strict=True):
        assert ours["val/images"] == VAL
        assert (ours["step"], ours["val/top1"]) == (theirs["step"], theirs["val/top1"])
        assert ours["val/loss"] == pytest.approx(theirs["val/loss"], rel=1e-6)


def test_without_them_the_bits_differ(one: Run, two: Run) -> None:
    """The tests here can fail: BN over 2 images is not BN over 4."""
    assert one.digest != two.digest
    assert [e["val/images"] for e in evaluations(two.folder)] == [VAL] * 4


def recorded(notes: Path, stop: int, processes: int, arguments: list[str]) -> tuple[list[int], str]:
    """Return the samples of all steps in the order of the stream, and rank 0's output."""
    notes.mkdir()
    launcher = torchrun(processes) if processes > 1 else [sys.executable]
    done = finish(start([*launcher, RECORDING, str(notes), str(stop), *arguments]), timeout=120)
    assert done.returncode == (0 if not stop else 1 if processes > 1 else 75), done.stderr
    ranks = [
        [json.loads(line) for line in (notes / f"rank-{rank}.jsonl").read_text().splitlines()]
        for rank in range(processes)
    ]
    return [i for step in zip(*ranks, strict=True) for part in step for i in part], done.stdout


@pytest.mark.slow
def test_two_processes_then_one_then_two(images: Path, shards: Run, tmp_path: Path) -> None:
    """One order of samples, and with virtual shards the bits of a run that never changed."""
    out, samples = tmp_path / "run", []
    for stage, (processes, stop) in enumerate([(2, 5), (1, 4), (2, 0)]):
        arguments = train_arguments(images, out, 12, 8 // processes, "--virtual-shards", 4)
        seen, output = recorded(tmp_path / str(stage), stop, processes, arguments)
        samples += seen
        if stage:
            before = 3 - processes
            assert (
                f"processes: {before} before, {processes} now; the order of the samples" in output
            )
    order = SampleOrder(TRAIN, 0, 8)
    assert samples == [order.sample(position)[1] for position in range(12 * 8)]
    assert sorted(samples[:TRAIN]) == list(range(TRAIN))  # each once in the first epoch
    assert digest(out) == shards.digest


def test_the_thread_count_is_kept_and_a_change_is_reported(
    images: Path, shards: Run, tmp_path: Path
) -> None:
    copy = shutil.copytree(shards.folder, tmp_path / "run")
    newest = sorted((copy / "checkpoints").iterdir())[-1]
    assert json.loads((newest / "state.json").read_text())["engine"]["threads"] == 1
    again = train_arguments(images, copy, 12, 8, "--virtual-shards", 4, "--engine.threads", 0)
    assert "threads" not in run_cli(*again).stdout.replace("1 thread)", "")
    done = run_cli(*again, "--engine.threads", 2)
    assert "compute threads per process: 1 before, 2 now; the result may differ" in done.stdout


def test_another_global_batch_is_refused(images: Path, two: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(two.folder, tmp_path / "run")
    line = refused(*train_arguments(images, copy, 24, 3))
    assert "the checkpoint's global batch is 4 images" in line


@pytest.mark.slow
def test_shards_that_cannot_be_dealt_are_refused(images: Path, tmp_path: Path) -> None:
    arguments = train_arguments(images, tmp_path / "run", 4, 4, "--virtual-shards", 3, "--nproc", 2)
    done = run_process(*arguments, code=1)
    assert done.stderr.count("\n") == 1
    assert "engine.virtual_shards" in done.stderr
