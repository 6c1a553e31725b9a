"""Command-line flags from dataclasses: a field is a flag, the text below it is its help.

    @dataclass(frozen=True, kw_only=True)
    class PredictArgs:
        model: Positional[Path]
        top: int = 5
        "Classes per image."        # `--top N`

Nested dataclasses give flags with a dot (`--optim.momentum`).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import re
import shutil
import sys
import textwrap
import types
import typing
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from .errors import UsageError

T = TypeVar("T")

Positional = Annotated[T, "positional"]
"""Type of a field that is given without a flag, by its place."""

HELP = ("-h", "--help", "--help-all")
_FLAG = re.compile(r"--|-[A-Za-z]")
"""Start of a word that is a flag; "-1" and "-" (standard input) are values."""


@dataclass(frozen=True)
class Flag:
    """One field of a dataclass as it is typed."""

    key: str
    """Path of the field: "optim.momentum"."""
    kind: Any
    """Its type, without Annotated and None: int, float, str, bool, Path, Literal or a tuple."""
    owner: type
    default: Any = MISSING
    positional: bool = False

    @property
    def name(self) -> str:
        """`--optim.momentum`, or `IMAGES` for a positional one."""
        text = self.key.replace("_", "-")
        return text.upper() if self.positional else f"--{text}"

    @property
    def off(self) -> str:
        """What switches a bool off: `--model.no-se-bias`."""
        group, dot, field = self.name[2:].rpartition(".")
        return f"--{group}{dot}no-{field}"

    @property
    def items(self) -> tuple[Any, ...]:
        """The types of the words that it takes; of a list of any length, one type and `...`."""
        if self.kind is bool:
            return ()
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is tuple else (self.kind,)

    @property
    def placeholder(self) -> str:
        """What stands for the value in the help."""
        words = ["..." if kind is Ellipsis else _placeholder(kind) for kind in self.items]
        return " ".join(words)

    @property
    def help(self) -> str:
        """The text below the field, on one line."""
        return _texts_below(self.owner).get(self.key.rpartition(".")[2], "")


def flags(cls: type, default: Any = None, prefix: str = "") -> list[Flag]:
    """Return a dataclass's flags, those of nested ones included; defaults are `default`'s."""
    found = []
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint, plain = hints[field.name], _plain(hints[field.name])
        value = field.default if default is None else getattr(default, field.name)
        if dataclasses.is_dataclass(plain):
            nested = None if value is MISSING else value
            found += flags(plain, nested, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            positional = "positional" in getattr(hint, "__metadata__", ())
            found.append(Flag(prefix + field.name, plain, cls, value, positional))
    return found


def parse(cls: type[T], argv: Sequence[str], program: str, description: str = "") -> T:
    """Return an instance of a dataclass, from its flags. Raises UsageError.

    `--help` prints the help, which begins with the class's docstring or `description`, and raises
    SystemExit(0).
    """
    known = flags(cls)
    given = read(argv, known, program)
    if "help" in given:
        print_help(program, description or inspect.getdoc(cls) or "", {"options": known})
    missing = [flag for flag in known if flag.default is MISSING and flag.key not in given]
    if missing:
        names = ", ".join(flag.name for flag in missing)
        raise UsageError(f"{program} needs {names}; `{program} --help` says what it is")
    return cls(**given)


def read(argv: Sequence[str], known: Iterable[Flag], program: str) -> dict[str, Any]:
    """Return key -> value of the flags that `argv` gives; of a repeated one the last counts.

    A request for help is the key "help", with the word as its value. Raises UsageError.
    """
    named = {flag.name: flag for flag in known}
    switches = {flag.off: flag for flag in named.values() if flag.kind is bool}
    places = [flag for flag in named.values() if flag.positional]
    given: dict[str, Any] = {}
    loose: list[str] = []
    words = deque(argv)
    while words:
        word = words.popleft()
        if word == "--":
            loose += words
            break
        if not _FLAG.match(word):
            loose.append(word)
            continue
        name, equals, text = word.partition("=")
        name = name.replace("_", "-")
        if name in HELP:
            given["help"] = name
            continue
        flag = named.get(name) or switches.get(name)
        if flag is None or flag.positional:
            raise UsageError(_unknown(name, named, program))
        if equals:
            words.appendleft(text)
        given[flag.key] = _take(flag, words, bool(equals), name in named)
    for flag in places:
        many = flag.items[-1:] == (Ellipsis,)
        taken, loose = (loose, []) if many else (loose[:1], loose[1:])
        if taken:
            values = tuple(_scalar(flag.name, flag.items[0], word) for word in taken)
            given[flag.key] = values if many else values[0]
    if loose:
        raise UsageError(f"{program}: what is {loose[0]!r}? `{program} --help` lists the options")
    return given


def _take(flag: Flag, words: deque[str], equals: bool, positive: bool) -> Any:
    """Take a flag's value from the front of `words`; the first word may be anything if `equals`."""
    items = flag.items
    if not items:
        if equals:
            raise UsageError(f"{flag.name}: expected no value, got {words[0]!r}")
        return positive
    many = items[-1] is Ellipsis
    taken: list[str] = []
    while words and (many or len(taken) < len(items)):
        if _FLAG.match(words[0]) and not (equals and not taken):
            break
        word = words.popleft()
        taken += word.split(",") if many and items[0] in (int, float) else [word]
    kinds = items[:1] * len(taken) if many else items
    if not taken or len(taken) < len(kinds):
        expected = _expected(items[0]) if len(items) == 1 else f"{flag.placeholder}"
        raise UsageError(f"{flag.name}: expected {expected}, got {' '.join(taken) or 'nothing'}")
    values = tuple(_scalar(flag.name, kind, word) for kind, word in zip(kinds, taken, strict=True))
    return values if typing.get_origin(flag.kind) is tuple else values[0]


def _scalar(name: str, kind: Any, word: str) -> Any:
    """One word as a value of type `kind`. Raises UsageError."""
    try:
        if typing.get_origin(kind) is Literal:
            if word in typing.get_args(kind):
                return word
        else:
            return kind(word)
    except ValueError:
        pass
    raise UsageError(f"{name}: expected {_expected(kind)}, got {word!r}")


def _expected(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    names = {int: "a whole number", float: "a number", Path: "a path"}
    return names.get(kind, "a text")


def _placeholder(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def _unknown(name: str, named: Iterable[str], program: str) -> str:
    """What to say of a flag that does not exist."""
    options = [option for option in named if option.startswith("--")]
    ends = [option for option in options if option.endswith(f".{name[2:]}")]
    near = ends[:3] or difflib.get_close_matches(name, options, 3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{program} has no option {name}; {hint}`{program} --help-all` lists them"


def _plain(hint: Any) -> Any:
    """A type without Annotated and without None."""
    if typing.get_origin(hint) is Annotated:
        return _plain(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        return _plain(hint)
    if typing.get_origin(hint) is tuple:
        return tuple[tuple(map(_plain, typing.get_args(hint)))]  # type: ignore[misc]
    return hint


# Help --------------------------------------------------------------------------------------


def print_help(program: str, description: str, sections: Mapping[str, Sequence[Flag]]) -> None:
    """Print title -> flags as the help of `program`, and raise SystemExit(0)."""
    width = min(shutil.get_terminal_size().columns, 100)
    everything = [flag for part in sections.values() for flag in part]
    places = "".join(
        f" {flag.name}{'...' if flag.items[-1:] == (Ellipsis,) else ''}"
        for flag in everything
        if flag.positional
    )
    lines = [f"usage: {program}{places} [OPTIONS]"]
    for paragraph in description.split("\n\n"):
        lines += ["", *textwrap.wrap(" ".join(paragraph.split()), width)]
    for title, part in sections.items():
        lines += ["", f"{title}:"]
        for flag in sorted(part, key=lambda flag: not flag.positional):
            lines += _row(_shown(flag), _described(flag), width)
    sys.stdout.write("\n".join(lines) + "\n")
    raise SystemExit(0)


def _shown(flag: Flag) -> str:
    """The flag as it is typed; a switch that is on is shown by what turns it off."""
    if flag.positional:
        return flag.name
    if flag.default is True:
        return flag.off
    return f"{flag.name} {flag.placeholder}".rstrip()


def _described(flag: Flag) -> str:
    """The flag's help with its default."""
    value = flag.default
    if value is MISSING:
        return flag.help if flag.positional else f"{flag.help} (required)"
    if value is None or value is False or value in ("", ()):
        return flag.help
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{flag.help} (default: {'on' if value is True else text})".lstrip()


def _row(left: str, text: str, width: int) -> list[str]:
    """Lines of one flag: its name, and the text in a column beside it."""
    column = 28
    wrapped = textwrap.wrap(text, max(width - column, 30)) or [""]
    if len(left) > column - 4:
        return [f"  {left}", *(" " * column + line for line in wrapped)]
    first = f"  {left}".ljust(column) + wrapped[0]
    return [first.rstrip(), *(" " * column + line for line in wrapped[1:])]


def _texts_below(cls: type) -> dict[str, str]:
    """Field -> the text that stands below it in the source, on one line; base classes included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = _classes(sys.modules[base.__module__]).get(base.__name__, [])
        for node, below in itertools.pairwise(body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[node.target.id] = " ".join(str(below.value.value).split())
    return found


@functools.cache
def _classes(module: types.ModuleType) -> dict[str, list[ast.stmt]]:
    """Class -> its statements, of a module's source."""
    tree = ast.parse(inspect.getsource(module))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
