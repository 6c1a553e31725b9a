from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from seresnext.config import RECIPES, Config, groups, load_config, recipe
from seresnext.config.durations import whole_steps
from seresnext.errors import UserError
from seresnext.schema import from_dict


def change(config: Config, path: str, value: object) -> Config:
    group, name = path.split(".")
    part = dataclasses.replace(getattr(config, group), **{name: value})
    return dataclasses.replace(config, **{group: part})


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid_and_survive_json(name: str) -> None:
    config = recipe(name)
    if name == "imagenet-distill":
        with pytest.raises(UserError, match="teacher_share: expected none without"):
            config.check()
        config = config.replace(loss={"teacher": "runs/teacher"})
    config.check()
    assert config.recipe == name
    assert from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_every_field_has_a_docstring() -> None:
    import ast

    tree = ast.parse(Path(groups.__file__).read_text())
    for node in tree.body:
        if (
            isinstance(node, ast.ClassDef)
            and node.name.endswith("Config")
            and node.name != "Config"
        ):
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign):
                    documented = isinstance(after, ast.Expr) and isinstance(
                        after.value, ast.Constant
                    )
                    assert documented, f"{node.name}.{ast.unparse(field.target)}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.name", "resnet50"),
        ("model.drop_path", 1.0),
        ("augment.image_size", 31),
        ("augment.crop_scale", (0.5, 0.1)),
        ("augment.hflip", 1.5),
        ("augment.color_jitter", (0.1, 0.1, 0.1, 0.9)),
        ("augment.std", (0.0, 1.0, 1.0)),
        ("optim.lr_per_256", math.nan),
        ("optim.lr_per_256", -0.1),
        ("optim.momentum", 1.0),
        ("optim.accumulate", 3),
        ("loss.label_smoothing", 1.0),
        ("loss.threshold", 0.2),
        ("loss.focal_gamma", 0.5),
        ("loss.class_weights", (1.0, -1.0)),
        ("optim.ema_decay", 1.0),
        ("run.batch_size", 0),
        ("run.duration", "ten epochs"),
        ("run.duration", "0 epochs"),
        ("run.duration", "5 epochs, at least "),
        ("run.duration", ", at least 5 epochs"),
        ("run.duration", "5 epochs, at least 3"),
        ("run.keep_checkpoint_max", 0),
        ("schedule.warmup", "5"),
        ("engine.threads", -1),
        ("data.max_pixels", 0),
    ],
)
def test_a_bad_value_is_refused_by_name(path: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        change(Config(), path, value).check()
    assert path in str(caught.value) or path.split(".")[1] in str(caught.value)
    if not isinstance(value, tuple):
        assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"optim": {"rate": 1}}, "optim.rate: no such field"),
        ({"optim": {"lr_per_256": "high"}}, "optim.lr_per_256: expected number, got 'high'"),
        ({"run": {"batch_size": 1.5}}, "run.batch_size: expected whole number, got 1.5"),
        ({"run": {"batch_size": True}}, "run.batch_size: expected whole number, got True"),
        ({"augment": {"mean": [0.5, 0.5]}}, "augment.mean: expected 3 numbers"),
        ({"engine": {"name": "jax"}}, "engine.name: expected one of torch, mindspore, got 'jax'"),
        ({"model": []}, "model: expected a group of fields"),
    ],
)
def test_a_bad_file_is_refused_by_field(data: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        load_config(path)


def test_unreadable_config_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read config"):
        load_config(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_config(tmp_path / "broken.json")


def test_naming_training_images_drops_the_folder_of_the_recipe() -> None:
    demo = recipe("demo")
    assert demo.replace(train_data="photos").data.root == ""
    both = demo.replace(train_data="photos", data="all").data
    assert (both.root, both.train) == ("all", "photos")
    assert demo.replace(val_data="photos").data.root == "data/digits"


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("2 epochs", 90),
        ("1 epoch", 45),
        ("0.5ep", 23),
        ("7 steps", 7),
        ("1000 images", 32),
        ("1e3 images", 32),
        ("2 epochs, at least 100 steps", 100),
        ("3 epochs, at least 100 steps", 135),
    ],
)
def test_durations(text: str, steps: int) -> None:
    # 1440 images in batches of 32: 45 steps an epoch.
    assert whole_steps(text, 45.0, 32) == steps


def test_an_epoch_of_a_fractional_number_of_steps_rounds_up() -> None:
    assert whole_steps("10 epochs", 1437 / 32, 32) == math.ceil(14370 / 32)
    assert whole_steps("3 epochs", 0.1 * 10, 32) == 3


def test_virtual_shards_are_the_torch_engines() -> None:
    with pytest.raises(UserError, match=r"engine.virtual_shards: expected 0, or --engine torch"):
        Config().replace(engine="mindspore", virtual_shards=4).check()
