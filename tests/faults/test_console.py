"""A console that is lost, full or missing neither ends nor spoils a run."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runs import (
    LONG,
    SERESNEXT,
    Run,
    checkpoint,
    digest,
    finish,
    run_cli,
    start,
    train_arguments,
    wait_until,
)


def shell(line: str, images: Path, out: Path) -> subprocess.Popen[str]:
    """Start a shell's line in which TRAIN is `seresnext train` of 24 steps."""
    train = shlex.join([*SERESNEXT, *train_arguments(images, out, 24, 4)])
    return start(["bash", "-c", line.replace("TRAIN", train)])


@pytest.mark.parametrize(
    "line",
    [
        "TRAIN | head -1; exit ${PIPESTATUS[0]}",
        pytest.param("TRAIN > /dev/full", marks=pytest.mark.slow),
        pytest.param("TRAIN > /dev/full 2>&1", marks=pytest.mark.slow),
        pytest.param("TRAIN <&- >&- 2>&-", marks=pytest.mark.slow),
        pytest.param("TRAIN >&-", marks=pytest.mark.slow),
    ],
)
def test_a_run_whose_output_is_lost_goes_on(
    images: Path, one: Run, tmp_path: Path, line: str
) -> None:
    done = finish(shell(line, images, tmp_path / "run"), timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert digest(tmp_path / "run") == one.digest
    lost = "head" in line or line.endswith("/dev/full")
    assert ("warning: the standard output is lost" in done.stderr) == lost


def long_run(images: Path, out: Path, *more: object) -> list[str]:
    return [*SERESNEXT, *train_arguments(images, out, LONG, 4, *more)]


def test_ctrl_c_that_also_ends_the_reader_saves(images: Path, tmp_path: Path) -> None:
    """`train | tee log` and Ctrl-C: tee ends at once, and the run writes to a pipe of nobody."""
    out = tmp_path / "run"
    process = start(long_run(images, out))
    wait_until(checkpoint(out, 4).exists, process)
    assert process.stdout
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.stderr
    with process.stderr:
        errors = process.stderr.read()
    assert process.wait(timeout=60) == 75, errors
    assert "interrupted; saved" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "processes", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.timing])]
)
def test_a_terminal_that_hangs_up_saves(images: Path, tmp_path: Path, processes: int) -> None:
    out = tmp_path / "run"
    command = long_run(images, out, *(("--nproc", 2) if processes > 1 else ()))
    pid, terminal = pty.fork()
    if pid == 0:  # the child, whose controlling terminal is the new one
        os.execv(command[0], command)
    try:
        while not checkpoint(out, 4).exists():
            with contextlib.suppress(OSError):
                os.read(terminal, 4096)
    finally:
        os.close(terminal)  # the kernel sends SIGHUP
        os.kill(pid, signal.SIGHUP)  # as a shell does, too
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 75
    steps = {int(path.name[5:]) for path in (out / "checkpoints").iterdir()}
    more = f"{max(steps)} steps"
    run_cli(*train_arguments(images, out, 1, 4 * processes, "--run.duration", more))


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--nproc", 2)])
def test_nohup_goes_on(images: Path, tmp_path: Path, more: tuple[object, ...]) -> None:
    out = tmp_path / "run"
    process = start(["nohup", *long_run(images, out, *more)])
    wait_until(checkpoint(out, 4).exists, process)
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: not checkpoint(out, 4).exists(), process)
    process.send_signal(signal.SIGTERM)
    assert finish(process, timeout=60).returncode == 75


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("HELP > /dev/full", 1, "cannot write to the standard output: No space left on device"),
        ("HELP | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("HELP >&- 2>&-", 0, ""),
    ],
)
def test_other_commands_say_that_their_output_is_lost(line: str, code: int, said: str) -> None:
    words = shlex.join([sys.executable, "-c", "import time; time.sleep(0.3)"])
    command = f"{{ {words}; {shlex.join([*SERESNEXT, '--help'])}; }}"
    process = start(["bash", "-c", line.replace("HELP", command)])
    done = finish(process, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == bool(said)
    assert said in done.stderr
