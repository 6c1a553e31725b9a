"""Every verb that writes, on a full disk and in a read-only folder: one line, nothing half written.

The disk is full by a limit on the size of files. All cases run in one child process each way.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from runs import Run, finish, start, train_arguments

CHILD = """
import contextlib, ctypes, io, json, resource, sys
from seresnext.cli import main

how, cases = sys.argv[1], json.loads(sys.argv[2])

def drop_override():
    # Root may write anywhere unless it gives up this capability (1: CAP_DAC_OVERRIDE).
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.capget(header, data)
    data[0] &= ~2
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")

if how == "read-only":
    drop_override()
results = {}
for name, arguments in cases.items():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if how == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (60 if name == "data" else 3000, hard))
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = main(arguments)
    except BaseException as error:
        code = repr(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    results[name] = [code, errors.getvalue()]
print("RESULTS" + json.dumps(results))
"""


def commands(run: Path, images: Path, out: Path) -> dict[str, list[str]]:
    """Verb and format -> a command that writes below `out`."""
    exports = {"onnx": "m.onnx", "openvino": "m.xml", "torch": "m.pt2"}
    converted = {"folder": "folder", "safetensors": "m.safetensors", "ckpt": "m.ckpt"}
    layout = {"ckpt": ("--to", "mindcv", "--allow-pooling-change")}
    found = {
        "train": train_arguments(images, out / "run", 2, 4),
        "data": ["data", "demo", "--out", str(out / "digits")],
    }
    found["report"] = ["report", str(run), "--data", str(images), "--out", str(out / "r.html")]
    for name, file in exports.items():
        found[f"export {name}"] = ["export", str(run), "--out", str(out / file)]
    for name, file in converted.items():
        found[f"convert {name}"] = ["convert", str(run), str(out / file), *layout.get(name, ())]
    return found


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_every_verb_ends_with_one_line(one: Run, images: Path, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir(mode=0o555 if how == "read-only" else 0o777)
    cases = commands(one.folder, images, folder)
    done = finish(start([sys.executable, "-c", CHILD, how, json.dumps(cases)]), timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.rpartition("RESULTS")[2])
    for name, (code, errors) in results.items():
        assert code == 1, (name, code, errors)
        assert errors.count("\n") == 1, (name, errors)
        assert errors.startswith("seresnext: error: cannot "), (name, errors)
        assert str(folder) in errors, (name, errors)
        reasons = ("File too large", "disk full") if how == "full" else ("Permission denied",)
        assert any(reason in errors for reason in reasons), (name, errors)
    left = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    allowed = ("run/.lock", "run/config.json", "run/events.jsonl", "run/tensorboard")
    allowed += ("run/metrics.jsonl",)
    assert not {p for p in left if not str(p).startswith(allowed)}
    assert done.stderr == ""
