"""Faults of several processes: a rank that is killed, stopped or fails, and how the run ends."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from runs import (
    LONG,
    SERESNEXT,
    Run,
    checkpoint,
    digest,
    finish,
    rank_process,
    records,
    run_cli,
    run_process,
    start,
    torchrun,
    train_arguments,
    wait_until,
)

pytestmark = pytest.mark.slow


def alive(process: int) -> bool:
    """Return whether a process, not a child of this one, still runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timing
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run_and_the_same_command_resumes_it(
    images: Path, two: Run, tmp_path: Path, rank: int
) -> None:
    out, reports = tmp_path / "run", tmp_path / "reports"
    reports.mkdir()
    arguments = train_arguments(images, out, 24, 2)
    process = start([*torchrun(2), "-m", "seresnext", *arguments], SERESNEXT_REPORTS=str(reports))
    wait_until(checkpoint(out, 4).exists, process)
    os.kill(rank_process(reports, rank), signal.SIGKILL)
    since = time.monotonic()
    done = finish(process, timeout=30)
    assert done.returncode == 1
    assert time.monotonic() - since < 30
    if rank == 1:
        assert "seresnext: error: rank 1 ended without a word" in done.stderr
    done = run_process(*arguments, "--nproc", 2)
    assert "resuming after step" in done.stdout
    assert digest(out) == two.digest


@pytest.mark.timing
def test_torchrun_restarts_from_the_last_checkpoint(images: Path, two: Run, tmp_path: Path) -> None:
    out, reports = tmp_path / "run", tmp_path / "reports"
    reports.mkdir()
    arguments = train_arguments(images, out, 24, 2)
    process = start(
        [*torchrun(2, "--max-restarts", "1"), "-m", "seresnext", *arguments],
        SERESNEXT_REPORTS=str(reports),
    )
    wait_until(checkpoint(out, 8).exists, process)
    os.kill(rank_process(reports, 1), signal.SIGKILL)
    done = finish(process, timeout=90)
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout
    assert digest(out) == two.digest


@pytest.mark.timing
def test_all_killed_at_once(images: Path, two: Run, tmp_path: Path) -> None:
    out, reports = tmp_path / "run", tmp_path / "reports"
    reports.mkdir()
    arguments = train_arguments(images, out, 24, 2)
    process = start([*torchrun(2), "-m", "seresnext", *arguments], SERESNEXT_REPORTS=str(reports))
    wait_until(checkpoint(out, 4).exists, process)
    for number in (process.pid, rank_process(reports, 0), rank_process(reports, 1)):
        os.kill(number, signal.SIGKILL)
    assert finish(process, timeout=30).returncode == -signal.SIGKILL
    run_process(*arguments, "--nproc", 2)
    assert digest(out) == two.digest


@pytest.mark.timing
def test_a_stopped_rank_ends_the_others_within_30_seconds(images: Path, tmp_path: Path) -> None:
    out, reports = tmp_path / "run", tmp_path / "reports"
    reports.mkdir()
    arguments = train_arguments(images, out, LONG, 2)
    process = start([*torchrun(2), "-m", "seresnext", *arguments], SERESNEXT_REPORTS=str(reports))
    wait_until(checkpoint(out, 4).exists, process)
    stopped, other = rank_process(reports, 1), rank_process(reports, 0)
    os.kill(stopped, signal.SIGSTOP)
    wait_until(lambda: not alive(other), process, timeout=30)
    os.kill(stopped, signal.SIGKILL)  # torchrun would do it after half a minute
    done = finish(process, timeout=30)
    assert done.returncode == 1
    assert "rank 1 gave no sign of life for 15 s" in done.stderr
    assert checkpoint(out, 4).exists()


@pytest.mark.timing
def test_a_rank_may_be_slow(images: Path, two: Run, tmp_path: Path) -> None:
    """A rank is busy for longer than the silence that ends a run."""
    script = (
        "import sys, time\n"
        "import seresnext.training.start as start_module\n"
        "from seresnext.cli import main\n"
        "from seresnext.launch.ranks import rank\n"
        "describe = start_module.describe\n"
        "def slow(*arguments):\n"
        "    time.sleep(9 * rank())\n"
        "    return describe(*arguments)\n"
        "start_module.describe = slow\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    file = tmp_path / "slow.py"
    file.write_text(script)
    arguments = train_arguments(images, tmp_path / "run", 24, 2, "--run.rank-timeout", 5)
    done = finish(start([*torchrun(2), str(file), *arguments]), timeout=120)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "run") == two.digest


STOPPED_IN_EVALUATION = """
import os, signal, sys
import seresnext.training.start as start_module
from seresnext.cli import main
from seresnext.launch.ranks import rank

create, calls = start_module.create_engine, 0

def create_engine(*arguments):
    engine = create(*arguments)
    predict = engine.predict

    def second_call(images):
        global calls
        calls += 1
        if calls == 2 and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(images)

    engine.predict = second_call
    return engine

start_module.create_engine = create_engine
sys.exit(main(sys.argv[1:]))
"""


def test_a_signal_does_not_wait_for_an_evaluation(images: Path, two: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "stopped.py", tmp_path / "run"
    file.write_text(STOPPED_IN_EVALUATION)
    arguments = train_arguments(
        images, out, 24, 2, "--run.eval-batch-size", 2
    )  # 4 batches of each rank
    done = finish(start([*torchrun(2), str(file), *arguments]), timeout=60)
    assert "interrupted; saved." in done.stderr
    assert checkpoint(out, 7).exists()
    assert not [r for r in records(out) if "val/top1" in r]
    assert "resuming after step 7" in run_process(*arguments, "--nproc", 2).stdout
    assert digest(out) == two.digest
    ours, theirs = (
        [(r["step"], r["val/images"], r["val/top1"]) for r in records(run) if "val/top1" in r]
        for run in (out, two.folder)
    )
    assert ours == theirs


BROKEN_LOADER = """
import sys
import seresnext.data.loader as module
from seresnext.cli import main
from seresnext.launch.ranks import rank

augment, seen = module.augment_encoded, 0

def dying(*arguments):
    global seen
    seen += 1
    if seen > 20 and rank() == 1:
        raise MemoryError("no room for pixels")
    return augment(*arguments)

module.augment_encoded = dying
sys.exit(main(sys.argv[1:]))
"""


def test_a_loader_that_dies_ends_all_ranks(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN_LOADER)
    arguments = train_arguments(images, tmp_path / "run", LONG, 2)
    done = finish(start([*torchrun(2), str(file), *arguments]), timeout=60)
    assert done.returncode == 1
    assert "seresnext: error: rank 1: MemoryError: no room for pixels" in done.stderr
    assert "MemoryError: no room" in (tmp_path / "run" / "logs" / "rank-1.log").read_text()


def test_bad_steps_name_the_samples_of_all_ranks(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ("--optim.lr-per-256", "1e30", "--schedule.warmup", "0 steps", "--run.max-bad-steps", 3)
    done = run_process(*train_arguments(images, out, 24, 2, "--nproc", 2, *more), code=1)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "3 steps in a row" in done.stderr
    bad = [json.loads(line) for line in (out / "bad-steps.jsonl").read_text().splitlines()]
    assert len(bad) >= 3
    from seresnext.data.order import SampleOrder

    order = SampleOrder(39, 0, 4)
    for entry in bad:
        positions = order.positions(entry["step"] - 1)
        assert entry["samples"] == [order.sample(position)[1] for position in positions]


@pytest.mark.timing
def test_soak(tmp_path: Path) -> None:
    """The demo's digits on two ranks, killed 10 times at random, against an undisturbed run."""
    chance = random.Random(6)
    run_cli("data", "demo", "--out", tmp_path / "digits")
    kills, steps = 10, 400

    def arguments(out: Path) -> list[str]:
        more = ("--run.save-every", "10 steps", "--run.log-every", "10 steps", "--run.eval-every")
        return train_arguments(tmp_path / "digits", out, steps, 4, *more, "200 steps")

    run_process(*arguments(tmp_path / "calm"), "--nproc", 2, timeout=200)

    out, reports = tmp_path / "run", tmp_path / "reports"
    reports.mkdir()
    process = start(
        [*torchrun(2, "--max-restarts", "60"), "-m", "seresnext", *arguments(out)],
        SERESNEXT_REPORTS=str(reports),
    )

    def newest() -> int:
        return max((int(p.name[5:]) for p in out.glob("checkpoints/step-*")), default=0)

    def ranks() -> dict[int, int]:
        """Return the processes that run now, by rank; both, once both have started."""
        found = [int(p.read_text().split()[0]) for p in reports.iterdir() if p.read_text()]
        return {n: p for n, p in enumerate(sorted(found)) if alive(p)}

    for _ in range(kills):
        wait_until(lambda: len(ranks()) == 2, process)
        victims = list(ranks().values())
        if chance.random() < 0.3:  # while it starts
            time.sleep(chance.uniform(0, 3))
        else:
            target = newest() + chance.randint(1, 25)
            wait_until(lambda target=target: newest() >= target, process)
        for victim in chance.sample(victims, chance.choice([1, 1, 2])):
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda victims=victims: not any(map(alive, victims)), process, timeout=40)
    done = finish(process, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("resuming after step") >= 0.5 * kills
    assert digest(out) == digest(tmp_path / "calm")


@pytest.mark.timing
def test_torchrun_passes_a_signal_on(images: Path, two: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = train_arguments(images, out, 24, 2)
    process = start([*torchrun(2), "-m", "seresnext", *arguments])
    wait_until(checkpoint(out, 4).exists, process)
    process.send_signal(signal.SIGTERM)
    done = finish(process, timeout=40)
    assert "interrupted; saved. The same command goes on from here." in done.stderr
    run_process(*arguments, "--nproc", 2)
    assert digest(out) == two.digest


@pytest.mark.timing
def test_a_second_signal_to_the_command_kills_all(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = train_arguments(images, out, LONG, 2, "--nproc", 2)
    process = start([*SERESNEXT, *arguments])
    wait_until(checkpoint(out, 4).exists, process)
    head = (out / "logs" / "rank-1.log").read_text()
    rank = int(head.partition("process ")[2].partition(",")[0])
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    done = finish(process, timeout=20)
    assert done.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert not alive(rank)
