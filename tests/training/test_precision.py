"""`--precision auto` in a run: measured once, recorded, kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runs import run_cli, train_arguments, write_images
from seresnext.engines.torch import precision


def test_a_resume_keeps_what_the_first_start_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_images(tmp_path / "photos"), tmp_path / "run"
    monkeypatch.setattr(precision, "has_bf16", lambda _: True)
    monkeypatch.setattr(precision, "step_seconds", lambda *_: (2.0, 1.0))
    first = run_cli(*train_arguments(data, out, 2, 4, "--precision", "auto"))
    assert "precision auto: bf16, a step of 32 images takes 2 s in fp32" in first.stdout
    assert "images/s, bound by " in first.stdout
    assert json.loads((out / "config.json").read_text())["engine"]["precision"] == "bf16"

    monkeypatch.setattr(precision, "step_seconds", lambda *_: (1.0, 2.0))
    more = run_cli(*train_arguments(data, out, 3, 4, "--precision", "auto"))
    assert "precision auto: bf16, as the run computed before" in more.stdout
    assert "images/s, bound by " not in more.stdout  # one step tells nothing
    assert "engine.precision changed" not in more.stdout
    assert json.loads((out / "config.json").read_text())["engine"]["precision"] == "bf16"

    other = train_arguments(data, tmp_path / "other", 2, 4, "--precision", "auto")
    assert "precision auto: fp32, a step of" in run_cli(*other).stdout
