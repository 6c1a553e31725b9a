"""The log of steps: what it says of a run's speed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from seresnext.training.step_log import StepLog


@pytest.mark.parametrize(
    ("timed", "engine", "expected"),
    [
        ((0, 0, 0), {}, ""),
        (
            (100, 10, 5),
            {},
            "10.0 images/s, bound by data (50% of the time waiting for it): smaller",
        ),
        ((100, 10, 0.5), {}, "waiting for data); in another run, --precision auto measures"),
        ((100, 10, 0.5), {"precision_reason": "measured"}, "by computing (5% of the time waiting"),
        ((100, 10, 0.5), {"precision": "bf16"}, "(5% of the time waiting for data)"),
        ((100, 10, 0.5), {"name": "mindspore"}, "(5% of the time waiting for data)"),
    ],
)
def test_what_bounds_a_run(timed: tuple[float, ...], engine: dict[str, str], expected: str) -> None:
    about = {"name": "torch", "precision": "fp32", "precision_reason": "", **engine}
    log = StepLog(cast(Any, None), cast(Any, SimpleNamespace(**about)), cast(Any, None), 0, None)
    log.timed = np.array(timed, float)
    said = log.speed()
    assert said == expected if not expected else expected in said
    assert ("--precision auto" in said) == ("--precision auto" in expected)
