"""Settings of timm's and transformers' `config.json`: taken over, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from seresnext.errors import UserError
from seresnext.model.architecture import architecture
from seresnext.model.init import init_weights
from seresnext.model.spec import IMAGENET_MEAN, InputSpec
from seresnext.weights.load import load_weights
from seresnext.weights.translate import LoadedWeights

ARCH = architecture("seresnext50_32x4d", layers=(1, 1, 1, 1), num_classes=3, cardinality=2)
WEIGHTS = init_weights(ARCH, 5)
SETTINGS = {
    "input_size": [3, 288, 288],
    "crop_pct": 0.95,
    "crop_mode": "squash",
    "interpolation": "bilinear",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.1],
}
INPUT = InputSpec(288, 0.95, "bilinear", "stretch", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


def loaded(folder: Path, config: dict[str, Any]) -> LoadedWeights:
    folder.mkdir(exist_ok=True)
    save_file(WEIGHTS, folder / "model.safetensors")
    named = {"architecture": "seresnext50_32x4d"} | config
    (folder / "config.json").write_text(json.dumps(named))
    return load_weights(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"pretrained_cfg": SETTINGS, "label_names": ["x", "y", "z"], "num_classes": 3},
        {**SETTINGS, "labels": ["x", "y", "z"], "num_features": 2048},  # before timm 0.9
        {"pretrained_cfg": SETTINGS | {"label_names": ["x", "y", "z"]}},
        {
            "pretrained_cfg": SETTINGS,
            "architectures": ["TimmWrapperForImageClassification"],
            "model_type": "timm_wrapper",
            "id2label": {"0": "x", "1": "y", "2": "z"},
        },
    ],
    ids=["present", "old", "inside", "transformers"],
)
def test_every_form_is_read(config: dict[str, Any], tmp_path: Path) -> None:
    found = loaded(tmp_path / "a", config)
    assert found.spec is not None
    assert (found.spec.class_names, found.spec.input) == (("x", "y", "z"), INPUT)
    assert found.notes == []


def test_absent_and_null_settings_are_timms_defaults(tmp_path: Path) -> None:
    for settings in ({}, dict.fromkeys(SETTINGS)):
        spec = loaded(tmp_path / "a", {"pretrained_cfg": settings}).spec
        assert spec is not None
        assert spec.input == InputSpec(224, 0.875, "bicubic", "short", IMAGENET_MEAN)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"interpolation": "lanczos"}, "interpolation: expected one of bilinear, bicubic, got"),
        ({"interpolation": 5}, "interpolation: expected one of"),
        ({"crop_mode": "border"}, "crop_mode: expected one of center, squash, got 'border'"),
        ({"input_size": [3, 224, 288]}, "expected [3, S, S], a square in RGB, got [3, 224, 288]"),
        ({"input_size": [1, 224, 224]}, "expected [3, S, S], a square in RGB, got [1, 224, 224]"),
        ({"input_size": [3, 1e5, 1e5]}, "input.image_size: expected 4096 or less, got 100000"),
        ({"input_size": 224}, "pretrained_cfg is not as timm writes it"),
        ({"crop_pct": "all"}, "pretrained_cfg is not as timm writes it"),
        ({"crop_pct": 1e999}, "input.crop_ratio: expected"),
        ({"mean": [0.5]}, "input.mean: expected 3 numbers"),
        ({"std": [0.5, 0.5, 0]}, "input.std: expected 0.0001 or more"),
        ({"label_names": ["x"]}, "names 1 classes, the network has 3; correct the list"),
        ({"model_args": {"output_stride": 16}}, "output_stride is 16"),
        ({"global_pool": "max"}, "global_pool is 'max'; the networks of this family have 'avg'"),
        ({"model_args": {"act_layer": "silu"}}, "act_layer is 'silu'"),
        ({"pretrained_cfg": 5}, "pretrained_cfg is not as timm writes it: int"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        loaded(tmp_path / "a", config)
    assert message in str(caught.value)
    assert "config.json" in str(caught.value)


# Files in parts ----------------------------------------------------------------------------


def split(folder: Path, places: dict[str, str] | None = None) -> Path:
    """The weights in two files and an index, as Hugging Face's tools write them."""
    names = list(WEIGHTS)
    parts = {"model-00001-of-00002.safetensors": names[:20]}
    parts["model-00002-of-00002.safetensors"] = names[20:]
    weight_map = {name: file for file, part in parts.items() for name in part}
    for file, part in parts.items():
        save_file({name: WEIGHTS[name] for name in part}, folder / file)
    index = {"metadata": {"total_size": 5}, "weight_map": weight_map | (places or {})}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path


def test_weights_in_several_files(tmp_path: Path) -> None:
    index = split(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "seresnext50_32x4d"}))
    for path in (tmp_path, index):
        found = load_weights(path)
        assert all(np.array_equal(found.weights[n], a) for n, a in WEIGHTS.items())
        assert "read 2 files that model.safetensors.index.json names" in found.notes


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"x": "../outside.safetensors"}, "which is no file in its folder"),
        ({"x": "absent.safetensors"}, "names 'absent.safetensors', which is no file"),
        ({"x": "a\ud800"}, "which is no file in its folder"),
        ({"x": "model-00001-of-00002.safetensors"}, "names entries that its files lack: x"),
        ({"x": "model.safetensors.index.json"}, "which is no file in its folder"),
        ({"x": 5}, "is no index"),
    ],
)
def test_a_wrong_index_is_refused(places: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_weights(split(tmp_path, places))
