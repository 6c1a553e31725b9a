"""MindSpore learns the digits with a small network; PyTorch does so in `make demo`."""

from __future__ import annotations

from pathlib import Path

import pytest

from seresnext.config import Config, recipe
from seresnext.data.demo import write_digits
from seresnext.training.log import LineReporter
from seresnext.training.loop import train


def small_demo(data: Path, out: Path) -> Config:
    """The demo with one block per stage, a quarter of the network's arithmetic."""
    return recipe("demo").replace(
        data=str(data),
        engine={"name": "mindspore"},
        model={"layers": (1, 1, 1, 1)},
        run={"out": str(out), "save_every": "100 epochs"},
    )


@pytest.mark.slow
def test_the_digits_are_learnt(tmp_path: Path) -> None:
    pytest.importorskip("mindspore", reason="needs MindSpore")
    write_digits(tmp_path / "digits")
    metrics = train(small_demo(tmp_path / "digits", tmp_path / "run"), LineReporter())
    assert metrics is not None
    assert metrics.images == 355
    assert metrics.top1 >= 0.9
