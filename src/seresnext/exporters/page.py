"""The folder around a network for browsers: a page that a file host can serve.

The page is that of `serve` (`serve/static`), with its `local.js` in place of a server. It computes
with ONNX Runtime Web, of which two files are taken from the npm package onnxruntime-web.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError, one_line
from ..files import to_json
from ..runtimes.artifact import Artifact

PACKAGE = "onnxruntime-web@1.30.0"
_FILES = {
    "ort.js": (
        "ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "ort.wasm": (
        "ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
"""Name in the page -> name in the package's `dist`, SHA-256. Not .mjs: several web servers do not
send such a file as JavaScript, and browsers then refuse it."""
MODEL = "model.onnx"
_NAMES = frozenset({"index.html", "assets", "model.json", MODEL})
_STATIC = Path(__file__).parents[1] / "serve" / "static"
_NOT_ASSETS = ("index.html", "server.js")


def check_folder(out: Path) -> None:
    """Raise UserError unless `out` is new, empty, or an earlier export, which is replaced whole."""
    try:
        found = {file.name for file in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise UserError(f"--out: expected a folder, got {out}: {error.strerror}") from None
    if foreign := sorted(found - _NAMES):
        raise UserError(
            f"--out: the folder {out} would be replaced, and it holds what no export wrote "
            f"({foreign[0]}); name another one"
        )


def runtime_files(package: Path | None) -> dict[str, bytes]:
    """Return ONNX Runtime Web's files (name in the page -> content), compared with their SHA-256.

    `package` is onnxruntime-web as a folder or .tgz; None: npm downloads it. Raises UserError.
    """
    if package:
        return {name: _checked(package, *source) for name, source in _FILES.items()}
    with tempfile.TemporaryDirectory(prefix="seresnext-") as folder:
        return runtime_files(_downloaded(Path(folder)))


def write_page(folder: Path, artifact: Artifact, runtime: Mapping[str, bytes]) -> None:
    """Write the page around the network `folder`/model.onnx."""
    files = {f"ort/{name}": content for name, content in runtime.items()}
    for file in _STATIC.rglob("*"):
        if file.is_file() and file.name not in _NOT_ASSETS:
            files[file.relative_to(_STATIC).as_posix()] = file.read_bytes()
    for name, content in files.items():
        path = folder / "assets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    index = (_STATIC / "index.html").read_text(encoding="utf-8")
    local = index.replace('data-backend="server"', 'data-backend="local"')
    (folder / "index.html").write_text(local, encoding="utf-8")
    content = (folder / MODEL).read_bytes()
    spec = artifact.spec.to_dict()
    described = {
        "name": artifact.spec.architecture.name,
        "precision": artifact.precision,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": spec["input"],
        "class_names": spec["class_names"],
    }
    (folder / "model.json").write_text(to_json(described, indent=2) + "\n")


def _downloaded(folder: Path) -> Path:
    """The package as a file in `folder`, from the registry that npm is set up for."""
    advice = f"or give --ort with the file that `npm pack {PACKAGE}` writes on another machine"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"--format web: npm, which downloads {PACKAGE}, is missing; install it, {advice}"
        )
    command = [npm, "pack", PACKAGE, "--prefer-offline", "--fetch-retries=1", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    packed = next(folder.glob("*.tgz"), None)
    if done.returncode or not packed:
        reason = " ".join(done.stderr.split())[:300]
        raise UserError(
            f"--format web: npm cannot download {PACKAGE} ({reason}); try again, {advice}"
        )
    return packed


def _checked(package: Path, name: str, digest: str) -> bytes:
    """The content of one file in the package's `dist`. Raises UserError for another content."""
    try:
        content = _file(package, name)
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"--ort: cannot read {name} in {package}: {one_line(error)}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(
            f"--ort: {name} in {package} is not that of {PACKAGE}; get it by `npm pack {PACKAGE}`"
        )
    return content


def _file(package: Path, name: str) -> bytes:
    if package.is_dir():
        inner = package / "dist"
        return ((inner if inner.is_dir() else package) / name).read_bytes()
    with tarfile.open(package, "r:gz") as archive:
        file = archive.extractfile(f"package/dist/{name}")
        return file.read() if file else b""
