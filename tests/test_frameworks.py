"""Importing a framework ends in a module or in one line, also for a user without a home."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runs import Run, finish, start
from seresnext.errors import UserError
from seresnext.frameworks import load_module


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import no_such_package", r"the thing cannot be loaded \(No module named 'no_such_pack"),
        ("raise RuntimeError('no\\nhome')", r"the thing cannot be loaded: RuntimeError: no home$"),
        ("raise KeyError('getpwuid')", r"the thing cannot be loaded: KeyError: 'getpwuid'$"),
    ],
)
def test_a_failing_import_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    (tmp_path / "failing_part.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        load_module("failing_part", "torch", "the thing")


HOMELESS = """
import os, pwd, sys

def missing(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = missing
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
from seresnext.cli import main

run, image, out = sys.argv[1:]
for arguments in (["--help"], ["predict", run, image], ["export", run, "--out", out + "/m.onnx"],
                  ["export", run, "--out", out + "/m.xml"], ["predict", out + "/m.xml", image]):
    if code := main(arguments):
        sys.exit(code)
"""


@pytest.mark.slow
def test_a_user_without_home_and_name(one: Run, images: Path, tmp_path: Path) -> None:
    image = images / "val" / "red" / "0.png"
    arguments = [str(one.folder), str(image), str(tmp_path)]
    done = finish(start([sys.executable, "-c", HOMELESS, *arguments]), timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_only_a_missing_home_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ.get("HOME")
    load_module("json", "torch")
    assert os.environ.get("HOME") == before
