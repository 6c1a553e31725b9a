"""Class weights from the training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runs import digest, refused, run_cli, train_arguments, write_images
from seresnext.config import LossConfig
from seresnext.errors import UserError
from seresnext.training.class_weights import balanced, with_class_weights

LABELS = np.repeat([0, 1, 2], [90, 9, 1]).astype(np.int32)


@pytest.mark.parametrize("beta", [0.5, 0.99, 0.9999, 1.0])
def test_weights_follow_the_effective_number_of_images(beta: float) -> None:
    """arXiv:1901.05555: 1 / (1 + beta + ... + beta^(n - 1)); scaled, so that the mean over the
    images, and with it the learning rate that fits, stays."""
    effective = [sum(beta**k for k in range(n)) for n in (90, 9, 1)]
    np.testing.assert_allclose(balanced(np.array([90, 9, 1]), beta), 1 / np.array(effective))
    loss = with_class_weights(LossConfig(class_balance=beta), LABELS, 3)
    assert loss.class_balance == 0
    weights = np.array(loss.class_weights)
    np.testing.assert_allclose(weights / weights[2], effective[2] / np.array(effective))
    assert weights[LABELS].mean() == pytest.approx(1)


def test_a_class_without_images_has_a_finite_weight() -> None:
    loss = with_class_weights(LossConfig(class_balance=1.0), LABELS, 4)
    assert loss.class_weights[3] == loss.class_weights[2]


def test_weights_are_left_alone() -> None:
    assert with_class_weights(LossConfig(), LABELS, 3) == LossConfig()
    given = LossConfig(class_weights=(1.0, 2.0, 3.0))
    assert with_class_weights(given, LABELS, 3) == given
    with pytest.raises(UserError, match=r"loss\.class_weights: expected 4 numbers, .* got 3"):
        with_class_weights(given, LABELS, 4)


def test_a_run_weighs_its_own_classes(tmp_path: Path) -> None:
    """The same weights, counted by the run and given by hand, give the same model; none another."""
    data = write_images(tmp_path / "data", train=28, val=0)  # blue 9, green 9, red 10
    counted = balanced(np.array([9, 9, 10]), 1.0)
    counted *= 28 / (counted @ [9, 9, 10])
    by_hand = ("--loss.class-weights", *map(repr, counted.tolist()))
    found = []
    for options in (("--loss.class-balance", 1), by_hand, ()):
        out = tmp_path / str(len(found))
        run_cli(*train_arguments(data, out, 2, 8, "--run.no-report", "--val-share", 0, *options))
        found.append(digest(out))
    assert found[0] == found[1] != found[2]
    two = refused(*train_arguments(data, tmp_path / "x", 2, 8, "--loss.class-weights", 1, 2))
    assert "loss.class_weights: expected 3 numbers, one for each class, got 2" in two
