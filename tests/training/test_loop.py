"""The main job through the real command: train, resume, evaluate, predict, on real files."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ("blue", "green", "red")
TINY = (
    "--model.layers 1 1 1 1 --image-size 32 --batch-size 8 --augment.mixup 0 --workers 1"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that a network tells apart at once: 20 + 7 images each, PNG and JPEG."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 7)):
        for channel, name in enumerate(reversed(CLASSES)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (40, 48, 3), np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / f"{i}.{'png' if i % 2 else 'jpg'}")
    return root


def seresnext(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "seresnext", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def train(data: Path, out: Path, *more: object, check: bool = True) -> subprocess.CompletedProcess:
    words = ("--data", data, "--out", out, "--epochs", 4, "--precision", "fp32", *TINY)
    return seresnext("train", *words, *more, check=check)


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def records(run: Path) -> list[dict]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed run: 4 epochs of 60 images in batches of 8, 30 steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = train(data, out, "--optim.ema-decay", "0.5", "--run.log-every", "5 steps")
    assert "top-1" in done.stdout
    assert "30 steps of 8 images (4.0 epochs)" in done.stdout
    return out


def test_the_run_folder_holds_everything(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "model"} <= names
    trained = [r for r in records(run) if "train/loss" in r]
    assert [r["step"] for r in trained][-1] == 30
    assert {"epoch", "lr", "images_per_second"} <= trained[0].keys()
    validated = [r for r in records(run) if "val/top1" in r]
    assert [r["step"] for r in validated] == [8, 15, 23, 30]
    assert all(r["val/images"] == 21 and np.isfinite(r["val/loss"]) for r in validated)
    assert trained[-1]["train/loss"] < trained[0]["train/loss"]


def test_it_learned(run: Path, data: Path) -> None:
    done = seresnext("evaluate", run, "--data", data, "--json")
    metrics = json.loads(done.stdout)
    assert metrics["images"] == 21
    assert metrics["top1"] >= 0.9
    last = [r for r in records(run) if "val/top1" in r][-1]
    assert metrics["top1"] == last["val/top1"]
    assert metrics["loss"] == pytest.approx(last["val/loss"], rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 21, 64])
def test_evaluation_does_not_depend_on_the_batch_size(
    run: Path, data: Path, batch_size: int
) -> None:
    done = seresnext("evaluate", run, "--data", data / "val", "--batch-size", batch_size, "--json")
    metrics, last = json.loads(done.stdout), [r for r in records(run) if "val/top1" in r][-1]
    assert (metrics["images"], metrics["top1"]) == (21, last["val/top1"])
    assert metrics["loss"] == pytest.approx(last["val/loss"], rel=1e-4)


def test_predict_names_the_class(run: Path, data: Path, tmp_path: Path) -> None:
    done = seresnext("predict", run, data / "val" / "red", data / "val" / "blue", "--json")
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(lines) == 14
    right = [Path(r["file"]).parent.name == r["top"][0]["class"] for r in lines]
    assert sum(right) >= 12
    assert sum(t["probability"] for t in lines[0]["top"]) == pytest.approx(1)


def test_predict_goes_on_past_a_bad_file_and_says_so(run: Path, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("<html>not found</html>")
    done = seresnext("predict", run, bad, data / "val" / "red" / "0.jpg", check=False)
    assert done.returncode == 1
    assert "bad.jpg: cannot be read: a web page" in done.stderr
    assert "red" in done.stdout


def test_the_same_command_again_has_nothing_to_do(run: Path, data: Path) -> None:
    before = digest(run)
    done = train(data, run, "--optim.ema-decay", "0.5", "--run.log-every", "5 steps")
    assert "already finished at step 30" in done.stdout
    assert digest(run) == before


def test_a_saved_config_reruns_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    seresnext("train", "--config", run / "config.json", "--out", tmp_path / "again")
    assert digest(tmp_path / "again") == digest(run)


def test_workers_change_nothing(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "four"
    seresnext("train", "--config", run / "config.json", "--out", out, "--workers", 4)
    assert digest(out) == digest(run)


def start(words: list[object]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "seresnext", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_resumes_to_the_same_bits(
    run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "killed"
    words = ["train", "--config", run / "config.json", "--out", out, "--run.save-every", "3 steps"]
    process = start(words)
    wait_until(lambda: (out / "checkpoints" / "step-00000006").exists(), process)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 75, errors
        assert "The same command goes on from here" in errors
    assert not (out / "model").exists()
    done = seresnext(*words)
    assert "resuming after step" in done.stdout
    assert digest(out) == digest(run)
    steps = [r["step"] for r in records(out) if "val/top1" in r]
    assert steps == [8, 15, 23, 30]


def test_resume_never_does_not_write_over_a_run(run: Path, data: Path) -> None:
    done = train(data, run, "--resume", "never", check=False)
    assert done.returncode == 1
    assert "choose another --out" in done.stderr


def test_timm_opens_the_model(run: Path, data: Path) -> None:
    import torch

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
        words = ("--pretrained", run, "--data.follow-links", "--epochs", 1)
        done = train(other, tmp_path / "run", *words)
        assert "classifier" in done.stdout
        assert json.loads((tmp_path / "run/model/config.json").read_text())["label_names"] == [
            "blue",
            "red",
        ]

    def test_what_does_not_fit_is_listed(self, run: Path, data: Path, tmp_path: Path) -> None:
        words = ("--pretrained", run, "--model.layers", 1, 2, 1, 1)
        done = train(data, tmp_path / "run", *words, check=False)
        assert done.returncode == 1
        assert "layer2.1.conv1.weight" in done.stderr


def test_nan_stops_the_run_and_lists_the_samples(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "nan"
    words = ("--optim.lr-per-256", "1e30", "--schedule.warmup", "0 steps", "--run.log-every")
    done = train(data, out, *words, "1 steps", "--run.max-bad-steps", 3, check=False)
    assert done.returncode == 1
    assert "3 steps in a row" in done.stderr
    bad = [json.loads(text) for text in (out / "bad-steps.jsonl").read_text().splitlines()]
    assert len(bad) >= 3
    assert all(len(entry["samples"]) == 8 for entry in bad)


def test_early_stop_ships_the_best(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "early"
    words = ("--optim.lr-per-256", 0, "--run.early-stop", 2, "--run.eval-every", "2 steps")
    done = train(data, out, *words)
    steps = [r["step"] for r in records(out) if "val/top1" in r]
    assert steps[-1] < 30, done.stdout
    from safetensors.numpy import load_file

    best = max((r for r in records(out) if "val/top1" in r), key=lambda r: r["val/top1"])
    kept = load_file(out / "checkpoints" / f"step-{best['step']:08d}" / "model.safetensors")
    shipped = load_file(out / "model" / "model.safetensors")
    np.testing.assert_array_equal(kept["fc.weight"], shipped["fc.weight"])
