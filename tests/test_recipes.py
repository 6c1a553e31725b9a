"""The verbs `recipes` and `plan`."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from runs import TRAIN, VAL, refused, run_cli
from seresnext.cli.train import arguments
from seresnext.config import RECIPES, Config, recipe
from seresnext.config.recipes import INTENDED, LABELS, describe
from seresnext.config.typed import with_flags
from seresnext.training.estimate import estimate


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_is_known_of_it(name: str) -> None:
    found = describe(name)
    assert tuple(found.facts) == LABELS
    assert f"--recipe {name} --data" in found.facts["Command"]
    assert found.facts["Run here"].split(",")[0].strip(".") in ("yes", "no", "in the tests")
    if "%" in found.facts["Accuracy"]:
        assert "published" in found.facts["Accuracy"] or "measured" in found.facts["Accuracy"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_printed_settings_make_the_recipe(name: str) -> None:
    """The flags below the text, typed after the defaults, give its configuration."""
    page = run_cli("recipes", name).stdout
    words = shlex.split(page.split("of the fields:\n")[1])
    asked = recipe(name)
    if name == "imagenet-distill":  # which is refused without
        words += ["--loss.teacher", "runs/teacher"]
        asked = asked.replace(loss={"teacher": "runs/teacher"})
    made = with_flags(Config(), arguments(words))
    assert dataclasses.replace(made, recipe=name) == asked


def test_the_list_and_json() -> None:
    text = run_cli("recipes").stdout
    assert all(f"{name} " in text for name in RECIPES)
    found = [json.loads(line) for line in run_cli("recipes", "--json").stdout.splitlines()]
    assert [f["name"] for f in found] == list(RECIPES)
    assert found[0]["config"]["run"]["batch_size"] == 32
    assert "unknown recipe 'imagnet'; the recipes are demo, " in refused("recipes", "imagnet")


def planned(*arguments: object) -> dict:
    return json.loads(run_cli("plan", *arguments, "--json").stdout)


class TestPlan:
    def test_the_originals_hours(self) -> None:
        """224 ms for a step of 8 x 128: 9.41 h were published for its 120 epochs without
        validation, of 1,251 steps each and a last batch that is dropped."""
        rate = 8 * 128 / 0.224
        found = planned("zoo", "--val-images", 0, "--images-per-second", rate, "--price", 2)
        assert found["plan"]["total_steps"] == 120 * 1251
        assert found["hours"] == pytest.approx(9.41, abs=0.08)
        assert found["cost"] == pytest.approx(8 * 2 * found["hours"])
        assert found["evaluations"] == 0
        whole = planned("zoo", "--images-per-second", rate)
        assert whole["evaluations"] == 120
        more = 120 * 50_000 / 3 / rate / 3600
        assert whole["hours"] == pytest.approx(found["hours"] + more)

    def test_what_is_said(self, images: Path) -> None:
        text = run_cli("plan", "imagenet").stdout
        assert "1,024 = 8 devices of 128" in text
        assert "validated  120 times" in text
        assert "--images-per-second N says it" in text
        assert "0.44 GB a device" in text, "weights, gradients, momentum and average: 4 x 110 MB"
        given = ("finetune", "--data", images, "--epochs", 2, "--batch-size", 13)
        text = run_cli("plan", *given, "--images-per-second", 3, "--price", 1).stdout
        assert f"{TRAIN} to train, {VAL} to validate" in text
        assert "6 (2 epochs; 3.0 an epoch), 78 images seen" in text
        assert "cost       0.01 for 0.0 device hours" in text

    def test_the_plan_is_the_runs(self, images: Path, tmp_path: Path) -> None:
        found = planned("demo", "--data", images, "--epochs", 1, "--batch-size", 8)
        given = ("--data", images, "--out", tmp_path / "run", "--epochs", 1, "--batch-size", 8)
        small = ("--model.layers", 1, 1, 1, 1, "--model.cardinality", 2)
        done = run_cli("train", "--recipe", "demo", *given, *small, "--run.no-report")
        assert f"{found['plan']['total_steps']} steps of 8 images" in done.stdout

    def test_growing_images_take_less_time(self) -> None:
        """Half of the steps at half the side: 1/2 + 1/8 of the pixels."""
        sizes = {"image_size": 64, "start_size": 32, "grow_begin": 0.5, "grow_end": 0.5}
        found, usual = (
            estimate(recipe("demo").replace(augment=a), 3200, 0, 1, images_per_second=10)
            for a in (sizes, {"image_size": 64})
        )
        assert found.hours
        assert usual.hours
        assert found.relative_pixels == found.hours / usual.hours == 0.625
        validated = estimate(
            recipe("demo").replace(augment=sizes | {"eval_image_size": 96}),
            *(3200, 300, 1),
            images_per_second=10,
        )
        more = 12 * 300 * 1.5**2 / 3 / 10 / 3600
        assert validated.hours == pytest.approx(found.hours + more)
        text = run_cli("plan", "imagenet-fast-16", "--images-per-second", 9000).stdout
        assert "size       160 px from step 1, 192 px from step 3,755; 77% of the last" in text
        assert "images/s of all devices at 192 px (a validated" in text

    def test_what_cannot_be_planned(self) -> None:
        assert "finetune is for any data: say how many" in refused("plan", "finetune")
        assert "--price: expected more than 0" in refused("plan", "demo", "--price", 0)
        assert "--images: expected more than 0" in refused("plan", "demo", "--images", -1)
        assert "fewer than one batch" in refused("plan", "zoo", "--images", 5)
        assert "run.batch_size: expected 1 or more" in refused("plan", "demo", "--batch-size", 0)
        assert "unknown recipe 'x'" in refused("plan", "x")
        assert "teacher_share: expected none without --loss.teacher" in refused(
            "train", "--recipe", "imagenet-distill", "--data", "."
        )


def test_the_batches_of_every_recipe_divide() -> None:
    """Among the devices that it is for, into pairs and repeats."""
    for name, what in INTENDED.items():
        found = estimate(recipe(name), what.images, what.val_images, what.devices)
        assert found.plan.total_steps > 0
