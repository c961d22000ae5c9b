"""Errors that this package raises on purpose; each message is one line for the user."""


class AnalysisError(ValueError):
    """Base of all errors of `analysis` that end in exit status 2."""


class StoreError(AnalysisError):
    """The store, an experiment or a table's runs are not there, or cannot be read."""


class PaperNumbersError(AnalysisError):
    """A file of published numbers is missing or does not hold what it must."""


class ProtocolMismatchError(AnalysisError):
    """Runs and published rows were measured under different kinds of protocol."""
