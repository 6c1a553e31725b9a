"""Run cases, each in a forked child with limits on memory and processor time.

    python tests/fuzz/run_cases.py FOLDER FIRST KIND:COUNT...

FOLDER/seeds/KIND holds files, or folders of files that belong together. A child opens one variant
of a seed. It must end with an answer, or with one printable line and exit code 1. Other ends are
printed as JSON, and the variant stays in FOLDER/failed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.kinds import KINDS

MEMORY = 2 << 30
SECONDS = 10
"""Processor time of one case."""


class Outcome(NamedTuple):
    answered: bool
    problem: str


def main(folder: Path, first: int, counts: dict[str, int]) -> None:
    for kind in counts:
        KINDS[kind].prepare()
    answers, failures = 0, []
    for kind, count in counts.items():
        seeds = sorted((folder / "seeds" / kind).iterdir())
        for number in range(first, first + count):
            changed = varied(kind, seeds[number % len(seeds)], folder / "case", number)
            outcome = run_forked(KINDS[kind].open_file, changed)
            answers += outcome.answered
            if outcome.problem:
                kept = folder / "failed" / f"{kind}-{number}"
                shutil.copytree(folder / "case", kept, dirs_exist_ok=True)
                failures.append({"case": str(kept / changed.name), "problem": outcome.problem})
    print(json.dumps({"cases": sum(counts.values()), "answers": answers, "failures": failures}))


def varied(kind: str, seed: Path, case: Path, number: int) -> Path:
    """A file that differs from the seed, in the new folder `case`.

    Of files that belong together the smallest is varied: it describes the others.
    """
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir()
    files = list(seed.iterdir()) if seed.is_dir() else [seed]
    chosen = min(files, key=lambda file: file.stat().st_size)
    for file in files:
        if file != chosen:
            os.link(file, case / file.name)
    changed = case / chosen.name
    changed.write_bytes(KINDS[kind].variant(chosen.read_bytes(), np.random.default_rng(number)))
    return changed


def run_forked(open_file: object, path: Path) -> Outcome:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 3
        try:
            code = _in_child(open_file, path, writer)
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode("utf-8", "replace")
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return Outcome(False, f"ended by {signal.Signals(-code).name}\n{text[-2000:]}")
    if usage.ru_utime + usage.ru_stime > SECONDS:
        return Outcome(False, f"took {usage.ru_utime + usage.ru_stime:.1f} s of processor time")
    if code == 0:
        return Outcome(True, "")
    line = text.removesuffix("\n")
    if code == 1 and line and line.isprintable() and len(line) < 5000:
        return Outcome(False, "")
    return Outcome(False, f"exit code {code}: {text[-3000:]}")


def _in_child(open_file: object, path: Path, writer: int) -> int:
    """The exit code; one line or a traceback goes to `writer`, and what libraries print."""
    from seresnext.errors import UserError

    os.dup2(writer, 1)
    os.dup2(writer, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + 2, SECONDS + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        open_file(path)  # type: ignore[operator]
    except UserError as error:
        os.write(writer, f"{error}\n".encode())
        return 1
    except BaseException:
        os.write(writer, traceback.format_exc().encode("utf-8", "replace"))
        return 3
    return 0


if __name__ == "__main__":
    pairs = (text.rpartition(":") for text in sys.argv[3:])
    main(Path(sys.argv[1]), int(sys.argv[2]), {kind: int(count) for kind, _, count in pairs})
