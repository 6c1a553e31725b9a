"""The cipher that shuffles: a permutation of any n, and the one that Grain computes."""

from __future__ import annotations

import logging
import zlib
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seresnext.data.order import SampleOrder
from seresnext.data.permutation import permute

SIZES = [1, 2, 3, 100, 65_535, 65_536, 65_537, 65_538, 131_072, 131_073, 262_145, 1_281_167]


@pytest.mark.parametrize("n", SIZES)
def test_takes_every_number_once(n: int) -> None:
    assert np.array_equal(np.sort(permute(0, n, n, 7)), np.arange(n))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1))
def test_takes_every_number_once_whatever_the_seed(n: int, seed: int) -> None:
    assert sorted(permute(0, n, n, seed).tolist()) == list(range(n))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), bits=st.integers(17, 48), seed=st.integers(0, 2**32 - 1))
def test_parts_of_large_ones(data: st.DataObject, bits: int, seed: int) -> None:
    """Different numbers below n, and the same whichever part is asked for."""
    n = data.draw(st.integers(2 ** (bits - 1) + 1, 2**bits))
    start = data.draw(st.integers(0, n - 1000))
    found = permute(start, start + 1000, n, seed)
    assert found.dtype == np.int64
    assert len(np.unique(found)) == 1000
    assert found.max() < n
    assert np.array_equal(found[300:310], permute(start + 300, start + 310, n, seed))


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_seeds_differ(seed: int) -> None:
    assert not np.array_equal(permute(0, 100, 10**6, seed), permute(0, 100, 10**6, 5))


class TestGrain:
    """`grain.experimental.index_shuffle(i, max_index=n - 1, seed=seed, rounds=4)`, Grain 0.2.18."""

    GOLDEN: ClassVar = {
        (1, 0): ([0], 0),
        (2, 1): ([1, 0], 0),
        (10, 3): ([4, 7, 0, 8], 9),
        (1000, 4294967295): ([493, 781, 636, 922], 94),
        (65536, 7): ([8812, 17398, 45604, 57751], 20879),
        (65538, 7): ([35249, 40007, 9544, 58333], 37202),
        (1281167, 42): ([330049, 1204136, 1070314, 643172], 513421),
        (2147483648, 5): ([1914483395, 2070607202, 1087962577, 1235934784], 667397014),
        (1099511627773, 9): (
            [837903958041, 835421456257],
            800126167170,
        ),
    }

    @pytest.mark.parametrize(("n", "seed"), GOLDEN)
    def test_golden(self, n: int, seed: int) -> None:
        first, last = self.GOLDEN[n, seed]
        assert permute(0, len(first), n, seed).tolist() == first
        assert permute(n - 1, n, n, seed).tolist() == [last]

    @pytest.mark.parametrize("n", [1, 2, 3, 1000, 65_535, 65_536, 65_538, 10**6, 2**33, 2**40 - 3])
    @pytest.mark.parametrize("seed", [0, 12345, 2**32 - 1])
    def test_the_same_numbers(self, n: int, seed: int) -> None:
        shuffle = grain().experimental.index_shuffle
        chosen = sorted({0, 1 % n, n // 3, n // 2, n - 1})
        theirs = [shuffle(i, max_index=n - 1, seed=seed, rounds=4) for i in chosen]
        assert [int(permute(i, i + 1, n, seed)[0]) for i in chosen] == theirs

    def test_its_block_lacks_a_number(self) -> None:
        """The one difference: of 4**k + 1 images Grain takes one twice and another never."""
        shuffle = grain().experimental.index_shuffle
        theirs = [shuffle(i, max_index=65_536, seed=7, rounds=4) for i in range(65_537)]
        assert len(set(theirs)) == 65_536

    def test_the_same_stream(self) -> None:
        order = SampleOrder(1000, 5, 1)
        grains = grain().MapDataset.range(1000).shuffle(seed=zlib.crc32(b"order 5")).repeat()
        positions = [0, 1, 999, 1000, 7777]
        assert [order.sample(p) for p in positions] == [(p // 1000, grains[p]) for p in positions]


def grain():
    """The library, without the warning that it logs on import where jax is missing."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    return pytest.importorskip("grain")
