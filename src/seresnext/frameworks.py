"""Import of the parts of this package that need a framework."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from .errors import UserError, one_line
from .install import install_command

_NO_HOME = "/nonexistent"
"""As Debian has it for users without a home folder."""


def load_module(name: str, extra: str, what: str = "") -> Any:
    """Import the module `name`, which `what` describes in an error.

    Raises UserError, naming the extra to install, if a package is missing, and in one line for
    whatever else importing a framework may raise.
    """
    try:
        Path.home()
    except RuntimeError:  # no HOME and no entry in the list of users: some frameworks need one
        os.environ["HOME"] = _NO_HOME
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{what or name} cannot be loaded ({error}); install what it needs with: "
            f"{install_command(extra)}"
        ) from error
    except Exception as error:
        raise UserError(
            f"{what or name} cannot be loaded: {type(error).__name__}: {one_line(error)}"
        ) from error
