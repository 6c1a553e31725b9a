"""The inference benchmark on a network so small that only its bookkeeping matters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtimes.networks import artifact, random_weights, tiny_spec
from seresnext.bench import Measurement, bench_infer, print_results
from seresnext.errors import UserError
from seresnext.exporters import onnx as onnx_export
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
