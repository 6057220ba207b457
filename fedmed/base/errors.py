"""The two kinds of failure that a person reads: their own mistake, and a run that stopped."""


class UserError(Exception):
    """A mistake that the user can mend: one line naming the key, file or row, and the remedy.

    The command line prints the message alone and exits with code 2.
    """


class RunError(Exception):
    """A run that could not go on (a hospital failed, a privacy check tripped): exit code 1."""
