"""The queue and its thread: which images are computed together, and which not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import seresnext
from runtimes.networks import random_images
from seresnext.serve.batcher import Batcher


class Machine:
    """Stands for a model: remembers its batches, and computes when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self, pixels: NDArray) -> NDArray:
        self.batches.append(pixels.ravel().tolist())
        self.entered.set()
        assert self.go.wait(30)
        if -1 in pixels:
            raise ValueError("no")
        return pixels * 10


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def batcher(machine: Machine) -> Iterator[Batcher]:
    batcher = Batcher(4, 0.0)
    yield batcher
    machine.go.set()
    batcher.close()


def image(*values: int) -> NDArray:
    return np.array(values).reshape(-1, 1)


def test_what_waits_is_computed_together_in_order(batcher: Batcher, machine: Machine) -> None:
    first = batcher.submit("a", machine, image(1))
    assert machine.entered.wait(30)
    jobs = [batcher.submit("a", machine, image(n)) for n in (2, 3)]
    jobs.append(batcher.submit("a", machine, image(4, 5)))
    jobs.append(batcher.submit("a", machine, image(6)))
    machine.go.set()
    assert [job.result(30).ravel().tolist() for job in (first, *jobs)] == [
        [10],
        [20],
        [30],
        [40, 50],
        [60],
    ]
    assert machine.batches == [[1], [2, 3, 4, 5], [6]]


def test_models_are_not_mixed(batcher: Batcher, machine: Machine) -> None:
    other = Machine()
    other.go.set()
    batcher.submit("a", machine, image(1))
    assert machine.entered.wait(30)
    last = [
        batcher.submit(name, compute, image(n))
        for n, (name, compute) in enumerate([("b", other), ("a", machine)] * 2)
    ]
    machine.go.set()
    assert [job.result(30).item() for job in last] == [0, 10, 20, 30]
    assert (other.batches, machine.batches) == ([[0, 2]], [[1], [1, 3]])


def test_a_cancelled_job_is_not_computed(batcher: Batcher, machine: Machine) -> None:
    batcher.submit("a", machine, image(1))
    assert machine.entered.wait(30)
    jobs = [batcher.submit("a", machine, image(n)) for n in (2, 3)]
    assert jobs[0].cancel()
    machine.go.set()
    assert jobs[1].result(30) == 30
    assert machine.batches == [[1], [3]]


def test_an_error_is_that_of_its_batch_only(batcher: Batcher, machine: Machine) -> None:
    machine.go.set()
    with pytest.raises(ValueError, match="no"):
        batcher.submit("a", machine, image(-1)).result(30)
    assert batcher.submit("a", machine, image(7)).result(30) == 70


def test_a_batch_waits_for_others_until_it_is_full(machine: Machine) -> None:
    machine.go.set()
    batcher = Batcher(3, 3600.0)
    jobs = [batcher.submit("a", machine, image(n)) for n in range(3)]
    assert [job.result(30).item() for job in jobs] == [0, 10, 20]
    assert machine.batches == [[0, 1, 2]]
    waiting = batcher.submit("a", machine, image(9))
    batcher.close()  # computes what is waiting
    assert waiting.result(0) == 90


@pytest.mark.parametrize("together", [2, 3, 5, 8])
def test_an_answer_does_not_depend_on_the_batch(model: seresnext.Model, together: int) -> None:
    """Bit for bit, on a CPU with ONNX Runtime."""
    images = random_images(together, 32)
    alone = np.concatenate([model.logits(images[i : i + 1]) for i in range(together)])
    assert np.array_equal(model.logits(images), alone)
