"""Expands a sweep's axes and named arms into its trials, in the order in which they run; pure."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.conditions import Condition
from orchestrator.planning.identity import NO_SETTING
from orchestrator.planning.packs import pack_note
from orchestrator.planning.papers.printed_cells import PUBLISHED, printed_arms
from orchestrator.planning.plan_keys import check_keys, partly_obeyed
from orchestrator.planning.ranges import check_counts, check_ranges
from orchestrator.planning.resolving import Resolver
from orchestrator.planning.searches import (
    Search,
    arm_label,
    judged_by_chosen,
    read_searches,
    spec_for,
)
from orchestrator.planning.shapes import is_unpinned
from orchestrator.planning.trial_spec import DEPTH_FIELDS, LEFT_OUT, Origin, Swept, TrialSpec
from orchestrator.settings.complaints import unknown
from orchestrator.settings.models import PARTS, SweepConfig

__all__ = ["Origin", "Plan", "Search", "TrialSpec", "expand", "spec_for"]


@dataclass(frozen=True)
class Plan:
    """What a sweep will run.

    Attributes:
        cells: One trial per arm, for the first seed, in the order of the axes. Empty for a search.
        swept: Keys that differ between arms.
        protected: Arms that the scheduler never stops.
        excluded: Number of cells that `where` left out.
        merged: Number of published cells that became equal to another one on this backbone.
        notes: Lines that the person who typed the sweep should read.
        searches: For `plan: search` and `plan: tune`, what is searched; else empty.
    """

    config: SweepConfig
    cells: tuple[TrialSpec, ...]
    swept: tuple[str, ...]
    protected: frozenset[str] = frozenset()
    excluded: int = 0
    merged: int = 0
    notes: tuple[str, ...] = ()
    searches: tuple[Search, ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        """Labels, in the order of the axes."""
        return tuple(cell.arm for cell in self.cells)

    @functools.cached_property
    def trials(self) -> tuple[TrialSpec, ...]:
        """All trials, one seed after another; empty for a search.

        The arms of a seed are shuffled by that seed, but those of one backbone and data set follow
        one another.
        """
        compares = self.config.scheduler.name != "fifo"
        return tuple(_ordered(self.cells, self.config.seeds, compares))

    @property
    def is_search(self) -> bool:
        """Whether Optuna chooses the trials while the sweep runs."""
        return bool(self.searches)

    @property
    def compared_numbers(self) -> tuple[str, ...]:
        """Numbers of a trial that its scheduler or its search compares; none with fifo alone."""
        chosen = self.config.scheduler
        return chosen.compared.numbers if self.is_search or chosen.name != "fifo" else ()

    @property
    def typical(self) -> tuple[TrialSpec, ...]:
        """The trials that a forecast counts; for a search, its middle trial as often as it runs."""
        if not self.is_search:
            return self.trials
        pairs = zip(self.middles, self.searches, strict=True)
        return tuple(spec for spec, search in pairs for _ in range(self._num_of(search)))

    @functools.cached_property
    def unpinned(self) -> tuple[str, ...]:
        """One line for each backbone whose file names no revision: no sweep loads it like that."""
        names = {
            str(spec.backbone["name"]): str(spec.backbone["model"])
            for spec in self.knowable
            if is_unpinned(spec.backbone)
        }
        return tuple(
            f"backbone={name}: {model} needs revision: add backbone.revision=COMMIT, so that it "
            "is pinned"
            for name, model in names.items()
        )

    @functools.cached_property
    def middles(self) -> tuple[TrialSpec, ...]:
        """Of each search its middle trial."""
        return tuple(spec_for(self.config, each.middle, 0) for each in self.searches)

    @functools.cached_property
    def knowable(self) -> tuple[TrialSpec, ...]:
        """The trials that can be checked before any runs; for a search, those at its axes' ends.

        Raises:
            UsageError: If one of the latter does not fit.
        """
        return self.trials or tuple(
            spec for each in self.searches for spec in each.ends(self.config)
        )

    def __len__(self) -> int:
        return len(self.cells) * len(self.config.seeds)

    @property
    def num_trials(self) -> int:
        """Trials that will run in all, the reruns of a search included."""
        return sum(map(self._num_of, self.searches)) if self.is_search else len(self)

    def _num_of(self, search: Search) -> int:
        """Trials of one search, with its rivals and those that run again."""
        config, rerun = self.config, self.config.rerun
        again = (rerun.best + rerun.untuned) * len(rerun.seeds) if rerun else 0
        return ((config.num_trials or 0) + len(search.rivals)) * len(config.seeds) + again


def expand(config: SweepConfig) -> Plan:
    """Every trial of the sweep, checked.

    Cells that depth, width or an axis without meaning for a method make equal become one, which
    remembers all published values that it stands for.

    Raises:
        UsageError: For an axis, arm, condition or value that does not fit, or a plan without any
        cell.
    """
    check_keys(config)
    resolver = Resolver(config)
    if config.is_search:
        return _searched(config, resolver)
    conditions = [Condition(text) for text in config.where]
    cells, excluded, merged = _cells(config, resolver, conditions)
    if conditions:
        _check_conditions(conditions, cells)
    if not cells:
        raise _emptied(config, conditions, excluded)
    for cell in cells:
        check_ranges(cell)
    labelled, notes = _told_apart(_labelled(config, cells))
    resolver.presets.check_used(labelled)
    made = Plan(
        config,
        tuple(labelled),
        _swept_keys(config),
        _protected(config, labelled),
        len(excluded),
        merged,
        (*partly_obeyed(config), *resolver.presets.notes(labelled), *notes),
    )
    return _noted(made)


def _searched(config: SweepConfig, resolver: Resolver) -> Plan:
    if config.num_trials is None:
        raise UsageError(f"num_trials is missing: a plan of kind {config.plan} needs it")
    searches = read_searches(config, resolver)
    some = [spec for each in searches for spec in each.lowest_and_highest(config, resolver)]
    resolver.presets.check_used(some)
    notes = (*partly_obeyed(config), *resolver.presets.notes(some))
    notes += judged_by_chosen(config, some)
    keys = dict.fromkeys(key for each in searches for key in each.keys)
    return _noted(Plan(config, (), tuple(keys), notes=notes, searches=searches))


def _noted(plan: Plan) -> Plan:
    """With a line on `pack`, where a number is typed."""
    if plan.config.pack in (1, "auto"):
        return plan
    note = pack_note(plan.config, plan.trials)
    return dataclasses.replace(plan, notes=(*plan.notes, note))


def _cells(
    config: SweepConfig, resolver: Resolver, conditions: list[Condition]
) -> tuple[list[TrialSpec], list[list[Condition]], int]:
    """Distinct cells, the condition that each excluded cell failed, and how many were merged."""
    kept: dict[tuple[str, ...], TrialSpec] = {}
    written = _writer()
    excluded: list[list[Condition]] = []
    merged = 0
    for arm, values in _combinations(config):
        spec = resolver.trial(values, config.seeds[0], arm)
        if arm:
            spec.swept["arm"] = arm
        failed = [condition for condition in conditions if not condition.is_met(spec.value)]
        if failed:
            check_counts(spec)  # a slip must not hide behind a condition
            excluded.append(failed)
            continue
        shared = (written(part) for part in (spec.backbone, spec.dataset, spec.protocol))
        identity = (arm, repr(spec.method), *shared)  # fields of one arm come in one order
        if identity in kept:
            merged += 1
            _add_published(kept[identity], spec)
        else:
            kept[identity] = spec
    return list(kept.values()), excluded, merged


def _told_apart(cells: Sequence[TrialSpec]) -> tuple[list[TrialSpec], list[str]]:
    """The cells without those whose trials are another's, and a line on the arms left out.

    A trial has one label: of two arms with equal settings each would get some of the seeds.
    """
    kept: dict[tuple[str, ...], TrialSpec] = {}
    equal: dict[str, str] = {}
    written = _writer()
    for cell in cells:
        own = {key: value for key, value in cell.method.items() if key not in NO_SETTING}
        shared = (written(part) for part in (cell.backbone, cell.dataset, cell.protocol))
        first = kept.setdefault((repr(sorted(own.items())), *shared), cell)
        if first is not cell:
            equal[cell.arm] = first.arm
    lines = [
        f"{arm} has the settings of {first} here: one trial stands for both, as {first}"
        for arm, first in equal.items()
    ]
    return list(kept.values()), lines


def _add_published(cell: TrialSpec, other: TrialSpec) -> None:
    for key, values in other.published.items():
        held = cell.published.setdefault(key, [])
        held.extend(value for value in values if value not in held)


def _combinations(config: SweepConfig) -> Iterator[tuple[str, dict[str, Swept]]]:
    """Each cell's arm, or '', and values; the defaults come first if axes move one at a time."""
    axes = {
        key: [Swept(value, f"axis {key}", key in config.own_units) for value in values]
        for key, values in config.axes.items()
    }
    if config.plan == "one_at_a_time":
        moved = [{key: value} for key, values in axes.items() for value in values]
        points = [{}, *moved]
    else:
        points = [
            dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())
        ]
    for name, settings in (config.arms or {"": {}}).items():
        fixed = {key: Swept(value, f"arm {name}") for key, value in settings.items()}
        for point in points:
            yield name, {**fixed, **point}


def _emptied(
    config: SweepConfig, conditions: list[Condition], excluded: list[list[Condition]]
) -> UsageError:
    """The error if no cell is left, which names the conditions that excluded them."""
    counts = [
        (sum(condition in failed for failed in excluded), condition.text)
        for condition in conditions
    ]
    emptied = [(count, text) for count, text in counts if count == len(excluded)] or counts
    blamed = "; ".join(f"{text!r} leaves out {count}" for count, text in emptied if count)
    return UsageError(
        f"ablation={config.ablation}: where leaves none of {len(excluded)} cells: {blamed}; "
        "where=[] takes them all"
    )


def _check_conditions(conditions: list[Condition], cells: list[TrialSpec]) -> None:
    known = {
        f"{part}.{key}"
        for cell in cells
        for part in (*PARTS, "protocol")
        for key in getattr(cell, part)
    } | set(PARTS)
    if any(cell.protocol["kind"] == "serial" for cell in cells):
        known |= {f"protocol.{key}" for key in LEFT_OUT}
    for condition in conditions:
        for key in sorted(condition.keys - known) if cells else ():
            raise unknown(f"where: {condition.text!r}: {key}", key, known)


def _swept_keys(config: SweepConfig) -> tuple[str, ...]:
    keys = ["arm"] if config.arms else []
    keys += [key for settings in config.arms.values() for key in settings]
    return tuple(dict.fromkeys([*keys, *config.axes]))


def _labelled(config: SweepConfig, cells: list[TrialSpec]) -> list[TrialSpec]:
    """The cells with readable, distinct arm names and every swept key that their method has."""
    keys = _swept_keys(config)
    short = [key for key in keys if len(config.axes.get(key, ())) > 1 or key in config.own_units]
    labelled = []
    for cell in cells:
        moved = cell.swept
        if config.plan == "one_at_a_time":
            label = (
                arm_label({key: value for key, value in moved.items() if key in config.axes})
                or "default"
            )
        else:
            label = arm_label({key: moved[key] for key in short if key in moved})
            label = label or (cell.method["name"] if not cell.swept.get("arm") else "")
        arm = " ".join(part for part in (str(moved.get("arm", "")), label) if part)
        swept = {
            key: moved["arm"] if key == "arm" else _value(cell, key)
            for key in keys
            if _has(cell, key)
        }
        labelled.append(dataclasses.replace(cell, arm=arm, swept=swept))
    if len({cell.arm for cell in labelled}) < len(labelled):
        raise UsageError(
            f"ablation={config.ablation}: two arms would bear the same name; rename one"
        )
    return labelled


def _value(cell: TrialSpec, key: str) -> Any:
    return cell.value(key)


def _has(cell: TrialSpec, key: str) -> bool:
    if key == "arm":
        return "arm" in cell.swept
    try:
        cell.value(key)
    except KeyError:
        return False
    return True


def _writer() -> Callable[[dict[str, Any]], str]:
    """Parts of trials as text, equal for equal ones; each, which most cells share, written once."""
    texts: dict[int, str] = {}  # by the part's id: the resolver keeps the parts

    def written(part: dict[str, Any]) -> str:
        if id(part) not in texts:
            texts[id(part)] = json.dumps(part, sort_keys=True)
        return texts[id(part)]

    return written


def _ordered(
    cells: Sequence[TrialSpec], seeds: tuple[int, ...], compares: bool
) -> Iterator[TrialSpec]:
    """Trials seed by seed, shuffled within each; those that share much follow one another.

    A worker keeps one backbone, its data and the states below the edited layer, so trials of one
    backbone and data set form a block. Where a scheduler `compares` arms each block stays as
    shuffled, since early stopping depends on the order; elsewhere it is one layer after another.
    """
    written = _writer()

    def shared(spec: TrialSpec) -> list[tuple[str, ...]]:
        layers = [spec.method.get(name) for name in DEPTH_FIELDS]
        by_layer = () if compares else (json.dumps(layers),)
        texts = (written(spec.backbone), written(spec.dataset), *by_layer)
        return [texts[: depth + 1] for depth in range(len(texts))]

    blocks = [shared(cell) for cell in cells]
    for seed in seeds:
        shuffled = list(range(len(cells)))
        random.Random(seed).shuffle(shuffled)
        first: dict[tuple[str, ...], int] = {}  # where a block, or a block in a block, begins
        for place, number in enumerate(shuffled):
            for block in blocks[number]:
                first.setdefault(block, place)
        for number in sorted(shuffled, key=lambda number: [first[each] for each in blocks[number]]):
            yield dataclasses.replace(cells[number], seed=seed)


def _protected(config: SweepConfig, cells: list[TrialSpec]) -> frozenset[str]:
    names = {name for cell in cells for name in (cell.arm, cell.method["name"])} | {PUBLISHED}
    for name in config.scheduler.protect:
        if name not in names:
            raise unknown(f"scheduler.protect={name}", name, names)
    protect = set(config.scheduler.protect)
    named = {cell.arm for cell in cells if protect & {cell.arm, cell.method["name"]}}
    printed = printed_arms(config, cells) if PUBLISHED in protect else ()
    return frozenset(named.union(printed))
