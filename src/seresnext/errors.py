"""The exception whose message is written for users, and how it lists names."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 4000
"""Characters of a message: names from a file can be of any length."""


class UserError(Exception):
    """A mistake the user can fix: bad path, flag, image or file.

    The message says what happened, what was expected and how to fix it. The command line
    prints it on one line, without a traceback, and exits with 1. Everything else that
    escapes is a bug and keeps its traceback.

    >>> try:
    ...     seresnext.load("nowhere.onnx")
    ... except seresnext.UserError as error:
    ...     print(error)
    cannot read model nowhere.onnx: No such file or directory
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message[:_LONGEST] + "..." * (len(message) > _LONGEST)))


def printable(text: str) -> str:
    """Return the text with control characters, line ends and lone surrogates shown escaped.

    Names of files, classes and tensors come from other people: a terminal must not act on them.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _HARMLESS else c.encode("unicode_escape").decode()
        for c in text
    )


_HARMLESS = "\u00a0\u3000\u200c\u200d"
"""Spaces, and what joins letters and emoji: not printable to Python."""


class UsageError(UserError):
    """A command that is typed wrongly; the exit code is 2."""


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first eight names, and how many more there are."""
    more = f"{separator}and {len(names) - 8} more" if len(names) > 8 else ""
    return separator.join(names[:8]) + more


def one_line(error: Exception, most: int = 300) -> str:
    """Return the error's text on one line, cut after `most` characters."""
    return " ".join(str(error).split())[:most]
