"""The queue and its thread: which images are computed together, and which not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import seresnext
from runtimes.networks import random_images
from seresnext.serve.batcher import Batcher
from seresnext.serve.limits import Limits
from seresnext.serve.service import Served, Service


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
    batcher = Batcher(4)
    yield batcher
    machine.go.set()
    batcher.close()


def image(*values: int) -> NDArray:
    return np.array(values).reshape(-1, 1)


def test_what_waits_is_computed_together_in_order(batcher: Batcher, machine: Machine) -> None:
    first = batcher.submit("a", machine, image(1), 0.0)
    assert machine.entered.wait(30)
    jobs = [batcher.submit("a", machine, image(n), 0.0) for n in (2, 3)]
    jobs.append(batcher.submit("a", machine, image(4, 5), 0.0))
    jobs.append(batcher.submit("a", machine, image(6), 0.0))
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
    batcher.submit("a", machine, image(1), 0.0)
    assert machine.entered.wait(30)
    last = [
        batcher.submit(name, compute, image(n), 0.0)
        for n, (name, compute) in enumerate([("b", other), ("a", machine)] * 2)
    ]
    machine.go.set()
    assert [job.result(30).item() for job in last] == [0, 10, 20, 30]
    assert (other.batches, machine.batches) == ([[0, 2]], [[1], [1, 3]])


def test_a_cancelled_job_is_not_computed(batcher: Batcher, machine: Machine) -> None:
    batcher.submit("a", machine, image(1), 0.0)
    assert machine.entered.wait(30)
    jobs = [batcher.submit("a", machine, image(n), 0.0) for n in (2, 3)]
    assert jobs[0].cancel()
    machine.go.set()
    assert jobs[1].result(30) == 30
    assert machine.batches == [[1], [3]]


def test_an_error_is_that_of_its_batch_only(batcher: Batcher, machine: Machine) -> None:
    machine.go.set()
    with pytest.raises(ValueError, match="no"):
        batcher.submit("a", machine, image(-1), 0.0).result(30)
    assert batcher.submit("a", machine, image(7), 0.0).result(30) == 70


def test_a_batch_waits_for_others_until_it_is_full(machine: Machine) -> None:
    machine.go.set()
    batcher = Batcher(3)
    jobs = [batcher.submit("a", machine, image(n), 3600.0) for n in range(3)]
    assert [job.result(30).item() for job in jobs] == [0, 10, 20]
    assert machine.batches == [[0, 1, 2]]
    waiting = batcher.submit("a", machine, image(9), 3600.0)
    batcher.close()  # computes what is waiting
    assert waiting.result(0) == 90


def test_an_image_waits_for_those_that_are_in_the_server(tiny_onnx: Path) -> None:
    served = Served("m", seresnext.load(tiny_onnx))
    service = Service([served], Limits(max_batch=2, max_delay_ms=10_000))

    async def computed(requests: int) -> list[NDArray]:
        with service._images.share() as share:
            share.take(requests)
            work = [service.logits(served, random_images(1, 32)) for _ in range(requests)]
            return await asyncio.wait_for(asyncio.gather(*work), 9)

    for requests in (1, 2):
        assert len(asyncio.run(computed(requests))) == requests
    service.close()
    text = service.metrics.text()
    assert 'seresnext_batch_images_sum{model="m"} 3' in text
    assert 'seresnext_batch_images_count{model="m"} 2' in text


@pytest.mark.parametrize("together", [2, 3, 5, 8])
def test_an_answer_does_not_depend_on_the_batch(model: seresnext.Model, together: int) -> None:
    """Bit for bit, on a CPU with ONNX Runtime."""
    images = random_images(together, 32)
    alone = np.concatenate([model.logits(images[i : i + 1]) for i in range(together)])
    assert np.array_equal(model.logits(images), alone)
