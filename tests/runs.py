"""Commands and tiny runs for the tests: images, arguments, processes, what a run leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from seresnext.cli import main

SERESNEXT = [sys.executable, "-m", "seresnext"]
TRAIN, VAL = 39, 13
"""Images: 13 of each of 3 classes, and 5, 4, 4. No batch size of the tests divides them."""
NETWORK = ["--model.layers", "1", "1", "1", "1", "--model.cardinality", "2", "--image-size", "32"]
"""4 million parameters; a step of 4 images takes about 20 ms."""
RECORDING = str(Path(__file__).parent / "recording.py")
"""Script: `seresnext train` that records its samples and stops at a given step."""
LONG = 100_000
"""Steps of a run that is ended by its test."""
_RUN = [
    *("--recipe", "demo", *NETWORK, "--workers", "1", "--run.log-every", "1 steps"),
    *("--run.eval-every", "7 steps", "--run.save-every", "4 steps"),
    # Sums depend on the number of threads. Runs are compared bit by bit, some of them in the test's
    # own process, where another test may have set that number.
    *("--engine.threads", "1"),
]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


# Images and arguments ----------------------------------------------------------------------


def write_images(root: Path, train: int = TRAIN, val: int = VAL) -> Path:
    """Write noisy images of three colours as root/train and root/val; a network separates them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            pixels = rng.integers(0, 90, (36, 40, 3), np.uint8)
            pixels[..., i % 3] += 120
            folder = root / split / ("red", "green", "blue")[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.{'jpg' if i % 2 else 'png'}")
    return root


def train_arguments(data: Path, out: Path, steps: int, batch_size: int, *more: object) -> list[str]:
    """Arguments of `seresnext` for a tiny run; `more` may repeat a flag to change it."""
    given = (*_RUN, "--data", data, "--out", out, "--batch-size", batch_size)
    return ["train", *map(str, (*given, "--run.duration", f"{steps} steps", *more))]


# Commands ----------------------------------------------------------------------------------


def run_cli(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `seresnext ARGUMENTS` in this process; its exit code must be `code`.

    Returns what Python wrote to stdout and stderr. Several hundred milliseconds to seconds faster
    than `run_process`, because the frameworks are imported once. Not for signals and resource
    limits, and not for several ranks.
    """
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            returned = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # from the argument parser
            returned = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    done = subprocess.CompletedProcess(arguments, returned, out.getvalue(), errors.getvalue())
    assert done.returncode == code, (done.returncode, done.stdout + done.stderr)
    return done


def refused(*arguments: object) -> str:
    """Run `seresnext ARGUMENTS` in this process; it must fail with one line. Returns the line."""
    errors = run_cli(*arguments, code=1).stderr
    assert errors.startswith("seresnext: error: "), errors
    assert errors.count("\n") == 1, errors
    return errors.rstrip("\n")


def run_process(
    *arguments: object, code: int = 0, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `seresnext ARGUMENTS` as a process of its own; its exit code must be `code`."""
    done = finish(start([*SERESNEXT, *map(str, arguments)]), timeout)
    assert done.returncode == code, (done.returncode, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def torchrun(processes: int, *options: str) -> list[str]:
    """The start of a torchrun command for this machine; a script or `-m MODULE` follows."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), *options),
    ]


def start(command: Sequence[str], **changes: str) -> subprocess.Popen[str]:
    """Start a process in a process group of its own, without thread variables in its environment.

    `changes` are further environment variables.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _THREADS}
    return subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | changes,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Wait until the process ends. A process that hangs is killed with its group and fails."""
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # torchrun ends its ranks
        try:
            out, errors = process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, errors = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}\n{errors}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[str], timeout: float = 90
) -> None:
    """Wait until `condition` is true, which must happen while `process` runs."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"not true within {timeout} s"
        time.sleep(0.02)


def rank_process(reports: Path, rank: int) -> int:
    """Return the process id of a rank that was started with SERESNEXT_REPORTS=`reports`."""
    return int((reports / str(rank)).read_text().split()[0])


# What a run left behind --------------------------------------------------------------------


class Run(NamedTuple):
    """A finished run that tests compare with."""

    folder: Path
    digest: str


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def digest(run: Path) -> str:
    """Return the SHA-256 of the run's final weights."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def records(run: Path) -> list[dict[str, float]]:
    """Return the lines of metrics.jsonl."""
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def evaluations(run: Path) -> list[dict[str, float]]:
    """Return the lines of metrics.jsonl that evaluations wrote."""
    return [record for record in records(run) if "val/top1" in record]
