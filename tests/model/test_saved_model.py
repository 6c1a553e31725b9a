"""Finished models on disk: what was written comes back, and nothing else is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from seresnext.errors import UserError
from seresnext.model.architecture import architecture, weight_shapes
from seresnext.model.init import init_weights
from seresnext.model.saved_model import load_model, save_model
from seresnext.model.spec import InputSpec, ModelSpec

ARCH = architecture("seresnext26d_32x4d", num_classes=3, layers=(1, 1, 1, 1), max_pool="same")
SPEC = ModelSpec(ARCH, ("10", "2", "<b>"), InputSpec(64, 1.0, "bilinear", "stretch", (0, 0, 0)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", SPEC, init_weights(ARCH, 0))
    return tmp_path / "model"


def test_comes_back_to_the_bit(folder: Path) -> None:
    spec, weights = load_model(folder)
    assert spec == SPEC
    expected = init_weights(ARCH, 0)
    assert list(weights) == list(expected)
    assert all(weights[k].tobytes() == v.tobytes() for k, v in expected.items())
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_is_replaced_as_a_whole(folder: Path) -> None:
    save_model(folder, SPEC, init_weights(ARCH, 1))
    assert (load_model(folder)[1]["fc.weight"] == init_weights(ARCH, 1)["fc.weight"]).all()
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_weight_of_another_shape_is_refused(folder: Path) -> None:
    weights = init_weights(ARCH, 0)
    weights["fc.bias"] = np.zeros(4, np.float32)
    save_model(folder, SPEC, weights)
    with pytest.raises(UserError, match=r"fc\.bias has shape \(4,\), expected \(3,\)"):
        load_model(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(folder)
    with pytest.raises(UserError, match=r"cannot read model .*config\.json"):
        load_model(folder / "nowhere")


def test_truncated_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("seresnext"),
        lambda data: data["seresnext"].pop("class_names"),
        lambda data: data["seresnext"]["class_names"].pop(),
        lambda data: data["seresnext"]["input"].update(colour="red"),
        lambda data: data.update(seresnext=None),
    ],
)
def test_a_config_of_something_else_is_refused(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    path = folder / "config.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="does not describe a model of this package"):
        load_model(folder)
    path.write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        load_model(folder)


def test_bn_batch_counters_are_zeros_that_are_not_read(folder: Path) -> None:
    """transformers lists every one that a file lacks; PyTorch's have the shape ()."""
    stored = load_file(folder / "model.safetensors")
    counters = {n: a for n, a in stored.items() if n.endswith(".num_batches_tracked")}
    assert {n.replace("num_batches_tracked", "running_var") for n in counters} == {
        name for name in weight_shapes(ARCH) if name.endswith("running_var")
    }
    assert all(a.shape == () and a.dtype == np.int64 and a == 0 for a in counters.values())
    assert len(load_model(folder)[1]) == len(stored) - len(counters)
    save_file({n: a for n, a in stored.items() if n not in counters}, folder / "model.safetensors")
    assert list(load_model(folder)[1]) == list(weight_shapes(ARCH))  # as 0.1 wrote them


def test_transformers_opens_the_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers", reason="the reference")
    pytest.importorskip("timm", reason="transformers opens timm's models with it")
    arch = architecture("seresnext26_32x4d", num_classes=3, layers=(1, 1, 1, 1))
    spec = ModelSpec(arch, ("a", "b", "c"), InputSpec(32))
    save_model(tmp_path / "model", spec, init_weights(arch, 0))
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert "num_batches_tracked" not in "".join(capfd.readouterr())


def test_weights_that_are_no_numbers_with_fractions_are_refused(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    stored["fc.bias"] = np.zeros(3, np.int64)
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"holds no floating-point numbers in fc\.bias"):
        load_model(folder)
