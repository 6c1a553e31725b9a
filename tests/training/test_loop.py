"""A run from start to end on real files: train, resume, evaluate, predict."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from safetensors.numpy import load_file

from runs import (
    NETWORK,
    RECORDING,
    checkpoint,
    digest,
    evaluations,
    finish,
    records,
    refused,
    run_cli,
    run_process,
    start,
    write_images,
)

SETTINGS = (*NETWORK, "--batch-size", 8, "--augment.mixup", 0, "--workers", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 + 21 images of 3 classes."""
    return write_images(tmp_path_factory.mktemp("photos"), train=60, val=21)


def four_epochs(data: Path, out: Path, *more: object) -> tuple[object, ...]:
    """Arguments of a run of 4 epochs: 30 steps of 8 images."""
    given = ("--data", data, "--out", out, "--epochs", 4, "--precision", "fp32", *SETTINGS)
    return ("train", *given, *more)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run with averaged weights."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    more = ("--optim.ema-decay", "0.5", "--run.log-every", "5 steps")
    done = run_process(*four_epochs(data, out, *more))
    assert "top-1" in done.stdout
    assert "30 steps of 8 images (4.0 epochs)" in done.stdout
    return out


def again(run: Path, out: Path, *more: object) -> CompletedProcess[str]:
    """Run the same configuration in this process, with as many threads, to the folder `out`."""
    state = json.loads((checkpoint(run, 30) / "state.json").read_text())
    threads = ("--engine.threads", state["engine"]["threads"])
    return run_cli("train", "--config", run / "config.json", "--out", out, *threads, *more)


def test_the_run_folder_holds_everything(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "model"} <= names
    trained = [r for r in records(run) if "train/loss" in r]
    assert [r["step"] for r in trained][-1] == 30
    assert {"epoch", "lr", "images_per_second"} <= trained[0].keys()
    validated = evaluations(run)
    assert [r["step"] for r in validated] == [8, 15, 23, 30]
    assert all(r["val/images"] == 21 and np.isfinite(r["val/loss"]) for r in validated)
    assert trained[-1]["train/loss"] < trained[0]["train/loss"]


def test_it_learned(run: Path, data: Path) -> None:
    done = run_cli("evaluate", run, "--data", data, "--json")
    metrics = json.loads(done.stdout)
    assert metrics["images"] == 21
    assert metrics["top1"] >= 0.9
    last = evaluations(run)[-1]
    assert metrics["top1"] == last["val/top1"]
    assert metrics["loss"] == pytest.approx(last["val/loss"], rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 21, 64])
def test_evaluation_does_not_depend_on_the_batch_size(
    run: Path, data: Path, batch_size: int
) -> None:
    done = run_cli("evaluate", run, "--data", data / "val", "--batch-size", batch_size, "--json")
    metrics, last = json.loads(done.stdout), evaluations(run)[-1]
    assert (metrics["images"], metrics["top1"]) == (21, last["val/top1"])
    assert metrics["loss"] == pytest.approx(last["val/loss"], rel=1e-4)


def test_predict_names_the_class(run: Path, data: Path) -> None:
    done = run_cli("predict", run, data / "val" / "red", data / "val" / "blue", "--json")
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(lines) == 14
    right = [Path(r["file"]).parent.name == r["top"][0]["class"] for r in lines]
    assert sum(right) >= 12
    assert sum(t["probability"] for t in lines[0]["top"]) == pytest.approx(1)


def test_predict_goes_on_past_a_bad_file_and_says_so(run: Path, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("<html>not found</html>")
    done = run_cli("predict", run, bad, data / "val" / "red" / "0.png", code=1)
    assert "bad.jpg: cannot be read: a web page" in done.stderr
    assert "red" in done.stdout


def test_the_same_command_again_has_nothing_to_do(run: Path, data: Path) -> None:
    before = digest(run)
    more = ("--optim.ema-decay", "0.5", "--run.log-every", "5 steps")
    done = run_cli(*four_epochs(data, run, *more))
    assert "already finished at step 30" in done.stdout
    assert digest(run) == before


def test_a_saved_config_reruns_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    again(run, tmp_path / "again")
    assert digest(tmp_path / "again") == digest(run)


def test_workers_change_nothing(run: Path, tmp_path: Path) -> None:
    again(run, tmp_path / "four", "--workers", 4)
    assert digest(tmp_path / "four") == digest(run)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_killed_run_resumes_to_the_same_bits(run: Path, tmp_path: Path, name: str) -> None:
    out, save = tmp_path / "killed", ("--run.save-every", "3 steps")
    arguments = ("train", "--config", str(run / "config.json"), "--out", str(out), *save)
    command = [sys.executable, RECORDING, str(tmp_path), f"8:{name}", *arguments]
    done = finish(start(command), timeout=60)
    if name == "SIGTERM":
        assert done.returncode == 75, done.stderr
        assert "The same command goes on from here" in done.stderr
    else:
        assert done.returncode == -signal.SIGKILL
    assert not (out / "model").exists()
    assert "resuming after step" in again(run, out, *save).stdout
    assert digest(out) == digest(run)
    assert [r["step"] for r in evaluations(out)] == [8, 15, 23, 30]


def test_resume_never_does_not_write_over_a_run(run: Path, data: Path) -> None:
    line = refused(*four_epochs(data, run, "--resume", "never"))
    assert "choose another --out" in line


def test_timm_opens_the_model(run: Path, data: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("engines.timm_reference", reason="needs timm")
    from engines.timm_reference import timm
    from seresnext.runtimes.base import create_runtime

    theirs = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    ours = create_runtime(run)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    mean, std = ours.spec.input.mean, ours.spec.input.std
    x = (torch.from_numpy(images).float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    with torch.inference_mode():
        expected = theirs(x.permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(ours.predict(images), expected, rtol=1e-4, atol=1e-4)


class TestPretrained:
    def test_another_class_count_starts_a_new_head(
        self, run: Path, data: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "two"
        for split in ("train", "val"):
            for name in ("red", "blue"):
                (other / split).mkdir(parents=True, exist_ok=True)
                (other / split / name).symlink_to(data / split / name)
        more = ("--pretrained", run, "--data.follow-links", "--epochs", 1)
        done = run_cli(*four_epochs(other, tmp_path / "run", *more))
        assert "classifier" in done.stdout
        assert json.loads((tmp_path / "run/model/config.json").read_text())["label_names"] == [
            "blue",
            "red",
        ]

    def test_another_network_is_refused_with_its_flags(
        self, run: Path, data: Path, tmp_path: Path
    ) -> None:
        more = ("--pretrained", run, "--model.layers", 1, 2, 1, 1)
        done = run_cli(*four_epochs(data, tmp_path / "run", *more), code=1)
        assert "--model.layers 1 1 1 1 --model.cardinality 2" in done.stderr


def test_nan_stops_the_run_and_lists_the_samples(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "nan"
    more = ("--optim.lr-per-256", "1e30", "--schedule.warmup", "0 steps")
    log = ("--run.log-every", "1 steps", "--run.max-bad-steps", 3)
    assert "3 steps in a row" in refused(*four_epochs(data, out, *more, *log))
    bad = [json.loads(text) for text in (out / "bad-steps.jsonl").read_text().splitlines()]
    assert len(bad) >= 3
    assert all(len(entry["samples"]) == 8 for entry in bad)


def test_early_stop_writes_the_best_model(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "early"
    more = ("--optim.lr-per-256", 0, "--run.early-stop", 2, "--run.eval-every", "2 steps")
    done = run_cli(*four_epochs(data, out, *more))
    assert evaluations(out)[-1]["step"] < 30, done.stdout
    best = max(evaluations(out), key=lambda r: r["val/top1"])
    kept = load_file(checkpoint(out, int(best["step"])) / "model.safetensors")
    written = load_file(out / "model" / "model.safetensors")
    np.testing.assert_array_equal(kept["fc.weight"], written["fc.weight"])
