"""The options that messages name exist in the command that prints them."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest

from seresnext.config import Config
from seresnext.zoo.command import Given
from seresnext.zoo.options import EvalOptions, ExportOptions, InferOptions, TrainOptions
from seresnext.zoo.wording import reworded
from zoo.tiny import ROOT

PACKAGE = ROOT / "src" / "seresnext"
FLAG = re.compile(r"(?<![\w-])(-- )?--([a-z][a-z0-9._-]*[a-z0-9])")
READING = ["data", "evaluate.py"]
DATA_VERB = {"inspection.py", "pack.py"}
"""Modules of `data` that only `seresnext data` calls."""
MESSAGES: list[tuple[type, list[str], str]] = [
    (
        TrainOptions,
        [*READING, "training", "engines"],
        "--nproc --present-classes --real-labels --max-side --shard-size",
    ),
    (
        EvalOptions,
        READING,
        "--train-data --data.allow-empty-classes --val-share --data.balance --loss.class-balance "
        "--out --present-classes --real-labels --shard-size",
    ),
    (
        InferOptions,
        ["data/loader.py", "data/decode.py", "runtimes/onnx.py", "runtimes/mindir.py"],
        "",
    ),
    (
        ExportOptions,
        ["exporters/run.py", "exporters/air.py"],
        "--precision --with-cam --with-preprocessing --max-drop --max-images --ort --input-name",
    ),
]
"""Options of a command, the modules that it calls, and what their messages name for other verbs
or because of what the command never asks for."""


def named_in(modules: list[str]) -> Iterator[str]:
    """The options in the messages of these modules."""
    for name in modules:
        path = PACKAGE / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            if file.name in DATA_VERB:
                continue
            tree = ast.parse(file.read_text())
            comments = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and id(node) not in comments:
                    yield from (match[0] for match in FLAG.finditer(str(node.value)))


def takes(cls: type, match: re.Match[str]) -> bool:
    """Whether the command of these options takes the option."""
    if not match[1]:
        return match[2] in {field.name for field in dataclasses.fields(cls)}
    group, _, field = match[2].replace("-", "_").partition(".")
    return cls is TrainOptions and hasattr(getattr(Config(), group), field.removeprefix("no_"))


@pytest.mark.parametrize(("cls", "modules", "others"), MESSAGES)
def test_options_in_messages(cls: type, modules: list[str], others: str) -> None:
    flags = set(named_in(modules)) - set(others.split())
    assert flags
    given: Given[Any] = Given(cls())
    for flag in flags:
        text = reworded(f"use {flag} N", given)
        found = list(FLAG.finditer(text))
        assert found, text
        assert all(takes(cls, match) for match in found), (flag, text)


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("run.batch_size: expected 1", (), "--batch_size: expected 1"),
        ("run.batch_size: no", ("--run.batch-size", "0"), "run.batch_size: no"),
        ("model.layers: expected", (), "model.layers: expected"),
        ("more --epochs, or --resume never", (), "more --epoch_size, or -- --run.resume never"),
        ("with --batch-size 4", (), "with --batch_size 4"),
    ],
)
def test_words(text: str, flags: tuple[str, ...], expected: str) -> None:
    assert reworded(text, Given(TrainOptions(), flags)) == expected
