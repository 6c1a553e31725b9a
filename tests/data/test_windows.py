"""The order by windows of archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runs import refused, run_cli, train_arguments
from seresnext.data.order import SampleOrder
from seresnext.data.windows import Windows


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(sum),
    width=st.integers(1, 14),
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 7),
)
def test_an_epoch_has_each_image_once_window_by_window(
    sizes: list[int], width: int, seed: int, batch: int
) -> None:
    archives = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    archives = np.random.default_rng(seed).permutation(archives)  # as in a Subset
    n = len(archives)
    order = SampleOrder(n, seed % 1000, batch, windows=Windows(archives, width))
    for epoch in range(3):
        found = [order.sample(epoch * n + k) for k in range(n)]
        assert all(e == epoch for e, _ in found)
        images = [index for _, index in found]
        assert sorted(images) == list(range(n))
        seen = archives[images]
        begun = list(dict.fromkeys(seen.tolist()))
        assert sorted(begun) == [k for k in range(len(sizes)) if sizes[k]]
        whole = [begun[k : k + width] for k in range(0, len(begun), width)]
        windows = np.concatenate([np.flatnonzero(np.isin(seen, window)) for window in whole])
        assert windows.tolist() == list(range(n)), "one window ends before the next one begins"


def test_a_position_is_found_alone_and_epochs_differ() -> None:
    archives = np.repeat(np.arange(40), 50).astype(np.int32)
    order = SampleOrder(2000, 1, 8, windows=Windows(archives, 4))
    forwards = [order.sample(k) for k in range(4000)]
    fresh = SampleOrder(2000, 1, 8, windows=Windows(archives, 4))
    assert [fresh.sample(k) for k in reversed(range(4000))] == forwards[::-1]
    first, second = (np.array([i for _, i in forwards[e * 2000 :][:2000]]) for e in (0, 1))
    assert (first == second).mean() < 0.01
    together = [len(set(archives[first[k * 200 :][:200]])) for k in range(10)]
    assert together == [4] * 10
    gaps = np.diff(first)
    assert (gaps == 1).mean() < 0.05, "the images of a window are shuffled"


def test_a_run_goes_on_to_the_bit(images: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    run_cli("data", "pack", images, "--out", shards, "--shard-size", "20kB")
    steady = ("--schedule.kind", "constant", "--schedule.warmup", "0 steps")
    given = (*steady, "--data.shuffle-archives", 2)
    run_cli(*train_arguments(shards, tmp_path / "whole", 14, 4, *given))
    run_cli(*train_arguments(shards, tmp_path / "half", 7, 4, *given))
    line = refused(*train_arguments(shards, tmp_path / "half", 14, 4, *steady))
    assert "data.shuffle_archives was 2 in the checkpoint and is 0 now" in line
    run_cli(*train_arguments(shards, tmp_path / "half", 14, 4, *given))
    run_cli(*train_arguments(shards, tmp_path / "full", 14, 4, *steady))
    whole, half, full = (
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("whole", "half", "full")
    )
    assert whole == half
    assert whole != full


def test_files_have_no_archives(images: Path, tmp_path: Path) -> None:
    given = train_arguments(images, tmp_path / "run", 2, 4, "--data.shuffle-archives", 2)
    assert "data.shuffle_archives: expected 0, or images in tar archives, got 2" in refused(*given)


def test_the_parts_of_a_source_keep_their_archives(images: Path, tmp_path: Path) -> None:
    """Held-out and repeated images are in the archives that they were in."""
    from seresnext.config import DataConfig
    from seresnext.data.sources import open_splits

    run_cli("data", "pack", images / "train", "--out", tmp_path / "s", "--shard-size", "20kB")
    whole = open_splits(DataConfig(root=str(tmp_path / "s"), val_share=0))[0]
    assert whole.archives is not None
    where = {whole.name(i): whole.archives[i] for i in range(len(whole))}
    for data in (
        DataConfig(root=str(tmp_path / "s")),
        DataConfig(root=str(tmp_path / "s"), balance=True),
    ):
        source = open_splits(data)[0]
        assert source.archives is not None
        assert [where[source.name(i)] for i in range(len(source))] == source.archives.tolist()
    assert pytest.approx(0.8, abs=0.05) == len(open_splits(data)[0]) / len(whole)
