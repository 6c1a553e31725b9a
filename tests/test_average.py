"""The average of models: weights in float64, BN statistics measured as torch measures them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.contract import assert_close
from engines.networks import random_batch, tiny_spec
from runs import Run, checkpoint, refused, run_cli
from seresnext.average import average_weights, measure_statistics
from seresnext.config import EngineConfig
from seresnext.model.architecture import is_buffer
from seresnext.model.init import init_weights
from seresnext.model.saved_model import load_model, save_model
from seresnext.weights.load import load_weights


@pytest.fixture(scope="module")
def models(one: Run) -> list[Path]:
    """Two checkpoints of a run, and its model."""
    return [checkpoint(one.folder, 20), checkpoint(one.folder, 24), one.folder]


def test_weights_and_statistics_are_means(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "model"
    said = run_cli("average", *models, "--out", out).stdout
    assert said.startswith("averaged 3 models\n  BN statistics: averaged; --data DIR")
    assert "warning" not in said
    spec, found = load_model(out)
    assert spec == load_model(models[2] / "model")[0]
    all_weights = [load_weights(path).weights for path in models]
    for name, array in found.items():
        expected = np.mean([w[name].astype(np.float64) for w in all_weights], axis=0)
        assert (array == expected.astype(np.float32)).all(), name


def test_statistics_are_measured_on_images(
    models: list[Path], images: Path, tmp_path: Path
) -> None:
    """Of the training images; the rest of the model is as without them."""
    for name, options in (("a", ()), ("b", ("--data", images, "--batch-size", 8))):
        said = run_cli("average", *models, "--out", tmp_path / name, *options).stdout
    assert f"BN statistics: measured on 32 images of {images}/train" in said
    plain, measured = (load_model(tmp_path / name)[1] for name in ("a", "b"))
    for name, array in measured.items():
        assert (array == plain[name]).all() != is_buffer(name), name
    run_cli("evaluate", tmp_path / "b", "--data", images)


@pytest.mark.parametrize("engine", ["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def test_as_torch_measures(engine: str) -> None:
    """Means of what BN layers with a momentum of 1 hold after each batch; one more makes it red."""
    torch = pytest.importorskip("torch")
    pytest.importorskip(f"seresnext.engines.{engine}.engine")
    from seresnext.engines.torch.network import load_network

    spec = tiny_spec(drop_path=0.5, dropout=0.5)
    weights = init_weights(spec.architecture, 0)
    batches = [random_batch(8, seed) for seed in range(4)]
    settings = EngineConfig(name=engine, device="cpu", threads=1)
    found = measure_statistics(spec, weights, batches[:3], settings)
    network = load_network(spec.architecture, weights).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    sums = {name: np.zeros(array.shape) for name, array in found.items()}
    mean, std = (np.array(v, np.float32) for v in (spec.input.mean, spec.input.std))
    for count, batch in enumerate(batches, 1):
        pixels = (batch.images.astype(np.float32) / 255 - mean) / std
        with torch.no_grad():
            network(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        for name, buffer in network.named_buffers():
            sums[name] += buffer.numpy()
        if count == 3:
            assert_close(found, {name: total / 3 for name, total in sums.items()}, 1e-3)
    with pytest.raises(AssertionError):
        assert_close(found, {name: total / 4 for name, total in sums.items()}, 1e-3)


def test_refused(models: list[Path], images: Path, tmp_path: Path) -> None:
    """With one line, and nothing is written."""
    spec, weights = load_model(models[2] / "model")
    bad, other = tmp_path / "bad", tmp_path / "other"
    save_model(bad, spec, weights | {"conv1.weight": weights["conv1.weight"] * np.nan})
    save_model(other, tiny_spec(), init_weights(tiny_spec().architecture, 0))
    out = tmp_path / "x"
    for given, message in (
        ((*models, "--out", models[2]), "expected a folder for the new model"),
        ((models[0], "--out", out), "needs two models or more, got 1"),
        ((models[0], bad, "--out", out), f"{bad} holds NaN or infinity, in conv1.weight"),
        ((models[0], other, "--out", out), "they differ in their classes"),
        ((*models, "--out", out, "--data", images, "--max-images", 1), "need two images or more"),
    ):
        assert message in refused("average", *given)
        assert not out.exists()


def test_models_that_were_trained_apart_are_warned_of(models: list[Path], tmp_path: Path) -> None:
    spec, _ = load_model(models[2] / "model")
    save_model(tmp_path / "apart", spec, init_weights(spec.architecture, 1))
    *_, alike = average_weights([models[2], tmp_path / "apart"])
    assert abs(alike) < 0.1
    said = run_cli("average", models[2], tmp_path / "apart", "--out", tmp_path / "x").stdout
    assert "warning: the weights of the models have a cosine of" in said
