"""The inference benchmark on a network so small that only its bookkeeping matters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runs import refused, run_cli
from runtimes.networks import artifact, random_weights, tiny_spec
from seresnext.bench.infer import Measurement, bench_infer, print_results
from seresnext.bench.loader import OURS, Loading, bench_loader, print_loading
from seresnext.bench.train import StepSpeed, print_speeds
from seresnext.config import AugmentConfig, DataConfig, recipe
from seresnext.errors import UserError
from seresnext.exporters import onnx as onnx_export
from seresnext.model.architecture import architecture, count_macs
from seresnext.model.saved_model import save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bench")
    spec, described = tiny_spec(), artifact(tiny_spec())
    save_model(folder / "finished", spec, random_weights(spec))
    onnx_export.write(
        onnx_export.build(described, random_weights(spec)), described, folder / "m.onnx"
    )
    return [folder / "m.onnx", folder / "finished"]


def test_models_take_turns(models: list[Path], capsys: pytest.CaptureFixture) -> None:
    results = bench_infer(
        models, batch_sizes=(2, 4), rounds=2, seconds=0.05, device="cpu", threads=1
    )
    assert [r.runtime for r in results] == ["onnx", "torch"]
    for result, path in zip(results, models, strict=True):
        assert result.model == str(path)
        assert len(result.latencies) >= 2
        assert {size: len(times) for size, times in result.batches.items()} == {2: 2, 4: 2}
        assert 0 < result.p50 <= result.p99
        assert result.memory_bytes > 20e6  # a framework at least
        summary = json.loads(json.dumps(result.to_dict()))
        assert summary["images_per_second"] > 0
        assert summary["p50_ms"] == pytest.approx(1e3 * result.p50)
    assert results[0].file_bytes == models[0].stat().st_size
    assert results[1].file_bytes == (models[1] / "model.safetensors").stat().st_size
    print_results(results)
    text = capsys.readouterr().out
    assert "m.onnx" in text
    assert "1.00x" in text


def test_figures_of_a_measurement() -> None:
    result = Measurement("m", "onnx", "cpu", 32, 1, 0.1)
    result.latencies = [0.01] * 99 + [0.5]
    result.batches = {4: [0.02, 0.02, 9.0], 16: [0.1]}
    assert result.p50 == 0.01
    assert 0.01 < result.p99 < 0.5
    assert result.throughput() == (pytest.approx(200), 4)


def test_a_model_that_cannot_be_loaded(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(models[0].read_bytes()[:1000])
    with pytest.raises(UserError, match=r"m\.onnx is damaged"):
        bench_infer([tmp_path / "m.onnx"], rounds=1, seconds=0.01)


@pytest.mark.parametrize(
    "options", [{"rounds": 0}, {"batch_sizes": (0,)}, {"seconds": 0}, {"threads": -1}]
)
def test_impossible_options(models: list[Path], options: dict) -> None:
    with pytest.raises(UserError, match="expected positive numbers"):
        bench_infer(models, **options)
    with pytest.raises(UserError, match="name at least one run"):
        bench_infer([])


class TestLoader:
    def test_peers(self, images: Path, capsys: pytest.CaptureFixture) -> None:
        """Pillow and PyTorch's DataLoader are always there; others are measured or named."""
        data = DataConfig(train=str(images / "train"), root="unused", val=str(images / "val"))
        augment = AugmentConfig(image_size=32)
        found = bench_loader(data, augment, threads=(1,), images=64, rounds=2, peers=True)
        assert [r.loader for r in found] == [OURS, "mindspore", "dali", "pillow", "torch"]
        for result in found:
            assert bool(result.problem) == (not result.rates)
            assert len(result.rates) == len(result.busy) in (0, 2)
            assert all(rate > 0 for rate in result.rates)
        assert not [r for r in found if r.problem and r.loader in (OURS, "pillow", "torch")]
        print_loading(found)
        text = capsys.readouterr().out
        assert "1.00x" in text
        assert "training waits for data where it takes more than" in text
        for result in found:
            assert not result.problem or f"left out: {result.loader}: " in text

    def test_ratios_are_of_the_same_round(self, capsys: pytest.CaptureFixture) -> None:
        print_loading([Loading(OURS, 1, [10, 30], [1, 1]), Loading("pillow", 1, [5, 10], [2, 2])])
        assert "2.50x" in capsys.readouterr().out

    def test_a_recipe_on_archives(self, images: Path, tmp_path: Path) -> None:
        run_cli("data", "pack", images, "--out", tmp_path / "shards")
        given = ("--recipe", "demo", "--threads", "1,2", "--images", 64, "--rounds", 1, "--json")
        found = json.loads(run_cli("bench", "loader", tmp_path / "shards", *given).stdout)
        assert [(r["loader"], r["threads"]) for r in found] == [(OURS, 1), (OURS, 2)]
        assert all(r["images_per_second"] == r["rates"][0] > 0 for r in found)

    def test_what_cannot_be_measured(self, images: Path, tmp_path: Path) -> None:
        assert "--images: 64 or more" in refused("bench", "loader", images, "--images", 3)
        assert "no class folders" in refused("bench", "loader", tmp_path)
        run_cli("data", "pack", images, "--out", tmp_path / "shards")
        line = refused("bench", "loader", tmp_path / "shards", "--peers")
        assert "--peers: expected a folder with <class>/ in it" in line
        (tmp_path / "bad" / "train" / "a").mkdir(parents=True)
        (tmp_path / "bad" / "train" / "b").mkdir()
        for name in "ab":
            (tmp_path / "bad" / "train" / name / "x.jpg").write_bytes(b"no image")
        assert "cannot read image" in refused("bench", "loader", tmp_path / "bad", "--threads", 1)
        assert "expected one source" in run_cli("bench", "loader", images, images, code=2).stderr


class TestTrain:
    SMALL = ("--recipe", "demo", "--model", "seresnext26_32x4d", "--image-size", 32)

    def test_precisions_take_turns(self) -> None:
        given = (*self.SMALL, "--batch-size", 4, "--steps", 1, "--rounds", 2, "--threads", 1)
        slow, fast = json.loads(run_cli("bench", "train", *given, "--json").stdout)
        assert (slow["precision"], fast["precision"]) == ("fp32", "bf16")
        for speed in (slow, fast):
            assert len(speed["seconds"]) == 2
            assert speed["images_per_second"] == 4 / np.median(speed["seconds"])
            macs = count_macs(architecture("seresnext26_32x4d"), 32)
            assert speed["flop"] == 6 * macs
            assert speed["tflops"] == pytest.approx(speed["images_per_second"] * 6e-12 * macs)
            assert speed["memory_bytes"] > 50e6

    def test_a_table(self, capsys: pytest.CaptureFixture) -> None:
        speeds = [
            StepSpeed("fp32", "cpu", 16, 224, 25e9, [2.0, 4.0, 3.0], 2 * 10**9),
            StepSpeed("bf16", "cpu", 16, 224, 25e9, [1.0, 1.0, 2.0], 10**9),
        ]
        print_speeds(recipe("imagenet"), speeds)
        text = capsys.readouterr().out
        assert "5.3" in text
        assert "2.00x" in text
        assert "seresnext plan imagenet --devices 1 --batch-size 16 --images-per-second 16" in text

    def test_what_cannot_be_measured(self) -> None:
        assert "expected 1 or more" in refused("bench", "train", *self.SMALL, "--rounds", 0)
        assert "is built without CUDA" in refused("bench", "train", *self.SMALL, "--device", "cuda")
