"""What one run of one side of peer.py comes to, and how two of them compare; without torch."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.benchmarks.peer_inputs import Inputs, Probe

# And, with EasyEdit, grace and rome: here they take one edit at a time in any batch.
ONE_BY_ONE = ("ft_m", "wise")
ANSWERS = "answers"  # the case that edits nothing
_SCORES = ("reliability", "generality", "locality")


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        seconds: CPU seconds of all edits.
        peak_gib: Of the process.
        answers: The tokens answered to each probe.
        shares: Of a profiled run, what went into torch's operations, of its time.
    """

    seconds: float
    peak_gib: float
    answers: list[list[int]]
    shares: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, seconds: float, answers: list[list[int]], shares: dict[str, float] | None = None
    ) -> Result:
        """With the peak of this process until now."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # on Linux in KiB
        return cls(seconds, peak, answers, shares or {})

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
    """The method of a case: `ft_m_batch` is FT-M in one batch, `rome_single` ROME edit by edit."""
    return case.removesuffix("_batch").removesuffix("_single")


def is_each_alone(case: str) -> bool:
    """Whether a case puts the backbone back after each edit."""
    return case == "ft_m" or case.endswith("_single")


def rows_agreeing(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> int:
    """Probes that both answer alike, token by token."""
    return sum(here == there for here, there in zip(ours, theirs, strict=True))


def difference_lines(
    inputs: Inputs, ours: Sequence[list[int]], theirs: Sequence[list[int]], texts: Sequence[str]
) -> list[str]:
    """A line for each probe that the two answer differently; `texts` are those of tokens."""
    owners = [number for number, record in enumerate(inputs.records) for _ in record.probes]
    lines = []
    for number, probe, here, there in zip(owners, inputs.probes, ours, theirs, strict=True):
        if here != there:
            said = ["".join(texts[token] for token in ids) for ids in (probe.target, here, there)]
            lines.append(
                f"    record {number}, {probe.score}, asked for {said[0]!r}: {said[1]!r} here, "
                f"{said[2]!r} there"
            )
    return lines


def scores(probes: Sequence[Probe], answers: Sequence[list[int]]) -> str:
    """Share of the answer's tokens, mean over probes, of each score; "-" where there is none."""
    shares: dict[str, list[float]] = {name: [] for name in _SCORES}
    for probe, answer in zip(probes, answers, strict=True):
        hits = sum(here == there for here, there in zip(probe.target, answer, strict=True))
        shares[probe.score].append(hits / len(answer))
    return "/".join(f"{sum(own) / len(own):.2f}" if own else "-" for own in shares.values())
