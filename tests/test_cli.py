"""Users' mistakes through the real command: one clear line, the right exit code, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seresnext import __version__
from seresnext.cli import VERBS


def seresnext(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seresnext", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(*words: object) -> str:
    """Run the command; it must end with one line of error and exit code 1. Returns the line."""
    done = seresnext(*words)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("seresnext: error: "), done.stderr
    assert "Traceback" not in done.stderr
    return lines[-1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                pixels = np.full((40, 40, 3), 50 * i + 20, np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def test_help_version_and_unknown_verbs() -> None:
    done = seresnext("--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)
    assert seresnext("--version").stdout == f"seresnext {__version__}\n"
    done = seresnext("trian")
    assert done.returncode == 2
    assert "no verb 'trian'" in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    done = seresnext(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: seresnext {verb}" in done.stdout


def test_a_wrong_flag_is_usage() -> None:
    done = seresnext("train", "--learning-rate", "3")
    assert done.returncode == 2
    assert "--learning-rate" in done.stdout + done.stderr


def test_the_help_shows_the_recipes_values() -> None:
    shown = [seresnext("train", "--recipe", name, "--help").stdout for name in ("demo", "zoo")]
    assert "(default: data/digits)" in shown[0]
    assert "(default: data/digits)" not in shown[1]


class TestTrain:
    def test_missing_folders(self, tmp_path: Path) -> None:
        assert str(tmp_path / "no") in refused("train", "--data", tmp_path / "no")
        line = refused("train")
        assert "--data" in line

    def test_a_folder_of_the_wrong_shape(self, photos: Path, tmp_path: Path) -> None:
        line = refused("train", "--data", photos / "train" / "cat", "--out", tmp_path / "r")
        assert "train/<class>" in line

    def test_an_empty_class(self, photos: Path, tmp_path: Path) -> None:
        root = tmp_path / "data"
        for name in ("full", "hollow"):
            (root / "train" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(root / "train" / "full" / "a.png")
        assert "hollow" in refused("train", "--data", root, "--out", tmp_path / "r")

    def test_a_bad_image_names_the_file_and_why(self, photos: Path, tmp_path: Path) -> None:
        root = tmp_path / "data"
        for name in ("a", "b"):
            (root / "train" / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(root / "train" / name / "good.png")
        (root / "train" / "b" / "bad.jpg").write_text("<html>")
        words = ("--out", tmp_path / "r", "--image-size", 32, "--batch-size", 2, "--model.layers")
        line = refused("train", "--data", root, *words, 1, 1, 1, 1, "--precision", "fp32")
        assert "bad.jpg" in line
        assert "web page" in line

    @pytest.mark.parametrize(
        ("flag", "value", "expected"),
        [
            ("--model", "resnet18", "seresnext50_32x4d"),
            ("--recipe", "best", "unknown recipe 'best'"),
            ("--config", "nowhere.json", "cannot read config"),
            ("--epochs", "0", "run.duration"),
            ("--batch-size", "0", "run.batch_size"),
            ("--image-size", "16", "augment.image_size"),
            ("--device", "gpu", "cuda"),
            ("--pretrained", "nowhere.pth", "nowhere.pth"),
            ("--resume", "nowhere", "nowhere"),
            ("--schedule.warmup", "five", "schedule.warmup"),
        ],
    )
    def test_a_bad_value(
        self, photos: Path, tmp_path: Path, flag: str, value: str, expected: str
    ) -> None:
        words = ("--data", photos, "--out", tmp_path / "r", "--model.layers", 1, 1, 1, 1)
        assert expected in refused("train", *words, flag, value)

    def test_an_unwritable_run_folder(self, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        line = refused("train", "--data", photos, "--out", tmp_path / "file" / "run")
        assert "cannot write" in line


class TestUse:
    def test_no_model(self, photos: Path, tmp_path: Path) -> None:
        assert "holds no finished model" in refused("evaluate", tmp_path, "--data", photos)
        assert "nowhere" in refused("predict", tmp_path / "nowhere", photos)

    def test_files_that_are_no_model(self, photos: Path, tmp_path: Path) -> None:
        for name, content in (("a.onnx", b""), ("b.xml", b"not xml"), ("c.mindir", b"\0\1\2")):
            (tmp_path / name).write_bytes(content)
            refused("evaluate", tmp_path / name, "--data", photos)

    def test_a_damaged_model_folder(self, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
        assert "config.json" in refused("predict", tmp_path, photos)

    def test_predict_without_images(self, photos: Path, tmp_path: Path) -> None:
        assert "no image given" in refused("predict", tmp_path)


def test_doctor_tells_what_works() -> None:
    done = seresnext("doctor")
    assert done.returncode == 0
    assert f"seresnext {__version__}" in done.stdout
    assert "engine torch" in done.stdout
    assert "seresnext50_32x4d" in done.stdout


def test_data_demo(tmp_path: Path) -> None:
    out = tmp_path / "digits"
    assert seresnext("data", "demo", "--out", out).returncode == 0
    count = sum(
        len(list((out / s / str(d)).iterdir())) for s in ("train", "val") for d in range(10)
    )
    assert count == 1797
    assert seresnext("data", "nonsense").returncode == 2


def test_convert_says_what_became_of_every_entry(tmp_path: Path) -> None:
    from seresnext.model.architecture import architecture, weight_shapes
    from seresnext.model.init import init_weights
    from seresnext.model.saved_model import save_model
    from seresnext.model.spec import ModelSpec

    arch = architecture("seresnext50_32x4d", layers=(1, 1, 1, 1), num_classes=2)
    save_model(tmp_path / "in", ModelSpec(arch, ("cat", "dog")), init_weights(arch, 0))
    done = seresnext("convert", tmp_path / "in", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    count = len(weight_shapes(arch))
    assert f"{count} entries: {count} used, 0 dropped" in done.stdout
    line = refused("convert", tmp_path / "in", tmp_path / "out.ckpt", "--to", "timm")
    assert "timm" in line


def test_json_output_is_json_alone(photos: Path, tmp_path: Path) -> None:
    from seresnext.model.architecture import architecture
    from seresnext.model.init import init_weights
    from seresnext.model.saved_model import save_model
    from seresnext.model.spec import InputSpec, ModelSpec

    arch = architecture("seresnext50_32x4d", layers=(1, 1, 1, 1), num_classes=2)
    spec = ModelSpec(arch, ("cat", "dog"), InputSpec(image_size=32))
    save_model(tmp_path / "model", spec, init_weights(arch, 0))
    done = seresnext("evaluate", tmp_path / "model", "--data", photos, "--json")
    assert json.loads(done.stdout)["images"] == 4
    done = seresnext("predict", tmp_path / "model", photos / "val", "--json", "--top", 1)
    assert [len(json.loads(text)["top"]) for text in done.stdout.splitlines()] == [1] * 4
