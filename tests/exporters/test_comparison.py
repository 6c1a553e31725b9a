"""The comparison behind every export, on made-up logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from seresnext.batch import Batch
from seresnext.exporters.comparison import Comparison, compare
from seresnext.model.architecture import architecture
from seresnext.model.spec import ModelSpec

SPEC = ModelSpec(architecture("seresnext50_32x4d", num_classes=3), ("a", "b", "c"))


class Answers:
    """A runtime whose logits are the first row of pixels, changed by `change`."""

    name, device, spec = "made up", "cpu", SPEC

    def __init__(self, change: Callable[[np.ndarray], np.ndarray] = lambda logits: logits) -> None:
        self.change = change

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.change(images[:, 0, 0, :3].astype(np.float32))

    def close(self) -> None: ...


def batches(count: int = 40, size: int = 16) -> Iterator[Batch]:
    """Every fifth row is no image; labels are the classes of the largest logit."""
    rng = np.random.default_rng(0)
    for _ in range(0, count, size):
        images = rng.integers(0, 256, (size, 1, 1, 3), dtype=np.uint8)
        labels = images[:, 0, 0].argmax(1).astype(np.int32)
        mask = np.arange(size) % 5 != 4
        ones = np.ones(size, np.float32)
        yield Batch(images, labels, labels, ones, mask, np.arange(size))


def compared(
    change: Callable[[np.ndarray], np.ndarray], labelled: bool = True, size: int = 16
) -> Comparison:
    return compare(Answers(), Answers(change), batches(size=size), labelled=labelled)


def test_equal_logits_pass() -> None:
    result = compared(lambda logits: logits)
    assert (result.difference, result.relative, result.flips) == (0, 0, 0)
    assert (result.images, result.batch_sizes) == (39, (1, 13))
    assert result.engine_metrics == result.artifact_metrics
    assert result.engine_metrics.top1 == 1.0
    assert not result.problems("fp32", 0.5)
    assert compared(lambda logits: logits, labelled=False).engine_metrics is None


def test_a_difference_within_the_tolerance_passes() -> None:
    result = compared(lambda logits: logits + np.float32(0.02))
    assert 0.5e-4 < result.relative < 1e-4
    assert not result.problems("fp32", 0.5)
    result = compared(lambda logits: logits + np.float32(0.04))
    assert result.problems("fp32", 0.5)
    assert not result.problems("fp16", 0.5)


def test_one_image_is_enough_to_fail_and_is_named() -> None:
    def change(logits: np.ndarray) -> np.ndarray:
        changed = logits.copy()
        changed[len(logits) // 2, 1] += 1
        return changed if len(logits) > 1 else logits

    result = compared(change)
    assert (result.worst_image, result.worst_batch_size) == (6, 13)
    (problem,) = result.problems("fp32", 0.5)
    assert "most at image 6 with batch size 13" in problem


def test_single_images_are_compared_too() -> None:
    result = compared(lambda logits: logits + (len(logits) == 1))
    assert result.worst_batch_size == 1
    assert result.problems("fp32", 0.5)


def test_not_a_number_fails() -> None:
    result = compared(lambda logits: logits * np.float32(np.nan))
    for precision in ("fp32", "fp16", "int8"):
        assert result.problems(precision, 100)


def test_another_class_fails_and_a_tie_does_not() -> None:
    def swap(logits: np.ndarray) -> np.ndarray:
        """The two largest logits exchanged wherever they are equal but for the last bits."""
        order = np.argsort(logits, 1)
        changed, rows = logits.copy(), np.arange(len(logits))
        near = logits[rows, order[:, 2]] - logits[rows, order[:, 1]] < 0.01
        changed[rows[near], order[near, 1]] += np.float32(0.002)
        return changed

    def tied(logits: np.ndarray) -> np.ndarray:
        logits = logits.copy()
        logits[:, 1] = logits.max(1) - np.float32(0.001)
        return logits

    result = compare(Answers(tied), Answers(lambda x: swap(tied(x))), batches(), labelled=False)
    assert result.flips == result.ties > 0
    assert not result.problems("fp32", 0.5)

    def flip(logits: np.ndarray) -> np.ndarray:
        return logits[:, ::-1] if len(logits) > 1 else logits

    result = compared(flip)
    assert result.flips > 10
    assert result.ties < result.flips
    assert any("most probable class differs" in p for p in result.problems("fp16", 0.5))


@pytest.mark.parametrize(("lost", "passes"), [(0, True), (1, True), (2, False)])
def test_int8_is_judged_by_accuracy(lost: int, passes: bool) -> None:
    def change(logits: np.ndarray) -> np.ndarray:
        """`lost` images of the first full batch get a slightly larger wrong logit."""
        changed = logits.copy()
        if len(logits) == 13 and not seen:
            seen.append(1)
            for row in range(lost):
                wrong = (logits[row].argmax() + 1) % 3
                changed[row, wrong] = logits[row].max() + 1
        return changed

    seen: list[int] = []
    result = compared(change)
    assert result.drop == pytest.approx(100 * lost / 39)
    assert (not result.problems("int8", 4.0)) == passes
    seen.clear()
    result = compared(change, labelled=False)
    assert result.drop == pytest.approx(100 * lost / 39)
    assert (not result.problems("int8", 4.0)) == passes
