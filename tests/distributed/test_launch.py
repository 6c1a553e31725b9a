"""`seresnext train --nproc N`: output, exit codes and signals."""

from __future__ import annotations

import os
import shutil
import signal
import sys
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
from seresnext.launch.processes import supervise


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


STARTER = """
import os, subprocess, sys, time
from pathlib import Path
from seresnext.launch.ranks import EXIT_CODES

def process(code, **environment):
    program = f"from seresnext.launch.ranks import report_exit; import os, time; {code}"
    environment = {**os.environ, "WORLD_SIZE": "2", **environment}
    return subprocess.Popen([sys.executable, "-c", program], env=environment)

wait = "report_exit(); time.sleep(100)"
scheduler = process(wait, MS_ROLE="MS_SCHED")
ranks = [process(wait, RANK="0"), process("report_exit(); " + sys.argv[1], RANK="1")]
while len(os.listdir(os.environ[EXIT_CODES])) < 3 and scheduler.poll() is ranks[0].poll() is None:
    time.sleep(0.01)
ranks[1].wait()
time.sleep(0.5)  # msrun looks once a second
ranks[0].kill()
ranks[0].wait()
Path(sys.argv[2]).write_text(str(scheduler.wait()))
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ("os.kill(os.getpid(), 9)", "rank 1 ended without a word (killed, or out of memory)"),
        ("report_exit(1, 'no room for pixels')", "rank 1: no room for pixels"),
    ],
)
def test_the_cause_is_told_where_rank_0_is_killed_with_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str, cause: str
) -> None:
    """As msrun does it; its scheduler, which would wait for lost ranks, ends too."""
    command = [sys.executable, "-c", STARTER, end, str(tmp_path / "scheduler")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert supervise(command, tmp_path, environment) == 1
    assert capsys.readouterr().err == f"seresnext: error: {cause}; see {tmp_path}\n"
    assert (tmp_path / "scheduler").read_text() == str(-signal.SIGKILL)


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
