"""Several MindSpore processes by msrun."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from runs import (
    LONG,
    RECORDING,
    SERESNEXT,
    TRAIN,
    VAL,
    checkpoint,
    digest,
    evaluations,
    finish,
    run_process,
    start,
    train_arguments,
    wait_until,
)
from seresnext.data.order import SampleOrder

pytestmark = pytest.mark.slow
pytest.importorskip("mindspore")
STEPS = 12


def arguments(images: Path, out: Path) -> list[str]:
    return train_arguments(images, out, STEPS, 2, "--engine", "mindspore")


@pytest.fixture(scope="module")
def noted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An undisturbed run of two processes by msrun itself: its folder, and their notes."""
    folder = tmp_path_factory.mktemp("msrun")
    out, notes = folder / "run", folder / "notes"
    notes.mkdir()
    msrun = [
        *(sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num", "2"),
        *("--local_worker_num", "2", "--master_port", "18119", "--log_dir", str(folder / "logs")),
        *("--join", "True", "python", RECORDING, str(notes), "0", *arguments(images, out)),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = finish(start(msrun, PATH=path, GLOG_v="3"), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, notes


def test_both_ranks_end_with_the_same_weights(noted: tuple[Path, Path]) -> None:
    assert len({(noted[1] / f"weights-{rank}").read_text() for rank in (0, 1)}) == 1


def test_together_they_see_the_one_order(noted: tuple[Path, Path]) -> None:
    ranks = [(noted[1] / f"rank-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    seen = [i for step in zip(*ranks, strict=True) for part in step for i in json.loads(part)]
    order = SampleOrder(TRAIN, 0, 4)
    assert seen == [order.sample(position)[1] for position in range(4 * STEPS)]


def test_evaluation_is_that_of_one_process(images: Path, noted: tuple[Path, Path]) -> None:
    last = evaluations(noted[0])[-1]
    assert (last["step"], last["val/images"]) == (STEPS, VAL)
    evaluate = ["evaluate", str(noted[0]), "--data", str(images), "--engine", "mindspore", "--json"]
    alone = json.loads(run_process(*evaluate).stdout)
    assert (alone["images"], alone["top1"]) == (VAL, last["val/top1"])
    assert alone["loss"] == pytest.approx(last["val/loss"], rel=1e-5)


@pytest.mark.timing
def test_a_signal_saves_and_the_same_command_resumes(
    images: Path, noted: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [*arguments(images, out), "--nproc", "2"]
    process = start([*SERESNEXT, *command])
    wait_until(checkpoint(out, 4).exists, process, timeout=200)
    process.send_signal(signal.SIGTERM)
    done = finish(process, timeout=120)
    assert done.returncode == 75, done.stdout + done.stderr
    done = run_process(*command, timeout=300)
    assert "resuming after step" in done.stdout
    assert digest(out) == digest(noted[0])


@pytest.mark.timing
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_and_ends_the_run(images: Path, tmp_path: Path, rank: int) -> None:
    out = tmp_path / "run"
    command = train_arguments(images, out, LONG, 2, "--engine", "mindspore", "--nproc", "2")
    process = start([*SERESNEXT, *command])
    wait_until(checkpoint(out, 4).exists, process, timeout=200)
    os.kill(worker(out, rank), signal.SIGKILL)
    since = time.monotonic()
    done = finish(process, timeout=30)
    assert time.monotonic() - since < 10  # MindSpore's scheduler alone waits for 30 s
    assert done.returncode == 1
    killed = f"seresnext: error: rank {rank} ended without a word (killed, or out of memory)"
    assert done.stderr == f"{killed}; see {out / 'logs'}\n"
    assert "Traceback" not in done.stdout


def worker(out: Path, rank: int) -> int:
    """Return the process id of a rank, which msrun's log has only in some versions."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            if str(out).encode() in (folder / "cmdline").read_bytes() and {
                b"MS_ROLE=MS_WORKER",
                f"RANK_ID={rank}".encode(),
            } <= {*variables}:
                return int(folder.name)
    raise AssertionError(f"rank {rank} of {out} does not run")


def test_an_error_of_all_ranks_ends_all(images: Path, tmp_path: Path) -> None:
    command = [*arguments(tmp_path / "nowhere", tmp_path / "run"), "--nproc", "2"]
    done = run_process(*command, timeout=200, code=1)
    assert "nowhere" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
