"""Faults of one process, by the real command.

Kill and resume, NaN: tests/training/test_loop.py. Every way a checkpoint can be damaged or cut off:
tests/training/test_checkpoint.py.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faults.runs import (
    checkpoint,
    digest,
    environment,
    finish,
    records,
    seresnext,
    start,
    wait_until,
    words,
)

RECORDING = str(Path(__file__).parent / "recording.py")
LONG = 100_000
"""Steps of a run that a test ends."""


@pytest.fixture
def copy(one: tuple[Path, str], tmp_path: Path) -> Path:
    """The undisturbed run's folder, to be damaged."""
    return Path(shutil.copytree(one[0], tmp_path / "copy"))


# Signals -----------------------------------------------------------------------------------


def test_a_second_signal_ends_at_once(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start([sys.executable, "-m", "seresnext", *words(images, out, LONG, 4)])
    wait_until(checkpoint(out, 4).exists, process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)  # another number, lest the system make one of two
    done = finish(process, timeout=20)
    assert done.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert "saved" not in done.stderr


def test_a_stop_when_an_evaluation_is_due_loses_nothing(
    images: Path, one: tuple[Path, str], tmp_path: Path
) -> None:
    """Stopped at step 7, where an evaluation is due: the continuation makes up for it."""
    out = tmp_path / "run"
    given = words(images, out, 24, 4)
    done = finish(start([sys.executable, RECORDING, str(tmp_path), "7", *given]), timeout=60)
    assert done.returncode == 75, done.stderr
    assert checkpoint(out, 7).exists()
    assert not [r for r in records(out) if "val/top1" in r]
    seresnext([*given, "--workers", "3"])  # another number of workers changes nothing either
    assert digest(out) == one[1]
    measured = [
        [{k: v for k, v in r.items() if k.startswith(("step", "val"))} for r in records(run)]
        for run in (out, one[0])
    ]
    assert measured[0] == measured[1]


# Checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["cut short", pytest.param("a bit flipped", marks=pytest.mark.slow)]
)
def test_a_damaged_checkpoint_is_passed_over(
    images: Path, one: tuple[Path, str], copy: Path, how: str
) -> None:
    weights = checkpoint(copy, 24) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data[: len(data) // 2] if how == "cut short" else data)
    shutil.rmtree(copy / "model")
    done = seresnext(words(images, copy, 24, 4))
    reason = "its manifest says" if how == "cut short" else "is damaged: its SHA-256"
    assert "warning: passed over: checkpoint file" in done.stdout
    assert reason in done.stdout
    assert "resuming after step 2" in done.stdout  # 20, or 21 of the last evaluation
    assert digest(copy) == one[1]


def test_a_run_without_one_whole_checkpoint_is_not_started_anew(images: Path, copy: Path) -> None:
    for weights in copy.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"")
    before = sorted(copy.rglob("*"))
    done = seresnext(words(images, copy, 24, 4), check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "none of the checkpoints" in done.stderr
    assert sorted(copy.rglob("*")) == before


LIMITED = """
import resource, sys
from seresnext.cli import main
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_one_line(images: Path, copy: Path) -> None:
    kept = {p.name for p in (copy / "checkpoints").iterdir()}
    limited = [sys.executable, "-c", LIMITED, "2000000", *words(images, copy, 30, 4)]
    done = finish(start(limited), timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot save checkpoint" in done.stderr
    assert "Free some space" in done.stderr
    assert {p.name for p in (copy / "checkpoints").iterdir()} == kept
    assert "resuming after step 24" in seresnext(words(images, copy, 30, 4)).stdout


@pytest.mark.slow
def test_a_log_that_cannot_be_written_ends_the_run_with_one_line(
    images: Path, tmp_path: Path
) -> None:
    more = ("--run.save-every", "1000 steps", "--run.eval-every", "")
    given = words(images, tmp_path / "run", 200, 4, *more)
    done = finish(start([sys.executable, "-c", LIMITED, "8000", *given]), timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot write" in done.stderr
    assert "Free some space" in done.stderr


DYING = """
import os, signal, sys
import seresnext.training.checkpoint as module
from seresnext.cli import main

stage, saves, write, clean = sys.argv[1], 0, module._write_synced, os.replace

def dying_write(path, parts):
    global saves
    saves += path.name == module.STATE
    entry = write(path, parts)
    if stage == "writing" and saves == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return entry

def dying_replace(old, new):
    clean(old, new)
    if stage == "renamed" and "step-00000007" in str(new):
        os.kill(os.getpid(), signal.SIGKILL)

module._write_synced, module.os.replace = dying_write, dying_replace
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [("writing", 4), ("renamed", 7)])
def test_killed_while_saving(
    images: Path, one: tuple[Path, str], tmp_path: Path, stage: str, step: int
) -> None:
    out = tmp_path / "run"
    given = words(images, out, 24, 4)
    done = finish(start([sys.executable, "-c", DYING, stage, *given]), timeout=60)
    assert done.returncode == -signal.SIGKILL
    done = seresnext(given)
    assert f"resuming after step {step}" in done.stdout
    assert digest(out) == one[1]
    assert not list((out / "checkpoints").glob(".saving*"))


# What a checkpoint does not fit, or should not be trusted ----------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model.layers", 1, 1, 2, 1), "layers"),
        pytest.param(("--seed", 7), "run.seed was 0 in the checkpoint", marks=pytest.mark.slow),
        pytest.param(("--batch-size", 6), "global batch is 4 images", marks=pytest.mark.slow),
        pytest.param(("--optim.ema-decay", 0.5), "", marks=pytest.mark.slow),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    images: Path, copy: Path, more: tuple[object, ...], message: str
) -> None:
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*.safetensors")}
    done = seresnext(words(images, copy, 30, 4, *more), check=not message)
    if message:
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert message in done.stderr
        assert {p: p.stat().st_mtime_ns for p in copy.rglob("*.safetensors")} == before
    else:  # what may change is said
        assert "optim.ema_decay changed since the checkpoint: 0.0 -> 0.5" in done.stdout


def test_other_images_are_refused_unless_allowed(images: Path, copy: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "images"))
    shutil.copy(data / "train" / "red" / "0.png", data / "train" / "red" / "more.png")
    done = seresnext(words(data, copy, 26, 4), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pass --allow-data-change" in done.stderr
    done = seresnext(words(data, copy, 26, 4, "--allow-data-change"))
    assert "the training images have changed since the checkpoint, as allowed" in done.stdout
    assert "resuming after step 24" in done.stdout


@pytest.mark.slow
def test_other_classes_are_refused(images: Path, copy: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "images"))
    for split in ("train", "val"):
        (data / split / "red").rename(data / split / "rose")
    done = seresnext(words(data, copy, 26, 4, "--allow-data-change"), check=False)
    assert done.returncode == 1
    assert "missing ['red'], new ['rose']" in done.stderr


class Hostile:
    """A pickle that leaves a file when it is opened the careless way."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors", "evil.ckpt"])
def test_a_hostile_file_is_refused_unopened(images: Path, tmp_path: Path, name: str) -> None:
    evil, trace = tmp_path / name, tmp_path / "executed"
    evil.write_bytes(pickle.dumps({"conv1.weight": Hostile(trace)}))
    pickle.loads(evil.read_bytes())
    assert trace.exists()  # it is what it claims to be
    trace.rmdir()
    done = seresnext(words(images, tmp_path / "run", 2, 4, "--pretrained", evil), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert name in done.stderr
    assert not trace.exists()


def test_a_hostile_checkpoint_is_refused_unopened(images: Path, copy: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    folder = checkpoint(copy, 24)
    evil = pickle.dumps(Hostile(trace))
    for file in folder.iterdir():
        file.write_bytes(evil)
    out = tmp_path / "run"
    done = seresnext(words(images, out, 26, 4, "--resume", folder), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "manifest.json is not valid JSON" in done.stderr
    assert not trace.exists()


BOUNDED = """
import resource, sys
from seresnext.cli import main
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
sys.exit(main(sys.argv[1:]))
"""


def test_44_bytes_do_not_take_37_gigabytes(images: Path, tmp_path: Path) -> None:
    """A MindSpore checkpoint whose one tensor claims 10 billion float32 values."""

    def varint(number: int) -> bytes:
        return (
            bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])
        )

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(data)) + data

    tensor = b"\x08" + varint(10_000_000_000) + field(2, b"Float32") + field(3, b"")
    evil = tmp_path / "evil.ckpt"
    evil.write_bytes(field(1, field(1, b"conv1.weight") + field(2, tensor)))
    assert evil.stat().st_size < 60
    given = words(images, tmp_path / "run", 2, 4, "--pretrained", evil)
    done = finish(start([sys.executable, "-c", BOUNDED, *given]), timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "evil.ckpt" in done.stderr


# Others ------------------------------------------------------------------------------------


BROKEN_LOADER = """
import sys
import seresnext.data.loader as module
from seresnext.cli import main

augment = module.augment_encoded
seen = 0

def dying(*arguments):
    global seen
    seen += 1
    if seen > 30:
        raise MemoryError("no room for pixels")
    return augment(*arguments)

module.augment_encoded = dying
sys.exit(main(sys.argv[1:]))
"""


def test_a_loader_thread_that_dies_ends_the_run(images: Path, tmp_path: Path) -> None:
    given = words(images, tmp_path / "run", LONG, 4)
    done = finish(start([sys.executable, "-c", BROKEN_LOADER, *given]), timeout=60)
    assert done.returncode == 1
    assert "MemoryError: no room for pixels" in done.stderr


def test_a_second_run_in_the_folder_is_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start([sys.executable, "-m", "seresnext", *words(images, out, LONG, 4)])
    wait_until(checkpoint(out, 4).exists, first)
    second = seresnext(words(images, out, LONG, 4), check=False)
    assert (second.returncode, second.stderr.count("\n")) == (1, 1)
    assert f"another run is using {out}" in second.stderr
    assert first.poll() is None
    first.kill()
    finish(first, timeout=20)
    # A killed run leaves no lock behind.
    assert "already finished at step" in seresnext(words(images, out, 4, 4)).stdout


@pytest.mark.slow
def test_an_early_stopped_run_stays_stopped(images: Path, tmp_path: Path) -> None:
    given = words(images, tmp_path / "run", 200, 4, "--optim.lr-per-256", 0, "--run.early-stop", 2)
    seresnext(given)
    before = digest(tmp_path / "run")
    assert "already finished at step" in seresnext(given).stdout
    assert digest(tmp_path / "run") == before


@pytest.mark.slow
def test_the_run_folder_cannot_be_written(images: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = subprocess.run(
        [sys.executable, "-m", "seresnext", *words(images, blocked / "run", 2, 4)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot write to" in done.stderr


def test_the_state_says_where_the_run_stands(one: tuple[Path, str]) -> None:
    state = json.loads((checkpoint(one[0], 24) / "state.json").read_text())
    assert state["progress"]["step"] == 24
    assert state["samples_seen"] == 96
    assert state["epoch"] == pytest.approx(96 / 39)
