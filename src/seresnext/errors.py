"""The one exception a user is meant to read."""


class UserError(Exception):
    """A mistake the user can mend: bad path, flag, image or file.

    The message says what happened, what was expected and how to mend it. The command line
    prints it on one line, without a traceback, and exits with 1. Everything else that
    escapes is a bug and keeps its traceback.
    """
