"""Work on many items in threads, its results in order, its progress on the terminal."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from ..machine import usable_cores

A = TypeVar("A")
B = TypeVar("B")


def in_order(
    function: Callable[[A], B], items: Iterable[A], workers: int = 0
) -> Generator[B, None, None]:
    """Yield `function(item)` for each item, computed by `workers` threads (0: one per core).

    Few results wait at any time, however many items there are. What `function` raises is raised
    here. The threads end when the generator ends or is closed.
    """
    threads = workers or usable_cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="seresnext-data")
    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error, if that is a terminal; yield what adds to the part done.

    Elsewhere `what` is printed once. The function that is yielded may be called by any thread.
    """
    if not sys.stderr.isatty():
        print(what, file=sys.stderr)
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
