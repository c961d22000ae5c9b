"""Errors for the person who typed the command; each message is one line."""


class UsageError(ValueError):
    """A typed word, or a file that it names, cannot be used; the message says what is allowed.

    The command ends with status 2.
    """


class LedgerError(UsageError):
    """The store cannot be written or read."""


class StandstillError(RuntimeError):
    """No trial makes progress although some are due; the command ends with status 1."""
