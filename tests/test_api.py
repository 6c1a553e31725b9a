"""The public names: importing costs little, every one has an example, and every example runs."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seresnext
from seresnext.errors import UserError


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with photos of two classes, a cat, and a trained run; it is the current folder."""
    root, rng = tmp_path_factory.mktemp("workspace"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for channel, name in ((0, "cat"), (2, "dog")):
            (root / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (36, 36, 3), np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(root / "photos" / split / name / f"{i}.png")
    Image.open(root / "photos/val/cat/0.png").save(root / "cat.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        config = seresnext.recipe("demo").replace(
            data="photos",
            out="runs/mine",
            epochs=6,
            batch_size=4,
            model={"layers": (1, 1, 1, 1), "cardinality": 2},
            engine={"threads": 1},
            run={"log_every": "1 steps"},
        )
        result = seresnext.train(config)
        assert result.metrics is not None
        assert result.metrics.top1 == 1.0
        yield root


def public_objects() -> dict[str, object]:
    return {name: getattr(seresnext, name) for name in seresnext.__all__ if name != "__version__"}


def examples() -> list[doctest.DocTest]:
    """The examples of every public name, methods and properties included."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = []
    for name, value in public_objects().items():
        module = inspect.getmodule(value)
        found += finder.find(value, name, module, {})
    return sorted((test for test in found if test.examples), key=lambda test: test.name)


def test_every_public_name_has_a_docstring_with_an_example() -> None:
    documented = {test.name.partition(".")[0] for test in examples()}
    for name, value in public_objects().items():
        assert inspect.getdoc(value), name
        assert name in documented, f"{name} has no example"
    for name in vars(seresnext.Model):
        if not name.startswith("_"):
            assert f"Model.{name}" in {test.name for test in examples()}, f"Model.{name}"


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_the_examples_run(workspace: Path, example: doctest.DocTest) -> None:
    example.globs = {"seresnext": seresnext, "np": np, "Path": Path}
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed, tried = runner.run(example, out=output.append)[:2]
    assert tried > 0
    assert failed == 0, "".join(output)


def test_importing_the_package_loads_nothing_else() -> None:
    def loaded(modules: str) -> set[str]:
        script = f"import {modules}; print(*{{m.partition('.')[0] for m in sys.modules}})"
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return set(done.stdout.split()) - sys.stdlib_module_names

    assert loaded("sys, seresnext") - loaded("sys") == {"seresnext"}


def test_all_names_are_there_and_no_others() -> None:
    assert set(dir(seresnext)) == set(seresnext.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = seresnext.fit  # type: ignore[attr-defined]
    assert callable(seresnext.export), "a module of the same name must not take its place"


class TestPredict:
    def test_every_kind_of_image_gives_the_same_answer(self, workspace: Path) -> None:
        path = workspace / "photos" / "val" / "dog" / "1.png"
        image = Image.open(path)
        with seresnext.load("runs/mine", device="cpu") as model:
            kinds = [str(path), path, path.read_bytes(), image, np.asarray(image)]
            answers = model.predict(kinds, top=2)
            assert {answer.classes for answer in answers} == {("dog", "cat")}
            assert len({answer.probabilities for answer in answers}) == 1
            alone = model.predict(path, top=2)
            assert alone.classes == answers[0].classes
            assert alone.probabilities == pytest.approx(answers[0].probabilities, abs=1e-6)

    def test_a_bad_item_does_not_affect_the_others(self, workspace: Path) -> None:
        good, empty = workspace / "cat.jpg", np.zeros((4, 4), np.uint8)
        with seresnext.load("runs/mine", device="cpu") as model:
            answers = model.predict([good, workspace / "none.jpg", b"<html>", empty, good])
            assert [bool(a.error) for a in answers] == [False, True, True, True, False]
            assert answers[0] == answers[4]
            assert answers[1].error == "No such file or directory"
            assert "expected uint8 [height, width, 3]" in answers[3].error
            with pytest.raises(UserError, match=r"none\.jpg: No such file"):
                model.predict(workspace / "none.jpg")
            with pytest.raises(UserError, match="--top: expected 1 or more"):
                model.predict(good, top=0)

    def test_logits_are_those_of_the_runtime(self, workspace: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
        with seresnext.load("runs/mine", device="cpu") as model:
            np.testing.assert_array_equal(model.logits(pixels), model.runtime.predict(pixels))
            for wrong in (pixels[0], pixels.astype(np.float32), pixels[:, :16]):
                with pytest.raises(UserError, match=r"expected uint8 \[N, 32, 32, 3\]"):
                    model.logits(wrong)


class TestLoad:
    def test_what_is_written_is_loaded(
        self, workspace: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Run, model folder, checkpoint, timm's weights, ONNX: the same answers."""
        seresnext.convert("runs/mine", "timm.safetensors")
        seresnext.export("runs/mine", "again.onnx", data="photos")
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
        newest = sorted(Path("runs/mine/checkpoints").iterdir())[-1]
        expected = seresnext.load("runs/mine").logits(pixels)
        for path in ("runs/mine/model", newest, "again.onnx"):
            logits = seresnext.load(path).logits(pixels)
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        caplog.clear()
        theirs = seresnext.load("timm.safetensors")
        (inputs, names) = (record.getMessage() for record in caplog.records)
        assert inputs.startswith(
            "timm.safetensors: assumed input: 224 px, crop ratio 0.875, bicubic"
        )
        assert names == "timm.safetensors: no class names came with the weights; they are numbered"
        assert theirs.class_names == ("0", "1"), "timm's file has no class names"
        np.testing.assert_allclose(theirs.runtime.predict(pixels), expected, rtol=1e-4, atol=1e-5)

    def test_what_is_no_model_is_one_line(self, workspace: Path) -> None:
        for path in ("nowhere", "photos", "cat.jpg"):
            with pytest.raises(UserError, match=path):
                seresnext.load(path)


class TestConfig:
    def test_short_names_and_groups(self) -> None:
        config = seresnext.recipe("finetune").replace(
            data="photos", epochs=5, optim={"momentum": 0.8}, engine={"threads": 2}, device="cpu"
        )
        assert (config.data.root, config.run.duration) == ("photos", "5 epochs")
        assert (config.optim.momentum, config.optim.nesterov) == (0.8, True)
        assert (config.engine.threads, config.engine.device) == (2, "cpu")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"learning_rate": 1}, "no setting 'learning_rate'; the names are data, "),
            ({"batch_size": 0}, "run.batch_size: expected 1 or more, got 0"),
            (
                {"optim": {"rate": 1}},
                "optim.rate: no such field; the fields here are name, lr_per_256",
            ),
            ({"lr": -1.0}, "optim.lr: expected 0 or more, got -1.0"),
            ({"epochs": float("nan")}, "run.duration: expected a number and a unit"),
        ],
    )
    def test_a_wrong_change_is_refused_by_name(self, changes: dict, message: str) -> None:
        with pytest.raises(UserError, match=message):
            seresnext.recipe("demo").replace(**changes)


def test_the_history_is_the_runs_records(workspace: Path) -> None:
    history = seresnext.TrainResult(Path("runs/mine"), None).history
    assert [r["step"] for r in history if "train/loss" in r] == list(range(1, 37))
    assert sum("val/top1" in r for r in history) == 6
