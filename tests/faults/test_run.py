"""Faults of one process: signals, damaged and foreign checkpoints, full disks, hostile files.

Kill and resume, NaN: tests/training/test_loop.py. Every way a checkpoint can be damaged or cut off:
tests/training/test_checkpoint.py.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
from pathlib import Path

import pytest

from runs import (
    LONG,
    RECORDING,
    SERESNEXT,
    Run,
    checkpoint,
    digest,
    evaluations,
    finish,
    records,
    refused,
    run_cli,
    start,
    train_arguments,
    wait_until,
)


@pytest.fixture
def copy(one: Run, tmp_path: Path) -> Path:
    """A copy of the undisturbed run's folder, to be damaged."""
    return Path(shutil.copytree(one.folder, tmp_path / "copy"))


# Signals -----------------------------------------------------------------------------------


@pytest.mark.timing
def test_a_second_signal_ends_at_once(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start([*SERESNEXT, *train_arguments(images, out, LONG, 4)])
    wait_until(checkpoint(out, 4).exists, process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)  # another number: two equal ones may be merged
    done = finish(process, timeout=20)
    assert done.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert "saved" not in done.stderr


def test_a_stop_when_an_evaluation_is_due_loses_nothing(
    images: Path, one: Run, tmp_path: Path
) -> None:
    """Stopped at step 7, where an evaluation is due: the continuation evaluates first."""
    out = tmp_path / "run"
    arguments = train_arguments(images, out, 24, 4)
    done = finish(start([sys.executable, RECORDING, str(tmp_path), "7", *arguments]), timeout=60)
    assert done.returncode == 75, done.stderr
    assert checkpoint(out, 7).exists()
    assert not evaluations(out)
    run_cli(*arguments, "--workers", 3)  # the number of workers changes nothing either
    assert digest(out) == one.digest
    measured = [
        [{k: v for k, v in r.items() if k.startswith(("step", "val"))} for r in records(run)]
        for run in (out, one.folder)
    ]
    assert measured[0] == measured[1]


# Checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["cut short", pytest.param("a bit flipped", marks=pytest.mark.slow)]
)
def test_a_damaged_checkpoint_is_passed_over(images: Path, one: Run, copy: Path, how: str) -> None:
    weights = checkpoint(copy, 24) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data[: len(data) // 2] if how == "cut short" else data)
    shutil.rmtree(copy / "model")
    done = run_cli(*train_arguments(images, copy, 24, 4))
    reason = "its manifest says" if how == "cut short" else "is damaged: its SHA-256"
    assert "warning: passed over: checkpoint file" in done.stdout
    assert reason in done.stdout
    assert "resuming after step 2" in done.stdout  # 20, or 21 of the last evaluation
    assert digest(copy) == one.digest


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(images: Path, copy: Path) -> None:
    for weights in copy.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"")
    before = sorted(copy.rglob("*"))
    assert "none of the checkpoints" in refused(*train_arguments(images, copy, 24, 4))
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
    limited = [sys.executable, "-c", LIMITED, "2000000", *train_arguments(images, copy, 30, 4)]
    done = finish(start(limited), timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot save checkpoint" in done.stderr
    assert "Free some space" in done.stderr
    assert {p.name for p in (copy / "checkpoints").iterdir()} == kept
    assert "resuming after step 24" in run_cli(*train_arguments(images, copy, 30, 4)).stdout


@pytest.mark.slow
def test_a_log_that_cannot_be_written_ends_the_run_with_one_line(
    images: Path, tmp_path: Path
) -> None:
    more = ("--run.save-every", "1000 steps", "--run.eval-every", "")
    arguments = train_arguments(images, tmp_path / "run", 200, 4, *more)
    done = finish(start([sys.executable, "-c", LIMITED, "8000", *arguments]), timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot write" in done.stderr
    assert "Free some space" in done.stderr


DYING = """
import os, signal, sys
import seresnext.training.checkpoint as module
from seresnext.cli import main

stage, saves, synced, clean = sys.argv[1], 0, module._synced, os.replace

def dying_write(path):
    global saves
    saves += path.name == module.STATE
    entry = synced(path)
    if stage == "writing" and saves == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return entry

def dying_replace(old, new):
    clean(old, new)
    if stage == "renamed" and "step-00000007" in str(new):
        os.kill(os.getpid(), signal.SIGKILL)

module._synced, module.os.replace = dying_write, dying_replace
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [("writing", 4), ("renamed", 7)])
def test_killed_while_saving(images: Path, one: Run, tmp_path: Path, stage: str, step: int) -> None:
    out = tmp_path / "run"
    arguments = train_arguments(images, out, 24, 4)
    done = finish(start([sys.executable, "-c", DYING, stage, *arguments]), timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert f"resuming after step {step}" in run_cli(*arguments).stdout
    assert digest(out) == one.digest
    assert not list((out / "checkpoints").glob(".saving*"))


# Checkpoints of another run, hostile files -------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model.layers", 1, 1, 2, 1), "layers"),
        (("--seed", 7), "run.seed was 0 in the checkpoint"),
        (("--batch-size", 6), "global batch is 4 images"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    images: Path, copy: Path, more: tuple[object, ...], message: str
) -> None:
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*.safetensors")}
    assert message in refused(*train_arguments(images, copy, 30, 4, *more))
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*.safetensors")} == before


def test_a_changed_setting_that_may_change_is_reported(images: Path, copy: Path) -> None:
    done = run_cli(*train_arguments(images, copy, 30, 4, "--optim.ema-decay", 0.5))
    assert "optim.ema_decay changed since the checkpoint: 0.0 -> 0.5" in done.stdout


def test_other_images_are_refused_unless_allowed(images: Path, copy: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "images"))
    shutil.copy(data / "train" / "red" / "0.png", data / "train" / "red" / "more.png")
    assert "pass --allow-data-change" in refused(*train_arguments(data, copy, 26, 4))
    done = run_cli(*train_arguments(data, copy, 26, 4, "--allow-data-change"))
    assert "the training images have changed since the checkpoint, as allowed" in done.stdout
    assert "resuming after step 24" in done.stdout


def test_other_classes_are_refused(images: Path, copy: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "images"))
    for split in ("train", "val"):
        (data / split / "red").rename(data / split / "rose")
    line = refused(*train_arguments(data, copy, 26, 4, "--allow-data-change"))
    assert "missing ['red'], new ['rose']" in line


class Hostile:
    """An object whose pickle makes a folder when it is loaded without restrictions."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors", "evil.ckpt"])
def test_a_hostile_file_is_refused_unopened(images: Path, tmp_path: Path, name: str) -> None:
    evil, trace = tmp_path / name, tmp_path / "executed"
    evil.write_bytes(pickle.dumps({"conv1.weight": Hostile(trace)}))
    pickle.loads(evil.read_bytes())
    assert trace.exists()  # the file is hostile
    trace.rmdir()
    assert name in refused(*train_arguments(images, tmp_path / "run", 2, 4, "--pretrained", evil))
    assert not trace.exists()


def test_a_hostile_checkpoint_is_refused_unopened(images: Path, copy: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    folder = checkpoint(copy, 24)
    evil = pickle.dumps(Hostile(trace))
    for file in folder.iterdir():
        file.write_bytes(evil)
    line = refused(*train_arguments(images, tmp_path / "run", 26, 4, "--resume", folder))
    assert "manifest.json is not valid JSON" in line
    assert not trace.exists()


BOUNDED = """
import resource, sys
from seresnext.cli import main
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
sys.exit(main(sys.argv[1:]))
"""


def test_a_small_file_cannot_claim_37_gigabytes(images: Path, tmp_path: Path) -> None:
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
    arguments = train_arguments(images, tmp_path / "run", 2, 4, "--pretrained", evil)
    done = finish(start([sys.executable, "-c", BOUNDED, *arguments]), timeout=60)
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
    arguments = train_arguments(images, tmp_path / "run", LONG, 4)
    done = finish(start([sys.executable, "-c", BROKEN_LOADER, *arguments]), timeout=60)
    assert done.returncode == 1
    assert "MemoryError: no room for pixels" in done.stderr


def test_a_second_run_in_the_folder_is_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start([*SERESNEXT, *train_arguments(images, out, LONG, 4)])
    wait_until(checkpoint(out, 4).exists, first)
    assert f"another run is using {out}" in refused(*train_arguments(images, out, LONG, 4))
    assert first.poll() is None
    first.kill()
    finish(first, timeout=20)
    # A killed run leaves no lock behind.
    assert "already finished at step" in run_cli(*train_arguments(images, out, 4, 4)).stdout


def test_an_early_stopped_run_stays_stopped(images: Path, tmp_path: Path) -> None:
    arguments = train_arguments(
        images, tmp_path / "run", 200, 4, "--optim.lr-per-256", 0, "--run.early-stop", 2
    )
    run_cli(*arguments)
    before = digest(tmp_path / "run")
    assert "already finished at step" in run_cli(*arguments).stdout
    assert digest(tmp_path / "run") == before


def test_the_state_records_the_progress(one: Run) -> None:
    state = json.loads((checkpoint(one.folder, 24) / "state.json").read_text())
    assert state["progress"]["step"] == 24
    assert state["samples_seen"] == 96
    assert state["epoch"] == pytest.approx(96 / 39)
