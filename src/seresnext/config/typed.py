"""The configuration's flags: what was typed, applied to a `Config`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError, UserError
from ..flags import Flag, flags
from .config import SHORT_NAMES, Config

_RATES = ("optim.lr", "optim.lr_per_256")
"""Two ways to say one thing: only one of them may be typed."""


def config_flags(config: Config) -> list[Flag]:
    """Return the flags of every field (`--optim.momentum`), with `config`'s values as defaults."""
    return [flag for flag in flags(Config, config) if "." in flag.key]


def help_sections(config: Config) -> dict[str, list[Flag]]:
    """Return title -> flags of every group, for a help page."""
    sections: dict[str, list[Flag]] = {}
    for flag in config_flags(config):
        group = flag.key.partition(".")[0]
        text = (inspect.getdoc(flag.owner) or "").split("\n\n")[0]
        sections.setdefault(f"{group} ({' '.join(text.split()).rstrip('.')})", []).append(flag)
    return sections


def with_flags(base: Config, given: Mapping[str, Any]) -> Config:
    """Return `base` with what was typed, checked.

    `given` maps short names ("epochs") and fields ("run.duration") to values. Raises UsageError
    where two flags contradict each other, and UserError naming the flag whose value is wrong.
    """
    names: dict[str, str] = {}
    groups: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        name, field = f"--{key.replace('_', '-')}", SHORT_NAMES.get(key, key)
        if key == "epochs":
            value = f"{value:g} epochs"
        group, _, part = field.partition(".")
        fields = groups.setdefault(group, {})
        if part in fields and fields[part] != value:
            raise UsageError(
                f"{names[field]} says {fields[part]!r} and {name} says {value!r}; give one of them"
            )
        fields[part] = value
        names.setdefault(field, name)
    if names.keys() >= set(_RATES):
        raise UsageError(f"give {' or '.join(names[field] for field in _RATES)}, not both")
    try:
        return base.replace(**groups).check()  # type: ignore[arg-type]
    except UserError as error:
        field, _, problem = str(error).partition(":")
        if "." in names.get(field, "."):  # the field's own flag
            raise
        raise UserError(f"{names[field]} ({field}):{problem}") from None
