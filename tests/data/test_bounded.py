"""Memory and open files do not grow with the epochs, and little with the number of images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runs import run_cli

LOADER = """
import json, os, sys
from contextlib import closing
from pathlib import Path
from seresnext.config import AugmentConfig, DataConfig
from seresnext.data.loader import Reader, Share, train_batches
from seresnext.data.sources import open_source

kept = [] if sys.argv[2] == "leak" else None
source = open_source(Path(sys.argv[1]))
config = AugmentConfig(image_size=64, policy="rand-m7-n2-mstd0.5-inc1", mixup=0.2)
state = []
with closing(train_batches(Reader(source, DataConfig(workers=2)), config, Share(8), 0)) as batches:
    for step in range(1, 501):
        batch = next(batches)
        if kept is not None:
            kept.append(batch.images)
        if step in (250, 500):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            state.append((pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))))
print(json.dumps(state))
"""
"""100 epochs of 39 images; the resident bytes and the open files after half of them and all."""

INDEX = """
import json, os, time, tracemalloc
from pathlib import Path
import numpy as np
from seresnext.data.order import SampleOrder
from seresnext.data.sources.base import Texts
from seresnext.data.sources.index import Index
from seresnext.data.sources.shards import LocalFolder, Shards

N, PER = 1_300_000, 5_000
tracemalloc.start()
names = Texts([b"n%08d/n%08d_%d.JPEG" % (k // 1300, k // 1300, k) for k in range(N)])
row = np.arange(N, dtype=np.int64)
archives = tuple((f"train-{k:06}.tar", 1 << 30, 0) for k in range(N // PER))
index = Index(
    archives, tuple(f"n{k:08}" for k in range(1000)), False, (row // PER).astype(np.int32),
    row * 100, np.full(N, 100), (row // 1300).astype(np.int32), np.zeros(N, np.uint32), names,
)
source = Shards(LocalFolder(Path("/nowhere")), index, row, index.class_names)
order = SampleOrder(N, 0, 1024)
seen = [order.sample(p) for p in (0, 1, N - 1, N, 10 * N + 7)]
assert [source.name(i) for _, i in seen]
print(json.dumps(tracemalloc.get_traced_memory()[0]))
"""


def child(script: str, *arguments: object) -> object:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)


pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_neither_memory_nor_open_files_grow(images: Path, tmp_path: Path) -> None:
    """In 50 further epochs, of files and of archives. What keeps its batches is seen."""
    run_cli("data", "pack", images / "train", "--out", tmp_path / "shards", "--shard-size", "20kB")
    for source in (images / "train", tmp_path / "shards"):
        (before, files), (after, files_after) = child(LOADER, source, "")
        assert after - before < 12e6
        assert abs(files_after - files) <= 2, "each of two threads may be reading one"
    (before, _), (after, _) = child(LOADER, images / "train", "leak")
    assert after - before > 12e6


def test_a_million_images_take_little_memory() -> None:
    """60 bytes each beside their names, as docs/data.md says; the names have 31 bytes."""
    assert child(INDEX) / 1_300_000 < 31 + 60
