"""What the searches of a sweep draw from, and the trial that a draw stands for; pure.

`plan: search` is one search over the sweep's axes. `plan: tune` is a search for each method of the
axis `method`, over what that method's file names under `tune`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.distributions import (
    Distribution,
    extremes,
    lowest_and_highest,
    middle,
    read_distribution,
)
from orchestrator.planning.ranges import check_ranges
from orchestrator.planning.resolving import Resolver
from orchestrator.planning.trial_spec import Swept, TrialSpec
from orchestrator.settings.complaints import unknown
from orchestrator.settings.models import COMMAND_LINE, PARTS, SweepConfig

_DIGITS = 2  # of what `plan: tune` draws: the outcome is to be written down


@dataclass(frozen=True)
class Search:
    """One search of a sweep.

    Attributes:
        fixed: Values that all its trials share: the method, where each method has its own search.
        distributions: What the value of each key is drawn from.
        start: Values of some of these keys, which the first trial has; the others are drawn.
        rivals: Settings that run beside what is drawn, so that nothing worse than they is chosen:
            without any draw where those run again, and what was chosen before, which may set more.
    """

    fixed: Mapping[str, Any]
    distributions: Mapping[str, Distribution]
    start: Mapping[str, Any] = field(default_factory=dict)
    rivals: tuple[Mapping[str, Any], ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that its trials set."""
        return (*self.fixed, *self.distributions)

    @property
    def middle(self) -> dict[str, Any]:
        """The values in the middle of what is drawn from."""
        return {**self.fixed, **middle(self.distributions)}

    def lowest_and_highest(self, config: SweepConfig, resolver: Resolver) -> Iterator[TrialSpec]:
        """The trials with all values at their first end or choice, and with all at their last.

        Raises:
            UsageError: For a value that does not fit.
        """
        for values in lowest_and_highest(self.distributions):
            yield _checked(resolver, {**self.fixed, **values}, config.seeds[0])

    def ends(self, config: SweepConfig) -> Iterator[TrialSpec]:
        """Trials at every end and choice, at the middle for each seed, and those that run again.

        Raises:
            UsageError: For values that do not fit, or that do not fit each other.
        """
        resolver = Resolver(config)
        for values in extremes(self.distributions):
            yield _checked(resolver, {**self.fixed, **values}, config.seeds[0])
        if self.start:
            yield _checked(resolver, {**self.middle, **self.start}, config.seeds[0])
        for rival in self.rivals:
            yield _checked(resolver, rival, config.seeds[0])
        for seed in config.seeds[1:]:  # each draws other edits
            yield _checked(resolver, self.middle, seed)
        if config.rerun is None:
            return
        part, again = config.rerun.part, [self.middle]
        again += [dict(self.fixed)] if config.rerun.untuned else []
        for seed in config.rerun.seeds:
            for values in again:
                try:
                    yield _checked(resolver, {**values, "dataset.part": part}, seed)
                except UsageError as error:
                    raise UsageError(f"rerun.part={part}: {error}") from error


def read_searches(config: SweepConfig, resolver: Resolver) -> tuple[Search, ...]:
    """The searches of a sweep; layers and ranks are scaled to the backbone unless typed.

    Raises:
        UsageError: If there is nothing to draw, or for a distribution that does not exist or lacks
            an end.
    """
    if config.plan == "search":
        if config.arms or not config.axes:
            raise UsageError(
                "plan=search draws from axes; it needs at least one, and takes no arms"
            )
        method = config.choices["method"]
        return (Search({}, _distributions(config, resolver, method, config.axes)),)
    axes = dict(config.axes)
    methods = axes.pop("method", None)
    if config.arms or not isinstance(methods, list):
        raise UsageError(
            "plan=tune searches for each of several methods; it needs axes.method=[NAME, ...], and "
            "takes no arms"
        )
    return tuple(_tuned(config, resolver, method, axes) for method in methods)


def spec_for(
    config: SweepConfig, values: Mapping[str, Any], seed: int, part: str | None = None
) -> TrialSpec:
    """The trial of a search in which `values` hold, in the backbone's own units.

    Args:
        config: The sweep.
        values: What was drawn, by dotted key; the arm's name consists of them.
        seed: The trial's.
        part: Part of the data set, in place of the sweep's own.

    Raises:
        UsageError: For a key or value that does not fit.
    """
    of_part = {} if part is None else {"dataset.part": part}
    spec = _checked(Resolver(config), {**values, **of_part}, seed)
    swept = {key: value for key, value in spec.swept.items() if key in values}
    return dataclasses.replace(spec, arm=arm_label(swept) or spec.method["name"], swept=swept)


def arm_label(values: Mapping[str, Any]) -> str:
    """The name of an arm that these values make: `lora_rank=64 top_k=5`."""
    parts = []
    for key, value in values.items():
        shown = "-".join(map(str, value)) if isinstance(value, list) else str(value)
        if isinstance(value, float):
            shown = f"{value:g}"
        parts.append(shown if key in PARTS else f"{key.partition('.')[2]}={shown}")
    return " ".join(parts).replace("\n", "\\n")  # a name is one line


def _checked(resolver: Resolver, values: Mapping[str, Any], seed: int) -> TrialSpec:
    swept = {key: Swept(value, f"axis {key}", True) for key, value in values.items()}
    spec = resolver.trial(swept, seed, "")
    check_ranges(spec)
    return spec


def _tuned(config: SweepConfig, resolver: Resolver, method: str, axes: Mapping[str, Any]) -> Search:
    """The search of one method: what its file names, then the sweep's axes, without what is typed.

    An axis of the sweep that the method lacks is for others.
    """
    loaded = config.spaces.load("method", method)
    named = {f"method.{key}": axis for key, axis in (loaded.get("tune") or {}).items()}
    if not named:
        raise UsageError(f"method={method}: its file names nothing under tune, to be searched")
    for key in named:
        if key.removeprefix("method.") not in loaded:
            raise unknown(f"method {method}: tune.{key.removeprefix('method.')}", key, loaded)
    own = {key: axis for key, axis in axes.items() if _is_of(key, loaded)}
    typed = {key for layer in config.layers if layer.source == COMMAND_LINE for key in layer.values}
    typed |= {f"method.{key}" for key in config.arm_values.get(method, {})}
    drawn = {key: axis for key, axis in {**named, **own}.items() if key not in typed}
    if not drawn:
        raise UsageError(f"method={method}: all that its search would draw is typed")
    found = _distributions(config, resolver, method, drawn)
    kept = {key: dataclasses.replace(each, digits=_DIGITS) for key, each in found.items()}
    before: dict[str, Any] = {}
    if config.start_at == "presets":
        chosen = {f"method.{key}": value for key, value in resolver.chosen_presets(method).items()}
        before = {key: value for key, value in chosen.items() if key not in typed}
    # What is drawn of it, and within its range.
    start = {
        key: before[key]
        for key in kept
        if key in before and kept[key].draw(before[key]) is not None
    }
    fixed = {"method": method}
    rivals = [fixed] if config.rerun is not None and config.rerun.untuned else []
    if before and not start.keys() == before.keys() == kept.keys():  # it is no draw
        rivals.append({**fixed, **before})
    return Search(fixed, kept, start, tuple(rivals))


def _is_of(key: str, method: Mapping[str, Any]) -> bool:
    return not key.startswith("method.") or key.removeprefix("method.") in method


def _distributions(
    config: SweepConfig, resolver: Resolver, method: str, axes: Mapping[str, Any]
) -> dict[str, Distribution]:
    backbone = resolver.trial({"method": Swept(method, "axis method")}, 0, "").backbone
    home = config.published_on or config.spaces.load("method", method).get("published_on")

    def read(key: str, axis: Any) -> Distribution:
        units = None if key in config.own_units else home
        name = key.removeprefix("method.")
        return read_distribution(
            key, axis, lambda value: resolver.scaled(name, value, units, backbone)
        )

    return {key: read(key, axis) for key, axis in axes.items()}


def judged_by_chosen(config: SweepConfig, some: Sequence[TrialSpec]) -> tuple[str, ...]:
    """A line where a search's best are judged by records that chose them; else none."""
    if config.rerun is None or not config.rerun.best:
        return ()
    again = config.rerun.part
    parts = dict.fromkeys(str(spec.dataset.get("part") or "report") for spec in some)
    return tuple(
        f"rerun.part={again}: the search chooses by dataset.part={part}, so that its best are "
        "judged by records that chose them; dataset.part=tune and rerun.part=report share none"
        for part in parts
        if part == again or "all" in (part, again)
    )
