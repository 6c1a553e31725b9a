"""`seresnext train --nproc N`: output, exit codes and signals."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from runs import (
    SERESNEXT,
    Run,
    checkpoint,
    digest,
    finish,
    records,
    refused,
    run_process,
    start,
    torchrun,
    train_arguments,
    wait_until,
)
from seresnext.cli.train import _without


def test_two_processes_write_one_run(two: Run) -> None:
    out, _ = two
    assert {p.name for p in (out / "logs").iterdir()} == {"rank-1.log", "torchrun.log"}
    log = (out / "logs" / "rank-1.log").read_text()
    assert "-- rank 1, process" in log
    assert "24 steps of 4 images" in log
    steps = [r["step"] for r in records(out) if "train/loss" in r]
    assert steps == list(range(1, 25))  # once: only rank 0 writes
    assert {p.name for p in out.iterdir() if p.name != ".lock"} == {
        *(
            "checkpoints",
            "config.json",
            "events.jsonl",
            "logs",
            "metrics.jsonl",
            "model",
            "report.html",
            "result.json",
            "tensorboard",
        )
    }
    assert len(list((out / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_rank_0_keeps_the_terminal(images: Path, two: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(two.folder, tmp_path / "run")
    done = run_process(*train_arguments(images, copy, 24, 2, "--nproc", 2))
    assert done.stderr == ""
    assert done.stdout.count("already finished at step 24") == 1
    assert done.stdout.count("model: ") == 1
    assert digest(copy) == two.digest


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--nproc", 0), "--nproc: expected 1 to "),
        (
            ("--nproc", 2, "--batch-size", 0),
            "--batch-size (run.batch_size): expected 1 or more, got 0",
        ),
    ],
)
def test_a_wrong_argument_is_reported_before_anything_starts(
    images: Path, tmp_path: Path, more: tuple[object, ...], message: str
) -> None:
    line = refused(*train_arguments(images, tmp_path / "run", 1, 2, *more))
    assert line.startswith(f"seresnext: error: {message}")
    assert not (tmp_path / "run").exists()


def test_an_error_of_all_ranks_is_one_line(tmp_path: Path) -> None:
    arguments = train_arguments(tmp_path / "nowhere", tmp_path / "run", 1, 2, "--nproc", 2)
    done = run_process(*arguments, code=1)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr


@pytest.mark.slow
def test_an_error_of_another_rank_is_one_line_too(images: Path, tmp_path: Path) -> None:
    data = tmp_path / "images"
    for file in images.rglob("*.*"):
        copy = data / file.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for file in sorted((data / "val").rglob("*.*"))[1::2]:  # rank 1's share of the validation
        file.write_bytes(b"")
    done = run_process(*train_arguments(data, tmp_path / "run", 7, 2, "--nproc", 2), code=1)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "seresnext: error: rank 1: cannot read image" in done.stderr
    assert "cannot read image" in (tmp_path / "run" / "logs" / "rank-1.log").read_text()


@pytest.mark.timing
def test_a_signal_saves_and_the_same_command_resumes(
    images: Path, two: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = train_arguments(images, out, 24, 2, "--nproc", 2)
    process = start([*SERESNEXT, *arguments])
    wait_until(checkpoint(out, 4).exists, process)
    process.send_signal(signal.SIGTERM)
    done = finish(process, timeout=60)
    assert done.returncode == 75, done.stderr
    assert done.stderr == "interrupted; saved. The same command goes on from here.\n"
    done = run_process(*arguments)
    assert "resuming after step" in done.stdout
    assert digest(out) == two.digest


@pytest.mark.slow
def test_torchrun_itself(images: Path, two: Run, tmp_path: Path) -> None:
    arguments = train_arguments(images, tmp_path / "run", 24, 2)
    done = finish(start([*torchrun(2), "-m", "seresnext", *arguments]), timeout=120)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "run") == two.digest


def test_the_flag_is_removed_from_the_arguments() -> None:
    arguments = ["--nproc", "2", "--out", "a", "--nproc=4", "--seed", "2"]
    assert _without(arguments, "--nproc") == ["--out", "a", "--seed", "2"]
