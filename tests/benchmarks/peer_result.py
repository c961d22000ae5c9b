"""What one run of one side of peer.py comes to, and how two of them compare; without torch."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.peer_inputs import Probe

ONE_BY_ONE = ("ft_m", "wise")  # and, with EasyEdit, grace: its rule takes one edit at a time


@dataclass(frozen=True)
class Result:
    """CPU seconds of all edits, peak of the process, and the tokens answered to each probe."""

    seconds: float
    peak_gib: float
    answers: list[list[int]]

    @classmethod
    def of(cls, seconds: float, answers: list[list[int]]) -> Result:
        """With the peak of this process until now."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # on Linux in KiB
        return cls(seconds, peak, answers)

    @classmethod
    def read(cls, folder: Path) -> Result:
        """What `write` wrote."""
        return cls(**json.loads(result_file(folder).read_text("utf-8")))

    def write(self, folder: Path) -> None:
        """For the process that started this one."""
        result_file(folder).write_text(json.dumps(asdict(self)))


def result_file(folder: Path) -> Path:
    """Where a run leaves its result."""
    return folder / "result.json"


def method_of(case: str) -> str:
    """The method of a case: `ft_m_batch` is FT-M in one batch."""
    return case.removesuffix("_batch")


def rows_agreeing(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> int:
    """Probes that both answer alike, token by token."""
    return sum(here == there for here, there in zip(ours, theirs, strict=True))


def reliability(probes: Sequence[Probe], answers: Sequence[list[int]]) -> float:
    """Share of the target's tokens on the edited prompts themselves, mean over edits."""
    shares = [
        sum(here == there for here, there in zip(probe.target, answer, strict=True)) / len(answer)
        for probe, answer in zip(probes, answers, strict=True)
        if probe.score == "reliability"
    ]
    return sum(shares) / len(shares)
