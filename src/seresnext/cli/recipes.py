"""`seresnext recipes`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from textwrap import wrap

from ..config import RECIPES, Config, recipe
from ..config.recipes import INTENDED, describe
from ..config.typed import config_flags
from ..files import to_json
from ..flags import Positional, parse
from .options import JsonOption


@dataclass(frozen=True, kw_only=True)
class RecipesArgs(JsonOption):
    """List the recipes, or print one: command, hardware, accuracy and its source, settings.

    `seresnext plan NAME` says what one takes before anybody starts it.
    """

    name: Positional[str] = ""
    """Recipe to print; without, all are listed."""


def run(argv: list[str]) -> int:
    args = parse(RecipesArgs, argv, "seresnext recipes")
    names = [args.name] if args.name else list(RECIPES)
    if args.json:
        print("\n".join(to_json(_plain(name)) for name in names))
    elif args.name:
        print(_page(args.name))
    else:
        for name in names:
            found = describe(name)
            print(f"{name:<17} {found.summary}\n{'':<17} run here: {found.facts['Run here']}")
        print("`seresnext recipes NAME` prints one")
    return 0


def _plain(name: str) -> dict[str, object]:
    intended = INTENDED.get(name)
    return {
        "name": name,
        **asdict(describe(name)),
        "intended": asdict(intended) if intended else None,
        "config": asdict(recipe(name)),
    }


def _page(name: str) -> str:
    """All that is known of a recipe, and the settings that are its own, as flags."""
    found = describe(name)
    usual = {flag.key: flag.default for flag in config_flags(Config())}
    changed = [
        f"  {flag.off if flag.default is False else flag.name} {_words(flag.default)}".rstrip()
        for flag in config_flags(recipe(name))
        if flag.default != usual[flag.key]
    ]
    lines = [found.summary, "", *([found.text, ""] if found.text else [])]
    for label, text in found.facts.items():
        lines += wrap(f"{label + ':':<10} {text}", 100, subsequent_indent=" " * 11)
    return "\n".join(
        [*lines, "", "Settings that differ from the defaults of the fields:", *changed]
    )


def _words(value: object) -> str:
    """A setting as it is typed after its flag."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, tuple):
        return " ".join(map(_words, value))
    text = str(value)
    return f'"{text}"' if " " in text or not text else text
