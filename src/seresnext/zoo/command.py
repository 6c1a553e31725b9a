"""The command line of the original's programs: names, a YAML file, typed values, exit codes."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml

from ..errors import UserError
from ..exit_codes import run_command
from .options import ALL_OPTIONS

T = TypeVar("T")
MAX_YAML_BYTES = 1 << 20
"""A larger configuration is refused unread; all names together take 2 kB."""


def exit_with(main: Callable[[list[str]], int]) -> NoReturn:
    """Run `main` on the command line's arguments and exit with its code (see exit_codes.py)."""
    sys.exit(run_command(Path(sys.argv[0]).name, main, sys.argv[1:]))


def parse(cls: type[T], argv: Sequence[str], program: str) -> tuple[T, list[str]]:
    """(options of class `cls`, the arguments after `--`).

    `--config_path FILE` is read first; the command line overrides it. One file may serve all
    commands: names that only another command has are ignored in it. Raises UserError for an unknown
    name, listing the known ones, and for a value of the wrong type.
    """
    argv = list(argv)
    rest = argv[argv.index("--") + 1 :] if "--" in argv else []
    argv = argv[: argv.index("--")] if "--" in argv else argv
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    parser = argparse.ArgumentParser(
        prog=program,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage=f"{program} [--config_path FILE.yaml] [--NAME VALUE]... [-- OTHER FLAGS]",
    )
    parser.add_argument("--config_path", metavar="FILE", help="YAML file of the names below")
    for name, option in fields.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=_help(option))
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(_unknown(unknown[0], fields, "on the command line"))
    texts: dict[str, Any] = vars(given)
    path = texts.pop("config_path", None)
    values = _read_yaml(Path(path)) if path else {}
    values = {name: value for name, value in values.items() if name in fields} | texts
    hints = typing.get_type_hints(cls)
    return cls(**{name: _typed(hints[name], value, name) for name, value in values.items()}), rest


def parse_only(cls: type[T], argv: Sequence[str], program: str) -> T:
    """`parse` for a command that takes no arguments after `--`."""
    options, rest = parse(cls, argv, program)
    if rest:
        raise UserError(f"{program} takes no flags after --, got {' '.join(rest)}")
    return options


def _help(option: dataclasses.Field[Any]) -> str:
    text = str(option.metadata["help"])
    default = option.default
    return text if default in (None, "") else f"{text} (default {default})"


def _read_yaml(path: Path) -> dict[str, Any]:
    """Name -> value. Of several documents the first is the configuration, as in the model zoo."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise UserError(f"config_path: {path} is larger than {MAX_YAML_BYTES} bytes; refused")
        text = path.read_text()
        values = next(iter(yaml.safe_load_all(text)), None) or {}
    except OSError as error:
        raise UserError(f"config_path: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"config_path: {path} is not YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"config_path: {path} holds no names; expected lines such as lr_init: 0.4")
    known = [f.name for cls in ALL_OPTIONS for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise UserError(_unknown(str(name), dict.fromkeys(known), f"in {path}"))
    return {name: value for name, value in values.items() if value is not None}


def _unknown(argument: str, names: Iterable[str], where: str) -> str:
    name = argument.lstrip("-").partition("=")[0]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"unknown name {name!r} {where}{hint}; the names are {', '.join(names)}, config_path. "
        "Flags of `seresnext train` go after --"
    )


# Values ------------------------------------------------------------------------------------


def _typed(hint: Any, value: Any, name: str) -> Any:
    """`value`, from YAML or the command line, as the annotated type; UserError naming the field."""
    args = typing.get_args(hint)
    if type(None) in args:
        return _typed(args[0], value, name)
    if typing.get_origin(hint) is Literal:
        if value not in args:
            raise UserError(f"{name}: expected one of {', '.join(args)}, got {value!r}")
        return value
    if typing.get_origin(hint) is tuple:
        if isinstance(value, str):
            value = value.strip("[]()").replace(",", " ").split()
        items = value if isinstance(value, list) else [value]
        return tuple(_typed(args[0], item, name) for item in items)
    convert, expected = _TYPES[hint]
    try:
        return convert(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise UserError(f"{name}: expected {expected}, got {value!r}") from None


def _number(value: Any) -> float:
    """YAML 1.1 reads 1e-4 as text, so a text may be a number, but True is none."""
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    number = _number(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _text(value: Any) -> str:
    if isinstance(value, (list, dict)):
        raise ValueError
    return str(value)


def _boolean(value: Any) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]


_TYPES: dict[type, tuple[Callable[[Any], Any], str]] = {
    bool: (_boolean, "True or False (or 1, 0)"),
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    str: (_text, "text"),
}
"""Type of an option -> how a value becomes one, and what an error says was expected."""
