"""Models of the Hugging Face hub: from a server that speaks its file protocol, from its cache."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runs import SERESNEXT, finish, start
from seresnext.model.architecture import architecture
from seresnext.model.init import init_weights
from seresnext.model.saved_model import save_model
from seresnext.model.spec import InputSpec, ModelSpec
from seresnext.weights.hub import PUBLISHED, advice, local_copy

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ARCHITECTURE = architecture("seresnext50_32x4d", layers=(1, 1, 1, 1), num_classes=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    spec = ModelSpec(ARCHITECTURE, ("cat", "dog"), InputSpec(image_size=64))
    save_model(folder, spec, init_weights(ARCHITECTURE, 0))
    return folder


class Hub(http.server.BaseHTTPRequestHandler):
    """`/OWNER/NAME/resolve/REVISION/FILE` for timm/tiny, at `main` and at its commit."""

    folder: Path

    def do_HEAD(self) -> None:
        _, owner, name, _, revision, file = (*self.path.split("/"), *[""] * 6)[:6]
        path = self.folder / file
        code = ""
        if (owner, name) != ("timm", "tiny"):
            code = "RepoNotFound"
        elif revision not in ("main", COMMIT):
            code = "RevisionNotFound"
        elif not path.is_file():
            code = "EntryNotFound"
        self.send_response(404 if code else 200)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"')
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(path.read_bytes())

    do_GET = do_HEAD

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(model: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    handler = type("OurHub", (Hub,), {"folder": model})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_model_is_downloaded_and_then_read_from_the_cache(
    hub: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    def convert(name: str, code: int = 0, **environment: str) -> str:
        command = [*SERESNEXT, "convert", name, str(tmp_path / "out.safetensors")]
        place = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path)}
        done = finish(start(command, **place | environment), 120)
        assert done.returncode == code, done.stderr
        if code:
            assert done.stderr.startswith("seresnext: error: ")
            assert done.stderr.count("\n") == 1, done.stderr
        return done.stdout + done.stderr

    said = convert("timm/tiny")
    assert f"{COMMIT}: seresnext layout, seresnext50_32x4d, 2 classes" in said
    offline = {"HF_HUB_OFFLINE": "1"}
    assert convert("timm/tiny", **offline) == convert(f"hf:timm/tiny@{COMMIT}", **offline)
    line = convert("hf:nobody/nothing", 1, **offline)
    assert "the hub cannot be reached, and config.json is not in its cache" in line
    assert "huggingface.co/nobody/nothing in a folder" in line
    assert "cannot get timm/none from the hub: " in convert("timm/none", 1)
    assert "cannot get timm/tiny at revision v2 from the hub: " in convert("timm/tiny@v2", 1)
    (blob,) = (path for path in tmp_path.rglob("blobs/*") if path.stat().st_size > 1 << 20)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    assert "is damaged (its SHA-256 is " in convert("timm/tiny", 1, **offline)


def test_paths_are_not_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for path in ("timm/mine", "runs/mine", "timm.safetensors", "a/timm/b", "/x/hf:a/b"):
        assert local_copy(path) == Path(path)


def test_advice_names_weights_for_every_network() -> None:
    assert "--pretrained timm/seresnext50_32x4d.racm_in1k" in advice("seresnext50_32x4d")
    assert "seresnext50_32x4d" in advice("seresnext26_32x4d")
    assert all(repo.startswith(f"timm/{name}.") for name, repo in PUBLISHED.items())
