"""Errors for the person who typed a command; each message is one line."""


class AnalysisError(ValueError):
    """Base of all errors of `analysis` that end in exit status 2."""


class StoreError(AnalysisError):
    """The store, an experiment or the runs of a table are missing, or cannot be read."""


class PaperNumbersError(AnalysisError):
    """A file of published numbers is missing, or its content is not valid."""


class OutputError(AnalysisError):
    """A file that was asked for cannot be written where an option says."""


class ProtocolMismatchError(AnalysisError):
    """Runs and published rows were measured under different kinds of protocol."""
