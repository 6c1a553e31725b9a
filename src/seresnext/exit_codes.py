"""Exit codes of every command, and the one line that a user's error is printed on.

0 done; 1 a user's error; 2 wrong usage; 75 interrupted by a signal after saving, so that the same
command resumes (EX_TEMPFAIL of sysexits.h: try again); 130 Ctrl-C with nothing to save; 141 the
reader of the output, such as `head`, has ended (128 + SIGPIPE, as the shell has it).
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable

from .console import guarded_output, open_standard_streams, own_messages
from .errors import UsageError, UserError, one_line, printable
from .launch.ranks import report_exit
from .training.interrupt import INTERRUPTED_EXIT, Interrupted

_LACKS_MEMORY = re.compile("out of memory|(can't|failed to|cannot) allocate", re.I)
"""In the RuntimeErrors of frameworks."""


def run_command(program: str, main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run `main(arguments)` and return the exit code; `program` precedes an error."""
    open_standard_streams()
    line = ""
    try:
        with guarded_output(), own_messages():
            code = main(arguments)
    except SystemExit as exit_:  # of an argument parser
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except UserError as error:
        code = 2 if isinstance(error, UsageError) else 1
        line = f"{program}: error: {error}"
    except Interrupted:
        code, line = INTERRUPTED_EXIT, "interrupted; saved. The same command goes on from here."
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        code, line = 1, f"{program}: error: {error.strerror or error}{where}"
    except Exception as error:
        lacks = isinstance(error, RuntimeError) and _LACKS_MEMORY.search(str(error))
        if not lacks and not isinstance(error, MemoryError):
            report_exit(1, f"{type(error).__name__}: {one_line(error)}")
            raise  # a bug, which keeps its traceback
        what = f"{type(error).__name__}: {one_line(error, 120)}"
        line = f"{program}: error: out of memory ({what}); smaller batches or images need less"
        code = 1
    if line:
        with guarded_output(survives=True):
            print(printable(line), file=sys.stderr)
    report_exit(code, line.removeprefix(f"{program}: error: "))
    return code
