"""Finished models on disk: what was written comes back, and nothing else is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seresnext.errors import UserError
from seresnext.model.architecture import architecture
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
