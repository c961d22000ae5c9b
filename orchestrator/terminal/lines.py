"""Makes the lines about a forecast and about the outcome of a sweep."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a thirtieth of --list's time
    from orchestrator.forecast.estimate import Forecast
    from orchestrator.store.rows import Outcome


def outcome_lines(outcome: Outcome) -> list[str]:
    """The outcome of a sweep, its failures grouped by reason."""
    done = sum(outcome.counts.values())
    parts = [f"{count} {status}" for status, count in sorted(outcome.counts.items())]
    lines = [
        f"{done} trials run ({', '.join(parts) or 'nothing left to do'}), "
        f"{outcome.num_settled_before} settled before"
    ]
    if outcome.num_other_source:
        lines.append(
            f"{outcome.num_other_source} of {outcome.num_settled_before} finished results come "
            "from other source code; --fresh runs them anew"
        )
    reasons = Counter(str(row.error) for row in outcome.failures)
    lines += [f"{count} x {reason}" for reason, count in reasons.most_common()]
    return lines


def unsent_lines(outcome: Outcome, sync: str) -> list[str]:
    """Lines on what MLflow or the copies lack, why, and the command that sends it."""
    lines = []
    if outcome.num_unsent:
        why = next(iter(outcome.tracking_failures), "unknown")
        lines.append(
            f"MLflow still lacks {outcome.num_unsent} results ({why}); the ledger has them all. "
            f"To send them: {sync}"
        )
    if outcome.copies_failure:
        lines.append(
            f"not all is copied ({outcome.copies_failure}); the store has it. To send it: {sync}"
        )
    return lines


def forecast_line(forecast: Forecast) -> str:
    """Time, memory and GPU-hours in one line; `rough` if it is not based on earlier trials."""
    if not forecast.is_rough:
        basis = "from earlier trials"
    elif forecast.num_measured:
        basis = f"rough: {forecast.num_measured} of {forecast.num_trials} trials from earlier ones"
    else:
        basis = "rough: from the number of operations"
    return (
        f"forecast ({basis}): {brief(forecast.wall_seconds)} of wall time, "
        f"{brief(forecast.cpu_seconds)} of CPU time, {forecast.gpu_hours:.2g} GPU-hours, "
        f"{forecast.memory_gib:.2g} GiB of memory"
    )


def brief(seconds: float) -> str:
    """Seconds in the unit that suits them, rounded: 40 s, 12 min, 1.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
