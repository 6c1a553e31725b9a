"""Runs that several test files compare with: made once, never written to again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

# Many processes share the cores here; OpenMP threads that spin while they wait would starve the
# others. Read when the library is loaded, and inherited by the commands that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from runs import Run, digest, run_cli, run_process, train_arguments, write_images


def pytest_configure() -> None:
    """Let commands that tests start be ended by signals.

    A shell starts what runs in its background, or under nohup, with signals ignored, and that is
    inherited.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_once(name, make)`: the folder of that name, filled once by `make(folder)`.

    All pytest-xdist workers of a test run share it; the first that asks for it makes it.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker's own folder lies in that of the test run

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, complete = base / "shared" / name, base / "shared" / f"{name}.complete"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(base / "shared" / f"{name}.lock"):
            if not complete.exists():
                make(folder)
                complete.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def images(make_once: Callable[..., Path]) -> Path:
    """39 + 13 images of 3 classes."""
    return make_once("images", write_images)


@pytest.fixture(scope="session")
def one(images: Path, make_once: Callable[..., Path]) -> Run:
    """An undisturbed run of 24 steps of 4 images."""
    out = make_once("one", lambda out: run_cli(*train_arguments(images, out, 24, 4)))
    return Run(out, digest(out))


@pytest.fixture(scope="session")
def two(images: Path, make_once: Callable[..., Path]) -> Run:
    """The same run by two processes of 2 images each."""

    def make(out: Path) -> None:
        run_process(*train_arguments(images, out, 24, 2, "--nproc", 2))

    out = make_once("two", make)
    return Run(out, digest(out))


@pytest.fixture(scope="session")
def shards(images: Path, make_once: Callable[..., Path]) -> Run:
    """One process, 12 steps of 8 images in 4 virtual shards, with their own number of threads."""
    more = ("--virtual-shards", 4, "--engine.threads", 0)
    out = make_once("shards", lambda out: run_cli(*train_arguments(images, out, 12, 8, *more)))
    return Run(out, digest(out))
