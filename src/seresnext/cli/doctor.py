"""`seresnext doctor`."""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class DoctorArgs:
    """Show versions and devices, which engines and runtimes work here, and what to install."""


def run(argv: list[str]) -> int:
    tyro.cli(DoctorArgs, args=argv, prog="seresnext doctor")
    from ..doctor import summary

    print(summary())
    return 0
