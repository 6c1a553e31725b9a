"""The stream of samples: golden lists, every image once an epoch, independence of the world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seresnext.data.order import (
    SampleOrder,
    batch_seed,
    pair_rng,
    sample_rng,
    steps_per_epoch,
)
from seresnext.errors import UserError


def stream(order: SampleOrder, steps: int, first: int = 0) -> list[tuple[int, int]]:
    return [order.sample(p) for step in range(first, steps) for p in order.positions(step)]


class TestGolden:
    """Written down once. A change here changes every run that is resumed or repeated."""

    def test_order(self) -> None:
        order = SampleOrder(10, seed=0, global_batch=4)
        assert [i for _, i in stream(order, 5)] == [
            *(5, 2, 9, 0, 1, 6, 8, 3, 4, 7),
            *(6, 4, 5, 9, 3, 1, 8, 0, 2, 7),
        ]
        large = SampleOrder(1_281_167, seed=7, global_batch=1024)
        found = [large.sample(p) for p in (0, 1, 1_281_166, 1_281_167, 115_305_029)]
        assert found == [(0, 688547), (0, 87767), (0, 1084106), (1, 423682), (89, 731207)]

    def test_sample_rng(self) -> None:
        drawn = {
            at: sample_rng(*at).bit_generator.random_raw(2).tolist()
            for at in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (42, 89, 1_281_166))
        }
        assert drawn == {
            (0, 0, 0): [15003734204198539638, 13859618513508960101],
            (0, 0, 1): [3245738530551145091, 3473859874391648748],
            (0, 1, 0): [17712232589454860709, 15112295160826326475],
            (1, 0, 0): [1386294051110952485, 18147817048375502686],
            (42, 89, 1281166): [10829193283828110095, 5050420931023829777],
        }

    def test_pair_rng(self) -> None:
        drawn = pair_rng(42, 10**9).bit_generator.random_raw(2).tolist()
        assert drawn == [15616525470054809283, 4997548630965943253]

    def test_batch_seed(self) -> None:
        found = [batch_seed(0, 0), batch_seed(0, 1), batch_seed(42, 450_000)]
        assert found == [6329573297881088000, 6329573297881153536, 413833543791149056]


class TestRepeats:
    """Repeated augmentation: G / R images a step, R times over."""

    @pytest.mark.parametrize(
        ("n", "batch", "repeats"), [(10, 6, 3), (7, 4, 2), (3, 8, 2), (9, 9, 9)]
    )
    def test_a_step_has_each_of_its_images_as_often(self, n: int, batch: int, repeats: int) -> None:
        order, once = SampleOrder(n, 5, batch, repeats=repeats), SampleOrder(n, 5, batch // repeats)
        for step in range(12):
            found = [order.sample(p) for p in order.positions(step)]
            plain = [once.sample(p) for p in once.positions(step)]
            copies = [found[k :: batch // repeats] for k in range(batch // repeats)]
            for (epoch, index), same in zip(plain, copies, strict=True):
                assert same == [(epoch * repeats + r, index) for r in range(repeats)]

    def test_no_showing_is_there_twice(self) -> None:
        """Its number and the image are the coordinates of the augmentation."""
        found = stream(SampleOrder(10, 0, 6, repeats=3), 30)
        assert len(set(found)) == len(found) == 180
        assert sorted(found[:90]) == [(showing, k) for showing in range(9) for k in range(10)]


class TestOrder:
    @settings(max_examples=20, deadline=None)
    @given(
        n=st.integers(1, 60),
        seed=st.integers(0, 2**40),
        batch=st.integers(1, 70),
    )
    def test_epochs_follow_without_a_gap_and_have_each_image_once(
        self, n: int, seed: int, batch: int
    ) -> None:
        order = SampleOrder(n, seed, batch)
        steps = -(-3 * n // batch)
        samples = stream(order, steps)
        for epoch in range(3):
            part = samples[epoch * n : (epoch + 1) * n]
            assert {e for e, _ in part} == {epoch}
            assert sorted(i for _, i in part) == list(range(n))
        assert order.steps_per_epoch == n / batch

    @settings(max_examples=20, deadline=None)
    @given(n=st.integers(1, 60), seed=st.integers(0, 9), batch=st.integers(1, 60))
    def test_drop_last(self, n: int, seed: int, batch: int) -> None:
        if batch > n:
            with pytest.raises(UserError, match=f"at most {n} over all devices"):
                SampleOrder(n, seed, batch, drop_last=True)
            return
        order = SampleOrder(n, seed, batch, drop_last=True)
        whole = SampleOrder(n, seed, 1)
        steps = n // batch
        assert order.steps_per_epoch == steps
        for epoch in range(3):
            part = stream(order, (epoch + 1) * steps, epoch * steps)
            expected = [whole.sample(epoch * n + k) for k in range(steps * batch)]
            assert part == expected

    @settings(deadline=None)
    @given(n=st.integers(2, 50), world=st.sampled_from([1, 2, 3, 4, 6, 12]))
    def test_slices_of_ranks_are_the_global_order(self, n: int, world: int) -> None:
        whole = SampleOrder(n, 3, 12)
        per_rank = 12 // world
        for step in range(8):
            positions = whole.positions(step)
            slices = [positions[r * per_rank : (r + 1) * per_rank] for r in range(world)]
            assert [p for part in slices for p in part] == list(positions)
            assert positions == range(12 * step, 12 * step + 12)

    def test_orders_differ(self) -> None:
        """Between epochs, between seeds, and between seed s at epoch 1 and s + 1 at epoch 0."""
        orders = {
            (seed, epoch): tuple(
                SampleOrder(500, seed, 1).sample(500 * epoch + k)[1] for k in range(500)
            )
            for seed in range(4)
            for epoch in range(4)
        }
        assert len(set(orders.values())) == 16

    def test_shuffles_evenly(self) -> None:
        """Mean displacement and neighbours are those of a random permutation (within 5 sigma)."""
        n = 4096
        order = SampleOrder(n, 1, 1)
        index = np.array([order.sample(k)[1] for k in range(n)])
        displacement = np.abs(index - np.arange(n)).mean()
        assert abs(displacement / n - 1 / 3) < 5 * 0.24 / np.sqrt(n)
        assert (np.abs(np.diff(index)) == 1).sum() < 15

    def test_steps_per_epoch(self) -> None:
        assert steps_per_epoch(10, 4, drop_last=False) == 2.5
        assert steps_per_epoch(10, 4, drop_last=True) == 2


class TestRandomness:
    def test_coordinates_give_independent_streams(self) -> None:
        drawn = [
            rng.random(4).tobytes()
            for seed in range(3)
            for a in range(3)
            for rng in (*(sample_rng(seed, a, i) for i in range(3)), pair_rng(seed, a))
        ]
        assert len(set(drawn)) == 36

    def test_streams_do_not_overlap(self) -> None:
        """The counter of a stream's draws is its own word of the four."""
        far = sample_rng(0, 0, 0)
        far.bit_generator.advance(2**20)
        assert far.random() not in sample_rng(0, 0, 1).random(1000)
        assert len({sample_rng(0, 0, i).random() for i in range(1000)}) == 1000

    def test_batch_seeds_leave_room(self) -> None:
        seeds = np.array([batch_seed(seed, step) for seed in range(3) for step in range(200)])
        assert len(set(seeds)) == 600
        assert (seeds % 2**16 == 0).all()
        assert seeds.min() >= 0
        assert seeds.max() < 2**63
