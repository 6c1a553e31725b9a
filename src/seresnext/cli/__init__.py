"""The command line: one file per verb, flags from the dataclasses, exit codes.

Exit codes: 0 done; 1 a user's error (one line, no traceback); 2 wrong usage; 75 interrupted by a
signal after saving (the same command resumes).
"""

from __future__ import annotations

import importlib
import os
import sys

from ..config.recipes import RECIPES
from ..errors import UserError
from ..launch.processes import report
from ..training.interrupt import INTERRUPTED_EXIT, Interrupted

VERBS = {
    "train": "train on a folder of images; run again to resume",
    "evaluate": "accuracy of a run, model or artifact on a folder of images",
    "predict": "name what is in images",
    "export": "write an artifact for ONNX, OpenVINO, MindIR, AIR or torch, and compare it",
    "convert": "translate weights of timm, mindcv and the original zoo",
    "bench": "latency and throughput of artifacts side by side",
    "data": "make the demo data set",
    "doctor": "what works on this machine, and what to install",
}
"""Verb -> what it does; each is the module of its name, with `run(argv) -> exit code`."""


def usage() -> str:
    lines = ["usage: seresnext VERB [OPTIONS]", ""]
    lines += [f"  {name:<10} {text}" for name, text in VERBS.items()]
    lines += [
        "",
        f"recipes: {', '.join(RECIPES)}",
        "`seresnext VERB --help` lists a verb's options.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from .. import __version__

        print(f"seresnext {__version__}")
        return 0
    if argv[0] not in VERBS:
        print(f"seresnext: no verb {argv[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    code = _run(argv[0], argv[1:])
    report(code)
    return code


def _run(verb: str, words: list[str]) -> int:
    try:
        return int(importlib.import_module(f"{__name__}.{verb}").run(words))
    except UserError as error:
        print(f"seresnext: error: {error}", file=sys.stderr)
        return 1
    except Interrupted:
        print("interrupted; saved. The same command goes on from here.", file=sys.stderr)
        return INTERRUPTED_EXIT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
