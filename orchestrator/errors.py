"""Errors with one line for the person who typed the command; the command ends with status 2."""


class UsageError(ValueError):
    """Something typed, or a file that it names, cannot be used; says what is allowed."""


class LedgerError(UsageError):
    """The store cannot be written or read."""
