"""The teacher of knowledge distillation: its answers for the very pixels of each batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..config import Config
from ..engines.base import Engine, create_engine
from ..errors import UserError, listed
from ..runtimes.base import Runtime, create_runtime
from ..weights.convert import ARTIFACTS
from ..weights.hub import local_copy
from ..weights.load import load_weights, model_spec

_ONE_THREAD = ("mindspore", "mindir")
"""MindSpore is used by one thread of a process only."""


@dataclass(frozen=True)
class Teacher:
    """A model that answers for batches, in the order of the student's classes."""

    model: Runtime
    columns: NDArray[np.int64]
    """The teacher's index of each of the student's classes."""

    @property
    def ahead(self) -> int:
        """How many batches it may answer ahead, in a thread of its own."""
        return 0 if self.model.name in _ONE_THREAD else 2

    def answer(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """uint8 [B, S, S, 3] -> float32 logits [B, K]."""
        return np.ascontiguousarray(self.model.predict(images)[:, self.columns])

    def close(self) -> None:
        self.model.close()


def open_teacher(config: Config, engine: Engine, say: Callable[[str], None]) -> Teacher:
    """Open `loss.teacher` beside the engine and measure what an image costs.

    A run, a model folder or weights are computed like the student, on its device; an artifact by
    its runtime. Raises UserError where classes or image size do not fit the student's.
    """
    name, side = config.loss.teacher, config.augment.image_size
    path = local_copy(name)
    own_device = engine.device.split()[0]
    if path.suffix in ARTIFACTS:
        device = "auto" if engine.world_size == 1 else own_device
        model = create_runtime(path, device=device, threads=engine.threads)
        only, smallest = model.spec.input.image_size, config.augment.smallest_size
        if not smallest == side == only:
            model.close()
            grows = smallest < side
            raise UserError(
                f"loss.teacher: {name} takes images of {only} px, the run trains at "
                f"{f'{smallest} to {side}' if grows else side}; use --image-size {only}"
                f"{' --augment.start-size 0' if grows else ''}, or the run or weights that it was "
                "made from, which take any size"
            )
    else:
        loaded = load_weights(path)
        settings = replace(config.engine, device=own_device, virtual_shards=0, sync_bn=False)
        model = create_engine(model_spec(loaded)[0], loaded.weights, settings)
    index = {name: k for k, name in enumerate(model.spec.class_names)}
    missing = [name for name in engine.spec.class_names if name not in index]
    if missing:
        model.close()
        raise UserError(
            f"loss.teacher: {name} does not know the classes {listed(missing)}; its own are "
            f"{listed(model.spec.class_names)}. `seresnext convert` renames them"
        )
    columns = np.array([index[name] for name in engine.spec.class_names], np.int64)
    teacher = Teacher(model, columns)
    images = np.zeros((min(config.run.batch_size, 8), side, side, 3), np.uint8)
    teacher.answer(images)  # the first call may compile
    start = time.perf_counter()
    teacher.answer(images)
    cost = (time.perf_counter() - start) / len(images)
    say(f"teacher: {name} ({model.name} on {model.device}), {1e3 * cost:.1f} ms an image")
    return teacher


def taught(batches: Generator[Batch, None, None], teacher: Teacher) -> Generator[Batch, None, None]:
    """Yield the batches with the teacher's answers, which are computed ahead in a thread.

    What the teacher raises is raised here. Close the generator to end its thread.
    """
    if not teacher.ahead:
        yield from (replace(batch, teacher=teacher.answer(batch.images)) for batch in batches)
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="seresnext-teacher")

    def start(batch: Batch) -> tuple[Batch, Future[NDArray[np.float32]]]:
        return batch, pool.submit(teacher.answer, batch.images)

    started = map(start, batches)
    try:
        waiting = deque(islice(started, teacher.ahead))
        while waiting:
            batch, answer = waiting.popleft()
            waiting.extend(islice(started, 1))
            yield replace(batch, teacher=answer.result())
    finally:
        pool.shutdown(cancel_futures=True)
