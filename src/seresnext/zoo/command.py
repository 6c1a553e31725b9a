"""The command line of the original's programs: names, a YAML file, typed values, exit codes."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar

import yaml

from ..errors import UserError
from ..exit_codes import run_command
from ..launch.ranks import rank
from .options import ALL_OPTIONS, Range
from .output import copy_output

T = TypeVar("T")
MAX_YAML_BYTES = 1 << 20
"""A larger configuration is refused unread; all names together take 2 kB."""
LOG = "SERESNEXT_LOG"
"""Environment variable: the file to which the output is copied; "{rank}" in it is the rank."""
_ROOT = Path(__file__).parents[3]
"""The folder of `train.py` and `config.yaml`, where the package runs from a clone."""


def exit_with(main: Callable[[list[str]], int], program: str = "") -> NoReturn:
    """Run `main` on the command line's arguments and exit with its code (see exit_codes.py)."""
    log = os.environ.pop(LOG, "")
    # msrun's scheduler runs the same program as the ranks.
    if log and os.environ.get("MS_ROLE") != "MS_SCHED":
        copy_output(Path(log.replace("{rank}", str(rank())) if "{rank}" in log else log))
    sys.exit(run_command(program or Path(sys.argv[0]).name, main, sys.argv[1:]))


@dataclass(frozen=True)
class Given(Generic[T]):
    """What a command was given."""

    options: T
    flags: tuple[str, ...] = ()
    """The arguments after `--`."""
    typed: frozenset[str] = frozenset()
    """Names on the command line; the others are from `file` or have their defaults."""
    file: Path | None = None
    """The YAML file that was read."""


def parse(cls: type[T], argv: Sequence[str], program: str, *, flags: bool = False) -> Given[T]:
    """The options of class `cls`.

    A YAML file is read first, that of `--config_path` or else the `config.yaml` beside the
    programs; the command line overrides it. One file serves all commands: names that only another
    command has are ignored in it. Raises UserError for an unknown name, listing the known ones, for
    a value of the wrong type or out of range, and for arguments after `--` unless it has `flags`.
    """
    argv = list(argv)
    rest = argv[argv.index("--") + 1 :] if "--" in argv else []
    argv = argv[: argv.index("--")] if "--" in argv else argv
    if rest and not flags:
        raise UserError(f"{program} takes no flags after --, got {' '.join(rest)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    parser = argparse.ArgumentParser(
        prog=program,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage=f"{program} [--config_path FILE.yaml] [--NAME VALUE]..."
        + (" [-- OTHER FLAGS]" if flags else ""),
    )
    parser.add_argument(
        "--config_path", metavar="FILE", help="YAML file of the names below (default: config.yaml)"
    )
    for name, option in fields.items():
        names = [f"--{n}" for n in (name, option.metadata["also"]) if n]
        parser.add_argument(*names, dest=name, metavar="VALUE", help=_help(option))
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        advice = "Flags of `seresnext train` go after --" if flags else ""
        raise UserError(_unknown(unknown[0], fields, "on the command line", advice))
    texts: dict[str, Any] = vars(given)
    file = _file(texts.pop("config_path", None))
    stored = _read_yaml(file) if file else {}
    values = _values(fields, cls, {n: v for n, v in stored.items() if n in fields}, f" in {file}")
    values |= _values(fields, cls, texts, "")
    return Given(cls(**values), tuple(rest), frozenset(texts), file)


def _file(given: str | None) -> Path | None:
    """The YAML file to read; None without any."""
    if given is not None:
        return Path(given)
    default = _ROOT / "config.yaml"
    return default if default.is_file() and (_ROOT / "train.py").is_file() else None


def _values(
    fields: Mapping[str, dataclasses.Field[Any]], cls: type, texts: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The typed values of the names that are set; the text None sets nothing."""
    hints = typing.get_type_hints(cls)
    values = {}
    for name, text in texts.items():
        if text != "None":
            spelled = f"{name}{where}" if where else f"--{name}"
            values[name] = _typed(hints[name], text, spelled)
            _check_range(fields[name].metadata["range"], values[name], spelled)
    return values


def _check_range(range: Range, value: Any, spelled: str) -> None:
    expected, holds = range
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not holds(number):
            raise UserError(f"{spelled}: expected {expected}, got {number}")


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


def _unknown(argument: str, names: Iterable[str], where: str, advice: str = "") -> str:
    name = argument.lstrip("-").partition("=")[0]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    known = ", ".join([*names, "config_path"])
    advice = f". {advice}" if advice else ""
    return f"unknown name {name!r} {where}{hint}; the names are {known}{advice}"


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
