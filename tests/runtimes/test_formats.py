"""The table of formats: how files are recognised, and that a new format needs only an entry."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtimes.networks import (
    CLASSES,
    difference,
    engine_logits,
    random_images,
    random_weights,
    tiny_spec,
)
from seresnext import doctor
from seresnext.cli import main
from seresnext.errors import UserError
from seresnext.exporters.options import ExportOptions
from seresnext.exporters.run import export
from seresnext.install import install_command
from seresnext.model.saved_model import save_model
from seresnext.runtimes.base import create_runtime
from seresnext.runtimes.formats import FORMATS, Format, recognise


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\x08\x08\x12", "onnx"),
        (b"<?xml", "openvino"),
        (b"\xef\xbb\xbf \r\n<net", "openvino"),
        (b"\x0a\x050.1.0", "mindir"),
        (b"PK\x03\x04", "torch"),
    ],
)
def test_a_file_is_recognised_by_its_first_bytes(tmp_path: Path, start: bytes, name: str) -> None:
    (tmp_path / "model").write_bytes(start)
    assert recognise(tmp_path / "model") is FORMATS[name]


@pytest.mark.parametrize("start", [b"", b"PK", b"text", b"\x80\x02"])
def test_other_files_are_refused(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "model").write_bytes(start)
    pattern = r"is no model that can be run; expected .*\(\.onnx, \.xml, \.mindir, \.pt2\)"
    with pytest.raises(UserError, match=pattern):
        recognise(tmp_path / "model")


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Format(
        name="lost",
        suffix=".lost",
        precisions=("fp32",),
        packages=("no_such_package",),
        extra="lost-and-found",
        exporter="no_such_package.exporter",
        runtime="no_such_package.runtime:Lost",
        first_bytes=b"LOST",
    )
    monkeypatch.setitem(FORMATS, "lost", lost)
    (tmp_path / "m.lost").write_bytes(b"LOST")
    with pytest.raises(UserError, match=re.escape(install_command("lost-and-found"))):
        create_runtime(tmp_path / "m.lost")
    (finding,) = (f for f in doctor.diagnose() if f.name == "runtime lost")
    assert not finding.works
    assert install_command("lost-and-found") in finding.detail


NPZ = Format(
    name="npz",
    suffix=".npz",
    precisions=("fp32",),
    packages=("numpy",),
    extra="torch",
    exporter="exporters.npz",
    runtime="runtimes.npz:NpzRuntime",
    first_bytes=rb"NPZ\n",
    preprocessing=False,
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder; npz is in the table."""
    monkeypatch.setitem(FORMATS, "npz", NPZ)
    save_model(tmp_path / "model", tiny_spec(), random_weights(tiny_spec()))
    return tmp_path / "model"


def test_a_new_format_is_an_entry_and_two_modules(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.npz"
    report = export(model, out)
    assert report.format == "npz"
    assert report.files == (out,)
    assert report.comparison is not None
    assert report.comparison.relative < 1e-6
    logits = create_runtime(out, device="cpu", threads=1).predict(random_images(9, 32))
    assert difference(logits, engine_logits(tiny_spec())) < 1e-6
    with pytest.raises(UserError, match="--precision: npz can be fp32, got 'int8'"):
        export(model, out, ExportOptions(precision="int8"))
    with pytest.raises(UserError, match=r"--with-preprocessing: not for npz; .* onnx, openvino, "):
        export(model, out, ExportOptions(with_preprocessing=True))


def test_commands_know_a_new_format(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.npz"
    assert main(["export", str(model), "--format", "npz", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "npz"
    photo = tmp_path / "photo.png"
    Image.fromarray(random_images(1, 40)[0]).save(photo)
    assert main(["predict", str(out), str(photo), "--device", "cpu", "--json"]) == 0
    answer = capsys.readouterr().out
    assert any(json.dumps(name) in answer for name in CLASSES)
    assert main(["doctor"]) == 0
    assert f"runtime npz        numpy {np.__version__}" in capsys.readouterr().out
