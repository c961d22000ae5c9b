"""Which trials of a plan have ended, by what the ledger holds; nothing has to be loaded for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.planning.identity import canonical, fingerprint
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.store.ledger import History
from orchestrator.store.ledger_rows import EndRow


@dataclass(frozen=True)
class Options:
    """What was typed beside the configuration."""

    retry_failed: bool = False
    complete_stopped: bool = False
    fresh: bool = False


def ended(specs: Sequence[TrialSpec], history: History) -> list[EndRow | None]:
    """The end row of each specification, None for one that no driver has ended.

    What a fingerprint holds beside the specification (weights, data, versions) is taken from the
    rows themselves, so that nothing has to be loaded.
    """
    known = {canonical(end.resolved): end.resolved for end in history.ends.values()}
    found: list[EndRow | None] = []
    for spec in specs:
        keys = [fingerprint(spec, resolved) for resolved in known.values()]
        ends = [history.ends[key] for key in keys if key in history.ends]
        found.append(max(ends, key=lambda end: end.time, default=None))
    return found


def unsettled(
    specs: Sequence[TrialSpec], found: Sequence[EndRow | None], settled: Collection[str]
) -> tuple[TrialSpec, ...]:
    """Specifications without an end (`ended`), or with one that is not settled."""
    pairs = zip(specs, found, strict=True)
    return tuple(spec for spec, end in pairs if end is None or end.fingerprint not in settled)


def is_of(end: EndRow, ablation: str) -> bool:
    """True for a row that a sweep of this ablation has written."""
    return end.ablation == ablation
