"""Evaluation on a folder: intervals, calibration, other inputs, fewer classes, two models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from PIL import Image

import seresnext
from runs import Run, refused, run_cli
from seresnext.data.preprocess import preprocess
from seresnext.model.saved_model import load_model, save_model
from seresnext.model.spec import ModelSpec
from seresnext.significance import (
    ENOUGH,
    accuracy_interval,
    difference_interval,
    interval_text,
    mcnemar,
)
from seresnext.temperature import LogitSample, fit_temperature


@pytest.mark.parametrize(
    ("right", "images"), [(0, 1), (13, 13), (352, 355), (1, 90), (7935, 10000)]
)
def test_the_interval_is_wilsons(right: int, images: int) -> None:
    expected = scipy.stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    low, high = accuracy_interval(right / images, images)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low < right / images or right == 0
    text = interval_text(right / images, images)
    assert text == ("" if images >= ENOUGH else f"{100 * low:.2f} to {100 * high:.2f}")


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 0), (10, 25), (600, 500), (30_000, 29_000)])
def test_mcnemar_is_the_exact_binomial_test(one: int, other: int) -> None:
    expected = scipy.stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(expected, rel=1e-9)
    low, high = difference_interval(one, other, 100_000)
    assert low < (one - other) / 100_000 < high


class TestTemperature:
    def logits(self, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
        """Labels drawn from the softmax of the logits, which are then sharpened."""
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(4000, 5)) * 2
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
        return (sharpness * logits).astype(np.float32), labels.astype(np.int32)

    @pytest.mark.parametrize("sharpness", [0.3, 1.0, 6.0])
    def test_it_minimises_the_loss(self, sharpness: float) -> None:
        logits, labels = self.logits(sharpness)

        def loss(log_t: float) -> float:
            scaled = logits.astype(float) / np.exp(log_t)
            own = scaled[np.arange(len(labels)), labels]
            return float((scipy.special.logsumexp(scaled, axis=1) - own).mean())

        expected = np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-3, 3)).x)
        found = fit_temperature(logits, labels)
        assert found == pytest.approx(expected, rel=1e-3)
        assert found == pytest.approx(sharpness, rel=0.1)

    def test_there_is_none(self) -> None:
        right = 5 * np.eye(3, dtype=np.float32)
        assert fit_temperature(right, np.arange(3, dtype=np.int32)) is None
        assert fit_temperature(right * np.nan, np.arange(3, dtype=np.int32)) is None
        assert fit_temperature(right[:0], np.zeros(0, np.int32)) is None

    def test_a_large_set_is_sampled(self) -> None:
        assert LogitSample(50_000, 10).every == 1
        assert LogitSample(50_000, 21_000).every == 32


def test_a_converted_model_has_calibrated_probabilities(
    one: Run, images: Path, tmp_path: Path
) -> None:
    """So have the artifacts that are made of it; the answers are the same."""
    temperature = 1.7
    done = run_cli("convert", one.folder, tmp_path / "cal", "--temperature", temperature)
    assert "the logits are divided by 1.7" in done.stdout
    run_cli("export", tmp_path / "cal", "--out", tmp_path / "cal.onnx")
    files = sorted((images / "val").glob("*/*"))[:5]
    with seresnext.load(one.folder) as model:
        opened = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        pixels = np.stack([preprocess(image, model.input) for image in opened])
        logits, before = model.logits(pixels), model.predict(files, top=3)
    expected = scipy.special.softmax(logits.astype(float) / temperature, axis=1)
    for path in (tmp_path / "cal", tmp_path / "cal.onnx"):
        with seresnext.load(path) as model:
            assert np.allclose(model.logits(pixels), logits / temperature, atol=1e-4)
            for row, old, new in zip(expected, before, model.predict(files, top=3), strict=True):
                assert new.classes == old.classes
                assert new.probabilities == pytest.approx(sorted(row)[::-1], abs=1e-4)
    for wrong in ("0", "-1", "nan", "1000"):
        line = refused("convert", one.folder, tmp_path / "x", "--temperature", wrong)
        assert "--temperature: expected" in line
    assert not (tmp_path / "x").exists()


def evaluated(*arguments: object) -> list[dict]:
    return [json.loads(t) for t in run_cli("evaluate", *arguments, "--json").stdout.splitlines()]


def test_text_and_json_have_intervals_and_calibration(one: Run, images: Path) -> None:
    (found,) = evaluated(one.folder, "--data", images)
    assert found["top1_interval"] == list(accuracy_interval(found["top1"], 13))
    assert found["classes"] == found["classes_present"] == 3
    assert 0 <= found["calibration_error"] <= 1
    text = run_cli("evaluate", one.folder, "--data", images).stdout
    assert f"top-1 {found['top1']:.2%} ({interval_text(found['top1'], 13)})" in text
    assert f"calibration error {found['calibration_error']:.2%}" in text
    assert "in brackets: 95 % intervals" in text


class TestInputs:
    def test_a_sweep_is_every_combination(self, one: Run, images: Path) -> None:
        given = (one.folder, "--data", images, "--image-size", "32,48", "--crop-ratio", 0.875, 1.0)
        found = evaluated(*given)
        settings = [(e["image_size"], e["crop_ratio"]) for e in found]
        assert settings == [(32, 0.875), (32, 1.0), (48, 0.875), (48, 1.0)]
        text = run_cli("evaluate", *given).stdout
        assert len(text.splitlines()) == 1 + 4 + 3
        best = max(found, key=lambda e: (e["top1"], -e["loss"]))
        assert f"best: --image-size {best['image_size']} --crop-ratio {best['crop_ratio']}" in text
        alone = evaluated(one.folder, "--data", images, "--image-size", 48, "--crop-ratio", "1.0")
        assert alone[0]["loss"] == found[3]["loss"] != found[2]["loss"]

    def test_what_cannot_be_is_refused(self, one: Run, images: Path, tmp_path: Path) -> None:
        given = (one.folder, "--data", images)
        assert "expected 32 or more, got 5" in refused("evaluate", *given, "--image-size", 5)
        assert "expected 1 or less, got 1.5" in refused("evaluate", *given, "--crop-ratio", 1.5)
        typed = run_cli("evaluate", *given, "--image-size", "32,a", code=2).stderr
        assert "--image-size: expected a whole number, got 'a'" in typed
        artifact = tmp_path / "model.onnx"
        run_cli("export", one.folder, "--out", artifact)
        line = refused("evaluate", artifact, "--data", images, "--image-size", 48)
        assert "--image-size 48: this file computes 32 px only" in line
        assert evaluated(artifact, "--data", images, "--crop-ratio", 0.5)[0]["crop_ratio"] == 0.5


class TestMirrorImages:
    def test_answers_are_the_mean_of_both(self, one: Run, images: Path, tmp_path: Path) -> None:
        """Of runs and artifacts; computed by hand, image by image."""
        artifact, files = tmp_path / "model.onnx", sorted((images / "val").glob("*/*"))
        run_cli("export", one.folder, "--out", artifact)
        for model in (one.folder, artifact):
            given = (model, "--data", images)
            (found,), (plain,) = evaluated(*given, "--flip"), evaluated(*given)
            loss, right = 0.0, 0
            with seresnext.load(model) as loaded:
                for file in files:
                    pixels = preprocess(np.asarray(Image.open(file).convert("RGB")), loaded.input)
                    both = loaded.logits(np.stack([pixels, cv2.flip(pixels, 1)]))
                    mean, label = both.mean(0), loaded.class_names.index(file.parent.name)
                    loss += float(scipy.special.logsumexp(mean) - mean[label]) / len(files)
                    right += mean.argmax() == label
            assert found["loss"] == pytest.approx(loss, rel=1e-4)
            assert found["top1"] == right / len(files)
            assert (found["flip"], plain["flip"]) == (True, False)
            assert abs(plain["loss"] - loss) > 1e-3 * loss, "or the test cannot fail"
        assert "mean of the logits" in run_cli("evaluate", *given, "--flip").stdout


class TestClasses:
    @pytest.fixture
    def fewer(self, images: Path, tmp_path: Path) -> Path:
        """The images of red and blue only."""
        for name in ("red", "blue"):
            shutil.copytree(images / "val" / name, tmp_path / "fewer" / name)
        return tmp_path / "fewer"

    def test_answers_are_chosen_among_those_present(self, one: Run, fewer: Path) -> None:
        (among,) = evaluated(one.folder, "--data", fewer, "--present-classes")
        (whole,) = evaluated(one.folder, "--data", fewer)
        assert (among["classes"], whole["classes"], whole["classes_present"]) == (2, 3, 2)
        assert among["top1"] >= whole["top1"]
        assert among["loss"] < whole["loss"], "the third class takes a share of the probability"
        text = run_cli("evaluate", one.folder, "--data", fewer).stdout
        assert "1 of 3 classes have no images here; --present-classes" in text
        with seresnext.load(one.folder) as model:
            names = model.class_names
            files = sorted(fewer.glob("*/*"))
            right = 0
            for prediction in model.predict(files, top=3):
                answers = [c for c in prediction.classes if c in ("red", "blue")]
                right += answers[0] == Path(prediction.file).parent.name
        assert names == ("blue", "green", "red")
        assert among["top1"] == right / len(files)


class TestTwoModels:
    def test_against_itself_nothing_differs(self, one: Run, images: Path) -> None:
        (found,) = evaluated(one.folder, "--data", images, "--against", one.folder / "model")
        assert (found["only_first"], found["only_second"], found["p_value"]) == (0, 0, 1.0)
        assert found["first"]["loss"] == found["second"]["loss"]
        assert found["interval"][0] < 0 < found["interval"][1]
        given = ("--data", images, "--against", one.folder)
        text = run_cli("evaluate", one.folder, *given).stdout
        assert "p = 1; the models cannot be told apart" in text

    def test_images_that_one_has_right(self, one: Run, images: Path, tmp_path: Path) -> None:
        """The other model calls its classes by each other's names, in another order."""
        spec, weights = load_model(one.folder / "model")
        order = [2, 0, 1]  # the same answers, in another order of the classes
        for name in ("fc.weight", "fc.bias"):
            weights[name] = weights[name][order]
        for folder, names in (("same", order), ("wrong", [0, 1, 2])):
            changed = ModelSpec(
                spec.architecture, tuple(spec.class_names[k] for k in names), spec.input
            )
            save_model(tmp_path / folder, changed, weights)
        (same,) = evaluated(one.folder, "--data", images, "--against", tmp_path / "same")
        assert same["first"]["loss"] == pytest.approx(same["second"]["loss"], rel=1e-6)
        assert (same["only_first"], same["only_second"]) == (0, 0)
        (wrong,) = evaluated(one.folder, "--data", images, "--against", tmp_path / "wrong")
        right = round(13 * wrong["first"]["top1"])
        assert wrong["only_first"] >= right - round(13 * wrong["second"]["top1"])
        apart = wrong["only_first"] - wrong["only_second"]
        assert wrong["difference"] == pytest.approx(apart / 13)
        assert wrong["p_value"] == mcnemar(wrong["only_first"], wrong["only_second"]) < 0.05

    def test_other_classes_are_refused(self, one: Run, images: Path, tmp_path: Path) -> None:
        seresnext.convert(one.folder, tmp_path / "numbered", class_names=("red", "x", "blue"))
        given = ("--data", images, "--against", tmp_path / "numbered")
        assert "different classes (green, x in one only)" in refused("evaluate", one.folder, *given)
        line = refused("evaluate", one.folder, *given, "--present-classes")
        assert "one of the models has no class green" in line
        many = ("--image-size", "32,48")
        assert (
            "--against takes one" in run_cli("evaluate", one.folder, *given, *many, code=2).stderr
        )


class TestImageNetsOtherSets:
    def test_folders_of_numbers_are_positions_of_the_classes(
        self, one: Run, images: Path, tmp_path: Path
    ) -> None:
        """As ImageNet-V2 has them; the classes of the run are blue, green and red."""
        for number, name in enumerate(("blue", "green", "red")):
            shutil.copytree(images / "val" / name, tmp_path / "v2" / str(number))
        done = run_cli("evaluate", one.folder, "--data", tmp_path / "v2", "--json")
        (named,) = evaluated(one.folder, "--data", images)
        assert json.loads(done.stdout)["loss"] == named["loss"]
        assert "the class folders are numbers, taken as positions of the classes" in done.stderr
        shutil.copytree(images / "val" / "red", tmp_path / "v2" / "3")
        assert "no known class: 0, 1, 2, 3" in refused(
            "evaluate", one.folder, "--data", tmp_path / "v2"
        )

    @pytest.fixture
    def numbered(self, images: Path, tmp_path: Path) -> Path:
        """Validation images under ImageNet's names, numbered in the order of their folders."""
        files = sorted((images / "val").glob("*/*"))
        for number, file in enumerate(files, 1):
            name = f"ILSVRC2012_val_{number:08}{file.suffix}"
            (tmp_path / "val" / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "val" / file.parent.name / name)
        return tmp_path / "val"

    def test_real_labels(self, one: Run, numbered: Path, tmp_path: Path) -> None:
        labels = [[0], [], [0, 1], [1], [1, 2], [], [2], [0, 1, 2], [2], [1], [0], [2], [1]]
        real = tmp_path / "real.json"
        real.write_text(json.dumps(labels))
        (found,) = evaluated(one.folder, "--data", numbered, "--real-labels", real)
        files = sorted(numbered.glob("*/*"), key=lambda file: file.name)
        with seresnext.load(one.folder) as model:
            answers = [model.class_names.index(p.classes[0]) for p in model.predict(files)]
        right = [a in row for a, row in zip(answers, labels, strict=True) if row]
        assert found["real"] == {"top1": np.mean(right), "images": 11}
        assert 0 < found["real"]["top1"] < 1
        text = run_cli("evaluate", one.folder, "--data", numbered, "--real-labels", real).stdout
        assert f"by the ReaL labels: top-1 {np.mean(right):.2%} of 11 images" in text

    def test_what_cannot_be_counted(
        self, one: Run, numbered: Path, images: Path, tmp_path: Path
    ) -> None:
        real, given = tmp_path / "real.json", ("evaluate", one.folder, "--real-labels")
        for content in ("[[3]]", "[[-1]]", "[0]", "{}", "[[true]]", '[["0"]]', "[[0.0]]"):
            real.write_text(content)
            line = refused(*given, real, "--data", numbered)
            assert "a list with a list of class indices from 0 to 2 for each image" in line
        assert "cannot read ReaL labels" in refused(*given, tmp_path / "x", "--data", numbered)
        real.write_text("[[0]]")
        assert "is none of the 1 images that they" in refused(*given, real, "--data", numbered)
        assert "is none of the 1 images that they" in refused(*given, real, "--data", images)
        line = refused(*given, real, "--data", numbered, "--present-classes")
        assert "--real-labels: expected all classes" in line
