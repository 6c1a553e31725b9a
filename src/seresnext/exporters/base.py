"""What every exporter offers: the functions of `exporters/<format>.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ..frameworks import load_module
from ..runtimes.artifact import Artifact
from ..runtimes.formats import Format


class Exporter(Protocol):
    """A module that writes one format."""

    def versions(self) -> str:
        """The format and what writes it, with versions, for people."""
        ...

    def build(self, artifact: Artifact, weights: Mapping[str, NDArray[Any]]) -> Any:
        """The network in the library's own terms, BN folded, in the artifact's precision.

        For int8 it is built in fp32, with normalised input, and is quantised afterwards.
        """
        ...

    def write(self, network: Any, artifact: Artifact, path: Path) -> None:
        """Write it to `path` with its metadata and, if `artifact` says so, its preprocessing.

        Other files of the artifact are written beside `path`. `network` is not changed: int8
        writes several candidates.
        """
        ...


def load_exporter(format: Format) -> Exporter:
    """The exporter of a format. Raises UserError naming the extra if a package is missing."""
    exporter: Exporter = load_module(format.exporter, format.extra)
    return exporter
