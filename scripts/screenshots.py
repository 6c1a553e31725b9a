"""Photograph the report of `make demo` and the page of `seresnext serve`, light and dark.

    python scripts/screenshots.py [--run runs/demo] [--data data/digits] [--out docs/images]

It writes report-*.png and page-*.png. It needs the packages of `.[dev]` and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

REPORT, PAGE = (1180, 900), (800, 1000)
"""Width and height in pixels; the report is longer."""
CLASSES = ("0", "3", "7")
COLOURS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--data", type=Path, default=Path("data/digits"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    images = [min((args.data / "val" / name).iterdir()) for name in CLASSES]
    port = free_port()
    command = [sys.executable, "-m", "seresnext", "serve", f"demo={args.run / 'model.onnx'}"]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        wait_for(port, server)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
            for scheme in ("light", "dark"):
                report = (args.run / "report.html").resolve().as_uri()
                photograph(browser, report, scheme, REPORT, args.out / f"report-{scheme}.png")
                page = f"http://127.0.0.1:{port}/"
                photograph(browser, page, scheme, PAGE, args.out / f"page-{scheme}.png", images)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def photograph(
    browser: Browser,
    address: str,
    scheme: str,
    size: tuple[int, int],
    out: Path,
    images: list[Path] | None = None,
) -> None:
    """Write what the browser shows at `address`, after it was given `images` to classify."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(address)
    if images:
        page.set_input_files("#files", images)
        page.get_by_text(f"{len(images)} images in ").wait_for()
    page.screenshot(path=out, full_page=bool(images))
    context.close()
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(COLOURS).save(out, optimize=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return when the server listens; end the program when it has ended."""
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    sys.exit("the server ended before it listened")


if __name__ == "__main__":
    main()
