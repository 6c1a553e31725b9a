"""Both engines learn the digits with the demo recipe and a small network."""

from __future__ import annotations

from pathlib import Path

import pytest

from seresnext.config import Config, EngineName, recipe
from seresnext.data.demo import write_digits
from seresnext.training.log import LineReporter
from seresnext.training.loop import train


def small_demo(data: Path, out: Path, engine: EngineName) -> Config:
    """The demo with one block per stage, a quarter of the network's arithmetic.

    The number of threads decides the last bits, and 12 epochs carry them to a percent of accuracy;
    other tests leave PyTorch with another number. MindSpore takes one number per process.
    """
    return recipe("demo").replace(
        data=str(data),
        engine={"name": engine, "threads": 2 if engine == "torch" else 0},
        model={"layers": (1, 1, 1, 1)},
        run={"out": str(out), "save_every": "100 epochs"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "bound"), [("torch", 0.95), ("mindspore", 0.90)])
def test_the_digits_are_learnt(tmp_path: Path, engine: EngineName, bound: float) -> None:
    pytest.importorskip(f"seresnext.engines.{engine}.engine", reason=f"needs {engine}")
    write_digits(tmp_path / "digits")
    metrics = train(small_demo(tmp_path / "digits", tmp_path / "run", engine), LineReporter())
    assert metrics is not None
    assert metrics.images == 355
    assert metrics.top1 >= bound
