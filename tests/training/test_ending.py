"""What a run says would help: only what its figures show."""

from __future__ import annotations

import numpy as np
import pytest

from seresnext.config import recipe
from seresnext.report.history import History
from seresnext.report.results import Results
from seresnext.training.advice import Ended, advice

NAMES = ("cat", "dog\x1b[1m", "fox", "owl")


def ended(
    right: tuple[int, int, int, int],
    train: float = 0.8,
    curve: tuple[float, ...] = (0.5, 0.8, 0.8, 0.8),
    **changes: object,
) -> Ended:
    """A run with 100 validation images of each class, so many right, the others taken for dogs."""
    label = np.repeat(np.arange(4), 100)
    predicted = np.concatenate(
        [np.where(np.arange(100) < n, k, 1 if k != 1 else 2) for k, n in enumerate(right)]
    )
    nothing = np.zeros(400)
    results = Results(
        NAMES,
        400,
        np.arange(400),
        label,
        predicted,
        *(nothing, nothing),
        (predicted != label).astype(np.int64),
        nothing,
    )
    records: list[dict[str, float]] = []
    for epoch in range(1, 21):
        records.append({"step": epoch, "epoch": epoch, "train/top1": train})
    for i, top1 in enumerate(curve, 1):
        records.append({"step": 5 * i, "epoch": 5 * i, "val/top1": top1})
    history = History("run", {}, records, (), ())
    config = recipe("finetune")
    if changes.pop("pretrained", True):
        config = config.replace(pretrained="weights.safetensors")
    found = {"config": config, "train_images": 5000, "mixed": False} | changes
    return Ended(history=history, results=results, **found)


def test_a_good_run_needs_no_advice() -> None:
    assert advice(ended((95, 96, 97, 95), train=0.97, curve=(0.9, 0.95, 0.96, 0.96))) == []


def test_training_ahead_of_validation() -> None:
    found = advice(ended((80, 80, 80, 80), train=0.99))
    assert len(found) == 1
    assert "(99.0% against 80.0%)" in found[0]
    assert advice(ended((80, 80, 80, 80), train=0.85)) == []
    assert advice(ended((80, 80, 80, 80), train=0.99, mixed=True)) == []


def test_few_images_and_random_weights() -> None:
    found = advice(ended((60, 60, 60, 60), train=0.6, pretrained=False))
    assert [text.split(" images are few")[0] for text in found] == ["5000"]
    assert advice(ended((60, 60, 60, 60), train=0.6)) == []
    assert advice(ended((60,) * 4, train=0.6, pretrained=False, train_images=50_000)) == []
    assert advice(ended((99, 98, 99, 98), train=0.99, pretrained=False)) == []


def test_an_accuracy_that_still_rises() -> None:
    found = advice(ended((80, 80, 80, 80), curve=(0.3, 0.5, 0.6, 0.8)))
    assert found == [
        "the accuracy still rose in the last quarter, from 60.0% to 80.0%: more --epochs may help"
    ]
    assert advice(ended((80, 80, 80, 80), curve=(0.3, 0.5, 0.79, 0.8))) == []
    assert advice(ended((80, 80, 80, 80), curve=(0.3, 0.8))) == []


def test_the_worst_class() -> None:
    found = advice(ended((95, 95, 95, 35), train=0.8))
    assert found == [
        "owl is recognised in 35 of 100 images and mostly taken for dog\\x1b[1m: look at its "
        "images, or add some"
    ]
    assert advice(ended((80, 80, 80, 70), train=0.8)) == []


def test_two_sentences_at_most_and_none_from_few_images() -> None:
    run = ended((90, 90, 90, 10), 0.99, (0.2, 0.3, 0.4, 0.7), pretrained=False)
    assert len(advice(run)) == 2
    few = run.results
    small = Results(NAMES, 40, *(getattr(few, n)[::10] for n in FIELDS))
    assert advice(Ended(run.config, run.history, small, run.train_images, False)) == []


FIELDS = ("index", "label", "predicted", "confidence", "own", "rank", "loss")


@pytest.mark.parametrize("field", FIELDS)
def test_the_fields_are_those_of_results(field: str) -> None:
    assert field in Results.__dataclass_fields__
