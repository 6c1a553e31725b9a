"""The command line: one file per verb, flags from dataclasses."""

from __future__ import annotations

import importlib
import sys

from .. import __version__
from ..config import RECIPES
from ..exit_codes import run_command

VERBS = {
    "train": "train on a folder of images; run again to resume",
    "recipes": "settings to start a training from: what each is for, and whether it was run",
    "plan": "steps, hours and cost of a recipe before anybody starts it",
    "find-lr": "the learning rate to train with, from a short trial",
    "evaluate": "accuracy of a run, model or artifact on a folder of images",
    "predict": "the most probable classes of images",
    "report": "a page about a run or model: curves, mistakes, calibration, activation maps",
    "explain": "pictures of where the network sees a class",
    "export": "write an artifact for ONNX, OpenVINO, MindIR, AIR or torch, and compare it",
    "convert": "translate weights of timm, mindcv and the original zoo",
    "average": "the average of a run's checkpoints, or of runs from the same weights",
    "serve": "answer predictions over HTTP",
    "bench": "speed of artifacts side by side, of the server, of training and of its data",
    "data": "check, show and pack images, make the demo data set",
    "doctor": "what works on this machine, and what to install",
}
"""Verb -> what it does; each is the module of its name, with `run(argv) -> exit code`."""


def usage() -> str:
    """Return the help text of `seresnext`."""
    lines = ["usage: seresnext VERB [OPTIONS]", ""]
    lines += [f"  {name:<10} {text}" for name, text in VERBS.items()]
    lines += [
        "",
        f"recipes: {', '.join(RECIPES)}",
        "`seresnext VERB --help` lists a verb's options.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return the exit code (see exit_codes.py)."""
    return run_command("seresnext", _run, sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"seresnext {__version__}")
        return 0
    if argv[0] not in VERBS:
        print(f"seresnext: no verb {argv[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    module = argv[0].replace("-", "_")
    code: int = importlib.import_module(f"{__name__}.{module}").run(argv[1:])
    return code
