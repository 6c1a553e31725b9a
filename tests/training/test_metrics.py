from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seresnext.training.metrics import MetricSums


def random_set(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)).astype(np.float32)
    return logits, rng.integers(0, k, n)


def test_against_torch() -> None:
    logits, labels = random_set(200, 12, 0)
    sums = MetricSums()
    sums.add(logits, labels, np.ones(200, bool))
    metrics = sums.result(2.0)
    tensor, target = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    top5 = tensor.topk(5).indices.eq(target[:, None]).any(1).double().mean().item()
    assert metrics.top1 == tensor.argmax(1).eq(target).double().mean().item()
    assert metrics.top5 == top5
    assert metrics.loss == pytest.approx(
        torch.nn.functional.cross_entropy(tensor, target).item(), rel=1e-12
    )
    assert metrics.images == 200
    assert metrics.images_per_second == 100


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 1000))
def test_any_split_gives_the_same_counts(sizes: list[int], seed: int) -> None:
    n = sum(sizes)
    logits, labels = random_set(n, 7, seed)
    whole, parts = MetricSums(), MetricSums()
    whole.add(logits, labels, np.ones(n, bool))
    start = 0
    for size in sizes:
        padded = np.zeros((10, 7), np.float32)
        padded[:size] = logits[start : start + size]
        target = np.zeros(10, np.int64)
        target[:size] = labels[start : start + size]
        parts.add(padded, target, np.arange(10) < size)
        start += size
    assert (whole.counts == parts.counts).all()
    assert whole.loss[0] == pytest.approx(parts.loss[0], rel=1e-12)


def test_ties_are_broken_by_the_lower_index_and_nan_is_wrong() -> None:
    sums = MetricSums()
    logits = np.zeros((3, 6), np.float32)
    logits[2] = np.nan
    with np.errstate(invalid="ignore"):
        sums.add(logits, np.array([0, 5, 0]), np.ones(3, bool))
    assert sums.counts.tolist() == [1, 1, 3, 0]


def test_nothing_evaluated_is_zero_not_a_crash() -> None:
    metrics = MetricSums().result(0.0)
    assert (metrics.top1, metrics.images) == (0.0, 0)
