"""What a run shows on a terminal."""

from __future__ import annotations

import pytest

from seresnext.training.log import bar_line

RECORD = {
    "train/loss": 2.3456,
    "lr": 0.01,
    "images_per_second": 123.4,
    "data_wait": 0.04,
    "remaining": 3723.0,
}


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_step_loss_and_time_are_shown_at_any_width(width: int) -> None:
    text = bar_line(90, 270, RECORD, width)
    assert len(text) < width
    for part in ("step 90/270", "loss 2.346", "1:02:03 left"):
        assert part in text
    assert ("━" in text) == (width >= 60)
    assert ("lr 0.0100" in text) == (width >= 100)
    filled, rest = (text.count(mark) for mark in "━─")
    assert filled == round((filled + rest) / 3)


def test_before_the_first_step() -> None:
    assert bar_line(0, 270, {}, 60) == "step 0/270  starting"
