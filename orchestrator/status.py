"""What a store holds, also while sweeps run on it; read from ledger and leases alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.calibration import known_speed
from orchestrator.cluster import LOCAL
from orchestrator.estimate import Forecast, forecast
from orchestrator.identity import canonical, fingerprint
from orchestrator.leases import Holder, Leases
from orchestrator.ledger import FOLDER, History, Ledger, Row
from orchestrator.listing import forecast_line
from orchestrator.plan import Plan
from orchestrator.running import RunningTrial, pulse_folder, running_trial
from orchestrator.specs import TrialSpec
from orchestrator.threads import usable_cpus
from trainables.cache import default_cache
from trainables.pulse import read_pulses


@dataclass(frozen=True)
class Status:
    """How far sweeps have come.

    Attributes:
        counts: Trials that ended, by status.
        reasons: Failed and diverged trials, by error.
        stopped_by: Stopped trials, by rule.
        held: Trials of any plan that a living driver runs now or next, by driver.
        num_left: Planned trials that are not settled, held ones included; None without a plan.
        forecast: Of what is left, on this machine; None without a plan.
        running: What the trials of living drivers say that they are doing.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    stopped_by: Mapping[str, int]
    held: Mapping[Holder, int]
    num_left: int | None = None
    forecast: Forecast | None = None
    running: Sequence[RunningTrial] = ()


def read_status(store: str, plan: Plan | None = None) -> Status:
    """The status of a plan, or of everything in `store` where none is given.

    Raises:
        LedgerError: If a segment cannot be read.
    """
    history = Ledger.read(store)
    settled = history.settled()
    leases = Leases(Path(store) / FOLDER / "status.jsonl")
    holders, running = leases.others(), _running(Path(store), leases.drivers())
    held = {key: holder for key, holder in holders.items() if key not in settled}
    if plan is None or plan.space:
        ends = [
            end for end in history.ends.values() if plan is None or is_of(end, plan.config.ablation)
        ]
        return Status(*_counted(ends), Counter(held.values()), running=running)
    found = ended(plan.trials, history)
    ends = [end for end in found if end is not None]
    left = unsettled(plan.trials, found, settled)
    expected = forecast(
        left,
        history.ends.values(),
        workers=plan.config.workers or usable_cpus(),
        sharing=plan.config.sharing,
        cpu_flops=known_speed(default_cache()),
        cpus=usable_cpus() if plan.config.cluster == LOCAL else None,
    )
    return Status(*_counted(ends), Counter(held.values()), len(left), expected, running)


def _running(store: Path, drivers: Collection[str]) -> list[RunningTrial]:
    """What the trials of some drivers say now; those of killed drivers left files behind."""
    beats = [beat for driver in drivers for beat in read_pulses(pulse_folder(store, driver))]
    return [running_trial(beat) for beat in sorted(beats, key=lambda beat: beat.name)]


def ended(specs: Sequence[TrialSpec], history: History) -> list[Row | None]:
    """The end row of each specification, None for one that no driver has ended.

    What a fingerprint holds beside the specification (weights, data, versions) is taken from the
    rows themselves, so that nothing has to be loaded.
    """
    known = {canonical(end["resolved"]): end["resolved"] for end in history.ends.values()}
    found: list[Row | None] = []
    for spec in specs:
        keys = [fingerprint(spec, resolved) for resolved in known.values()]
        ends = [history.ends[key] for key in keys if key in history.ends]
        found.append(max(ends, key=lambda end: float(end["time"]), default=None))
    return found


def unsettled(
    specs: Sequence[TrialSpec], found: Sequence[Row | None], settled: Collection[str]
) -> tuple[TrialSpec, ...]:
    """Specifications without an end (`ended`), or with one that is not settled."""
    pairs = zip(specs, found, strict=True)
    return tuple(spec for spec, end in pairs if end is None or end["fingerprint"] not in settled)


def is_of(end: Row, ablation: str) -> bool:
    """True for a row that a sweep of this ablation has written."""
    return bool(end["spec"]["ablation"] == ablation)


def status_lines(status: Status) -> list[str]:
    """One line per kind of trial, the reasons below theirs."""
    lines = [f"{count} {name}" for name, count in sorted(status.counts.items())] or ["none ended"]
    lines += [f"  {count} x {reason}" for reason, count in status.reasons.items()]
    lines += [f"  {count} stopped by {rule}" for rule, count in status.stopped_by.items()]
    lines += [f"{count} held by {holder}" for holder, count in status.held.items()]
    lines += [f"  {each.name}: {each.doing}, {each.time}" for each in status.running]
    if status.forecast is not None:
        lines.append(f"{status.num_left} left; {forecast_line(status.forecast)}")
    return lines


def _counted(
    ends: Sequence[Row],
) -> tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]:
    """Ends by status, errors, and rules that stopped a trial."""
    return (
        Counter(str(end["status"]) for end in ends),
        Counter(str(end["error"]) for end in ends if end["status"] in ("failed", "diverged")),
        Counter(str(end["stop_reason"]) for end in ends if end["status"] == "stopped"),
    )
