"""Reads how far the sweeps of a store have come, even as they run, from ledger and leases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from orchestrator.forecast.calibration import known_speed
from orchestrator.forecast.estimate import Forecast, forecast
from orchestrator.planning.plan import Plan
from orchestrator.settings.addresses import LOCAL
from orchestrator.store.leases import Holder, Leases
from orchestrator.store.ledger import FOLDER, Ledger
from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.settled import ended, is_of, unsettled
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
        arms: The plan's arms by score, the best first; none without a plan.
        score: Name of that score.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    stopped_by: Mapping[str, int]
    held: Mapping[Holder, int]
    num_left: int | None = None
    forecast: Forecast | None = None
    running: Sequence[RunningTrial] = ()
    arms: Sequence[ArmScore] = ()
    score: str = ""


def read_status(store: str, plan: Plan | None = None) -> Status:
    """The status of a plan, or of everything in `store` if no plan is given.

    Raises:
        LedgerError: If a segment cannot be read.
    """
    history = Ledger.read(store)
    settled = history.settled()
    leases = Leases(Path(store) / FOLDER / "status.jsonl")
    holders, running = leases.others(), _running(Path(store), leases.drivers())
    held = {key: holder for key, holder in holders.items() if key not in settled}
    if plan is None or plan.is_search:
        ends = [
            end for end in history.ends.values() if plan is None or is_of(end, plan.config.ablation)
        ]
        scored = ((), "") if plan is None else _scored(plan, ends)
        return Status(*_counted(ends), Counter(held.values()), None, None, running, *scored)
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
    holding = Counter(held.values())
    return Status(*_counted(ends), holding, len(left), expected, running, *_scored(plan, ends))


def _scored(plan: Plan, ends: Sequence[EndRow]) -> tuple[Sequence[ArmScore], str]:
    """The arms of a plan by score, over the seeds that have finished."""
    compared = plan.config.scheduler.compared
    arms: dict[str, list[float]] = {}
    for end in ends:
        value = at_the_end(end.metrics, compared.on(end.spec.get("dataset", {})))
        if end.status == "finished" and value is not None:
            arms.setdefault(str(end.spec.get("arm", "")), []).append(value)
    return ranked(arms, compared.sign), compared.name.removesuffix(".token")


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
    if status.arms:
        lines.append(f"best arms by {status.score} (± 95% over seeds, from three on):")
        seeds = [f"{arm.seeds} seed" + "s" * (arm.seeds > 1) for arm in status.arms]
        best = zip(status.arms[:NUM_BEST], seeds, strict=False)
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
