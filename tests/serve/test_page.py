"""The page at `/`, in a real browser."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seresnext
from serve.browser import launched, needs_browser, opened
from serve.servers import Server

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: object, server: Server) -> Iterator[object]:
    with opened(browser, server.port) as page:
        yield page


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    files = [folder / name for name in ("a.png", "<b>bold & 'b'.jpg", "=1+1.png")]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(file)
    return files


def test_an_image_is_answered_as_in_python(
    page: object, images: list[Path], model: seresnext.Model
) -> None:
    page.set_input_files("#files", images[0])
    page.wait_for_selector("#status:has-text('1 image in')")
    expected = model.predict(images[0])
    assert page.locator("#results dt").all_text_contents() == list(expected.classes)
    shown = [float(t.split()[0]) for t in page.locator("#results dd").all_text_contents()]
    np.testing.assert_allclose(shown, 100 * np.array(expected.probabilities), atol=0.051)


def test_the_map_is_beside_the_image(page: object, images: list[Path], server: Server) -> None:
    page.wait_for_selector("#model option:nth-child(3)", state="attached")
    page.select_option("#model", "maps")
    page.set_input_files("#files", images[0])
    page.wait_for_selector("#results img[title]")
    best = page.locator("#results dt").all_text_contents()[0]
    assert page.get_attribute("#results img[title]", "alt") == f"Where the network sees {best}"
    assert page.evaluate("document.querySelector('#results img[title]').naturalWidth") == 264


def test_several_at_once_one_of_them_broken(
    page: object, images: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page.set_input_files("#files", [*images, broken])
    page.wait_for_selector("#status:has-text('4 images in')")
    assert "1 of them without an answer" in page.text_content("#status")
    files = page.locator("#results .file").all_text_contents()
    assert files == [f.name for f in reversed([*images, broken])]
    assert page.locator("#results .error").count() == 1
    assert page.locator("#results b").count() == 0  # a file's name is text
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row[0] for row in rows] == ["file", "a.png", images[1].name, "'=1+1.png", "broken.png"]
    assert "image" in rows[4][3]
    page.click("#clear")
    assert page.locator("#results li").count() == 0


def test_dropped_and_pasted_images_are_answered(page: object, images: list[Path]) -> None:
    encoded = list(images[0].read_bytes())
    script = """([bytes, kind]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], kind + ".png", {type: "image/png"}));
        const event = kind === "drop"
            ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
            : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
        document.getElementById("drop").dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(script, [encoded, kind])
        page.wait_for_selector(f"#results li:has-text('{kind}.png') dt")


def test_it_works_by_keyboard(page: object, images: list[Path]) -> None:
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "files"
        page.keyboard.press("Enter")
    chooser.value.set_files(images[0])
    page.wait_for_selector("#results dt")
    assert page.get_attribute("#status", "aria-live") == "polite"
    assert page.locator("#model option").all_text_contents() == ["tiny", "other", "maps"]
