"""Every message that names an option names one that the commands which can print it have."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from seresnext import flags
from seresnext.cli import VERBS
from seresnext.cli.find_lr import FindLrArgs
from seresnext.cli.train import TrainArgs
from seresnext.config import Config
from seresnext.config.typed import config_flags

SRC = Path(__file__).parents[1] / "src" / "seresnext"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]")
READING = "train evaluate predict export report explain average"
MESSAGES = {
    "average.py": "average",
    "bench/": "bench",
    "cli/options.py": "bench data",
    "config/": "train",
    "data/checks.py": "train",
    "data/inspection.py": "data",
    "data/pack.py": "data",
    "data/decode.py": READING,
    "data/loader.py": "train evaluate report average",  # export leaves bad images out
    "data/sources/folder.py image_folder": "train",
    "data/sources/folder.py": READING,
    "data/sources/shards.py opened": "train",
    "data/sources/splits.py": "train",
    "engines/": "train",
    "evaluate.py": "evaluate",
    "exporters/": "export",
    "find_lr.py": "find-lr",
    "predict.py": "predict",
    "real_labels.py": "evaluate",
    "report/explain.py": "explain",
    "report/results.py": "report",
    "runtimes/torch.py _read": "export",
    "runtimes/": "evaluate predict export bench serve report",
    "serve/": "serve",
    "serve/bench.py": "bench",
    "serve/bench.py _ours": "serve",
    "training/": "train",
    "weights/convert.py _match_biases": "train",
    "weights/convert.py": "convert",
    "weights/": "train",
}
"""Start of "FILE FUNCTION" -> the verbs that print its messages; the longest start counts.

`cli/VERB.py` prints VERB's own. What a function says of another command names that command.
"""
OTHER_COMMANDS = ("zoo/", "flags.py", "launch/msrun.py", "launch/torchrun.py", "cli/__init__.py")
"""Files with the options of other programs, or with the words that every verb has."""
ELSEWHERE = {
    ("bench/train.py print_speeds", "--devices"): "plan",
    ("bench/train.py print_speeds", "--batch-size"): "plan",
    ("bench/train.py print_speeds", "--images-per-second"): "plan",
    ("cli/find_lr.py _said", "--lr"): "train",
    ("cli/data.py _pack", "--data"): "train",
    ("cli/plan.py _text", "--augment.start-size"): "train",
    ("data/sources/remote.py fetch", "--shard-size"): "data",
    ("training/step_log.py speed", "--max-side"): "data",
    ("report/explain.py explain", "--with-cam"): "export",
    ("serve/plain.py _cam", "--with-cam"): "export",
    ("weights/convert.py _target", "--out"): "export",
}
"""Advice to use another verb -> that verb."""
OTHER_PROGRAMS = {
    ("exporters/page.py _downloaded", "--prefer-offline"): "npm",
    ("exporters/page.py _downloaded", "--fetch-retries"): "npm",
    ("exporters/page.py _downloaded", "--loglevel"): "npm",
    ("exporters/report.py print_report", "--directory"): "python -m http.server",
}
"""Options of programs that are run or named -> the program."""


@functools.cache
def options(verb: str) -> set[str]:
    """The flags of a verb."""
    if verb in ("train", "find-lr"):
        args = TrainArgs if verb == "train" else FindLrArgs
        found = [*flags.flags(args), *config_flags(Config())]
    else:
        module = importlib.import_module(f"seresnext.cli.{verb.replace('-', '_')}")
        found = [
            flag
            for name, cls in vars(module).items()
            if name.endswith("Args")
            for flag in flags.flags(cls)
        ]
    return {f.name for f in found} | {f.off for f in found if f.kind is bool} | set(flags.HELP)


def named_options() -> Iterator[tuple[str, str]]:
    """("FILE FUNCTION", option) of every text in the source that is no docstring."""
    for path in sorted(SRC.rglob("*.py")):
        file = path.relative_to(SRC).as_posix()
        if not file.startswith(OTHER_COMMANDS):
            for function, text in _texts(ast.parse(path.read_text()), ""):
                place = f"{file} {function}".rstrip()
                for option in OPTION.findall(text):
                    if (place, option) not in OTHER_PROGRAMS:
                        yield place, option


def _texts(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield function, child.value
        named = isinstance(child, ast.FunctionDef | ast.ClassDef)
        yield from _texts(child, child.name if named else function)


def verbs_of(place: str, option: str) -> list[str]:
    """The verbs that print a message of this place."""
    if (place, option) in ELSEWHERE:
        return [ELSEWHERE[place, option]]
    verb = place.partition(" ")[0].removeprefix("cli/").removesuffix(".py").replace("_", "-")
    if place.startswith("cli/") and verb in VERBS:
        return [verb]
    starts = [start for start in MESSAGES if place.startswith(start)]
    assert starts, f"which verbs print what {place} says of {option}? Add it to MESSAGES"
    return MESSAGES[max(starts, key=len)].split()


@pytest.mark.parametrize(("place", "option"), sorted(set(named_options())))
def test_the_verbs_have_the_option(place: str, option: str) -> None:
    for verb in verbs_of(place, option):
        assert option in options(verb), f"{place} names {option}, which `seresnext {verb}` lacks"


def test_the_walk_finds_messages() -> None:
    found = set(named_options())
    assert ("training/step_log.py _check", "--precision") in found
    assert ("predict.py predict", "--top") in found
