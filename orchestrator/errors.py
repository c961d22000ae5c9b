"""Errors with one line for the person who typed the command."""


class UsageError(ValueError):
    """Something typed, or a file that it names, cannot be used; says what is allowed.

    The command ends with status 2.
    """


class LedgerError(UsageError):
    """The store cannot be written or read."""


class StandstillError(RuntimeError):
    """Nothing moves though trials are due; the command ends with status 1."""
