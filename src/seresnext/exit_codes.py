"""Exit codes of every command, and the one line that a user's error is printed on.

0 done; 1 a user's error; 2 wrong usage; 75 interrupted by a signal after saving, so that the same
command resumes (EX_TEMPFAIL of sysexits.h: try again); 130 Ctrl-C with nothing to save.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from .errors import UserError
from .launch.ranks import report_exit
from .training.interrupt import INTERRUPTED_EXIT, Interrupted


def run_command(program: str, main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run `main(arguments)` and return the exit code; `program` precedes an error."""
    try:
        code = main(arguments)
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        code = 1
    except Interrupted:
        print("interrupted; saved. The same command goes on from here.", file=sys.stderr)
        code = INTERRUPTED_EXIT
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    report_exit(code)
    return code
