"""`seresnext doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from ..flags import parse


@dataclass(frozen=True)
class DoctorArgs:
    """Show versions and devices, which engines and runtimes work here, and what to install."""


def run(argv: list[str]) -> int:
    parse(DoctorArgs, argv, "seresnext doctor")
    from ..doctor import summary

    print(summary())
    return 0
