"""Makes the tables of a dry run: arms, values, memory and forecast of a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.forecast.estimate import Forecast
from orchestrator.forecast.placement import placement_lines
from orchestrator.forecast.simulate import Simulation
from orchestrator.planning.plan import Plan, TrialSpec
from orchestrator.settings.models import PARTS
from orchestrator.terminal.lines import brief, forecast_line
from orchestrator.terminal.memory_table import memory_table

MOST_ARMS = 40  # rows of a dry run; the grid itself says the rest


def plan_tables(
    plan: Plan,
    forecast: Forecast | None,
    simulations: Sequence[Simulation] = (),
    warnings: Sequence[str] = (),
) -> RenderableType:
    """The plan as tables: arms, every value with where it came from, memory, and the forecast."""
    parts: list[RenderableType] = [Text("\n".join([_headline(plan), *warnings]))]
    if plan.is_search:
        parts.append(_distribution_table(plan))
    else:
        parts += [_arms(plan), _values(plan)]
    needed = memory_table(plan.typical, plan.config.sharing)
    if needed is not None:
        parts.append(needed)
    if forecast is not None:
        parts.append(Text(_outlook(plan, forecast)))
    if simulations:
        parts.append(_schedules(simulations))
    return Group(*parts)


def _outlook(plan: Plan, forecast: Forecast) -> str:
    """How many trials are left, and their forecast."""
    if plan.is_search:
        return f"{forecast_line(forecast)}; trials settled before are counted too"
    if forecast.num_trials == plan.num_trials:
        return forecast_line(forecast)
    settled = f"{plan.num_trials - forecast.num_trials} of {plan.num_trials} trials settled before"
    return f"{settled}; {forecast_line(forecast) if forecast.num_trials else 'nothing left to do'}"


def _schedules(simulations: Sequence[Simulation]) -> Table:
    """One row per number of GPUs: time of the whole plan if the scheduler stops no trial."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    idle = ("idle", "with an instant driver", "and instant starts")
    for heading in ("GPUs", "makespan", *idle, "driver busy", "most results waiting"):
        table.add_column(heading, justify="right")
    for made in simulations:
        table.add_row(
            str(made.num_gpus),
            brief(made.makespan_seconds),
            f"{made.idle_share:.0%}",
            f"{made.idle_instant_driver:.0%}",
            f"{made.idle_instant_start:.0%}",
            f"{made.driver_share:.0%}",
            str(made.most_waiting),
        )
    return table


def _headline(plan: Plan) -> str:
    config = plan.config
    lines = [f"{config.ablation} ({config.scale}): {config.question}"]
    if plan.is_search:
        searches = (
            f"{len(plan.searches)} searches of {config.num_trials} trials"
            if config.plan == "tune"
            else f"a search of {config.num_trials}"
        )
        again = ", then the best again" if config.rerun else ""
        lines.append(f"{plan.num_trials} trials: {searches}{again}")
    else:
        lines.append(f"{len(plan)} trials: {len(plan.arms)} arms x {len(config.seeds)} seeds")
    if plan.excluded:
        lines.append(f"{plan.excluded} cells left out by where: {'; '.join(config.where)}")
    if plan.merged:
        lines.append(
            f"{plan.merged} published cells equal another one on this backbone, and share its trial"
        )
    if config.scheduler.name != "fifo":
        spared = f"; never stopped: {', '.join(sorted(plan.protected))}" if plan.protected else ""
        lines.append(f"scheduler {config.scheduler.name} on {config.scheduler.metric}{spared}")
    if config.evaluate.ability:
        many = config.evaluate.questions or "all"
        named = ", ".join(config.evaluate.ability)
        lines.append(
            f"asked besides, at the end of each batch or stream: {named} ({many} questions)"
        )
    lines += placement_lines(plan.typical, config.sharing)
    return "\n".join(lines)


def _arms(plan: Plan) -> Table:
    """One row per arm: its swept values, and in brackets the published values behind them."""
    first = {trial.arm: trial for trial in plan.trials}
    seeds = Counter(trial.arm for trial in plan.trials)
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [key for key in plan.swept if key != "arm"]
    for heading in ("arm", *columns):
        table.add_column(heading.partition(".")[2] or heading)
    table.add_column("seeds", justify="right")
    for arm in plan.arms[:MOST_ARMS]:
        trial = first[arm]
        table.add_row(arm, *(_cell(trial, key) for key in columns), str(seeds[arm]))
    if len(plan.arms) > MOST_ARMS:
        table.add_row(f"... {len(plan.arms) - MOST_ARMS} more arms")
    return table


def _cell(trial: TrialSpec, key: str) -> str:
    if key not in trial.swept:
        return "-"
    value, published = trial.swept[key], trial.published.get(key, [])
    stands_for = "" if published in ([], [value]) else f" ({', '.join(map(str, published))})"
    return f"{value}{stands_for}"


def _values(plan: Plan) -> Table:
    """Every value, with its source, that all arms share or that differs by method or named arm."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("key", "value", "from"):
        table.add_column(heading, overflow="fold")
    methods: dict[str, dict[str, TrialSpec]] = {}  # one trial per method, and per arm with a name
    for trial in plan.trials:
        arm = trial.arm if plan.config.arms else ""
        methods.setdefault(trial.method["name"], {}).setdefault(arm, trial)
    shown: set[tuple[str, str]] = set()
    for name, arms in methods.items():
        for key in dict.fromkeys(key for trial in arms.values() for key in trial.origins):
            if key in plan.swept or key in PARTS:
                continue
            found = entries(key, arms)
            is_of_method = key.startswith("method.") and len(methods) > 1
            for (value, source), of_arms in found.items():
                owners = [name] if is_of_method else []
                owners += of_arms if len(found) > 1 else []
                label = f"{key} ({', '.join(owners)})" if owners else key
                if (label, value) not in shown:
                    shown.add((label, value))
                    table.add_row(label, value, source)
    return table


def entries(key: str, arms: Mapping[str, TrialSpec]) -> dict[tuple[str, str], list[str]]:
    """The values of a key with their sources, and the arms that have each."""
    entries: dict[tuple[str, str], list[str]] = {}
    for arm, trial in arms.items():
        if key not in trial.origins:
            continue  # a setting of other arms
        try:
            value = str(trial.value(key))
        except KeyError:
            continue  # dropped with the model that it described
        origin = trial.origins[key]
        scaled = f", there {origin.published}" if origin.published is not None else ""
        entries.setdefault((value, f"{origin.source}{scaled}"), []).append(arm)
    return entries


def _distribution_table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    shared = dict.fromkeys(key for each in plan.searches for key in each.fixed)
    starts = any(each.start for each in plan.searches)
    for heading in (*shared, "key", "drawn from", "range", *(["first"] if starts else [])):
        table.add_column(heading)
    for each in plan.searches:
        for key, distribution in each.distributions.items():
            values = (
                ", ".join(map(str, distribution.choices))
                if distribution.choices
                else f"{distribution.low} to {distribution.high}"
            )
            fixed = (str(each.fixed[name]) for name in shared)
            kind = "not drawn" if len(distribution.choices) == 1 else distribution.kind
            first = [str(each.start.get(key, "drawn"))] if starts else []
            table.add_row(*fixed, key, kind, values, *first)
    return table
