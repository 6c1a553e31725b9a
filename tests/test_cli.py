"""The command line: help, users' mistakes (one clear line, the right exit code), and each verb once
as a real process."""

from __future__ import annotations

import contextlib
import csv
import functools
import http.server
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runs import (
    NETWORK,
    SERESNEXT,
    finish,
    refused,
    run_cli,
    run_process,
    start,
    train_arguments,
)
from seresnext import __version__
from seresnext.cli import VERBS
from seresnext.cli.train import arguments
from seresnext.config import SHORT_NAMES, load_config, recipe
from seresnext.config.typed import config_flags, with_flags
from seresnext.install import install_command
from seresnext.model.architecture import architecture, weight_shapes
from seresnext.model.init import init_weights
from seresnext.model.saved_model import save_model
from seresnext.model.spec import InputSpec, ModelSpec
from seresnext.runtimes.formats import FORMATS, Format

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

    def test_a_console_that_lacks_the_letters(self, photos: Path, model: Path) -> None:
        """Names are printed escaped where the encoding lacks them."""
        (photos / "été.png").write_bytes((photos / "val" / "cat" / "0.png").read_bytes())
        command = [*SERESNEXT, "predict", str(model), str(photos / "été.png"), "名.png"]
        done = finish(start(command, PYTHONIOENCODING="ascii", LC_ALL="C.UTF-8"), 120)
        assert "\\xe9t\\xe9.png: " in done.stdout, done.stderr
        assert done.stderr == "\\u540d.png: cannot be read: No such file or directory\n"

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
        commands = re.findall(r"install: (pip install .*)", done.stdout)
        clone = str(Path(__file__).parents[1])
        assert all(command.startswith(f"pip install -e '{clone}[") for command in commands)
        assert install_command("onnx") == f"pip install -e '{clone}[onnx]'"
        assert "seresnext50_32x4d" in done.stdout


class TestUsage:
    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_has_help(self, verb: str) -> None:
        assert f"usage: seresnext {verb}" in run_cli(verb, "--help").stdout

    def test_without_arguments(self) -> None:
        assert run_cli(code=2).stdout == run_cli("--help").stdout

    @pytest.mark.parametrize(
        ("typed", "line"),
        [
            ("train --epochs ten", "--epochs: expected a number, got 'ten'"),
            ("train --seed 1.5", "--seed: expected a whole number, got '1.5'"),
            ("train --seed", "--seed: expected a whole number, got nothing"),
            ("train --seed --out r", "--seed: expected a whole number, got nothing"),
            ("train --engine jax", "--engine: expected one of torch, mindspore, got 'jax'"),
            ("train --model.layers 1 2", "--model.layers: expected N N N N, got 1 2"),
            ("train --allow-data-change=1", "--allow-data-change: expected no value, got '1'"),
            ("train --momentum 1", "did you mean --optim.momentum?"),
            ("train --learning-rate 3", "seresnext train has no option --learning-rate"),
            ("train --no-seed", "seresnext train has no option --no-seed"),
            ("train photos", "seresnext train: what is 'photos'?"),
            ("train --epochs 5 --run.duration 3steps", "--epochs says '5 epochs' and --run.dura"),
            ("train --lr 1 --optim.lr-per-256 1", "give --lr or --optim.lr-per-256, not both"),
            ("train --recipe demo --config c", "give --config or --recipe, not both"),
            ("evaluate runs/mine", "seresnext evaluate needs --data"),
            ("predict", "seresnext predict needs MODEL, IMAGES"),
            ("predict runs/mine", "seresnext predict needs IMAGES"),
            ("predict m i --json --csv", "give --json or --csv, not both"),
            ("bench nothing", "or `seresnext bench loader` or `seresnext bench train`, got"),
            (
                "data",
                "or `seresnext data show` or `seresnext data demo`, got nothing",
            ),
        ],
    )
    def test_wrong_usage_is_one_line(self, typed: str, line: str) -> None:
        done = run_cli(*typed.split(), code=2)
        assert done.stdout == ""
        assert done.stderr.startswith("seresnext: error: ")
        assert line in done.stderr
        assert done.stderr.count("\n") == 1

    def test_what_may_be_typed(self) -> None:
        typed = ["--batch_size=4", "--epochs", "2", "--epochs", "5", "--run.duration", "5 epochs"]
        typed += ["--model.no-zero-init-last-bn"]
        typed += ["--model.layers", "1", "2", "3", "4", "--schedule.milestones", "1 ep", "2 ep"]
        typed += ["--augment.hflip", "0", "--out=--odd"]
        given = arguments(typed)
        assert given["model.zero_init_last_bn"] is False
        config = with_flags(recipe("demo"), given)
        assert (config.run.batch_size, config.run.duration) == (4, "5 epochs")
        assert (config.augment.hflip, config.run.out) == (0, "--odd")
        assert config.model.layers == (1, 2, 3, 4)
        assert config.schedule.milestones == ("1 ep", "2 ep")

    def test_the_rate_that_was_typed_counts(self) -> None:
        absolute = with_flags(recipe("finetune"), arguments(["--lr", "0.02"]))
        assert [absolute.optim.peak_lr(n) for n in (32, 512)] == [0.02, 0.02]
        scaled = with_flags(absolute, arguments(["--optim.lr-per-256", "0.1"]))
        assert [scaled.optim.peak_lr(n) for n in (128, 256)] == [0.05, 0.1]

    def test_the_help_shows_the_recipes_values(self) -> None:
        shown = [run_cli("train", "--recipe", name, "--help").stdout for name in ("demo", "zoo")]
        assert "(default: data/digits)" in shown[0]
        assert "(default: data/digits)" not in shown[1]
        assert "(default: 12 epochs)" in shown[0]

    def test_the_help_is_short_and_the_whole_help_is_whole(self) -> None:
        short, whole = (run_cli("train", word).stdout for word in ("--help", "--help-all"))
        assert 18 <= short.count("\n  --") <= 26
        assert "None" not in short
        listed = re.findall(r"^  --(\S+)", whole, re.MULTILINE)
        listed = [name.replace(".no-", ".") for name in listed]
        fields = {flag.name[2:] for flag in config_flags(recipe("demo"))}
        assert fields <= set(listed)
        assert set(map(_typed, SHORT_NAMES)) <= set(re.findall(r"^  --(\S+)", short, re.MULTILINE))


def _typed(name: str) -> str:
    return name.replace("_", "-")


class TestTrain:
    def test_without_a_recipe(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Photos are fine-tuned, which is said; a large data set needs the recipe's name."""
        given = train_arguments(photos, tmp_path / "run", 1, 2)
        given = [word for word in given if word not in ("--recipe", "demo")]
        assert "recipe finetune (choose another" in run_cli(*given, "--run.no-report").stdout
        assert load_config(tmp_path / "run" / "config.json").recipe == "finetune"
        monkeypatch.setattr("seresnext.cli.train._SMALL", 7)
        assert "name the recipe: --recipe imagenet" in refused("train", "--data", photos)

    def test_missing_folders(self, tmp_path: Path) -> None:
        assert str(tmp_path / "no") in refused("train", "--data", tmp_path / "no")
        assert "--data" in refused("train")

    def test_a_folder_of_the_wrong_shape(self, photos: Path, tmp_path: Path) -> None:
        line = refused("train", "--data", photos / "train" / "cat", "--out", tmp_path / "r")
        assert "images but no class folders; expected" in line

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
            ("--epochs", "0", "--epochs (run.duration): expected more than 0, got '0 epochs'"),
            ("--batch-size", "0", "--batch-size (run.batch_size): expected 1 or more, got 0"),
            ("--lr", "-1", "--lr (optim.lr): expected 0 or more"),
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

    def test_weights_of_another_network_name_the_flags_that_fit(
        self, photos: Path, model: Path, tmp_path: Path
    ) -> None:
        given = ("--data", photos, "--out", tmp_path / "r", "--batch-size", 2)
        line = refused("train", *given, "--model", "seresnext101_64x4d", "--pretrained", model)
        advice = line.partition("; add ")[2]
        config = with_flags(recipe("finetune"), arguments(advice.split()))
        assert config.model.architecture(2).layers == ARCHITECTURE.layers
        assert config.model.architecture(2).cardinality == ARCHITECTURE.cardinality

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

    def test_convert_to_a_layout_that_the_suffix_does_not_fit(
        self, model: Path, tmp_path: Path
    ) -> None:
        assert "timm" in refused("convert", model, tmp_path / "out.ckpt", "--to", "timm")

    @pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.suffix], ids=str)
    def test_convert_does_not_export(self, model: Path, tmp_path: Path, format: Format) -> None:
        out = tmp_path / f"out{format.suffix}"
        assert f"seresnext export MODEL --out {out}" in refused("convert", model, out)
        assert not out.exists()


class TestPredict:
    def test_images_of_every_origin(
        self, photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What cannot be read is reported and stops nothing."""
        image = photos / "val" / "cat" / "0.png"
        stdin = io.TextIOWrapper(io.BytesIO(image.read_bytes()))
        monkeypatch.setattr("sys.stdin", stdin)
        (tmp_path / "empty").mkdir()
        with served(photos) as address:
            good = [image, f"{address}/val/cat/0.png", "-", photos / "val" / "dog"]
            bad = [tmp_path / "no.jpg", f"{address}/no.jpg", "http://[::1", tmp_path / "empty"]
            done = run_cli("predict", model, *good[:2], *bad, *good[2:], "--csv", code=1)
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        assert {row["file"] for row in rows if row["error"]} == set(map(str, bad))
        found = [row for row in rows if not row["error"] and row["rank"] == "1"]
        assert len(found) == 5
        assert found[2]["file"] == "-"
        assert len({(row["class"], row["probability"]) for row in found[:3]}) == 1
        assert sum(float(row["probability"]) for row in rows if row["file"] == "-") > 0.999
        errors = {row["file"]: row["error"] for row in rows}
        assert errors[str(bad[0])] == "No such file or directory"
        assert "404" in errors[str(bad[1])]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder's files; the value is the server's address."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass
