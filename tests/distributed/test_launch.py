"""`seresnext train --nproc N`: what a user sees, and how it ends."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from faults.runs import (
    checkpoint,
    digest,
    finish,
    records,
    seresnext,
    start,
    torchrun,
    wait_until,
    words,
)
from seresnext.cli.train import _without


def test_two_processes_leave_one_run(two: tuple[Path, str]) -> None:
    out, _ = two
    assert {p.name for p in (out / "logs").iterdir()} == {"rank-1.log", "torchrun.log"}
    log = (out / "logs" / "rank-1.log").read_text()
    assert "-- rank 1, process" in log
    assert "24 steps of 4 images" in log
    steps = [r["step"] for r in records(out) if "train/loss" in r]
    assert steps == list(range(1, 25))  # once: only rank 0 writes
    assert {p.name for p in out.iterdir() if p.name != ".lock"} == {
        *("checkpoints", "config.json", "logs", "metrics.jsonl", "model", "tensorboard")
    }
    assert len(list((out / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_rank_0_keeps_the_terminal(images: Path, two: tuple[Path, str]) -> None:
    done = seresnext(words(images, two[0], 24, 2, "--nproc", 2))
    assert done.stderr == ""
    assert done.stdout.count("already finished at step 24") == 1
    assert done.stdout.count("model: ") == 1
    assert digest(two[0]) == two[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--nproc", 0), "--nproc: expected 1 or more, got 0"),
        (("--nproc", 2, "--batch-size", 0), "run.batch_size: expected 1 or more, got 0"),
    ],
)
def test_what_is_wrong_in_the_words_is_said_before_anything_starts(
    images: Path, tmp_path: Path, more: tuple[object, ...], message: str
) -> None:
    done = seresnext(words(images, tmp_path / "run", 1, 2, *more), check=False)
    assert (done.returncode, done.stderr) == (1, f"seresnext: error: {message}\n")
    assert not (tmp_path / "run").exists()


def test_an_error_of_all_ranks_is_one_line(tmp_path: Path) -> None:
    given = words(tmp_path / "nowhere", tmp_path / "run", 1, 2, "--nproc", 2)
    done = seresnext(given, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr


@pytest.mark.slow
def test_an_error_of_another_rank_is_one_line_too(images: Path, tmp_path: Path) -> None:
    data = tmp_path / "images"
    for file in images.rglob("*.png"):
        copy = data / file.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for file in sorted((data / "val").rglob("*.png"))[1::2]:  # rank 1's share of the validation
        file.write_bytes(b"")
    done = seresnext(words(data, tmp_path / "run", 7, 2, "--nproc", 2), check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "seresnext: error: rank 1: cannot read image" in done.stderr
    assert "cannot read image" in (tmp_path / "run" / "logs" / "rank-1.log").read_text()


def test_a_signal_saves_and_the_same_command_goes_on(
    images: Path, two: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    given = words(images, out, 24, 2, "--nproc", 2)
    process = start([sys.executable, "-m", "seresnext", *given])
    wait_until(checkpoint(out, 4).exists, process)
    process.send_signal(signal.SIGTERM)
    done = finish(process, timeout=60)
    assert done.returncode == 75, done.stderr
    assert done.stderr == "interrupted; saved. The same command goes on from here.\n"
    done = seresnext(given)
    assert "resuming after step" in done.stdout
    assert digest(out) == two[1]


@pytest.mark.slow
def test_torchrun_itself(images: Path, two: tuple[Path, str], tmp_path: Path) -> None:
    given = words(images, tmp_path / "run", 24, 2)
    done = finish(start([*torchrun(2), "seresnext", *given]), timeout=120)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "run") == two[1]


def test_the_flag_is_taken_out_of_the_words() -> None:
    given = ["--nproc", "2", "--out", "a", "--nproc=4", "--seed", "2"]
    assert _without(given, "--nproc") == ["--out", "a", "--seed", "2"]
