"""What a run leaves, which model it ships, and that a finished run is never touched."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from runs import Run, checkpoint, evaluations, refused, run_cli, train_arguments
from seresnext.config import load_config
from seresnext.data.sources import open_splits
from seresnext.files import append_json, to_json
from seresnext.tensors import write_safetensors
from seresnext.training.log import METRICS_FILE, LineReporter, read_metrics
from seresnext.training.loop import train
from seresnext.training.metrics import Metrics, metrics_from

MODEL = "model/model.safetensors"


@pytest.fixture
def copy(one: Run, tmp_path: Path) -> Path:
    """A copy of the undisturbed run of 24 steps."""
    return Path(shutil.copytree(one.folder, tmp_path / "copy"))


def contents(run: Path) -> dict[str, tuple[bytes, int]]:
    """Path -> content and time of every file but the lock."""
    files = [p for p in run.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(run)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def result(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "result.json").read_text()))


class TestAFinishedRun:
    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (("--image-size", 48), "image_size: 32 -> 48"),
            (("--augment.mean", 0.5, 0.5, 0.5), "mean: "),
            (("--augment.std", 0.5, 0.5, 0.5), "std: "),
            (("--augment.eval-crop-ratio", 0.5), "crop_ratio: 1.0 -> 0.5"),
            (("--model.layers", 1, 1, 2, 1), "layers"),
            (("--resume", "never"), "choose another --out"),
            (("--resume", "CHECKPOINT"), "choose another --out"),
        ],
    )
    def test_refuses_another_meaning(
        self, images: Path, copy: Path, more: tuple[object, ...], message: str
    ) -> None:
        before = contents(copy)
        more = tuple(checkpoint(copy, 20) if m == "CHECKPOINT" else m for m in more)
        assert message in refused(*train_arguments(images, copy, 24, 4, *more))
        assert contents(copy) == before

    def test_is_not_written_to(self, images: Path, copy: Path) -> None:
        before = contents(copy)
        more = ("--optim.lr-per-256", 0.5, "--loss.label-smoothing", 0, "--run.ship", "last")
        shown = run_cli(*train_arguments(images, copy, 24, 4, *more)).stdout
        assert contents(copy) == before
        assert "already finished at step 24; nothing to train" in shown
        assert "not used: optim.lr_per_256 changed since the checkpoint: 0.24 -> 0.5" in shown
        assert "--epochs" in shown
        figure = json.loads(run_cli("evaluate", copy, "--data", images, "--json").stdout)["top1"]
        assert f"top-1 {figure:.2%} on 13" in shown

    def test_of_version_0_1_is_not_written_to(self, images: Path, copy: Path) -> None:
        (copy / "result.json").unlink()
        before = contents(copy)
        shown = run_cli(*train_arguments(images, copy, 24, 4)).stdout
        assert "recorded no score" in shown
        assert "top-1" not in shown
        assert contents(copy) == before

    def test_whose_model_was_not_yet_written_gets_it(self, images: Path, copy: Path) -> None:
        model = (copy / MODEL).read_bytes()
        (copy / MODEL).write_bytes(b"cut short")
        run_cli(*train_arguments(images, copy, 24, 4))
        assert (copy / MODEL).read_bytes() == model

    def test_goes_on_for_longer_and_a_changed_rate_is_said(self, images: Path, copy: Path) -> None:
        more = ("--optim.lr-per-256", 0.5)
        shown = run_cli(*train_arguments(images, copy, 26, 4, *more)).stdout
        assert "warning: optim.lr_per_256 changed since the checkpoint: 0.24 -> 0.5" in shown
        assert result(copy)["step"] == 26


class TestTheShippedModel:
    AVERAGED = ("--optim.ema-decay", 0.5)

    @pytest.mark.parametrize(
        ("more", "ship", "group"),
        [
            (("--run.ship", "last"), "last", "model"),
            ((*AVERAGED, "--run.ship", "last"), "last", "model"),
            ((*AVERAGED, "--run.ship", "average"), "average", "ema"),
        ],
    )
    def test_is_the_one_asked_for_with_its_own_score(
        self, images: Path, tmp_path: Path, more: tuple[object, ...], ship: str, group: str
    ) -> None:
        out = tmp_path / "run"
        shown = run_cli(*train_arguments(images, out, 8, 4, *more)).stdout
        shipped, kept = (
            load_file(out / MODEL),
            load_file(checkpoint(out, 8) / f"{group}.safetensors"),
        )
        np.testing.assert_array_equal(shipped["fc.weight"], kept["fc.weight"])
        metrics = json.loads(run_cli("evaluate", out, "--data", images, "--json").stdout)
        recorded = result(out)
        assert (recorded["ship"], recorded["model_step"]) == (ship, 8)
        assert f"{ship} weights, of step 8: top-1 {metrics['top1']:.2%}" in shown
        assert recorded["metrics"]["loss"] == pytest.approx(metrics["loss"], rel=1e-5)  # type: ignore[index]

    def test_is_the_best_and_both_scores_are_said(self, images: Path, tmp_path: Path) -> None:
        """A rate that ruins the network after the first evaluations."""
        out = tmp_path / "run"
        more = ("--optim.lr-per-256", 60, "--schedule.warmup", "12 steps", "--run.early-stop", 2)
        often = ("--run.eval-every", "2 steps", "--run.save-every", "1 steps")
        shown = run_cli(*train_arguments(images, out, 40, 4, *more, *often)).stdout
        best = max(evaluations(out), key=lambda r: (r["val/top1"], -r["val/loss"]))
        last = evaluations(out)[-1]
        assert best["step"] < last["step"] < 40
        assert result(out)["model_step"] == best["step"]
        assert "2 evaluations without a better top-1 (run.early_stop)" in shown
        assert f"best weights, of step {best['step']}: top-1 {best['val/top1']:.2%}" in shown
        assert f"of step {last['step']}: top-1 {last['val/top1']:.2%}" in shown
        assert f"top-1 {best['val/top1']:.2%} on 13" in shown
        metrics = json.loads(run_cli("evaluate", out, "--data", images, "--json").stdout)
        assert metrics["top1"] == best["val/top1"]

    def test_is_the_last_where_the_best_is_damaged(self, images: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        more = ("--optim.lr-per-256", 0, "--run.eval-every", "2 steps")
        run_cli(*train_arguments(images, out, 6, 4, *more))
        best = int(str(result(out)["model_step"]))
        assert best < 6
        shutil.rmtree(out / "model")
        (checkpoint(out, best) / "model.safetensors").write_bytes(b"damaged")
        shown = run_cli(*train_arguments(images, out, 6, 4, *more)).stdout
        assert "warning: the best weights cannot be had: checkpoint file" in shown
        assert (result(out)["ship"], result(out)["model_step"]) == ("last", 6)

    def test_best_needs_validation_images(self, images: Path, tmp_path: Path) -> None:
        arguments = train_arguments(images, tmp_path / "run", 2, 4, "--run.ship", "best")
        data = arguments.index("--data")
        arguments[data : data + 2] = ["--train-data", str(images / "train")]
        assert "run.ship: best needs validation images" in refused(*arguments)

    def test_average_needs_one(self, images: Path, tmp_path: Path) -> None:
        arguments = train_arguments(images, tmp_path, 8, 4, "--run.ship", "average")
        assert "run.ship: expected best or last" in refused(*arguments)


VERBS = {
    "evaluate": ("evaluate", "RUN", "--data", "IMAGES"),
    "predict": ("predict", "RUN", "IMAGES/val/red"),
    "export": ("export", "RUN", "--out", "NEW.onnx"),
    "convert": ("convert", "RUN", "NEW.safetensors"),
    "train": ("train", "--pretrained", "RUN"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "what", ["interrupted", pytest.param("checkpoint", marks=pytest.mark.slow)]
)
def test_every_verb_takes_an_interrupted_run_and_a_checkpoint(
    images: Path,
    copy: Path,
    tmp_path: Path,
    verb: str,
    what: str,
) -> None:
    shutil.rmtree(copy / "model")
    path = checkpoint(copy, 20) if what == "checkpoint" else copy
    names = {"RUN": str(path), "IMAGES": str(images), "NEW": str(tmp_path / "new")}
    arguments = [re.sub("[A-Z]{3,}", lambda m: names[m[0]], word) for word in VERBS[verb]]
    if verb == "train":
        arguments = train_arguments(images, tmp_path / "new", 1, 4, *arguments[1:])
    done = run_cli(*arguments)
    said = f"warning: {copy} is not finished; using its newest checkpoint, step 24"
    assert (said in done.stderr) == (what == "interrupted")


@pytest.mark.parametrize("umask", [0o027, pytest.param(0o002, marks=pytest.mark.slow)])
def test_files_have_the_modes_that_the_umask_leaves(
    images: Path, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        run_cli(*train_arguments(images, tmp_path / "run", 1, 4))
        run_cli("export", tmp_path / "run", "--out", tmp_path / "model.onnx")
        run_cli("convert", tmp_path / "run", tmp_path / "model.safetensors")
        run_cli("convert", tmp_path / "run", tmp_path / "folder")
    finally:
        os.umask(before)
    written = [p for p in tmp_path.rglob("*") if p.name != ".lock"]
    assert len(written) > 12
    modes = {p: p.stat().st_mode & 0o777 for p in written}
    assert {p: m for p, m in modes.items() if m != (0o777 if p.is_dir() else 0o666) & ~umask} == {}


class TestNumbersThatAreNotFinite:
    RUINOUS = ("--optim.lr-per-256", 1e43, "--schedule.warmup", "0 steps")
    """Beyond float32: the first update makes the weights infinite."""

    def test_are_not_saved_and_the_last_good_checkpoint_is_named(
        self, images: Path, copy: Path
    ) -> None:
        model = (copy / MODEL).read_bytes()
        line = refused(*train_arguments(images, copy, 40, 4, *self.RUINOUS))
        assert "the weights after step 28 are not finite numbers" in line
        assert f"last good checkpoint is {checkpoint(copy, 24)}" in line
        assert not checkpoint(copy, 28).exists()
        assert (copy / MODEL).read_bytes() == model

    def test_are_not_shipped(self, images: Path, tmp_path: Path) -> None:
        line = refused(*train_arguments(images, tmp_path, 1, 4, *self.RUINOUS))
        assert "No checkpoint was written" in line
        assert not (tmp_path / "model").exists()

    def test_of_a_model_are_said(self, images: Path, copy: Path) -> None:
        weights = load_file(copy / MODEL)
        weights["fc.bias"][0] = np.nan
        write_safetensors(copy / MODEL, weights)
        line = refused("predict", copy, images / "val" / "red")
        assert "the model answers NaN or infinity" in line
        done = run_cli("evaluate", copy, "--data", images, "--json")
        assert "the model answers NaN or infinity" in done.stderr
        found = json.loads(done.stdout, parse_constant=pytest.fail)
        assert (found["top1"], found["loss"], found["not_finite"]) == (0, None, {"loss": "nan"})


def test_records_survive_strict_json(tmp_path: Path) -> None:
    append_json(tmp_path / METRICS_FILE, {"step": 1, "val/loss": float("nan"), "val/top1": 0.0})
    text = (tmp_path / METRICS_FILE).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["val/loss"] is None
    (record,) = read_metrics(tmp_path)
    assert np.isnan(record.pop("val/loss"))
    assert record == {"step": 1, "val/top1": 0.0}


def test_metrics_survive_strict_json() -> None:
    metrics = Metrics(0.5, 1.0, float("nan"), 3, 0, 1.5)
    again = metrics_from(json.loads(to_json(metrics.to_dict()), parse_constant=pytest.fail))
    assert str(again) == str(metrics)


class Meddling(LineReporter):
    """Changes an image as soon as training starts."""

    def __init__(self, image: Path) -> None:
        super().__init__(io.StringIO())
        self.image = image

    def started(self, step: int, total_steps: int, steps_per_epoch: float) -> None:
        super().started(step, total_steps, steps_per_epoch)
        with self.image.open("ab") as file:
            file.write(b"more")


def test_the_fingerprint_is_that_of_the_start(images: Path, one: Run, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "images"))
    config = load_config(one.folder / "config.json").replace(
        data=str(data), out=str(tmp_path / "run")
    )
    config = config.replace(run={"duration": "1 steps"})
    before = open_splits(config.data)[0].fingerprint()
    train(config, Meddling(data / "train" / "red" / "0.png"))
    state = json.loads((checkpoint(tmp_path / "run", 1) / "state.json").read_text())
    assert state["data_fingerprint"] == before
    assert open_splits(config.data)[0].fingerprint() != before


def test_a_limit_of_the_engine_is_found_before_anything_is_made(
    images: Path, tmp_path: Path
) -> None:
    line = refused(*train_arguments(images, tmp_path / "run", 1, 1))
    assert "leave batch norm one value per channel" in line
    assert not (tmp_path / "run").exists()
