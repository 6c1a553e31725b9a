"""Runs whose images grow: what they say, and the same bits however they are interrupted."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from runs import RECORDING, digest, finish, run_cli, start, train_arguments
from seresnext.model.saved_model import load_model

STEPS = 6
GROWS = (
    *("--image-size", 64, "--augment.start-size", 32, "--augment.eval-image-size", 32),
    *("--augment.grow-begin", 0.5, "--augment.grow-end", 0.5, "--run.save-every", "1 steps"),
    *("--run.eval-every", "2 steps", "--run.no-report"),
)


def arguments(images: Path, out: Path, *more: object) -> list[str]:
    """Of a run of three steps at 32 px and three at 64."""
    return train_arguments(images, out, STEPS, 4, *GROWS, *more)


@pytest.mark.parametrize("engine", ["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def test_a_run_killed_before_it_grows_resumes_to_the_same_bits(
    engine: str, images: Path, tmp_path: Path
) -> None:
    pytest.importorskip(f"seresnext.engines.{engine}.engine")
    said = run_cli(*arguments(images, tmp_path / "a", "--engine", engine)).stdout
    assert "images grow: 32 px from step 1, 64 px from step 4" in said
    killed = arguments(images, tmp_path / "b", "--engine", engine)
    done = finish(start([sys.executable, RECORDING, str(tmp_path), "3:SIGKILL", *killed]), 180)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "resuming after step" in run_cli(*killed).stdout
    assert digest(tmp_path / "b") == digest(tmp_path / "a")
    assert load_model(tmp_path / "a" / "model")[0].input.image_size == 32
    run_cli(*arguments(images, tmp_path / "c", "--engine", engine, "--augment.grow-end", 0.9))
    assert digest(tmp_path / "c") != digest(tmp_path / "a")


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(images: Path, tmp_path: Path) -> None:
    shards = ("--virtual-shards", 2)
    run_cli(*arguments(images, tmp_path / "one", *shards))
    two = train_arguments(images, tmp_path / "two", STEPS, 2, *GROWS, *shards, "--nproc", 2)
    done = finish(start([sys.executable, "-m", "seresnext", *two]), 180)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "two") == digest(tmp_path / "one")
