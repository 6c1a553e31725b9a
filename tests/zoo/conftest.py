from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.tiny import LAYERS, ROOT, TINY, Command


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Handwritten digits 0 to 3, 32 px: 6 of each to train, 3 to validate.

    Validation images have the same names in every class folder, which is where the original's flow
    for its inference card mixed them up.
    """
    from sklearn.datasets import load_digits

    scans = load_digits()
    root = tmp_path_factory.mktemp("digits")
    for digit in range(4):
        chosen = scans.images[scans.target == digit][:9]
        for split, images in (("train", chosen[:6]), ("val", chosen[6:])):
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            for number, scan in enumerate(images):
                pixels = np.rint(scan * 255 / 16).astype(np.uint8)
                name = f"{digit}{number}.png" if split == "train" else f"{number}.png"
                Image.fromarray(pixels).resize((32, 32)).save(folder / name)
    return root


@pytest.fixture(scope="session")
def command() -> Command:
    """Run a real command, in a folder; its exit code must be the expected one."""

    def run(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        first = str(arguments[0])
        path = str(ROOT / first)
        start = ["bash", path] if first.endswith(".sh") else [sys.executable, path]
        environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*start, *map(str, arguments[1:])],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, digits: Path, command: Command
) -> tuple[Path, str]:
    """(folder in which `train.py` has trained for 3 epochs, what it printed)."""
    folder = tmp_path_factory.mktemp("trained")
    done = command(
        *("train.py", "--device_id=0", "--device_target", "CPU", "--data_path", digits / "train"),
        *("--val_data_path", digits / "val", "--epoch_size", "3", *TINY, *LAYERS),
        cwd=folder,
    )
    return folder, done.stdout
