"""Run folders of version 0.1.0 resume and open: `fixtures/run-0.1.0.tar.xz`, written by it.

`expected.json` holds the flags of the run, the records of how 0.1.0 went on with `interrupted/`
(checkpoint at step 4, format 1), and the logits of `finished/`.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from seresnext.cli import main
from seresnext.runtimes.base import create_runtime
from seresnext.training.checkpoint import MANIFEST

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run-0.1.0.tar.xz"
RENAMED = {"--optim.label-smoothing": "--loss.label-smoothing"}


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The unpacked archive, as the working folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "run-0.1.0"
    monkeypatch.chdir(folder)
    return folder


def expected(old: Path) -> dict[str, Any]:
    return dict(json.loads((old / "expected.json").read_text()))


def format_of(run: Path, step: int) -> int:
    path = run / "checkpoints" / f"step-{step:08d}" / MANIFEST
    return int(json.loads(path.read_text())["format"])


def records(run: Path, after: int) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["step"] > after]


def assert_same_records(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    """Every value that the wanted records hold, within 1e-4."""
    shared = [{k: r[k] for k in w} for r, w in zip(found, wanted, strict=True)]
    assert shared == [pytest.approx(w, rel=1e-4) for w in wanted]


@pytest.mark.skipif(
    not cv2.__version__.startswith("4."),
    reason="the archive was written with OpenCV 4; 5 resizes some pixels to another grey level",
)
def test_an_interrupted_run_resumes(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, flags = old / "interrupted", expected(old)["command"]
    command = [RENAMED.get(flag, flag) for flag in flags]
    assert format_of(run, 4) == 1
    assert main([*command, "--out", "interrupted"]) == 0
    assert "resuming after step 4" in capsys.readouterr().out
    wanted = [r for r in expected(old)["records"] if r["step"] > 4]
    assert [r["step"] for r in wanted] == [5, 6, 7, 8, 8]
    assert_same_records(records(run, after=4), wanted)

    assert format_of(run, 8) == 2
    duration = command.index("8 steps")
    longer = [*command[:duration], "9 steps", *command[duration + 1 :], "--out", "interrupted"]
    assert main(longer) == 0
    assert "resuming after step 8" in capsys.readouterr().out
    assert [r["step"] for r in records(run, after=8)] == [9, 9]


def test_the_comparison_of_records_notices_one(old: Path) -> None:
    wanted = [r for r in expected(old)["records"] if "train/loss" in r]
    found = [dict(record) for record in wanted]
    found[2]["train/loss"] *= 1.001
    with pytest.raises(AssertionError):
        assert_same_records(found, wanted)


def test_a_finished_run_predicts_the_same(old: Path) -> None:
    model = create_runtime(old / "finished", device="cpu")
    image = Image.open("data/val/red/0.png").resize((32, 32))
    logits = model.predict(np.ascontiguousarray(np.asarray(image))[None])
    np.testing.assert_allclose(logits, expected(old)["logits"], rtol=1e-4)
