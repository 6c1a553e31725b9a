"""Options that several verbs have in common: each is written once, here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import EngineName


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
class JsonOption:
    """The form of the output."""

    json: bool = False
    """Print JSON: one object, or one per line where there are several results."""


BadImagePolicy = Literal["stop", "skip"]
