"""Exports end to end: what is written, what the comparison refuses, what the user reads."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtimes.networks import CLASSES, difference, random_images, random_weights, tiny_spec
from seresnext import __version__
from seresnext.config import Config
from seresnext.console import own_messages
from seresnext.errors import UserError
from seresnext.evaluate import EvaluateOptions, evaluate_folder
from seresnext.exporters import images as export_images
from seresnext.exporters import int8
from seresnext.exporters import onnx as onnx_export
from seresnext.exporters.options import ExportOptions
from seresnext.exporters.report import print_report
from seresnext.exporters.run import export
from seresnext.model.architecture import architecture
from seresnext.model.saved_model import save_model
from seresnext.model.spec import ModelSpec
from seresnext.runtimes.base import create_runtime
from seresnext.runtimes.formats import FORMATS


def write_images(folder: Path, count: int, seed: int) -> Path:
    for k, name in enumerate(CLASSES):
        place = folder / name
        place.mkdir(parents=True)
        for i, pixels in enumerate(random_images(count, 40, seed + k)):
            Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its data: 15 images in train, 10 in val."""
    folder = tmp_path_factory.mktemp("run")
    spec = tiny_spec()
    save_model(folder / "model", spec, random_weights(spec))
    write_images(folder / "data" / "train", 3, 100)
    write_images(folder / "data" / "val", 2, 200)
    config = Config()
    config = replace(config, data=replace(config.data, root=str(folder / "data")))
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    return folder


def perturb(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on one weight of every ONNX export is wrong."""
    build = onnx_export.build

    def wrong(artifact, weights):  # type: ignore[no-untyped-def]
        kernel = weights["layer2.0.conv3.weight"].copy()
        kernel[3, 4] += 1
        return build(artifact, {**weights, "layer2.0.conv3.weight": kernel})

    monkeypatch.setattr(onnx_export, "build", wrong)


@pytest.mark.parametrize(
    "format", ["onnx", "openvino", "torch", pytest.param("mindir", marks=pytest.mark.slow)]
)
def test_an_export_is_as_accurate_as_the_run(run: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "new" / f"model{FORMATS[format].suffix}"
    report = export(run, out, ExportOptions(device="cpu"))
    assert set(report.files) == set(out.parent.iterdir())
    assert report.bytes == sum(file.stat().st_size for file in report.files)
    assert report.images == f"10 images of {run}/data/val"
    result = report.comparison
    assert result.images == 10
    assert result.agreement == 1
    assert result.relative < 1e-5
    runtime = create_runtime(out)
    assert runtime.spec == tiny_spec()
    source = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert runtime.artifact.source_sha256 == source
    assert runtime.artifact.version == __version__
    by_artifact = evaluate_folder(runtime, run / "data", EvaluateOptions(batch_size=4))
    by_engine = evaluate_folder(
        create_runtime(run, device="cpu"), run / "data", EvaluateOptions(batch_size=4)
    )
    assert by_artifact.top1 == by_engine.top1 == result.artifact_metrics.top1
    assert by_artifact.loss == pytest.approx(by_engine.loss, rel=1e-5)


def test_an_artifact_that_differs_replaces_no_earlier_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    export(run, out)
    good = out.read_bytes()
    perturb(monkeypatch)
    pattern = r"was not written.*torch engine.*10 images of .*logits differ.*earlier file is unch"
    with pytest.raises(UserError, match=pattern) as caught:
        export(run, out)
    assert "\n" not in str(caught.value)
    assert out.read_bytes() == good
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(UserError, match=r"on 10 images of [^;]*val: logits differ by up to"):
        export(run, tmp_path / "none" / "model.onnx")
    assert not list((tmp_path / "none").iterdir())


def test_a_full_disk_leaves_the_old_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"old")

    def full(model, artifact, path):  # type: ignore[no-untyped-def]
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_export, "write", full)
    with pytest.raises(UserError, match=r"cannot write .*model\.onnx: No space left on device"):
        export(run, out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_model_folder_is_compared_on_synthetic_images(run: Path, tmp_path: Path) -> None:
    model = shutil.copytree(run / "model", tmp_path / "model")
    report = export(model, tmp_path / "m.onnx")
    assert report.images == "32 synthetic images (no --data was given)"
    assert report.comparison.engine_metrics is None


def test_images_of_a_run_that_are_gone_are_said(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("data"))
    settings = json.loads((gone / "config.json").read_text())
    settings["data"]["root"] = "pictures"
    (gone / "config.json").write_text(json.dumps(settings))
    report = export(gone, tmp_path / "m.onnx")
    assert report.images == "32 synthetic images (no --data was given)"
    assert [r.getMessage() for r in caplog.records] == [
        "the run's images are not there (pictures): compared on synthetic images; give --data DIR "
        "for real ones"
    ]
    with pytest.raises(UserError, match=r"give --calibration DIR \(the run's images are not there"):
        export(gone, tmp_path / "m.onnx", ExportOptions(precision="int8"))


def test_relative_paths_of_a_run_lead_somewhere_from_elsewhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no data/
    moved = shutil.copytree(run, tmp_path / "run")
    settings = json.loads((moved / "config.json").read_text())
    settings["data"]["root"], settings["typed_in"] = "data", str(moved)
    (moved / "config.json").write_text(json.dumps(settings))
    assert export(moved, tmp_path / "m.onnx").images == f"10 images of {moved}/data/val"


def test_given_images_go_before_recorded_ones(run: Path, tmp_path: Path) -> None:
    other = write_images(tmp_path / "other", 4, 300)
    report = export(run, tmp_path / "m.onnx", ExportOptions(data=other, max_images=7))
    assert report.images == f"7 images of {other}"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("name", ["seresnext50_32x4d", "seresnext50d_32x4d"])
def test_full_size(tmp_path: Path, format: str, name: str) -> None:
    arch = architecture(name, max_pool="same")
    spec = ModelSpec(arch, tuple(map(str, range(1000))))
    save_model(tmp_path / "model", spec, random_weights(spec))
    report = export(tmp_path / "model", tmp_path / f"m{FORMATS[format].suffix}")
    assert report.comparison.relative < 1e-5
    assert report.comparison.agreement == 1


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8(run: Path, tmp_path: Path, format: str, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / f"model{FORMATS[format].suffix}"
    options = ExportOptions(precision="int8", with_preprocessing=True, max_drop=30)
    report = export(run, out, options)
    assert report.calibration == f"15 images of {run}/data/train"
    assert report.in_float == ()
    assert 1e-4 < report.comparison.relative < 0.5
    assert set(report.files) == set(tmp_path.iterdir())
    assert capsys.readouterr().out == ""  # NNCF prints much by itself
    runtime = create_runtime(out)
    assert runtime.artifact.precision == "int8"
    images = random_images(4, 32)
    exact = create_runtime(run, device="cpu").predict(images)
    assert 1e-4 < difference(runtime.predict(images), exact) < 0.5


@pytest.mark.slow
def test_int8_reports_the_blocks_it_left_in_float(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Candidates with layer3 in int8 are made to predict one rare class."""
    quantise = int8.to_int8
    pixels = np.stack([np.asarray(Image.open(p)) for p in (run / "data").rglob("*.png")])
    answers = create_runtime(run, device="cpu").predict(pixels[:, 4:36, 4:36]).argmax(1)
    rare = np.bincount(answers, minlength=5).argmin()

    def harmful(model, images, inputs, in_float):  # type: ignore[no-untyped-def]
        candidate = quantise(model, images, inputs, in_float)
        if "layer3.0" not in in_float:
            bias = next(t for t in candidate.graph.initializer if t.name == "fc.bias")
            bias.raw_data = np.where(np.arange(5) == rare, 1e3, 0).astype(np.float32).tobytes()
        return candidate

    monkeypatch.setattr(int8, "to_int8", harmful)
    out = tmp_path / "model.onnx"
    options = ExportOptions(precision="int8", max_drop=30, calibration=run / "data" / "train")
    # Away from its run, whose few labelled images would be the judge.
    with own_messages():
        report = export(shutil.copytree(run / "model", tmp_path / "model"), out, options)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "int8: the whole network, ranges from 15 images"
    assert re.fullmatch(r"int8: [\d.]+ points lost; conv1 alone \(1 of 6\), .*", said[1])
    assert report.in_float == ("layer3.0",)
    print_report(report)
    text = capsys.readouterr().out
    assert "layer3.0" in text
    assert "15 images" in text
    assert json.loads(json.dumps(report.to_dict()))["in_float"] == ["layer3.0"]


def test_int8_needs_images(run: Path, tmp_path: Path) -> None:
    model = shutil.copytree(run / "model", tmp_path / "model")
    with pytest.raises(UserError, match="give --calibration DIR"):
        export(model, tmp_path / "m.onnx", ExportOptions(precision="int8"))
    chosen = export_images.calibration_images(
        run / "model", ExportOptions(calibration=run / "data" / "val")
    )
    assert chosen.origin == f"10 images of {run}/data/val"
    assert not chosen.labelled


@pytest.mark.parametrize(
    ("format", "name", "options", "message"),
    [
        ("onnx", "m.xml", {}, r"--out: onnx files end in \.onnx"),
        ("tflite", "m.tflite", {}, "--format: expected one of onnx, openvino"),
        ("torch", "m.pt2", {"precision": "int8"}, "torch can be fp32 or fp16"),
        ("mindir", "m.mindir", {"precision": "fp16"}, "mindir can be fp32"),
        ("mindir", "m.mindir", {"with_preprocessing": True}, "--with-preprocessing: not for"),
        ("torch", "m.pt2", {"with_cam": True}, "--with-cam: not for torch; .* onnx, openvino$"),
        ("openvino", "m.xml", {"batch_size": 2}, "--batch-size, --input-name: not for openvino"),
        ("onnx", "m.onnx", {"input_name": "a b"}, "--input-name: expected up to 64"),
        ("onnx", "m.onnx", {"batch_size": -1}, "--batch-size: expected 0 to 1024"),
        ("onnx", "m.onnx", {"max_drop": -1.0}, "--max-drop: expected 0 to 100; --max-images"),
        ("onnx", "m.onnx", {"data": Path("nowhere")}, "nowhere"),
    ],
)
def test_options_that_do_not_fit(
    run: Path, tmp_path: Path, format: str, name: str, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        export(run, tmp_path / name, ExportOptions(format=format, **options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_images_of_which_none_can_be_read(run: Path, tmp_path: Path, precision: str) -> None:
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "damaged.png").write_bytes(b"no image")
    out = tmp_path / "out" / "m.onnx"
    with pytest.raises(UserError, match=r"none of 5 images of .*data could be read"):
        export(run, out, ExportOptions(precision=precision, data=tmp_path / "data"))
    assert not list(out.parent.iterdir())


def test_a_suffix_of_no_format(run: Path, tmp_path: Path) -> None:
    pattern = r"--out: expected a file that ends in one of \.onnx, \.xml, .*\.pt2, got .*m\.h5"
    with pytest.raises(UserError, match=pattern):
        export(run, tmp_path / "m.h5")


def test_air_is_written_on_ascend_only(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("mindspore")
    with pytest.raises(UserError, match="AIR on Ascend only, and there is no Ascend device here"):
        export(run, tmp_path / "m.air")
    assert not list(tmp_path.iterdir())


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished model"):
        export(tmp_path, tmp_path / "m.onnx")


def test_spread_takes_every_class(run: Path) -> None:
    source = export_images.comparison_images(run, tiny_spec(), ExportOptions(max_images=5)).source
    assert sorted(source.labels.tolist()) == [0, 1, 2, 3, 4]
    assert len(export_images.spread(source, 0)) == 5
    assert len(export_images.spread(source, 100)) == 5
    assert source[2].data == Path(source.describe(2)).read_bytes()
