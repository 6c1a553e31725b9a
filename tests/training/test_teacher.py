"""Runs that learn from a teacher: the same pixels, the same bits, refused where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.networks import random_batch
from runs import Run, checkpoint, digest, records, refused, run_cli, train_arguments
from seresnext.model.saved_model import load_model, save_model
from seresnext.training.teacher import Teacher, taught


def arguments(images: Path, out: Path, teacher: object, *more: object) -> list[str]:
    """Of a run of six steps, saved after four."""
    loss = ("--loss.teacher", teacher, "--loss.temperature", 2, "--run.no-report")
    return train_arguments(images, out, 6, 4, *loss, "--run.keep-checkpoint-max", 9, *more)


class Echo:
    """Answers with the brightness of an image, and its double."""

    def __init__(self, name: str) -> None:
        self.name, self.asked = name, 0

    def predict(self, images: np.ndarray) -> np.ndarray:
        self.asked += 1
        if self.asked == 5:
            raise RuntimeError("the device is gone")
        mean = images.astype(np.float32).mean((1, 2, 3))
        return np.stack([mean, 2 * mean], 1)


@pytest.mark.parametrize(("name", "ahead"), [("torch", 3), ("mindspore", 1)])
def test_answers_are_those_for_the_pixels_of_the_batch(name: str, ahead: int) -> None:
    """In the student's order of classes; ahead in a thread, but for MindSpore; errors rise."""
    model = Echo(name)
    teacher = Teacher(model, np.array([1, 0]))  # type: ignore[arg-type]
    made, closed = [], []

    def batches() -> Iterator[object]:
        try:
            for seed in range(9):
                made.append(random_batch(4, seed))
                yield made[-1]
        finally:
            closed.append(True)

    stream = taught(batches(), teacher)  # type: ignore[arg-type]
    for step in range(4):
        batch = next(stream)
        assert batch.images is made[step].images
        mean = batch.images.astype(np.float32).mean((1, 2, 3))
        np.testing.assert_array_equal(batch.teacher, np.stack([2 * mean, mean], 1))
        assert len(made) == min(step + ahead, 9)
    with pytest.raises(RuntimeError, match="the device is gone"):
        next(stream)


def test_a_taught_run_resumes_to_the_same_bits(one: Run, images: Path, tmp_path: Path) -> None:
    said = run_cli(*arguments(images, tmp_path / "a", one.folder)).stdout
    assert f"teacher: {one.folder} (torch on cpu" in said
    assert "ms an image" in said
    middle = checkpoint(tmp_path / "a", 4)
    run_cli(*arguments(images, tmp_path / "b", one.folder, "--resume", middle))
    assert digest(tmp_path / "b") == digest(tmp_path / "a")
    run_cli(*train_arguments(images, tmp_path / "c", 6, 4, "--run.no-report"))
    assert digest(tmp_path / "c") != digest(tmp_path / "a")


@pytest.mark.parametrize("engine", ["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def test_an_artifact_teaches_as_its_run_does(
    engine: str, one: Run, images: Path, tmp_path: Path
) -> None:
    """The loss of the first step is the same; and it takes its own image size only."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip(f"seresnext.engines.{engine}.engine")
    artifact = tmp_path / "teacher.onnx"
    run_cli("export", one.folder, "--out", artifact, "--data", images)
    losses = []
    for name, teacher in (("a", one.folder), ("b", artifact)):
        run_cli(*arguments(images, tmp_path / name, teacher, "--engine", engine))
        losses.append(records(tmp_path / name)[0]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    message = refused(*arguments(images, tmp_path / "c", artifact, "--image-size", 64))
    assert "takes images of 32 px, the run trains at 64; use --image-size 32, or" in message
    grows = ("--image-size", 64, "--augment.start-size", 32)
    message = refused(*arguments(images, tmp_path / "d", artifact, *grows))
    assert "trains at 32 to 64; use --image-size 32 --augment.start-size 0, or the run" in message


def test_refused_before_training(one: Run, images: Path, tmp_path: Path) -> None:
    spec, weights = load_model(one.folder / "model")
    other = tmp_path / "other"
    save_model(other, replace(spec, class_names=("red", "green", "violet")), weights)
    for teacher, message in (
        (tmp_path / "nothing", "no weights at"),
        (other, "does not know the classes blue; its own are red, green, violet"),
        ("", "loss.temperature: expected none without --loss.teacher"),
    ):
        assert message in refused(*arguments(images, tmp_path / "x", teacher))
    assert not (tmp_path / "x" / "config.json").exists()
