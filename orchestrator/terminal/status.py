"""Reads how far the sweeps of a store have come, even as they run, from ledger and leases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from orchestrator.forecast.calibration import known_speed
from orchestrator.forecast.estimate import Forecast, forecast
from orchestrator.planning.plan import Plan
from orchestrator.settings.addresses import LOCAL
from orchestrator.store.leases import Holder, Leases
from orchestrator.store.ledger import FOLDER, Ledger, check_store
from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.settled import ended, searched, unsettled
from orchestrator.terminal.board import NUM_BEST
from orchestrator.terminal.lines import forecast_line
from orchestrator.terminal.running_trials import RunningTrial, pulse_folder, running_trial
from orchestrator.terminal.tally import ArmScore, at_the_end, ranked
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
        held: Trials, of any plan, that living drivers run now or next, by driver.
        num_left: Planned trials that are not settled, held ones included; None without a plan.
        forecast: Forecast of what is left, on this machine; None without a plan.
        running: Running trials of living drivers, and what each does.
        arms: The plan's arms by score, the best first, for each part of the data that a search
            runs on; elsewhere all together under "". None without a plan.
        score: Name of that score.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    stopped_by: Mapping[str, int]
    held: Mapping[Holder, int]
    num_left: int | None = None
    forecast: Forecast | None = None
    running: Sequence[RunningTrial] = ()
    arms: Mapping[str, Sequence[ArmScore]] = field(default_factory=dict)
    score: str = ""


def read_status(store: str, plan: Plan | None = None) -> Status:
    """The status of a plan, or of everything in `store` if no plan is given.

    Raises:
        LedgerError: If the store is not there, or a segment cannot be read.
    """
    check_store(store)
    leases = Leases(Path(store) / FOLDER / "status.jsonl")
    holders, running = leases.others(), _running(Path(store), leases.drivers())
    history = Ledger.read(store)  # after the leases: what one gave back meanwhile has its end here
    settled = history.settled()
    held = {key: holder for key, holder in holders.items() if key not in settled}
    holding = Counter(held.values())
    if plan is None:
        return Status(*_counted([*history.ends.values()]), holding, running=running)
    if plan.is_search:
        drawn = searched(plan.config.ablation, plan.knowable, plan.swept, history)
        parts = [(str(end.spec["dataset"].get("part", "")), str(end.spec["arm"])) for end in drawn]
        scored = _scored(plan, [*zip(parts, drawn, strict=True)])
        return Status(*_counted(drawn), holding, None, None, running, *scored)
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
    named = [(("", spec.arm), end) for spec, end in zip(plan.trials, found, strict=True) if end]
    scored = _scored(plan, named)
    return Status(*_counted(ends), holding, len(left), expected, running, *scored)


def _scored(
    plan: Plan, ends: Sequence[tuple[tuple[str, str], EndRow]]
) -> tuple[Mapping[str, Sequence[ArmScore]], str]:
    """The arms of a plan by score, over the seeds that have finished.

    Each end comes with the part of the data and the arm that it counts for. What runs again on
    another part is the result of a search, and stands first.
    """
    compared, rerun = plan.config.scheduler.compared, plan.config.rerun
    parts: dict[str, dict[str, list[float]]] = {rerun.part: {}} if rerun else {}
    for (part, arm), end in ends:
        value = at_the_end(end.metrics, compared.on(end.spec.get("dataset", {})))
        if end.status == "finished" and value is not None:
            parts.setdefault(part, {}).setdefault(arm, []).append(value)
    arms = {part: ranked(arms, compared.sign) for part, arms in parts.items() if arms}
    return arms, compared.name.removesuffix(".token")


def _running(store: Path, drivers: Collection[str]) -> list[RunningTrial]:
    """The running trials of some drivers; files of killed drivers are left out."""
    beats = [beat for driver in drivers for beat in read_pulses(pulse_folder(store, driver))]
    return [running_trial(beat) for beat in sorted(beats, key=lambda beat: beat.name)]


def status_lines(status: Status) -> list[str]:
    """One line per kind of trial, the reasons below theirs."""
    lines = [f"{count} {name}" for name, count in sorted(status.counts.items())] or ["none ended"]
    lines += [f"  {count} x {reason}" for reason, count in status.reasons.items()]
    lines += [f"  {count} stopped by {rule}" for rule, count in status.stopped_by.items()]
    lines += [f"{count} held by {holder}" for holder, count in status.held.items()]
    lines += [f"  {each.name}: {each.doing}, {each.time}" for each in status.running]
    for part, arms in status.arms.items():
        on = f" on {part}" if part else ""
        lines.append(f"best arms by {status.score}{on} (± 95% over seeds, from three on):")
        seeds = [f"{arm.seeds} seed" + "s" * (arm.seeds > 1) for arm in arms]
        best = zip(arms[:NUM_BEST], seeds, strict=False)
        lines += [f"  {arm.text} ({told}) {arm.name}" for arm, told in best]
    if status.forecast is not None:
        lines.append(f"{status.num_left} left; {forecast_line(status.forecast)}")
    return lines


def watch(
    console: Console, store: str, plan: Plan | None = None, *, every_seconds: float = 5.0
) -> None:
    """Show the status again and again, until no driver holds a trial; on a terminal in one place.

    Elsewhere it is printed anew where something has ended. With a plan of which trials are left it
    waits for a driver that takes them.
    """
    shown: list[str] = []
    with Live(console=console, auto_refresh=False) as live:
        while True:
            status = read_status(store, plan)
            lines = status_lines(status)
            is_over = not status.held and not status.running and not status.num_left
            if console.is_terminal:
                live.update(Text("\n".join(lines)), refresh=True)
            elif is_over or lines[:1] != shown[:1]:
                console.print(Text("\n".join(lines)))
            if is_over:
                return
            shown = lines
            time.sleep(every_seconds)


def _counted(
    ends: Sequence[EndRow],
) -> tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]:
    """Ends by status, errors, and rules that stopped a trial."""
    return (
        Counter(end.status for end in ends),
        Counter(str(end.error) for end in ends if end.status in ("failed", "diverged")),
        Counter(str(end.stop_reason) for end in ends if end.status == "stopped"),
    )
