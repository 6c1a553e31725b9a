"""`export.py` and the flow of the inference card, by their commands."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from seresnext.data.decode import decode_image
from seresnext.data.preprocess import preprocess
from seresnext.evaluate import EvaluateOptions, evaluate_folder
from seresnext.runtimes.base import create_runtime
from zoo.tiny import Command

SCRIPT = "scripts/run_infer_310.sh"
TIME = r"NN inference cost average time: \d+\.\d{4} ms of infer_count 12"
ACCURACY = r"Top1 acc:  (\d\.\d+)\nTop5 acc:  1\.0\n"


@pytest.fixture(scope="module")
def artifact(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    trained: tuple[Path, str],
    command: Command,
) -> Path:
    """python export.py --ckpt_file F --file_format ..."""
    form: str = request.param
    if form == "MINDIR":
        pytest.importorskip("mindspore", reason="needs MindSpore")
    folder = tmp_path_factory.mktemp("export")
    done = command(
        *("export.py", "--ckpt_file", trained[0] / "ckpt_0" / "train_senet_imagenet-3_6.ckpt"),
        *("--file_name", "tiny", "--file_format", form, "--batch_size", "1"),
        *("--width", "32", "--height", "32", "--device_id", "0", "--device_target", "CPU"),
        cwd=folder,
    )
    assert "12 images of " in done.stdout  # the run's own validation images
    assert [path.name for path in folder.iterdir()] == [f"tiny.{form.lower()}"]
    return folder / f"tiny.{form.lower()}"


@pytest.mark.parametrize("artifact", ["ONNX", "MINDIR"], indirect=True)
def test_the_flow(artifact: Path, tmp_path: Path, digits: Path, command: Command) -> None:
    """bash run_infer_310.sh MINDIR DATASET_NAME DATASET_PATH NEED_PREPROCESS DEVICE_ID"""
    done = command(SCRIPT, artifact, "imagenet2012", digits / "val", "y", "0", cwd=tmp_path)
    names = [f"{c}__{n}" for c in range(4) for n in range(3)]
    labels = json.loads((tmp_path / "preprocess_Result" / "imagenet_label.json").read_text())
    assert labels == {f"{name}.png": int(name[0]) for name in names}
    results = sorted(path.name for path in (tmp_path / "result_Files").iterdir())
    assert results == sorted(f"{name}_0.bin" for name in names)
    time_text = (tmp_path / "time_Result" / "test_perform_static.txt").read_text()
    assert re.fullmatch(rf"{TIME}\n", time_text)
    assert re.search(rf"^{TIME} on \w+ cpu", done.stdout, re.M)
    assert done.stdout.startswith("[INFO] Completed! Total 12 data.\n")
    assert (tmp_path / "infer.log").read_text() == done.stdout
    match = re.fullmatch(ACCURACY, (tmp_path / "acc.log").read_text())
    assert match

    model = create_runtime(artifact, device="cpu")
    metrics = evaluate_folder(model, digits / "val", EvaluateOptions(batch_size=12))
    assert float(match[1]) == metrics.top1
    for name in names:
        logits = np.fromfile(tmp_path / "result_Files" / f"{name}_0.bin", np.float32)
        file = digits / "val" / name[0] / f"{name[-1]}.png"
        pixels = preprocess(decode_image(file.read_bytes(), max_pixels=10_000), model.spec.input)
        np.testing.assert_allclose(logits, model.predict(pixels[None])[0], rtol=1e-5, atol=1e-5)


onnx = pytest.mark.parametrize("artifact", ["ONNX"], indirect=True)


@onnx
def test_again_keeps_the_earlier_results(
    artifact: Path, tmp_path: Path, digits: Path, command: Command
) -> None:
    command(SCRIPT, artifact, "imagenet2012", digits / "val", "y", "0", cwd=tmp_path)
    first = (tmp_path / "acc.log").read_text()
    command(
        *(SCRIPT, artifact, "imagenet2012", digits, "n", "--resize", "stretch"),
        cwd=tmp_path,
    )
    assert (tmp_path / "acc.log.1").read_text() == first
    assert len(list((tmp_path / "result_Files.1").iterdir())) == 12
    assert len(list((tmp_path / "result_Files").iterdir())) == 12
    assert not (tmp_path / "preprocess_Result.1").exists()


@onnx
def test_unreadable_images(artifact: Path, tmp_path: Path, digits: Path, command: Command) -> None:
    shutil.copytree(digits / "val", tmp_path / "val")
    (tmp_path / "val" / "2" / "1.png").write_bytes(b"<html>not found</html>")
    arguments = (SCRIPT, artifact, "imagenet2012", "val", "y", "0")
    done = command(*arguments, cwd=tmp_path, code=1)
    assert "cannot read image " in done.stderr
    assert "out with --on_bad_image skip" in done.stderr
    assert not (tmp_path / "acc.log").exists()
    done = command(*arguments, "--on_bad_image", "skip", cwd=tmp_path)
    assert "1 images could not be read and are not counted" in done.stdout
    assert "of infer_count 11 " in done.stdout
    again = command("postprocess.py", cwd=tmp_path)
    assert again.stdout == (tmp_path / "acc.log").read_text()


@onnx
@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({1: "cifar10"}, 2, "invalid choice: 'cifar10'"),
        ({3: "maybe"}, 2, "invalid choice: 'maybe'"),
        ({4: "first"}, 2, "expected a number from 0, got 'first'"),
        ({0: "nothing.mindir"}, 1, "nothing.mindir"),
        ({2: "nowhere"}, 1, "cannot read folder nowhere"),
        ({3: "n"}, 1, "no preprocess_Result/imagenet_label.json of an earlier run"),
    ],
)
def test_mistakes(
    artifact: Path,
    tmp_path: Path,
    digits: Path,
    command: Command,
    change: dict[int, str],
    code: int,
    message: str,
) -> None:
    arguments = [str(artifact), "imagenet2012", str(digits / "val"), "y", "0"]
    for place, word in change.items():
        arguments[place] = word
    done = command(SCRIPT, *arguments, cwd=tmp_path, code=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ckpt_file is not set"),
        (["--ckpt_file", "nothing.ckpt"], "no weights at nothing.ckpt"),
        (["--ckpt_file", "F", "--file_format", "OM"], "expected one of AIR, ONNX, MINDIR"),
        (["--ckpt_file", "F", "--width", "256"], "height is not given, width 256"),
    ],
)
def test_export_refuses(
    arguments: list[str],
    message: str,
    trained: tuple[Path, str],
    tmp_path: Path,
    command: Command,
) -> None:
    file = trained[0] / "ckpt_0" / "train_senet_imagenet-3_6.ckpt"
    words = [str(file) if word == "F" else word for word in arguments]
    done = command("export.py", *words, "--device_target", "CPU", cwd=tmp_path, code=1)
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_air_is_written_on_ascend_only(
    trained: tuple[Path, str], tmp_path: Path, command: Command
) -> None:
    pytest.importorskip("mindspore", reason="needs MindSpore")
    file = trained[0] / "ckpt_0" / "train_senet_imagenet-3_6.ckpt"
    done = command(
        *("export.py", "--ckpt_file", file, "--file_format", "AIR", "--device_target", "CPU"),
        cwd=tmp_path,
        code=1,
    )
    assert "MindSpore writes AIR on Ascend only" in done.stderr
    assert not list(tmp_path.iterdir())


def test_export_of_checkpoints_from_elsewhere_and_of_a_run(
    trained: tuple[Path, str], tmp_path: Path, digits: Path, command: Command
) -> None:
    """Classes of a file that has none are numbered, or named by the images it is compared on."""
    shutil.copy(trained[0] / "ckpt_0" / "train_senet_imagenet-2_6.ckpt", tmp_path / "other.ckpt")
    common = ("--file_format", "ONNX", "--device_target", "CPU", "--width", "32", "--height", "32")
    done = command("export.py", "--ckpt_file", "other.ckpt", *common, cwd=tmp_path)
    assert "synthetic images" in done.stdout
    assert "--data " not in done.stdout
    numbered = create_runtime(tmp_path / "senet.onnx", device="cpu").spec
    assert numbered.class_names == ("0", "1", "2", "3")
    assert (numbered.input.image_size, numbered.architecture.max_pool) == (32, "same")
    shutil.copytree(digits / "val", tmp_path / "val")
    (tmp_path / "val" / "3").rename(tmp_path / "val" / "three")
    named = ("--data_path", "val", "--file_name", "named.onnx")
    command("export.py", "--ckpt_file", "other.ckpt", *common, *named, cwd=tmp_path)
    spec = create_runtime(tmp_path / "named.onnx", device="cpu").spec
    assert spec.class_names == ("0", "1", "2", "three")
    run = ("--ckpt_file", trained[0] / "ckpt_0", "--file_name", "run", "--batch_size", "3")
    run = (*run, "--fixed_shape", "True")
    done = command("export.py", *run, *common, cwd=tmp_path)
    assert "12 images of " in done.stdout
    session = onnxruntime.InferenceSession(tmp_path / "run.onnx")
    described = session.get_inputs()[0]
    assert (described.name, described.shape) == ("actual_input_1", [3, 3, 32, 32])
