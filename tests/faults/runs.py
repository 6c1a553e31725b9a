"""Real runs for tests of faults and of several processes: tiny images, a tiny network."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, VAL = 39, 13
"""Images: 13 of 3 classes, and 5, 4, 4. Neither divides by anything that tests use."""
NETWORK = ["--model.layers", "1", "1", "1", "1", "--model.cardinality", "2", "--image-size", "32"]
"""4 million parameters; a step of 4 images takes some 20 ms."""
FLAGS = [
    *("--recipe", "demo", *NETWORK, "--workers", "1", "--run.log-every", "1 steps"),
    *("--run.eval-every", "7 steps", "--run.save-every", "4 steps"),
]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def write_images(root: Path) -> Path:
    """Colours that a network tells apart, with noise, as root/train and root/val."""
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for i in range(count):
            pixels = rng.integers(0, 90, (36, 36, 3), np.uint8)
            pixels[..., i % 3] += 120
            folder = root / split / ("red", "green", "blue")[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def words(data: Path, out: Path, steps: int, batch_size: int, *more: object) -> list[str]:
    """The words after `seresnext` of a tiny run."""
    given = (*FLAGS, "--data", data, "--out", out, "--batch-size", batch_size)
    return ["train", *map(str, (*given, "--run.duration", f"{steps} steps", *more))]


def environment(**changes: str) -> dict[str, str]:
    """As a user has it: no thread variables."""
    return {k: v for k, v in os.environ.items() if k not in _THREADS} | changes


def seresnext(
    given: Sequence[str], timeout: float = 120, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """`seresnext GIVEN`, to its end."""
    process = start([sys.executable, "-m", "seresnext", *given])
    done = finish(process, timeout)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def torchrun(processes: int, *options: str) -> list[str]:
    """The beginning of a torchrun command on this machine."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), *options, "-m"),
    ]


def start(command: Sequence[str], **changes: str) -> subprocess.Popen[str]:
    """A process that leads a group of its own, so that `finish` leaves nothing behind."""
    return subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**changes),
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Wait for its end; a hang fails the test."""
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
    """Until `condition` holds while `process` runs."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def rank_process(reports: Path, rank: int) -> int:
    """Process id of a rank started with SERESNEXT_REPORTS=`reports`."""
    return int((reports / str(rank)).read_text().split()[0])


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def digest(run: Path) -> str:
    """SHA-256 of the finished weights."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def records(run: Path) -> list[dict[str, float]]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
