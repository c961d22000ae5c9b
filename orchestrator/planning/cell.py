"""One trial of a plan under its fingerprint: what a driver runs, or finds settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.planning.trial_spec import TrialSpec


@dataclass(frozen=True)
class Resolved:
    """What the driver found out about a specification before the start.

    Attributes:
        backbone_fingerprint: SHA-256 of weights, tokenizer and configuration.
        dataset_digest: SHA-256 of the data and of what chose the records.
        method_version: Raised with every change that moves the method's numbers.
        generation_version: Of the rule for the length of free generation, where it matters.
        counts: Numbers about the data that belong in the row.
        tokenizer: Class and versions that shape the ids of a text beside the tokenizer's files.
        method_data: Version and hash of what the method reads beside the data set, as NLTK's data;
            empty where it reads nothing.
    """

    backbone_fingerprint: str
    dataset_digest: str
    method_version: int
    counts: Mapping[str, float] = field(default_factory=dict)
    generation_version: int | None = None
    tokenizer: str = ""
    method_data: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """The part that decides the trial's numbers."""
        values = asdict(self)
        del values["counts"]
        if self.generation_version is None:  # as before there was one
            del values["generation_version"]
        if not self.method_data:
            del values["method_data"]  # as before there was any
        return values


@dataclass(frozen=True)
class Cell:
    """One trial of a sweep: its fingerprint and what it is."""

    key: str
    spec: TrialSpec
    resolved: Resolved


@dataclass(frozen=True)
class Remembered:
    """What a search needs of a trial that is not to run again.

    Attributes:
        value: What is compared; None where the trial never came so far.
        rungs: Its rows of an earlier driver, for the scheduler; none where that has seen the trial
            itself.
        stopped_at: Number of the rung behind which a scheduler stopped it; None: none did.
    """

    value: float | None
    rungs: Sequence[Mapping[str, Any]] = ()
    stopped_at: int | None = None
