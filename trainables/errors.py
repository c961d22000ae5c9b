"""Errors that this package raises on purpose; everything else is a defect."""


class EditingError(Exception):
    """Base of all errors with a message meant for the person who typed the command."""


class ConfigError(EditingError):
    """A setting is unknown, has the wrong type or lies outside its range."""


class UnknownMethodError(ConfigError):
    """No module in `trainables/methods` bears the name."""


class DataError(EditingError):
    """A data file is missing, empty or broken."""


class BackboneError(EditingError):
    """A checkpoint is missing, unsafe to load, or of a family that is not known."""


class EditDiverged(EditingError):  # noqa: N818 - a result of the edit, not a defect
    """The loss or a weight is not finite; the trial ends as `diverged` and is not retried."""


class RestoreError(EditingError):
    """A backbone differs from its pristine weights after `remove()`; do not reuse the actor."""


class TrialOverdueError(EditingError):
    """A trial took longer than it may."""


class RankLostError(EditingError):
    """A process that shares the trial is gone; the trial has to be begun again by all."""


class MemoryExhaustedError(EditingError):
    """A single row at a time is too much for the memory there is."""


class NodeUnfitError(EditingError):
    """The node that a trial was put on cannot work on the sweep; another one may."""

    def __init__(self, node: str, reason: str) -> None:
        """`node` is Ray's id of it."""
        super().__init__(node, reason)
        self.node, self.reason = node, reason

    def __str__(self) -> str:
        """The reason, which names the node as people do."""
        return self.reason
