"""`--format web` without a browser: what the folder holds, and when there is none."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from runs import run_cli
from runtimes.networks import CLASSES, random_weights, tiny_spec
from seresnext.errors import UserError
from seresnext.exporters import onnx as onnx_export
from seresnext.exporters import page
from seresnext.exporters.options import ExportOptions
from seresnext.exporters.run import export
from seresnext.model.saved_model import save_model
from seresnext.runtimes.base import create_runtime

CONTENT = {"ort.js": b"// script", "ort.wasm": b"\0asm"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm package of two small files, which are expected from now on."""
    folder, expected = tmp_path / "package", {}
    (folder / "dist").mkdir(parents=True)
    for name, (source, _) in page._FILES.items():
        (folder / "dist" / source).write_bytes(CONTENT[name])
        expected[name] = (source, hashlib.sha256(CONTENT[name]).hexdigest())
    monkeypatch.setattr(page, "_FILES", expected)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", tiny_spec(), random_weights(tiny_spec()))
    return tmp_path / "model"


def packed(package: Path) -> Path:
    """The package as `npm pack` writes it."""
    with tarfile.open(package.with_suffix(".tgz"), "w:gz") as archive:
        archive.add(package, "package")
    return package.with_suffix(".tgz")


def entries(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_the_folder_holds_the_page_the_network_and_what_runs_it(
    model: Path, package: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "site"
    done = run_cli("export", model, "--format", "web", "--out", out, "--ort", package)
    assert "http.server" in done.stdout
    assert "fp16" in done.stdout
    assets = {"icon.svg", "page.css", "page.js", "local.js", "worker.js", "preprocess.js"}
    assets |= {"ort/ort.js", "ort/ort.wasm", "ort/LICENSE"}
    names = {"index.html", "model.json", "model.onnx", *(f"assets/{name}" for name in assets)}
    assert entries(out) == names
    assert 'data-backend="local"' in (out / "index.html").read_text()
    assert {n: (out / "assets" / "ort" / n).read_bytes() for n in CONTENT} == CONTENT
    described = json.loads((out / "model.json").read_text())
    content = (out / "model.onnx").read_bytes()
    assert described["class_names"] == list(CLASSES)
    assert described["bytes"] == len(content)
    assert described["sha256"] == hashlib.sha256(content).hexdigest()
    artifact = create_runtime(out / "model.onnx").artifact
    assert (artifact.precision, artifact.with_preprocessing) == ("fp16", True)


def test_an_earlier_page_is_replaced_whole(model: Path, package: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    (out / "assets").mkdir(parents=True)
    (out / "assets" / "old.js").write_text("")
    options = ExportOptions(format="web", ort=packed(package), precision="fp32")
    report = export(model, out, options)
    assert report.files == (out,)
    assert report.bytes == sum((out / name).stat().st_size for name in entries(out))
    assert not (out / "assets" / "old.js").exists()
    (tmp_path / "link").symlink_to(out)
    assert export(model, tmp_path / "link", options).files == (out,)
    names = {"model", "package", "package.tgz", "site", "link"}
    assert {p.name for p in tmp_path.iterdir()} == names


@pytest.mark.parametrize("broken", ["fp16", "fp32"])
def test_half_precision_that_differs_gives_way(
    model: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Unless it was asked for; and what differs in float, too, replaces nothing."""
    build = onnx_export.build

    def wrong(artifact, weights):  # type: ignore[no-untyped-def]
        if artifact.precision in ("fp16", broken):
            weights = {**weights, "fc.bias": weights["fc.bias"] + 100}
        return build(artifact, weights)

    monkeypatch.setattr(onnx_export, "build", wrong)
    out = tmp_path / "site"
    options = ExportOptions(format="web", ort=package)
    if broken == "fp16":
        report = export(model, out, options)
        assert report.artifact.precision == "fp32"
        assert "logits differ by" in report.not_fp16
        assert report.to_dict()["not_fp16"] == report.not_fp16
        options = ExportOptions(format="web", ort=package, precision="fp16")
    before = {name: (out / name).read_bytes() for name in entries(out)}
    with pytest.raises(UserError, match=r"site was not written, .*: logits differ by"):
        export(model, out, options)
    assert before == {name: (out / name).read_bytes() for name in entries(out)}


def test_what_does_not_fit_is_refused_before_anything_is_computed(
    package: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"

    def refused(pattern: str, **options: object) -> None:
        given = {"format": "web", "ort": package, **options}
        with pytest.raises(UserError, match=pattern):
            export(nowhere, tmp_path / "site", ExportOptions(**given))  # type: ignore[arg-type]

    refused("--precision: web can be fp16 or fp32 or int8, got 'fp8'", precision="fp8")
    refused(r"--ort: cannot read ort.* in .*nothing: .*No such file", ort=tmp_path / "nothing")
    other = package / "dist" / page._FILES["ort.wasm"][0]
    other.write_bytes(b"another version")
    for ort in (package, package / "dist", packed(package)):
        refused(r"--ort: ort-wasm.* is not that of onnxruntime-web@[\d.]+; get it by `npm", ort=ort)
    (tmp_path / "text.tgz").write_text("no archive")
    refused("--ort: cannot read ort", ort=tmp_path / "text.tgz")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "CNAME").write_text("example.org")
    refused(r"--out: the folder .*site would be replaced, and it holds what no .*\(CNAME\)")
    (tmp_path / "site" / "CNAME").unlink()
    (tmp_path / "site").rmdir()
    (tmp_path / "site").write_text("a file")
    refused(r"--out: expected a folder, got .*site: Not a directory")
    with pytest.raises(UserError, match="--ort: only for --format web"):
        export(nowhere, tmp_path / "m.onnx", ExportOptions(ort=package))


@pytest.mark.parametrize(
    ("npm", "pattern"),
    [
        (None, r"npm, which downloads onnxruntime-web@[\d.]+, is missing; .* give --ort with"),
        (
            "echo refused >&2; exit 1",
            r"cannot download onnxruntime-web@[\d.]+ \(refused\); .*--ort",
        ),
        ("exit 0", r"cannot download onnxruntime-web"),
    ],
)
def test_npm_that_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, npm: str | None, pattern: str
) -> None:
    if npm:
        (tmp_path / "npm").write_text(f"#!/bin/sh\n{npm}\n")
        (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=pattern):
        page.runtime_files(None)


def test_npm_packs_what_is_read(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "npm").write_text(f"#!/bin/sh\ncp {packed(package)} onnxruntime-web.tgz\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert page.runtime_files(None) == CONTENT
