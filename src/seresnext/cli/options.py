"""Options that several verbs have in common: each is written once, here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..config import DataConfig, EngineName, changed
from ..errors import UsageError
from ..flags import HELP


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """What computes, and where."""

    engine: EngineName = "torch"
    """Framework for run folders, model folders and weights."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:N, npu, mps, ascend."""


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How images are read."""

    workers: int = 0
    """Decoding threads; 0 means one per core."""


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How images are found and read; what is not given is as in the model's run."""

    follow_links: bool | None = None
    """Follow links to files and folders. By default as the run did."""
    max_pixels: int | None = None
    """Images with more pixels are not read. By default the run's limit."""

    def change(self, data: DataConfig) -> DataConfig:
        """Return the run's settings with those that are given."""
        return changed(data, follow_links=self.follow_links, max_pixels=self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class JsonOption:
    """The form of the output."""

    json: bool = False
    """Print JSON: one object, or one per line where there are several results."""


BadImagePolicy = Literal["stop", "skip"]


def second_word(argv: list[str], program: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """The second word of a verb that has one, and the arguments after it.

    A request for help without it is taken by the first of `words`. Raises UsageError for another
    word.
    """
    if argv and argv[0] in words:
        return argv[0], argv[1:]
    if argv and argv[0] in HELP:
        return words[0], argv
    expected = " or ".join(f"`{program} {word}`" for word in words)
    got = repr(argv[0]) if argv else "nothing"
    raise UsageError(f"expected {expected}, got {got}; see `{program} --help`")
