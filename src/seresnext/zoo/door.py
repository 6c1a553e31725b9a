"""What the commands at the root share: exit codes, one line for a user's error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ..errors import UserError
from ..launch.processes import report
from ..training.interrupt import INTERRUPTED_EXIT, Interrupted


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a door and leave: 0 done, 1 a user's error, 75 interrupted and saved."""
    try:
        code = main(sys.argv[1:])
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        code = 1
    except Interrupted:
        print("interrupted; saved. The same command goes on from here.", file=sys.stderr)
        code = INTERRUPTED_EXIT
    except KeyboardInterrupt:
        code = 130
    report(code)
    sys.exit(code)
