"""How this package was installed, for advice on what to install."""

from __future__ import annotations

import shlex
from pathlib import Path

_ROOT = Path(__file__).parents[2]
"""Of a clone; somewhere in site-packages otherwise."""


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package, from the clone if it is one."""
    if (_ROOT / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(f'{_ROOT}[{extra}]')}"
    return f"pip install 'seresnext[{extra}]'"
