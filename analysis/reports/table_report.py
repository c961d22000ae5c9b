"""Makes the finished tables of one published table or ablation from the runs of a store."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import aggregate
from analysis.aggregate import Estimate, Section
from analysis.counts import count_lines
from analysis.errors import AnalysisError, StoreError
from analysis.known import known_lines
from analysis.layouts.catalogue import get_layout, known_layouts
from analysis.layouts.labels import named
from analysis.layouts.layout import Body, Layout
from analysis.metrics import AVERAGED, MAIN
from analysis.published import compare, paper_numbers
from analysis.published.measures import USUAL as USUAL_MEASURE
from analysis.published.measures import measure_of, published_measures
from analysis.published.mixed import mixed_settings
from analysis.reading import runs
from analysis.reading.published_locality import USUAL, published_locality
from analysis.render.table import CELLS, Table
from analysis.reports.apart import told_apart

_GENERATED, _GIVEN = "generated", "from a file"  # how `answers` of a serial protocol begins
_ANSWERS = {
    _GENERATED: "alternative answers: generated here from answers of the same relation, as the "
    "paper's files of serial edits are not public; scored on each question's last answer",
    _GIVEN: "alternative answers: from a file (dataset.answers); scored on each question's last "
    "answer",
}
_MOST_VALUES = 6  # of one key, listed with the arms that have them
_MOST_ARMS, _MOST_NAMES = 6, 70  # arms of one value, and signs of their names; more are counted
_MOST_ERRORS = 8  # reasons listed below a table; the ledger has them all


@dataclass(frozen=True)
class Options:
    """Options of the command line.

    Attributes:
        stores: Folders of sweeps' stores, which are read as one.
        measure: token, exact, generated or token_no_blank; None: that of the published table.
        is_filtered: Whether only rows that pass the paper's filter are shown.
        server: Address of the MLflow server that holds the runs; None: the stores' databases.
    """

    stores: tuple[Path, ...] = (Path("results"),)
    measure: str | None = None
    is_filtered: bool = False
    server: str | None = None


def assemble(name: str, options: Options) -> tuple[Table, ...]:
    """The tables of one published table or one ablation, one for each backbone, data and protocol.

    Args:
        name: Id of a published table with a layout, such as `lemoe_table9`, or an ablation's name.
        options: Where the runs are, and what to show of them.

    Raises:
        AnalysisError: If the name, store or runs are not there, nothing can be compared, or the
            layout has no published filter.
    """
    rows, papers = _find(name, options.stores, options.server)
    tables = [table for paper in papers or (None,) for table in _tables(name, paper, rows, options)]
    missing = _lacking_lines(set(rows["ablation"]), options)
    return (*tables[:-1], replace(tables[-1], footer=(*tables[-1].footer, *missing)))


def _lacking_lines(ablations: Container[str], options: Options) -> list[str]:
    """Lines about trials that MLflow lacks, of shown ablations and of those that it has no run of.

    The latter may belong in the table: which tables a trial answers is known to MLflow alone.
    """
    return [
        runs.lacking_line(each, options.server)
        for each in runs.lacking(options.stores, options.server)
        if each.ablation in ablations
        or each.ablation not in runs.experiments([each.store], options.server)
    ]


def _tables(
    name: str, paper: str | None, rows: pd.DataFrame, options: Options
) -> tuple[Table, ...]:
    """One published table, or the table of an ablation without one, for each section."""
    layout = get_layout(paper or "generic")
    if options.is_filtered and not layout.has_filter:
        raise AnalysisError(f"filter=published: {name} has no published filter; use filter=none")
    measure = options.measure or measure_of([paper] if paper else [])
    found = aggregate.sections(rows, measure, layout.varying, runs.read_records)
    names = layout.numbers_of(paper) if paper else ()
    printed = tuple(row for each in names for row in paper_numbers.load(each))
    left_out: tuple[str, ...] = ()
    if printed:
        found, left_out = compare.comparable(found, printed, str(paper))
    title = f"{paper or name}: {layout.question}" if paper else name
    return tuple(
        _table(
            paper or name,
            title,
            layout,
            section,
            layout.arrange(section, printed, options.is_filtered),
            left_out,
            _measure_note(paper, section),
            apart,
        )
        for section, apart in zip(found, told_apart(found), strict=True)
    )


def _find(
    name: str, stores: Sequence[Path], server: str | None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows to show, and the published tables that they answer."""
    known, where = known_layouts(), runs.named(stores, server)
    if name in known:
        return runs.read_table_runs(stores, name, server), (name,)
    try:
        ablations = runs.experiments(stores, server)
    except StoreError as error:
        raise _unknown(name, known, str(error)) from None
    rows = runs.read_runs(stores, name, server) if name in ablations else pd.DataFrame()
    if rows.empty:
        missing = [each for each in runs.lacking(stores, server) if each.ablation == name]
        if missing:
            lines = "; ".join(runs.lacking_line(each, server) for each in missing)
            raise StoreError(f"{where}: {lines}")
        if name not in ablations:
            raise _unknown(name, known, f"ablations in {where}: {', '.join(ablations) or 'none'}")
        raise StoreError(f"{where}: ablation {name!r} has no trials yet")
    answered = dict.fromkeys(rows["paper"])
    papers = runs.papers_of(next(iter(answered))) if len(answered) == 1 else ()
    return rows, tuple(paper for paper in papers if paper in known)


def _unknown(name: str, known: Sequence[str], further: str) -> AnalysisError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return AnalysisError(f"no table {name!r}; {hint}known: {', '.join(known)}; {further}")


def _table(
    name: str,
    title: str,
    layout: Layout,
    section: Section,
    body: Body,
    left_out: tuple[str, ...],
    measure_note: Sequence[str],
    apart: str,
) -> Table:
    notes = [*body.notes, *_serial_notes(section)]
    notes += [] if "measure" in body.context else measure_note
    notes += [*_interval_notes(section, body, layout.has_paper), *_mixed(section)]
    notes += _mixed_settings(section)
    if body.paper:
        differing = "; ".join(compare.differences(section, body.paper))
        notes.insert(0, f"differs from the paper: {differing or 'nothing in backbone, data, size'}")
        shown = dict.fromkeys(row.table for row in body.paper)
        for each in shown:
            of = f" ({each})" if len(shown) > 1 else ""
            suspect = paper_numbers.caveats(each)
            notes += [f"the paper's own numbers{of}: {caveat}" for caveat in suspect]
            others = paper_numbers.other_papers([row for row in body.paper if row.table == each])
            notes += [
                f"beside it{of}, Rel., Gen. and Loc. of the same protocol and model, not compared: "
                f"{other}"
                for other in others
            ]
    footer = [*body.footer, *_pruned_line(section), *_floor_line(section), *known_lines(section)]
    footer += [*_failures(section), *count_lines(named(section.arms)), *left_out]
    if section.num_superseded:
        footer.append(f"left out: {section.num_superseded} trials with newer ones of the same arm")
    return Table(
        title=title,
        labels=body.labels,
        scores=body.scores,
        rows=body.rows,
        context={**_context(section), **body.context},
        notes=tuple(notes),
        footer=tuple(footer),
        digits=body.digits,
        groups=body.groups,
        name=name,
        apart=apart,
    )


def _context(section: Section) -> dict[str, str]:
    own, seen = section.context, section.provenance
    dirty = " (dirty)" if any(flag.lower() == "true" for flag in seen["is_dirty"]) else ""
    return {
        "ablation": _join({arm.ablation for arm in section.arms}),
        **({"store": _join(seen["store"])} if seen["store"] else {}),
        "scale": _join(seen["scale"]),
        "backbone": _backbones(section),
        "dataset": own["dataset"],
        "target field": own["target_field"] or "not stated",
        "part": own["dataset_part"] or "not stated",
        "protocol": _protocol(section) + _generated(section),
        "measure": f"{section.measure}, after the last edit{_locality(section)}",
        "seeds": _seeds(section),
        "commit": (_join(commit[:12] for commit in seen["commit"]) or "not stated") + dirty,
    }


def _backbones(section: Section) -> str:
    """Each backbone with its sizes, where an arm tells them."""
    sizes: dict[str, set[str]] = {name: set() for name in section.context["backbone"].split(", ")}
    for arm in section.arms:
        if arm.num_layers:
            size = f" ({arm.num_layers} layers, width {arm.hidden_size})"
            sizes.setdefault(arm.context["backbone"], set()).add(size)
    return ", ".join(name + "".join(sorted(own)) for name, own in sizes.items())


def _locality(section: Section) -> str:
    """Which questions are the published locality, unless they are the usual ones."""
    kinds = {published_locality(arm.context["dataset"]) for arm in section.arms}
    return "" if kinds == {USUAL} else f"; Loc. is {_join(kinds)}"


def _protocol(section: Section) -> str:
    """The shared keys of the protocol, then those that differ, each with its arms."""
    shared = dict(section.protocol)
    parts = [str(shared.pop("kind"))] if "kind" in shared else []
    parts += [f"{key} {_yes_no(value)}" for key, value in shared.items() if value is not None]
    varying = {key for arm in section.arms for key in arm.protocol} - set(section.protocol)
    for key in sorted(varying):
        holders: dict[str, list[str]] = defaultdict(list)
        for arm in section.arms:
            if arm.protocol.get(key) is not None:
                holders[_yes_no(arm.protocol[key])].append(arm.name)
        if len(holders) > _MOST_VALUES:
            parts.append(f"{key} by arm, {len(holders)} values")
            continue
        lone = len(holders) == 1 and sum(map(len, holders.values())) == len(section.arms)
        for value, names in sorted(holders.items()):
            parts.append(f"{key} {value}" + ("" if lone else f" ({_held_by(names)})"))
    return ", ".join(parts)


def _held_by(names: Iterable[str]) -> str:
    """The arms that have a value, each name once; their number where they are many."""
    arms = set(names)
    held_by = _join(arms)
    is_long = len(arms) > _MOST_ARMS or len(held_by) > _MOST_NAMES
    return f"{len(arms)} arms" if is_long else held_by


def _generated(section: Section) -> str:
    """The most tokens that were generated, which the longest target decides."""
    found = [
        arm.scores["generation_limit"] for arm in section.arms if "generation_limit" in arm.scores
    ]
    limits = sorted({round(value) for limit in found for value in limit.by_seed})
    if not limits:
        return ""
    shown = str(limits[0]) if len(limits) == 1 else f"{limits[0]} to {limits[-1]}"
    return f", at most {shown} tokens generated"


def _seeds(section: Section) -> str:
    counts = sorted({len(arm.seeds) for arm in section.arms})
    every = sorted({seed for arm in section.arms for seed in arm.seeds})
    spread = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{spread} per arm ({_join(every)})"


def _measure_note(paper: str | None, section: Section) -> list[str]:
    """Why the paper's numbers are of another measure than usual, or than ours here."""
    published = published_measures().get(paper or "")
    if published is None or {published.measure, section.measure} == {USUAL_MEASURE}:
        return []
    return [f"the paper's measure: {published.measure}, as {published.why}"]


def _serial_notes(section: Section) -> list[str]:
    serial = [arm.protocol for arm in section.arms if arm.protocol.get("kind") == "serial"]
    told = {str(protocol.get("answers", _GENERATED)) for protocol in serial}
    return [note for begin, note in _ANSWERS.items() if any(t.startswith(begin) for t in told)]


def _interval_notes(section: Section, body: Body, has_paper: bool) -> list[str]:
    # Routes and memory have no records to resample; what is said here is of the scores.
    scores = [arm.scores[name] for arm in section.arms for name in AVERAGED if name in arm.scores]
    sources = {estimate.source for estimate in scores}
    beside = " / paper" if has_paper else ""
    lines = [f"{CELLS} (number of seeds){beside}"]
    if body.has_own_intervals:
        return lines
    if "t" in sources:
        lines.append("±: 95% interval over seeds (Student's t)")
    if "bootstrap" in sources:
        lines.append("[low, high]: 95% bootstrap over subjects, as there are fewer than 3 seeds")
    if "none" in sources:
        lines.append("no interval: fewer than 3 seeds, and no per-record results to resample")
    return lines


def _mixed(section: Section) -> list[str]:
    lines = []
    for name in ("device", "dtype", "micro_batch", "commit", "source_hash", "packages"):
        values = section.provenance[name]
        if len(values) > 1:
            lines.append(f"mixed {name}: {_join(value[:12] for value in values)}")
        elif name in ("device", "dtype"):
            lines.append(f"{name}: {_join(values) or 'not stated'}")
    quantised = [kind for kind in section.provenance["dequantised_from"] if kind]
    if quantised:
        lines.append(f"backbone: dequantised from {_join(quantised)}")
    return lines


def _mixed_settings(section: Section) -> list[str]:
    """A line for each setting that was not swept and yet differs between arms of one method."""
    found = mixed_settings(section.arms)
    told = named(section.arms)
    names = {id(arm): each.name for arm, each in zip(section.arms, told, strict=True)}
    has_one = len({arm.method for arm in section.arms}) == 1
    lines = []
    for each in found:
        values = ", ".join(
            f"{value} ({_held_by(names[id(arm)] for arm in arms)})"
            for value, arms in each.holders.items()
        )
        if len(each.holders) > _MOST_VALUES:
            values = f"by arm, {len(each.holders)} values"
        of = "" if has_one else f" of {each.method}"
        lines.append(f"mixed {each.key}{of}: {values}; not swept, so that it is no row's label")
    return lines


def _pruned_line(section: Section) -> list[str]:
    """A line about arms that a scheduler stopped: the others are the grid's best, not a sample."""
    pruned = sum("pruned" in arm.state for arm in section.arms)
    if not pruned:
        return []
    return [
        f"pruned: {pruned} of {len(section.arms)} arms have no mean; comparisons are over the "
        "others, which the scheduler chose by their own scores: a correlation over them is not "
        "that of the whole grid (--complete-stopped runs the rest)"
    ]


def _floor_line(section: Section) -> list[str]:
    """The scores before the first edit, which a method that does nothing would get."""
    found_at: dict[tuple[str, str], list[Mapping[str, Estimate]]] = defaultdict(list)
    for arm in section.arms:
        on = ", ".join(dict.fromkeys((arm.context["backbone"], arm.context["dataset"])))
        found_at[on, f"{arm.protocol.get('num_edits')} edits"].append(arm.before)
    shows = [len(set(each)) > 1 for each in zip(*found_at, strict=True)]
    lines = []
    for key, found in found_at.items():
        means = []
        for name in MAIN:
            values = [before[name].mean for before in found if name in before]
            means += [f"{name} {sum(values) / len(values):.2f}"] if values else []
        told = ", ".join(part for part, is_shown in zip(key, shows, strict=True) if is_shown)
        where = f" ({told})" if told else ""
        lines.append(f"before editing{where}: {', '.join(means) or 'not measured'}")
    return lines


def _failures(section: Section) -> list[str]:
    reasons = Counter(error for arm in section.arms for error in arm.errors)
    lines = [
        f"{count} trial(s) ended by: {reason}"
        for reason, count in reasons.most_common(_MOST_ERRORS)
    ]
    if len(reasons) > _MOST_ERRORS:
        lines.append(f"and {len(reasons) - _MOST_ERRORS} further reasons")
    return lines


def _yes_no(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _join(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))
