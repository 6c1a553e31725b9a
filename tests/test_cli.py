"""The command line: help, users' mistakes (one clear line, the right exit code), and each verb once
as a real process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runs import NETWORK, refused, run_cli, run_process, train_arguments
from seresnext import __version__
from seresnext.cli import VERBS
from seresnext.model.architecture import architecture, weight_shapes
from seresnext.model.init import init_weights
from seresnext.model.saved_model import save_model
from seresnext.model.spec import InputSpec, ModelSpec

ARCHITECTURE = architecture("seresnext50_32x4d", layers=(1, 1, 1, 1), num_classes=2)


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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights."""
    folder = tmp_path_factory.mktemp("model")
    spec = ModelSpec(ARCHITECTURE, ("cat", "dog"), InputSpec(image_size=32))
    save_model(folder, spec, init_weights(ARCHITECTURE, 0))
    return folder


class TestProcesses:
    """Each verb once as users start it."""

    def test_help_version_and_unknown_verbs(self) -> None:
        done = run_process("--help")
        assert all(verb in done.stdout for verb in VERBS)
        assert run_process("--version").stdout == f"seresnext {__version__}\n"
        assert "no verb 'trian'" in run_process("trian", code=2).stderr

    def test_train(self, photos: Path, tmp_path: Path) -> None:
        done = run_process(*train_arguments(photos, tmp_path / "run", 1, 2))
        assert done.stderr == ""
        assert f"model: {tmp_path}/run/model" in done.stdout
        done = run_process("train", "--data", tmp_path / "nowhere", code=1)
        assert done.stderr.startswith("seresnext: error: ")
        assert done.stderr.count("\n") == 1

    def test_evaluate_and_predict_print_json_alone(self, photos: Path, model: Path) -> None:
        done = run_process("evaluate", model, "--data", photos, "--json")
        assert json.loads(done.stdout)["images"] == 4
        done = run_process("predict", model, photos / "val", "--json", "--top", 1)
        assert [len(json.loads(text)["top"]) for text in done.stdout.splitlines()] == [1] * 4

    def test_export_and_bench(self, photos: Path, model: Path, tmp_path: Path) -> None:
        artifact = tmp_path / "model.onnx"
        given = ("--format", "onnx", "--out", artifact, "--data", photos, "--json")
        done = run_process("export", model, *given)
        assert json.loads(done.stdout)["files"] == [str(artifact)]
        few = ("--rounds", 1, "--seconds", 0.01, "--batch-sizes", 2, "--json")
        done = run_process("bench", "infer", artifact, *few)
        assert [result["model"] for result in json.loads(done.stdout)] == [str(artifact)]

    def test_convert(self, model: Path, tmp_path: Path) -> None:
        done = run_process("convert", model, tmp_path / "out.safetensors")
        count = len(weight_shapes(ARCHITECTURE))
        assert f"{count} entries: {count} used, 0 dropped" in done.stdout

    def test_data(self, tmp_path: Path) -> None:
        out = tmp_path / "digits"
        run_process("data", "demo", "--out", out)
        count = sum(
            len(list((out / s / str(d)).iterdir())) for s in ("train", "val") for d in range(10)
        )
        assert count == 1797

    def test_doctor(self) -> None:
        done = run_process("doctor")
        assert f"seresnext {__version__}" in done.stdout
        assert "engine torch" in done.stdout
        assert "seresnext50_32x4d" in done.stdout


class TestUsage:
    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_has_help(self, verb: str) -> None:
        assert f"usage: seresnext {verb}" in run_cli(verb, "--help").stdout

    def test_without_arguments(self) -> None:
        assert run_cli(code=2).stdout == run_cli("--help").stdout

    def test_a_wrong_flag(self) -> None:
        done = run_cli("train", "--learning-rate", "3", code=2)
        assert "--learning-rate" in done.stdout + done.stderr

    def test_an_unknown_data_set(self) -> None:
        assert "usage: seresnext data demo" in run_cli("data", "nonsense", code=2).stderr

    def test_the_help_shows_the_recipes_values(self) -> None:
        shown = [run_cli("train", "--recipe", name, "--help").stdout for name in ("demo", "zoo")]
        assert "(default: data/digits)" in shown[0]
        assert "(default: data/digits)" not in shown[1]


class TestTrain:
    def test_missing_folders(self, tmp_path: Path) -> None:
        assert str(tmp_path / "no") in refused("train", "--data", tmp_path / "no")
        assert "--data" in refused("train")

    def test_a_folder_of_the_wrong_shape(self, photos: Path, tmp_path: Path) -> None:
        line = refused("train", "--data", photos / "train" / "cat", "--out", tmp_path / "r")
        assert "train/<class>" in line

    def test_an_empty_class(self, tmp_path: Path) -> None:
        root = tmp_path / "data"
        for name in ("full", "hollow"):
            (root / "train" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(root / "train" / "full" / "a.png")
        assert "hollow" in refused("train", "--data", root, "--out", tmp_path / "r")

    def test_a_bad_image_names_the_file_and_why(self, tmp_path: Path) -> None:
        root = tmp_path / "data"
        for name in ("a", "b"):
            (root / "train" / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(root / "train" / name / "good.png")
        (root / "train" / "b" / "bad.jpg").write_text("<html>")
        more = ("--out", tmp_path / "r", *NETWORK, "--batch-size", 2, "--precision", "fp32")
        line = refused("train", "--data", root, *more)
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
        arguments = ("--data", photos, "--out", tmp_path / "r", *NETWORK)
        assert expected in refused("train", *arguments, flag, value)

    def test_an_unwritable_run_folder(self, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        out = tmp_path / "file" / "run"
        assert "cannot write to" in refused("train", "--data", photos, "--out", out, *NETWORK)


class TestUse:
    def test_no_model(self, photos: Path, tmp_path: Path) -> None:
        assert "holds no finished model" in refused("evaluate", tmp_path, "--data", photos)
        assert "nowhere" in refused("predict", tmp_path / "nowhere", photos)

    def test_files_that_are_no_model(self, photos: Path, tmp_path: Path) -> None:
        for name, content in (("a.onnx", b""), ("b.xml", b"not xml"), ("c.mindir", b"\0\1\2")):
            (tmp_path / name).write_bytes(content)
            assert name in refused("evaluate", tmp_path / name, "--data", photos)

    def test_a_damaged_model_folder(self, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
        assert "model.safetensors is not" in refused("predict", tmp_path, photos)

    def test_predict_without_images(self, tmp_path: Path) -> None:
        assert "no image given" in refused("predict", tmp_path)

    def test_convert_to_a_layout_that_the_suffix_does_not_fit(
        self, model: Path, tmp_path: Path
    ) -> None:
        assert "timm" in refused("convert", model, tmp_path / "out.ckpt", "--to", "timm")
