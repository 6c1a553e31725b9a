"""The commands of the original's README, run as a person types them, on a small data set."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seresnext.config import EngineConfig
from seresnext.engines.base import create_engine
from seresnext.errors import UserError
from seresnext.evaluate import EvaluateOptions, evaluate_folder
from seresnext.model.architecture import architecture, is_buffer
from seresnext.model.init import init_weights
from seresnext.model.spec import InputSpec, ModelSpec
from seresnext.weights.ckpt import write_ckpt
from seresnext.weights.layouts import to_entries, with_biases
from seresnext.weights.load import load_weights
from seresnext.zoo import evaluate, postprocess
from seresnext.zoo.settings import has_ascend
from zoo.tiny import LAYERS, TINY, Command

LOG = r"""device_target CPU: float32; the original's float16 is for accelerators
seresnext50_32x4d on torch cpu \(1 thread\), fp32; 24 images in 4 classes; 18 steps of 4 images .*
training on .*
validating on .*: 12 images
(epoch: (\d) step: 6, loss is \d+\.\d{6}
epoch time: \d+\.\d{3} ms, per step time: \d+\.\d{3} ms
epoch: \2 validation accuracy is {'top_1_accuracy': [\d.]+, 'top_5_accuracy': 1\.0}
){3}[\d.]+ images/s, bound by .*
the model has the (best|last) weights, .*
train success
"""


def accuracy(line: str, name: str) -> float:
    """Top-1 of the original's evaluation line, whose form is checked to the last byte."""
    figures = r"{'top_1_accuracy': ([\d.]+), 'top_5_accuracy': 1\.0}"
    match = re.fullmatch(rf"model {re.escape(name)}'s accuracy is {figures}", line)
    assert match, line
    return float(match[1])


def validated(printed: str) -> list[float]:
    """Top-1 of each validation in the log of a training."""
    found = re.findall(r"validation accuracy is {'top_1_accuracy': ([\d.]+)", printed)
    return [float(text) for text in found]


def test_train(trained: tuple[Path, str]) -> None:
    """python train.py --device_id=0"""
    folder, printed = trained
    assert re.fullmatch(LOG, printed), printed
    assert sorted(path.name for path in (folder / "ckpt_0").glob("*.ckpt")) == [
        "train_senet_imagenet-2_6.ckpt",
        "train_senet_imagenet-3_6.ckpt",
    ]
    config = json.loads((folder / "ckpt_0" / "config.json").read_text())
    assert config["recipe"] == "zoo"
    assert config["model"]["max_pool"] == "same"


def test_train_again_has_nothing_to_do(
    trained: tuple[Path, str], digits: Path, command: Command
) -> None:
    done = command(
        *("train.py", "--device_target", "CPU", "--data_path", digits / "train"),
        *("--val_data_path", digits / "val", "--epoch_size", "3", *TINY, *LAYERS),
        cwd=trained[0],
    )
    assert "already finished at step 18; nothing to train" in done.stdout
    assert "Train on with more --epoch_size" in done.stdout


def test_train_refuses_the_folder_of_another_run(
    tmp_path: Path, trained: tuple[Path, str], digits: Path, command: Command
) -> None:
    (tmp_path / "ckpt_0").mkdir()
    old = tmp_path / "ckpt_0" / "train_senet_imagenet-120_10009.ckpt"
    shutil.copy(trained[0] / "ckpt_0" / "train_senet_imagenet-2_6.ckpt", old)
    done = command(
        *("train.py", "--device_target", "CPU", "--data_path", digits / "train", *TINY, *LAYERS),
        cwd=tmp_path,
        code=1,
    )
    assert "train.py: error: ckpt_0 holds 1 checkpoints of another run" in done.stderr
    assert [path.name for path in (tmp_path / "ckpt_0").iterdir()] == [old.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr_int", "1"], "unknown name 'lr_int' on the command line (did you mean lr_init?)"),
        ([], "data_path is not set"),
        (["--num_classes", "1000"], "num_classes is 1000, but DATA/train has 4 class folders"),
        (["--device_target", "GPU", "--engine", "mindspore"], "GPU needs --engine torch"),
        ([*TINY, "--batch_size", "9999999"], "--batch_size: expected 1 to 2796202 images of 32 px"),
        pytest.param(
            TINY,
            "no Ascend device here; give --device_target CPU",
            marks=pytest.mark.skipif(has_ascend(), reason="there is an Ascend device"),
        ),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, digits: Path, tmp_path: Path, command: Command
) -> None:
    data = ["--data_path", str(digits / "train")] if arguments else []
    done = command("train.py", *data, *arguments, cwd=tmp_path, code=1)
    assert done.stderr.startswith("train.py: error: ")
    assert message.replace("DATA", str(digits)) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_eval(trained: tuple[Path, str], digits: Path, command: Command) -> None:
    """python eval.py --checkpoint_path ./ckpt_0: every checkpoint, as validated in training."""
    folder, printed = trained
    done = command(
        *("eval.py", "--checkpoint_path", "./ckpt_0", "--device_target", "CPU"),
        *("--val_data_path", digits / "val", "--batch_size", "5"),
        cwd=folder,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, epoch in zip(lines, (2, 3), strict=True):
        name = f"./ckpt_0/train_senet_imagenet-{epoch}_6.ckpt"
        assert accuracy(line, name) == validated(printed)[epoch - 1]


def test_eval_script(trained: tuple[Path, str], digits: Path, command: Command) -> None:
    """bash scripts/run_standalone_eval_ascend.sh"""
    done = command(
        *("scripts/run_standalone_eval_ascend.sh", "--device_target", "CPU"),
        *("--val_data_path", digits),
        cwd=trained[0],
    )
    for line, epoch in zip(done.stdout.splitlines(), (2, 3), strict=True):
        name = f"./ckpt_0/train_senet_imagenet-{epoch}_6.ckpt"
        assert accuracy(line, name) == validated(trained[1])[epoch - 1]
    assert (trained[0] / "eval.log").read_text() == done.stdout


def test_eval_at_another_size_and_with_an_unreadable_image(
    tmp_path: Path, trained: tuple[Path, str], digits: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A size that is given is honoured, and what follows from it said; the advice can be typed."""
    shutil.copytree(digits / "val", tmp_path / "val")
    (tmp_path / "val" / "0" / "0.png").write_bytes(b"not an image")
    file = trained[0] / "ckpt_0" / "train_senet_imagenet-3_6.ckpt"
    arguments = ["--checkpoint_path", str(file), "--device_target", "CPU"]
    arguments += ["--val_data_path", str(tmp_path / "val")]
    assert evaluate.main(arguments) == 1
    assert re.search(r"out with --on_bad_image skip", capfd.readouterr().err)
    size = ["--image_height", "64", "--image_width", "64"]
    assert evaluate.main([*arguments, *size, "--on_bad_image", "skip"]) == 0
    out, errors = capfd.readouterr()
    assert out.startswith(f"model {file}'s accuracy is ")
    assert errors == (
        f"{file}: computed at 64 px, as given; it was trained at 32 px\n"
        "1 images could not be read and are not counted\n"
    )


def test_eval_of_a_run_and_of_a_damaged_file(
    tmp_path: Path, trained: tuple[Path, str], digits: Path, command: Command
) -> None:
    """Without a .ckpt the checkpoint folders are evaluated. A damaged one is named and skipped, and
    the exit code is 1."""
    shutil.copytree(trained[0] / "ckpt_0" / "checkpoints", tmp_path / "run" / "checkpoints")
    broken = tmp_path / "run" / "checkpoints" / "step-00000012" / "model.safetensors"
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)
    done = command(
        *("eval.py", "--checkpoint_path", "run", "--device_target", "CPU"),
        *("--val_data_path", digits / "val"),
        cwd=tmp_path,
        code=1,
    )
    names = [line.split("'s accuracy")[0] for line in done.stdout.splitlines()]
    assert "model run/checkpoints/step-00000018" in names
    assert "model run/checkpoints/step-00000012" not in names
    assert "model run/checkpoints/step-00000012: checkpoint file " in done.stderr
    assert "is damaged" in done.stderr


ARCH = with_biases(
    "original",
    architecture("seresnext50_32x4d", num_classes=4, layers=(1, 1, 1, 1), max_pool="same"),
)


def original_ckpt(path: Path, classes: int) -> dict[str, np.ndarray]:
    """A training checkpoint as the original wrote it, with momentum."""
    arch = replace(ARCH, num_classes=classes)
    weights = init_weights(arch, 1)
    momentum = {name: array for name, array in weights.items() if not is_buffer(name)}
    write_ckpt(path, to_entries("original", arch, weights, momentum))
    return weights


def test_checkpoints_of_the_original(tmp_path: Path, digits: Path, command: Command) -> None:
    """Evaluated, and trained on; one with another number of classes is refused."""
    weights = original_ckpt(tmp_path / "ours.ckpt", 4)
    original_ckpt(tmp_path / "theirs.ckpt", 1000)
    done = command(
        *("eval.py", "--checkpoint_path", ".", "--device_target", "CPU", "--val_data_path"),
        *(digits / "val", "--image_height", "32", "--image_width", "32"),
        cwd=tmp_path,
        code=1,
    )
    spec = ModelSpec(ARCH, tuple("0123"), InputSpec(32, interpolation="bilinear"))
    engine = create_engine(spec, weights, EngineConfig(name="torch", device="cpu"))
    metrics = evaluate_folder(engine, digits / "val", EvaluateOptions(batch_size=5))
    assert accuracy(done.stdout.rstrip("\n"), "./ours.ckpt") == metrics.top1
    assert done.stderr.startswith("model theirs.ckpt: it has 1000 classes, ")
    done = command(
        *("train.py", "--pre_trained", "True", "--checkpoint_path", "ours.ckpt", "--lr_init", "0"),
        *("--device_target", "CPU", "--data_path", digits / "train", "--epoch_size", "1"),
        *(*TINY, *LAYERS),
        cwd=tmp_path,
    )
    assert "starting from ours.ckpt (original layout, seresnext50_32x4d)" in done.stdout
    written = load_weights(tmp_path / "ckpt_0" / "train_senet_imagenet-1_6.ckpt").weights
    for name, array in weights.items():
        if not is_buffer(name):
            np.testing.assert_array_equal(written[name], array)


def test_standalone_train_script(tmp_path: Path, digits: Path, command: Command) -> None:
    """bash scripts/run_standalone_train_ascend.sh [DEVICE_ID]"""
    done = command(
        *("scripts/run_standalone_train_ascend.sh", "0", "--device_target", "CPU"),
        *("--data_path", digits, "--epoch_size", "1", "--save_ckpt", "False", "--recipe"),
        *("zoo-fixed", *TINY, *LAYERS),
        cwd=tmp_path,
    )
    assert re.search(r"^epoch: 1 step: 6, loss is \d+\.\d{6}$", done.stdout, re.M)
    assert (tmp_path / "train.log").read_text() == done.stdout
    assert done.stdout.endswith("train success\n")
    assert not list((tmp_path / "ckpt_0").glob("*.ckpt"))
    assert (tmp_path / "ckpt_0" / "model" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "ckpt_0" / "config.json").read_text())["recipe"] == "zoo-fixed"


def test_standalone_train_script_refuses_another_device_and_passes_failure_on(
    tmp_path: Path, command: Command
) -> None:
    script = "scripts/run_standalone_train_ascend.sh"
    done = command(script, "all", cwd=tmp_path, code=1)
    assert "DEVICE_ID: expected a number, got all" in done.stderr
    done = command(
        script, "0", "--data_path", "nowhere", "--device_target", "CPU", cwd=tmp_path, code=1
    )
    assert "no training images at nowhere" in done.stderr
    assert (tmp_path / "train.log").read_text().endswith(done.stderr)


# The 310 flow's own parts ----------------------------------------------------------------------


def test_preprocess(tmp_path: Path, digits: Path, command: Command) -> None:
    """Labels by class folder; images of the same name in several folders stay apart."""
    done = command("preprocess.py", "--data_path", digits / "val", cwd=tmp_path)
    assert done.stdout == "[INFO] Completed! Total 12 data.\n"
    labels = json.loads((tmp_path / "preprocess_Result" / "imagenet_label.json").read_text())
    assert labels == {f"{c}__{n}.png": c for c in range(4) for n in range(3)}
    command("preprocess.py", "--data_path", digits / "train", cwd=tmp_path)
    labels = json.loads((tmp_path / "preprocess_Result" / "imagenet_label.json").read_text())
    assert labels == {f"{c}{n}.png": c for c in range(4) for n in range(6)}
    assert (tmp_path / "preprocess_Result.1" / "imagenet_label.json").is_file()


def test_preprocess_refuses_images_outside_classes(
    tmp_path: Path, digits: Path, command: Command
) -> None:
    shutil.copytree(digits / "val", tmp_path / "val")
    shutil.copy(digits / "val" / "0" / "0.png", tmp_path / "val" / "stray.png")
    done = command("preprocess.py", "--data_path", "val", cwd=tmp_path, code=1)
    assert "1 images lie in no class folder, such as stray.png" in done.stderr


def write_results(folder: Path, logits: dict[str, list[float]], labels: dict[str, int]) -> None:
    """`result_Files/` and `preprocess_Result/` as the inference leaves them."""
    (folder / "result_Files").mkdir()
    for name, row in logits.items():
        np.array(row, np.float32).tofile(folder / "result_Files" / f"{name}_0.bin")
    (folder / "preprocess_Result").mkdir()
    (folder / "preprocess_Result" / "imagenet_label.json").write_text(json.dumps(labels))


def test_postprocess(tmp_path: Path, command: Command) -> None:
    """Six classes: of four images one is right, two more are among the best five."""
    rows = {
        "a": [9, 1, 2, 3, 4, 5],
        "b": [9, 1, 2, 3, 4, 5],
        "c": [9, 1, 2, 3, 4, 5],
        "d": [0, 9, 9, 9, 9, 9],
    }
    labels = {"a.JPEG": 0, "b.JPEG": 2, "c.png": 1, "d.JPEG": 5}
    write_results(tmp_path, rows, labels)
    done = command("postprocess.py", "--dataset_name", "imagenet2012", cwd=tmp_path)
    assert done.stdout == "Top1 acc:  0.25\nTop5 acc:  0.75\n"


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ({"a": [1, 2]}, {"a.png": 0, "b.png": 1}, "1 results are missing and 0 have no label"),
        ({"a": [1, 2], "b": [1, 2]}, {"a.png": 0}, "0 results are missing and 1 have no label"),
        ({"a": [1, 2], "b": [1]}, {"a.png": 0, "b.png": 1}, "b_0.bin holds 1 logits, others 2"),
        ({"a": [1, 2]}, {"a.png": 2}, "a.png has class 2, there are 2 logits"),
        ({"a": [1, 2]}, {"a.png": "0"}, "expected image names and class indices"),
        ({"a": [1, 2]}, ["a.png"], "expected image names and class indices"),
    ],
)
def test_postprocess_refuses_what_does_not_fit(
    tmp_path: Path, rows: dict[str, list[float]], labels: dict[str, int], message: str
) -> None:
    write_results(tmp_path, rows, labels)
    with pytest.raises(UserError, match=re.escape(message)):
        postprocess.accuracy(
            tmp_path / "result_Files", tmp_path / "preprocess_Result" / "imagenet_label.json"
        )
