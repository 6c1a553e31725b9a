"""`seresnext find-lr`."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import SHORT_NAMES, Config
from ..config.typed import config_flags, help_sections, with_flags
from ..errors import UserError
from ..files import to_json
from ..flags import flags, print_help, read
from ..launch.ranks import world_size
from .train import TrainingOptions, base_config

if TYPE_CHECKING:
    from ..find_lr import Trial

PROGRAM = "seresnext find-lr"
_HIGHEST = {"sgd": 10.0, "adamw": 0.1, "lamb": 1.0}
_OWN = ("out", "steps", "low", "high", "json")


@dataclass(frozen=True)
class FindLrArgs(TrainingOptions):
    """Find a learning rate: train some steps at rates from low to high, and draw the loss.

    Give the options that the training will have: the rate belongs to them, and to the batch size
    above all. Nothing of the trial is kept but its page.
    """

    out: Path = Path("find-lr.html")
    """HTML file with the curve."""
    steps: int = 100
    """Steps of the trial."""
    low: float = 1e-5
    """First rate."""
    high: float | None = None
    """Last rate. By default 10 for SGD, 1 for LAMB, 0.1 for AdamW."""
    json: bool = False
    """Print JSON, with every rate and its loss."""


def run(argv: list[str]) -> int:
    given = read(argv, [*flags(FindLrArgs), *config_flags(Config())], PROGRAM)
    if "help" in given:
        _print_help(given["help"])
    args = FindLrArgs(**{name: given[name] for name in _OWN if name in given})
    base, _ = base_config(given)
    settings = {k: v for k, v in given.items() if k not in _OWN and (k in SHORT_NAMES or "." in k)}
    config = with_flags(base, settings)
    if world_size() > 1:
        raise UserError(
            f"{PROGRAM} runs in one process; give it the global batch as --batch-size N"
        )
    high = _HIGHEST[config.optim.name] if args.high is None else args.high
    if not 0 < args.low < high < 1e6:
        raise UserError(f"--low, --high: expected 0 < low < high, got {args.low:g} and {high:g}")
    if not 10 <= args.steps <= 100_000:
        raise UserError(f"--steps: expected 10 to 100000, got {args.steps}")
    return _find(args, config, high)


def _find(args: FindLrArgs, config: Config, high: float) -> int:
    from ..find_lr import find_lr, rates_between, write_page
    from ..training.log import LineReporter

    reporter = LineReporter(sys.stderr if args.json else sys.stdout)
    trial = find_lr(config, rates_between(args.low, high, args.steps), reporter)
    if len(trial.losses) < 5:
        raise UserError(
            f"the loss is no number or too high {len(trial.losses)} steps after --low "
            f"{args.low:g}; begin lower"
        )
    text = _said(trial, high)
    note = f"{config.model.name}, {config.optim.name}, {len(trial.losses)} steps"
    write_page(args.out, trial, note, text)
    if args.json:
        curve = {"rates": trial.rates.tolist(), "losses": trial.losses.tolist()}
        found = {"suggestion": trial.suggestion, "rises": trial.rises}
        print(to_json(found | curve))
    else:
        print(f"{text}\n{args.out}")
    return 0


def _said(trial: Trial, high: float) -> str:
    """The suggestion, or why there is none."""
    if trial.rises is None:
        return f"no suggestion: the loss does not rise up to {high:g}; try a higher --high"
    return (
        f"suggestion: `seresnext train --lr {trial.suggestion:g}` for batches of "
        f"{trial.batch_size} images; the loss rises from {trial.rises:.2g} on, three times that"
    )


def _print_help(word: str) -> None:
    sections = {"options": flags(FindLrArgs)}
    if word == "--help-all":
        sections |= help_sections(Config())
    print_help(PROGRAM, inspect.getdoc(FindLrArgs) or "", sections)
