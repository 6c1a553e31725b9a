"""The page of `export --format web`, in a real browser, from a server that only sends files."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import io
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import seresnext
from runs import run_cli
from runtimes.networks import random_images, random_weights, tiny_spec
from seresnext.data.decode import decode_image
from seresnext.data.preprocess import preprocess
from seresnext.exporters import page as exported
from seresnext.model.saved_model import save_model
from seresnext.model.spec import InputSpec
from serve.browser import launched, needs_browser, opened

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photographs, and the first of them turned and with transparent parts."""
    datasets = pytest.importorskip("sklearn.datasets", reason="has two photographs")
    folder = tmp_path_factory.mktemp("photos")
    pictures = map(Image.fromarray, datasets.load_sample_images().images)
    first, second = (picture.resize((320, 214)) for picture in pictures)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = first.convert("RGBA")
    clear.putalpha(second.convert("L"))
    first.save(folder / "a.jpg")
    second.save(folder / "b.webp")
    first.save(folder / "turned.jpg", exif=exif)
    clear.save(folder / "clear.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web, which npm downloads once."""
    folder = tmp_path_factory.mktemp("npm")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, which downloads onnxruntime-web")
    command = [npm, "pack", exported.PACKAGE, "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm has no {exported.PACKAGE}: {done.stderr[-200:]}")
    return next(folder.glob("*.tgz"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network whose probabilities differ much between photographs."""
    folder, spec = tmp_path_factory.mktemp("model"), tiny_spec(64)
    weights = random_weights(spec)
    save_model(folder, spec, weights)
    with seresnext.load(folder, device="cpu") as plain:
        common = plain.logits(random_images(9, 64)).mean(0)
    weights["fc.weight"] *= 30
    weights["fc.bias"] = 30 * (weights["fc.bias"] - common)
    save_model(folder, spec, weights)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, model: Path, package: Path) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run_cli("export", model, "--format", "web", "--out", folder, "--ort", package)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def hosted(folder: Path) -> Iterator[int]:
    """A server that sends the files of a folder; its port."""
    handler = functools.partial(Files, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def page(browser: Any, site: Path) -> Iterator[Any]:
    with hosted(site) as port, opened(browser, port) as page:
        yield page


def check_answers(page: Any, model: Path, photos: list[Path]) -> None:
    """The page's cards are what `model` answers for the photographs, within 1e-2."""
    cards = page.locator("#results li").all()[::-1]
    with seresnext.load(model) as python:
        for card, photo in zip(cards, photos, strict=False):
            answer = python.predict(photo)
            expected = dict(zip(answer.classes, answer.probabilities, strict=True))
            assert card.locator(".file").text_content() == photo.name
            names = card.locator("dt").all_text_contents()
            shown = [float(t.split()[0]) / 100 for t in card.locator("dd").all_text_contents()]
            assert names[0] == answer.classes[0]
            assert dict(zip(names, shown, strict=True)) == pytest.approx(expected, abs=1e-2)


def test_photographs_are_answered_as_in_python(
    page: Any, model: Path, photos: list[Path], tmp_path: Path
) -> None:
    """Also a broken one among them, which has no effect on the others."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[:9000])
    page.set_input_files("#files", [*photos, broken])
    page.wait_for_selector("#status:has-text('5 images in')")
    assert page.text_content("#about") == "Model: seresnext26_32x4d"
    assert "1 of them without an answer" in page.text_content("#status")
    assert "no image, or one that this" in page.text_content("#results li:first-child .error")
    check_answers(page, model, photos)
    best = set(page.locator("#results dt:first-of-type").all_text_contents())
    assert len(best) > 1  # the network looks at them


def test_int8(browser: Any, model: Path, package: Path, photos: list[Path], tmp_path: Path) -> None:
    given = ("--precision", "int8", "--calibration", photos[0].parent, "--max-drop", 100)
    out = ("--format", "web", "--out", tmp_path / "site", "--ort", package)
    run_cli("export", model, *out, *given)
    with hosted(tmp_path / "site") as port, opened(browser, port) as page:
        page.set_input_files("#files", photos)
        page.wait_for_selector("#status:has-text('4 images in')")
        check_answers(page, tmp_path / "site" / "model.onnx", photos)


SPECS = {
    "bicubic": InputSpec(64, 0.875, "bicubic"),
    "enlarged": InputSpec(80, 0.2, "bicubic"),
    "odd": InputSpec(33, 1.0, "bilinear"),
    "stretch": InputSpec(64, 0.9, "bilinear", "stretch"),
    "original": InputSpec(64, 0.875, "bilinear", "original"),
}


def test_preprocessing_is_that_of_python(page: Any, photos: list[Path]) -> None:
    """Pixel by pixel.

    One level of rounding is allowed for OpenCV's filter, which `original` is, and for an image so
    high that Pillow resizes the columns first.
    """
    rng = np.random.default_rng(0)
    files = [photo.read_bytes() for photo in photos]
    for size in ((1, 1, 3), (2, 900, 3), (37, 41, 3), (900, 2, 3)):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    script = """async ([content, spec]) => {
        const { preprocess } = await import("/assets/preprocess.js");
        const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
        return Array.from(await preprocess(new File([bytes], "image"), spec));
    }"""
    for name, spec in SPECS.items():
        for i, data in enumerate(files):
            found = page.evaluate(script, [base64.b64encode(data).decode(), asdict(spec)])
            expected = preprocess(decode_image(data, max_pixels=10**6), spec).astype(int)
            error = np.abs(np.reshape(found, expected.shape) - expected)
            rounding = name == "original" or i == len(files) - 1
            assert error.max() <= rounding, (name, i, error.max(), error.mean())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.onnx", None, "model.onnx: 404"),
        ("model.onnx", b"version https://git-lfs", "model.onnx has 23 bytes, not "),
        ("assets/ort/ort.js", None, "a file of this page is missing"),
    ],
)
def test_a_damaged_copy_says_what_is_wrong(
    browser: Any,
    site: Path,
    photos: list[Path],
    tmp_path: Path,
    file: str,
    content: bytes | None,
    message: str,
) -> None:
    copy = shutil.copytree(site, tmp_path / "copy")
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_bytes(content)
    page = browser.new_page()
    with hosted(copy) as port:
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_selector(f"#about:has-text('The model cannot be used: {message}')")
        page.set_input_files("#files", photos[0])
        page.wait_for_selector(f"#results .error:has-text('{message}')")
    page.close()
