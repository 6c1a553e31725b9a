"""The verb `find-lr`: the rate that a trial suggests, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runs import NETWORK, refused, run_cli
from seresnext.batch import Batch
from seresnext.find_lr import Trial, losses_at, rates_between

RATES = rates_between(1e-5, 10, 100)


def trial(losses: np.ndarray) -> Trial:
    return Trial(RATES[: len(losses)], losses, 32, len(losses) < len(RATES))


def curve(turn: float, noise: float = 0.0) -> np.ndarray:
    """Falls from 2 to 1 until the rate `turn`, then rises."""
    x = np.log10(RATES / turn)
    losses = 1.5 - 0.5 * np.tanh(x + 1) + np.where(x > 0, x**2, 0)
    return losses + noise * np.random.default_rng(0).normal(size=len(RATES))


@pytest.mark.parametrize("turn", [1e-2, 1e-1, 1.0])
def test_the_suggestion_lies_below_the_rise(turn: float) -> None:
    found = trial(curve(turn, noise=0.05))
    assert found.rises is not None
    assert turn < found.rises < 5 * turn
    assert found.suggestion == pytest.approx(found.rises / 3, rel=0.05)


def test_a_loss_that_does_not_fall_first() -> None:
    flat = 2.3 + 0.06 * np.random.default_rng(0).normal(size=100)
    assert trial(flat).suggestion is None
    flat[70:] += np.linspace(0, 6, 30)
    assert trial(flat).rises == pytest.approx(RATES[70], rel=0.6)
    assert trial(np.linspace(2, 1, 100)).rises is None


class Engine:
    """Gives the losses that it is made with."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = iter(losses)

    def train_step(self, batch: Batch, lr: float) -> float:
        return next(self.losses)

    def fetch(self, loss: float) -> dict[str, float]:
        return {"loss": loss, "finite": float(np.isfinite(loss))}


@pytest.mark.parametrize(
    ("losses", "taken"),
    [
        ([2.0, 1.0, 9.0, 1.0, 1.0], 5),  # one odd batch
        ([1.0, 1.0, 1.0, 9.0, 9.0, 9.0], 5),
        ([1.0, np.nan, 1.0], 1),
    ],
)
def test_a_trial_ends_where_the_loss_is_too_high(losses: list[float], taken: int) -> None:
    found = losses_at(Engine(losses), [None] * len(losses), RATES[: len(losses)])  # type: ignore
    assert len(found) == taken


class TestVerb:
    @pytest.mark.slow
    def test_a_rate_that_trains(self, images: Path, tmp_path: Path) -> None:
        given = ("--recipe", "demo", *NETWORK, "--data", images, "--batch-size", 13)
        given = (*given, "--workers", 1, "--engine.threads", 1)
        out = tmp_path / "lr.html"
        done = run_cli("find-lr", *given, "--steps", 60, "--low", 1e-4, "--out", out, "--json")
        found = json.loads(done.stdout)
        assert found["suggestion"] == pytest.approx(found["rises"] / 3, rel=0.05)
        assert "up to 60 steps of 13 images" in done.stderr
        page = out.read_text()
        assert page.count("<svg") == 1
        assert f"--lr {found['suggestion']:g}" in page
        assert not (tmp_path / "runs").exists()
        # Processors round differently, and so the trials differ: 20 epochs are enough for any.
        run = ("--lr", found["suggestion"], "--epochs", 20, "--out", tmp_path / "run")
        done = run_cli("train", *given, *run, "--run.no-report", "--schedule.warmup", "0 epochs")
        assert "top-1 100.00%" in done.stdout

    def test_what_cannot_be_said(
        self, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = ("find-lr", "--recipe", "demo", *NETWORK, "--data", images)
        assert "--low, --high: expected 0 < low < high" in refused(*given, "--low", 20)
        assert "--steps: expected 10 to" in refused(*given, "--steps", 3)
        assert "no data: give --data" in refused("find-lr", "--recipe", "imagenet")
        text = run_cli(*given, "--steps", 10, "--high", 1e-4, "--out", tmp_path / "x.html").stdout
        assert "no suggestion: the loss does not rise up to 0.0001" in text
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert "runs in one process" in refused(*given)
