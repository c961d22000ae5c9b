"""A trial of a plan with its fingerprint; a driver runs it, or finds that it is settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.planning.trial_spec import TrialSpec


@dataclass(frozen=True)
class Resolved:
    """What the driver looked up about a specification before the start.

    Attributes:
        backbone_fingerprint: SHA-256 of weights, tokenizer and configuration.
        dataset_digest: SHA-256 of the data and of the settings that choose its records.
        method_version: Raised with every change that moves the method's numbers.
        generation_version: Version of how text is generated and compared, if any is.
        counts: Numbers about the data that are written to the row.
        tokenizer: Class and versions that, besides the tokenizer's files, decide a text's ids.
        method_data: Version and hash of what the method reads besides the data set, such as NLTK's
            data; empty if it reads nothing.
        ability: Hash of the tasks that it is asked beside its edits, their files and number of
            questions included; empty if there are none.
    """

    backbone_fingerprint: str
    dataset_digest: str
    method_version: int
    counts: Mapping[str, float] = field(default_factory=dict)
    generation_version: int | None = None
    tokenizer: str = ""
    method_data: str = ""
    ability: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that decide the trial's numbers."""
        values = asdict(self)
        del values["counts"]
        if self.generation_version is None:  # as before there was one
            del values["generation_version"]
        if not self.method_data:
            del values["method_data"]  # as before there was any
        if not self.ability:
            del values["ability"]
        return values


@dataclass(frozen=True)
class Cell:
    """One trial of a sweep: its fingerprint, its specification and what was looked up for it."""

    key: str
    spec: TrialSpec
    resolved: Resolved


@dataclass(frozen=True)
class Remembered:
    """What a search is told about a trial that does not run again.

    Attributes:
        value: Its score; None if the trial ended before it had one.
        rungs: Its rows from an earlier driver, for the scheduler; empty if the scheduler has seen
            the trial itself.
        stopped_at: Number of the rung after which a scheduler stopped it; None if none did.
    """

    value: float | None
    rungs: Sequence[Mapping[str, Any]] = ()
    stopped_at: int | None = None
