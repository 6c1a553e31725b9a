"""Batches: the same whatever the threads, ranks and start; every image once; bad ones reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seresnext.batch import Batch
from seresnext.config import AugmentConfig, DataConfig
from seresnext.data.augment import augment_encoded
from seresnext.data.bad_images import BadImages
from seresnext.data.decode import decode_image
from seresnext.data.loader import Reader, Share, eval_batches, train_batches
from seresnext.data.order import SampleOrder, batch_seed, sample_rng
from seresnext.data.preprocess import preprocess
from seresnext.data.sources import Sample, Source, open_source
from seresnext.errors import UserError
from seresnext.model.spec import InputSpec

AUGMENT = AugmentConfig(image_size=32, shift=2, erase=0.2)
MIX = replace(AUGMENT, mixup=0.4, cutmix=1.0)
SPEC = InputSpec(image_size=32)
SKIP = DataConfig(workers=2, on_bad_image="skip")
ARRAYS = ("images", "labels", "mixed_labels", "mix", "mask", "index")


@pytest.fixture
def source(folder: Path) -> Source:
    return open_source(folder)


def train(source, steps: int, augment: AugmentConfig = MIX, workers: int = 2, **options):
    """The first `steps` batches from `start_step` on."""
    data = replace(options.pop("data", DataConfig()), workers=workers)
    reader = Reader(source, data, options.pop("bad_images", BadImages()))
    seed, start_step = options.pop("seed", 3), options.pop("start_step", 0)
    where = (seed, start_step, options.pop("mixed_steps", 10**9), options.pop("image_size", None))
    with closing(train_batches(reader, augment, Share(**options), *where)) as batches:
        return list(islice(batches, steps))


def evaluate(source, batch_size: int, data: DataConfig | None = None, **options) -> list[Batch]:
    reader = Reader(source, data or DataConfig(), options.pop("bad_images", BadImages()))
    return list(eval_batches(reader, SPEC, Share(batch_size, **options)))


def same(a: list[Batch], b: list[Batch]) -> bool:
    assert len(a) == len(b)
    return all(
        x.seed == y.seed and all(np.array_equal(getattr(x, n), getattr(y, n)) for n in ARRAYS)
        for x, y in zip(a, b, strict=True)
    )


class TestTraining:
    def test_shapes_and_types(self, source: Source) -> None:
        for batch in train(source, 3, batch_size=4):
            assert batch.images.shape == (4, 32, 32, 3)
            assert batch.images.dtype == np.uint8
            assert batch.labels.dtype == batch.mixed_labels.dtype == np.int32
            assert batch.mix.dtype == np.float32
            assert batch.mask.dtype == np.bool_
            assert batch.index.dtype == np.int64
            assert batch.mask.all()

    def test_is_source_order_and_augmentation_put_together(self, source: Source) -> None:
        order = SampleOrder(10, 3, 4)
        for step, batch in enumerate(train(source, 8, AUGMENT, batch_size=4)):
            assert batch.seed == batch_seed(3, step)
            for row, position in enumerate(order.positions(step)):
                epoch, index = order.sample(position)
                image = augment_encoded(
                    source[index].data, AUGMENT, sample_rng(3, epoch, index), 10**6
                )
                assert np.array_equal(batch.images[row], image)
                assert batch.index[row] == index
                assert batch.labels[row] == batch.mixed_labels[row] == source[index].label
                assert batch.mix[row] == 1

    @pytest.mark.parametrize("batch_size", [2, 6, 22])
    def test_number_of_threads_changes_nothing(self, source: Source, batch_size: int) -> None:
        one = train(source, 3, workers=1, batch_size=batch_size)
        for workers in (0, 2, 5):
            assert same(one, train(source, 3, workers=workers, batch_size=batch_size))

    @pytest.mark.parametrize("drop_last", [False, True])
    def test_resume_is_the_tail(self, source: Source, drop_last: bool) -> None:
        data = DataConfig(drop_last=drop_last)
        whole = train(source, 9, batch_size=4, data=data)
        for step in (1, 3, 8):
            assert same(
                whole[step:], train(source, 9 - step, start_step=step, batch_size=4, data=data)
            )

    @pytest.mark.parametrize("world_size", [2, 3, 6])
    def test_ranks_together_are_one_process(self, source: Source, world_size: int) -> None:
        whole = train(source, 5, batch_size=12)
        ranks = [
            train(source, 5, rank=r, world_size=world_size, batch_size=12 // world_size)
            for r in range(world_size)
        ]
        for step, batch in enumerate(whole):
            for name in ARRAYS:
                parts = [getattr(rank[step], name) for rank in ranks]
                assert np.array_equal(np.concatenate(parts), getattr(batch, name)), name

    def test_the_size_is_that_of_the_step(self, source: Source) -> None:
        """Of every thread, rank and start; the samples and all else are those of one size."""

        def side(step: int) -> int:
            return 32 if step < 3 else 48

        whole = train(source, 6, image_size=side, batch_size=8, workers=5)
        for step, batch in enumerate(whole):
            augment = replace(MIX, image_size=side(step))
            (alone,) = train(source, 1, augment, start_step=step, batch_size=8)
            assert batch.images.shape[1] == side(step)
            assert same([batch], [alone])
        assert same(whole[2:], train(source, 4, image_size=side, start_step=2, batch_size=8))
        ranks = [
            train(source, 6, image_size=side, rank=r, world_size=2, batch_size=4) for r in (0, 1)
        ]
        for batch, *parts in zip(whole, *ranks, strict=True):
            assert np.array_equal(np.concatenate([p.images for p in parts]), batch.images)

    def test_repeated_images_are_augmented_anew(self, source: Source) -> None:
        """On three ranks, each has every image of the step once."""
        augment = replace(MIX, repeats=3)
        whole = train(source, 2, augment, batch_size=12)
        ranks = [train(source, 2, augment, rank=r, world_size=3, batch_size=4) for r in range(3)]
        for step, batch in enumerate(whole):
            parts = [rank[step] for rank in ranks]
            assert np.array_equal(np.concatenate([p.images for p in parts]), batch.images)
            assert all(np.array_equal(p.index, parts[0].index) for p in parts)
            assert len(set(parts[0].index.tolist())) == 4
            assert not np.array_equal(parts[0].images, parts[1].images)

    def test_noise_seeds_are_those_of_the_pieces(self, source: Source) -> None:
        """Cut into four pieces by one rank, or two by each of two: the same four seeds."""
        (one,) = train(source, 1, batch_size=8, shards=4)
        two = [train(source, 1, batch_size=4, rank=r, world_size=2, shards=2)[0] for r in range(2)]
        seeds = [piece.seed for batch in two for piece in batch.split(2)]
        assert seeds == [piece.seed for piece in one.split(4)]
        assert len(set(seeds)) == 4

    def test_other_seed_other_batches(self, source: Source) -> None:
        assert not same(train(source, 1, batch_size=8), train(source, 1, batch_size=8, seed=4))

    def test_mixing_pairs_neighbours(self, source: Source) -> None:
        plain = train(source, 6, AUGMENT, batch_size=4)
        mixed = train(source, 6, MIX, batch_size=4)
        for a, b in zip(plain, mixed, strict=True):
            assert np.array_equal(a.labels, b.labels)
            assert np.array_equal(b.mixed_labels, a.labels.reshape(2, 2)[:, ::-1].ravel())
            assert b.mix[0] == b.mix[1] != b.mix[2] == b.mix[3]
            assert ((b.mix >= 0) & (b.mix <= 1)).all()

    def test_mixing_ends_before_the_run(self, source: Source) -> None:
        """Its last batches are those without mixing; the step decides, wherever a run goes on."""
        plain, mixed = (train(source, 5, a, batch_size=4) for a in (AUGMENT, MIX))
        expected = [*mixed[:3], *plain[3:]]
        for start in (0, 2, 4):
            found = train(source, 5 - start, MIX, batch_size=4, start_step=start, mixed_steps=3)
            assert same(found, expected[start:])

    def test_drop_last_needs_a_whole_batch(self, source: Source) -> None:
        with pytest.raises(UserError, match=r"10 images and a global batch of 12.*at most 10"):
            train(source, 1, batch_size=6, world_size=2, data=DataConfig(drop_last=True))

    def test_memory_does_not_grow_with_the_run(self, source: Source) -> None:
        """Batches are made a few ahead, not as many as there are."""
        made = Counting(source)
        batches = train_batches(Reader(made, DataConfig(workers=2)), AUGMENT, Share(8), seed=0)
        with closing(batches):
            next(batches)
            time.sleep(0.3)
            assert made.count <= 8 * (1 + 2 + 2)


class Counting:
    """A source that counts what is read from it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.class_names = source.class_names
        self.labels = source.labels
        self.describe = source.describe
        self.fingerprint = source.fingerprint
        self.count = 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        self.count += 1
        return self.source[index]


class TestEvaluation:
    @pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
    @pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
    def test_every_image_exactly_once(
        self, source: Source, batch_size: int, world_size: int
    ) -> None:
        expected = {
            i: preprocess(decode_image(source[i].data, max_pixels=10**6), SPEC) for i in range(10)
        }
        seen = []
        counts = set()
        for rank in range(world_size):
            batches = evaluate(source, batch_size, rank=rank, world_size=world_size)
            counts.add(len(batches))
            mine = []
            for batch in batches:
                assert batch.images.shape == (batch_size, 32, 32, 3)
                assert np.array_equal(batch.mask, batch.index >= 0)
                for row in np.flatnonzero(batch.mask):
                    index = int(batch.index[row])
                    assert np.array_equal(batch.images[row], expected[index])
                    assert batch.labels[row] == source[index].label
                    mine.append(index)
            assert mine == list(range(rank, 10, world_size))
            seen += mine
        assert sorted(seen) == list(range(10))
        assert len(counts) == 1  # so that ranks may meet after each batch

    def test_padding_is_the_mean_color(self, source: Source) -> None:
        (batch,) = evaluate(source, 16)
        assert (batch.images[10:] == (124, 116, 104)).all()
        assert batch.index[10:].tolist() == [-1] * 6

    def test_number_of_threads_changes_nothing(self, source: Source) -> None:
        one = evaluate(source, 3, DataConfig(workers=1))
        for workers in (0, 4):
            assert same(one, evaluate(source, 3, DataConfig(workers=workers)))


@pytest.fixture
def bad(folder: Path) -> dict[str, str]:
    """Three of the ten images spoilt: path -> part of the reason."""
    (folder / "10" / "0.png").write_bytes(b"")
    jpeg = (folder / "2" / "1.JPG").read_bytes()
    (folder / "2" / "1.JPG").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "ant" / "1.JPG").write_bytes(b"<html><body>404 Not Found</body></html>")
    reasons = {"10/0.png": "empty file", "2/1.JPG": "damaged JPEG", "ant/1.JPG": "a web page"}
    return {str(folder / name): reason for name, reason in reasons.items()}


class TestBadImages:
    def test_stop_names_file_and_reason(self, source: Source, bad: dict[str, str]) -> None:
        for run in (lambda: train(source, 9, batch_size=4), lambda: evaluate(source, 4)):
            with pytest.raises(UserError) as caught:
                run()
            message = str(caught.value)
            assert any(name in message and why in message for name, why in bad.items())
            assert "--on-bad-image skip" in message

    def test_skip_masks_the_row_and_puts_nothing_in_its_place(
        self, source: Source, bad: dict[str, str], tmp_path: Path
    ) -> None:
        bad_images = BadImages(tmp_path / "bad-images.jsonl")
        batches = train(source, 5, MIX, batch_size=4, data=SKIP, bad_images=bad_images)
        good = train(source, 5, batch_size=4, data=SKIP)
        assert same(batches, good)
        order = SampleOrder(10, 3, 4)
        for step, batch in enumerate(batches):
            samples = [order.sample(p)[1] for p in order.positions(step)]
            assert batch.index.tolist() == samples
            for row, index in enumerate(samples):
                assert batch.mask[row] == (source.describe(index) not in bad)
                other = samples[row ^ 1]
                if source.describe(index) in bad:
                    assert (batch.images[row] == (124, 116, 104)).all()
                elif source.describe(other) in bad:  # nothing to mix with
                    assert batch.mix[row] == 1
                    assert batch.mixed_labels[row] == batch.labels[row]
        assert bad_images.count == 3
        assert sorted(bad_images.names()) == sorted(bad)

    def test_report_lists_each_once(
        self, source: Source, bad: dict[str, str], tmp_path: Path
    ) -> None:
        listed = tmp_path / "run" / "bad-images.jsonl"
        for _ in range(2):  # a run, then its continuation
            bad_images = BadImages(listed)
            train(source, 12, batch_size=4, data=SKIP, bad_images=bad_images)
            evaluate(source, 4, SKIP, bad_images=bad_images)
        lines = [json.loads(line) for line in listed.read_text().splitlines()]
        assert len(lines) == 3
        for line in lines:
            assert set(line) == {"file", "index", "reason"}
            assert source.describe(line["index"]) == line["file"]
            assert bad[line["file"]] in line["reason"]

    def test_evaluation_counts_unread_images(self, source: Source, bad: dict[str, str]) -> None:
        bad_images = BadImages()
        batches = evaluate(source, 4, SKIP, bad_images=bad_images)
        index = np.concatenate([b.index for b in batches])
        mask = np.concatenate([b.mask for b in batches])
        assert sorted(index[index >= 0]) == list(range(10))
        assert {source.describe(int(i)) for i in index[~mask & (index >= 0)]} == set(bad)
        assert bad_images.count == 3

    def test_vanished_file(self, source: Source, folder: Path) -> None:
        (folder / "2" / "0.png").unlink()
        with pytest.raises(UserError, match=r"cannot read image .*/2/0\.png: No such file"):
            evaluate(source, 4)
        bad_images = BadImages()
        evaluate(source, 4, SKIP, bad_images=bad_images)
        assert bad_images.names() == [str(folder / "2" / "0.png")]

    def test_too_many_pixels(self, source: Source) -> None:
        with pytest.raises(UserError, match=r"pixels; at most 100 are read"):
            evaluate(source, 4, DataConfig(max_pixels=100))


class Broken(Counting):
    """Fails at one image the way a bug would."""

    def __init__(self, source: Source, error: BaseException) -> None:
        super().__init__(source)
        self.error = error

    def __getitem__(self, index: int) -> Sample:
        if index == 7:
            raise self.error
        return self.source[index]


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.is_alive()}


def settles(before: set[threading.Thread]) -> bool:
    """The threads started since `before` end within five seconds."""
    deadline = time.monotonic() + 5
    while threads() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    return not threads() - before


class TestThreads:
    @pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError(), SystemExit(3)])
    def test_a_failing_thread_fails_the_consumer(
        self, source: Source, error: BaseException
    ) -> None:
        before = threads()
        with pytest.raises(type(error)):
            train(Broken(source, error), 9, batch_size=4, data=SKIP)
        assert settles(before)

    def test_an_interrupt_ends_them(self, source: Source) -> None:
        """Ctrl-C while the consumer waits for a batch."""

        class Interrupting(Counting):
            def __getitem__(self, index: int) -> Sample:
                if once.acquire(blocking=False):
                    os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
                return super().__getitem__(index)

        once = threading.Lock()
        before = threads()
        # Another library in the test's process may have set a handler that ends it.
        earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                train(Interrupting(source), 9, batch_size=4)
        finally:
            if earlier is not None:  # None: set in native code
                signal.signal(signal.SIGINT, earlier)
        assert settles(before)

    def test_closing_waits_for_what_they_are_doing(self, source: Source) -> None:
        """No image is read after the end."""
        made = Counting(source)
        batches = train_batches(Reader(made, DataConfig(workers=3)), MIX, Share(4), seed=0)
        next(batches)
        batches.close()
        count = made.count
        time.sleep(0.1)
        assert made.count == count

    def test_closing_ends_them(self, source: Source) -> None:
        before = threads()
        batches = train_batches(Reader(source, DataConfig(workers=3)), MIX, Share(4), seed=0)
        next(batches)
        assert len(threads() - before) == 3
        batches.close()
        assert settles(before)

    def test_the_end_ends_them(self, source: Source) -> None:
        before = threads()
        evaluate(source, 4, DataConfig(workers=3))
        assert settles(before)

    def test_forgetting_ends_them(self, source: Source) -> None:
        before = threads()

        def forget() -> Iterator[Batch]:
            reader = Reader(source, DataConfig(workers=3))
            return islice(train_batches(reader, MIX, Share(4), seed=0), 2)

        next(forget())
        assert settles(before)

    def test_a_process_that_leaves_them_running_ends(self, folder: Path) -> None:
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from seresnext.config import AugmentConfig, DataConfig\n"
            "from seresnext.data.loader import Reader, Share, train_batches\n"
            "from seresnext.data.sources import open_source\n"
            "reader = Reader(open_source(Path(sys.argv[1])), DataConfig(workers=4))\n"
            "batches = train_batches(reader, AugmentConfig(image_size=32), Share(32), seed=0)\n"
            "print(next(batches).mask.all())\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60
        )
        assert run.stdout == "True\n"
        assert run.stderr == ""
        assert run.returncode == 0


def test_one_pixel_image(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(encode(Image.new("RGB", (1, 1), (9, 8, 7))))
    source = open_source(tmp_path)
    (batch,) = evaluate(source, 1)
    assert (batch.images == (9, 8, 7)).all()
    (batch,) = train(source, 1, replace(AUGMENT, erase=0, color_jitter=(0,) * 4), batch_size=1)
    assert (batch.images == (9, 8, 7)).all()
