"""Messages of the package in the words of the original's commands: `--epochs` is `--epoch_size`."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from ..config import SHORT_NAMES
from ..errors import UserError
from .command import Given

_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9._-]*[a-z0-9])")
_FIELD = re.compile(r"([a-z]+\.[a-z0-9_]+): ")


def reworded(text: str, given: Given[Any]) -> str:
    """`text` with the options of `seresnext` as this command has them.

    What it has no name for stands after `--` where the command takes flags (training). A field of
    the configuration at the start of an error becomes the option that has set it.
    """
    options = dataclasses.fields(given.options)
    trains = any(option.name == "recipe" for option in options)

    def option_for(flag: str) -> str | None:
        wanted = {flag.replace("-", "_"), SHORT_NAMES.get(flag.replace("-", "_"))}
        for option in options:
            if option.name in wanted or wanted & set(option.metadata["sets"]):
                return f"--{option.name} True" if option.type == "bool" else f"--{option.name}"
        return None

    def flag_here(match: re.Match[str]) -> str:
        if option := option_for(match[1]):
            return option
        field = SHORT_NAMES.get(match[1].replace("-", "_"), match[1])
        after = trains and "." in field
        return f"-- --{field.replace('_', '-')}" if after else match[0]

    first = _FIELD.match(text)
    after_dashes = first and any(_names(flag, first[1]) for flag in given.flags)
    if first and not after_dashes and (option := option_for(first[1])):
        text = f"{option}: {text[first.end() :]}"
    return _FLAG.sub(flag_here, text)


def _names(flag: str, field: str) -> bool:
    return flag.partition("=")[0].replace("-", "_").lstrip("_") == field


@contextlib.contextmanager
def own_words(given: Given[Any]) -> Iterator[None]:
    """Reword the UserError that ends the block."""
    try:
        yield
    except UserError as error:
        raise UserError(reworded(str(error), given)) from None
