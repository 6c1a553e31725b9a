"""The import rule of docs/architecture.md, checked in fresh interpreters and in the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from seresnext.runtimes.formats import FORMATS, INT8_PACKAGE

SRC = Path(__file__).parents[1] / "src" / "seresnext"
FRAMEWORKS = {"torch", "mindspore", "nncf", "timm", "mindcv"} | {
    package for format in FORMATS.values() for package in format.packages
}
NEUTRAL = {"numpy", "safetensors", "pydantic"}
OWN_NEUTRAL = {
    "config",
    "batch",
    "console",
    "errors",
    "files",
    "frameworks",
    "install",
    "machine",
    "model",
    "protobuf",
    "schema",
    "significance",
    "tensors",
}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Third-party roots, and this package's own parts, that a file imports anywhere in it."""
    foreign, own = set(), set()
    package = path.relative_to(SRC.parent).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [module]
            if module in ("seresnext", ".".join(package)) or node.module is None:
                names = [f"{module}.{a.name}" for a in node.names]
        else:
            continue
        for name in names:
            root, _, rest = name.partition(".")
            if root == "seresnext":
                own.add(rest)
            elif root not in sys.stdlib_module_names:
                foreign.add(root)
    return foreign, own


def files(folder: str) -> list[Path]:
    return sorted((SRC / folder).rglob("*.py"))


def part(name: str) -> str:
    return name.split(".")[0]


EXTRA = {
    "training/log.py": {"rich", "tensorboard"},
}
OTHER_ROOMS = {"weights/trained.py": {"training"}}
"""The checkpoints of runs are weights too."""
LOOP = {f"training/{name}.py" for name in ("advice", "loop", "run", "start", "step_log", "teacher")}
"""Bring data, engine and records together; the other files of `training` stand alone."""


@pytest.mark.parametrize("folder", ["model", "weights", "training"])
def test_neutral_folders_import_no_framework(folder: str) -> None:
    for path in files(folder):
        foreign, own = imports(path)
        name = str(path.relative_to(SRC))
        allowed = NEUTRAL | EXTRA.get(name, set())
        assert foreign <= allowed, f"{path}: {foreign - allowed}"
        if name not in LOOP:
            rooms = OWN_NEUTRAL | {folder} | OTHER_ROOMS.get(name, set())
            assert {part(n) for n in own} <= rooms, f"{path}: {own}"


def test_data_never_imports_an_engine() -> None:
    for path in files("data"):
        foreign, own = imports(path)
        assert not foreign & FRAMEWORKS, path
        assert {part(n) for n in own} <= OWN_NEUTRAL | {"data"}, f"{path}: {own}"


SHARED_BY_ENGINES = ("base", "common", "trained")


@pytest.mark.parametrize(
    ("folder", "framework"),
    [("engines/torch", {"torch", "torch_npu"}), ("engines/mindspore", {"mindspore"})],
)
def test_engines_import_their_framework_only(folder: str, framework: set[str]) -> None:
    for path in files(folder):
        foreign, own = imports(path)
        assert foreign <= framework | NEUTRAL, f"{path}: {foreign}"
        neighbours = {n for n in own if part(n) not in OWN_NEUTRAL}
        dotted = folder.replace("/", ".")
        shared = tuple(f"engines.{name}" for name in SHARED_BY_ENGINES)
        assert all(n.startswith((dotted, *shared)) for n in neighbours), path


def test_what_engines_share_imports_no_framework() -> None:
    for name in SHARED_BY_ENGINES:
        foreign, own = imports(SRC / "engines" / f"{name}.py")
        assert foreign <= NEUTRAL
        assert {part(n) for n in own} <= OWN_NEUTRAL | {"engines"}


PACKAGES = {f.name: set(f.packages) for f in FORMATS.values()} | {"int8": {INT8_PACKAGE}}
"""File of `runtimes` and `exporters` -> the frameworks that it may import."""
SHARED = {
    # A framework's choice of a device is the same for its engine and its runtime.
    "runtimes/mindir.py": {"engines.mindspore.device"},
    "exporters/mindir.py": {"engines.mindspore.device"},
    "exporters/air.py": {"engines.mindspore.device"},
    "runtimes/torch.py": {"engines.torch.devices"},
}


@pytest.mark.parametrize("folder", ["runtimes", "exporters"])
def test_formats_import_their_framework_only(folder: str) -> None:
    for path in files(folder):
        foreign, own = imports(path)
        assert foreign & FRAMEWORKS <= PACKAGES.get(path.stem, set()), f"{path}: {foreign}"
        if path.stem in PACKAGES:
            shared = SHARED.get(str(path.relative_to(SRC)), set())
            assert not {n for n in own if n.startswith("data")}, path
            assert not {n for n in own if n.startswith("engines")} - shared, path


def test_runtimes_need_no_exporters() -> None:
    for path in files("runtimes"):
        # A .pt2 is not run: its network is built anew, from the description that exporters use.
        allowed = {"exporters.graph"} if path.name == "torch.py" else set()
        found = {n for n in imports(path)[1] if n.startswith("exporters")}
        assert found <= allowed, f"{path}: {found}"


def test_nothing_imports_the_command_line() -> None:
    for path in SRC.rglob("*.py"):
        if path.name != "__main__.py" and "cli" not in path.parts:
            assert not any(n == "cli" or n.startswith("cli.") for n in imports(path)[1]), path


def loaded(code: str) -> set[str]:
    """Roots of the modules loaded after running `code` in a fresh interpreter."""
    script = f"{code}\nimport sys; print('\\n' + ' '.join(m.split('.')[0] for m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(out.stdout.splitlines()[-1].split())  # after what `code` printed


def test_help_loads_no_framework() -> None:
    assert not loaded("from seresnext.cli import main; main(['--help'])") & FRAMEWORKS


def test_train_help_loads_no_framework() -> None:
    code = "from seresnext.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass"
    assert not loaded(code) & (FRAMEWORKS | {"cv2"})


def test_torch_engine_loads_without_the_packages_other_dependencies() -> None:
    names = loaded("import seresnext.engines.torch.engine, seresnext.engines.base")
    assert "torch" in names
    assert not names & {"rich", "cv2", "simplejpeg", "tensorboard", "mindspore"}


def test_a_missing_framework_breaks_its_engine_only() -> None:
    code = """
import sys
sys.modules['mindspore'] = None
from seresnext.config import EngineConfig
from seresnext.engines.base import create_engine
from seresnext.errors import UserError
try:
    create_engine(None, {}, EngineConfig(name='mindspore'))
except UserError as error:
    from seresnext.install import install_command
    assert install_command("mindspore") in str(error), error
else:
    raise SystemExit('no error')
"""
    subprocess.run([sys.executable, "-c", code], check=True)
