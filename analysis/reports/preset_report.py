"""Writes the outcome of `ablation=presets` as the block `presets` of a backbone's file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import yaml

from analysis import aggregate
from analysis.aggregate import Arm, Section
from analysis.errors import AnalysisError
from analysis.layouts.special.presets import drawn
from analysis.metrics import MAIN, METRICS
from analysis.reading import runs

_SHOWN = (*MAIN, "locality_near")

Context: TypeAlias = tuple[str, str]  # backbone, data set


@dataclass(frozen=True)
class Options:
    """Which runs of the stores are read.

    Attributes:
        measure: What the comments show.
        server: Address of an MLflow server that is read instead of the stores' databases.
        backbone: Of which; None: of the only one.
        dataset: On which data the values were chosen; None: on the only one.
    """

    measure: str = "token"
    server: str | None = None
    backbone: str | None = None
    dataset: str | None = None


@dataclass(frozen=True)
class Chosen:
    """What a search chose for one method.

    Attributes:
        tuned: The arm of the values, on the part of the data that it was not chosen on; that of
            the method's own values where nothing that was drawn did better.
        published: The same with the method's own values, None if that did not run.
    """

    tuned: Arm
    published: Arm | None


def report(ablation: str, stores: Sequence[Path], options: Options) -> str:
    """A block `presets` as YAML, with what each method scored in comments.

    Args:
        ablation: Whose searches; of `plan: tune`.
        stores: Folders of sweeps' stores, which are read as one.
        options: Which of its runs.

    Raises:
        AnalysisError: If nothing ran again yet, or there are several and none is named.
    """
    rows = runs.read_runs(stores, ablation, options.server)
    found: dict[Context, list[Section]] = {}
    for section in aggregate.sections(rows, options.measure):
        context = (section.context["backbone"], section.context["dataset"])
        if options.backbone in (None, context[0]) and options.dataset in (None, context[1]):
            found.setdefault(context, []).append(section)
    if len(found) != 1:
        there = dict.fromkeys(zip(rows["backbone"], rows["dataset"], strict=True))
        listed = "; ".join(f"backbone={each[0]} dataset={each[1]}" for each in there)
        raise AnalysisError(f"name one of those that ablation={ablation} ran on: {listed}")
    ((context, parts),) = found.items()
    again, searched = _parts(parts)
    return "\n".join(_lines(ablation, context, again, searched)) + "\n"


def chosen(again: Section, searched: Section) -> dict[str, Chosen]:
    """For each method the arm that did best in its search, of those that ran again.

    The method's own values are among them where they ran on both parts; of equals they win.

    Args:
        again: What ran again, on another part of the data than the search.
        searched: The search.
    """
    scores = {
        arm.name: arm.scores["average"].mean for arm in searched.arms if "average" in arm.scores
    }
    found: dict[str, Chosen] = {}
    for method in sorted({arm.method for arm in again.arms}):
        own = [arm for arm in again.arms if arm.method == method]
        published = next((arm for arm in own if not drawn(arm)), None)
        ended = [arm for arm in own if not arm.state]
        rivals = [arm for arm in ended if drawn(arm) or arm.name in scores]
        if rivals:
            rivals.sort(key=lambda arm: bool(drawn(arm)))
            best = max(rivals, key=lambda arm: scores.get(arm.name, float("-inf")))
            found[method] = Chosen(best, published)
    return found


def _parts(sections: Sequence[Section]) -> tuple[Section, Section]:
    """What ran again last, and the search before it, on another part of the data."""
    sections = [each for each in sections if each.protocol == sections[0].protocol]  # the newest's
    again = max(sections, key=lambda each: (any(not drawn(a) for a in each.arms), -len(each.arms)))
    for section in sections:
        if section.context["dataset_part"] != again.context["dataset_part"]:
            return again, section
    raise AnalysisError(
        "the searches have not come to their end: nothing ran again on the part of the data that "
        "tables are made on; the same command goes on"
    )


def _lines(ablation: str, context: Context, again: Section, searched: Section) -> Iterator[str]:
    backbone, dataset = context
    count = sum(1 for arm in searched.arms if drawn(arm))
    seeds = max(len(arm.seeds) for arm in again.arms)
    commits = ", ".join(commit[:12] for commit in again.provenance["commit"]) or "not stated"
    found = chosen(again, searched)
    yield (
        f"# Chosen by ablation={ablation} on {backbone} and {dataset}: {count} settings on part "
        f"{searched.context['dataset_part']}; commit {commits}"
    )
    yield (
        f"# Comments: part {again.context['dataset_part']}, {seeds} seeds; in brackets with "
        f"published values. Before editing: {_scores(_before(again))}"
    )
    yield "presets:"
    for method, each in found.items():
        yield f"  # {_compared(each)}"
        reliability = each.tuned.scores.get("reliability")
        before = each.tuned.before.get("reliability")
        if reliability and reliability.mean <= (before.mean if before else 0.0):
            yield "  # no more reliable than the backbone without any edit"
        if not drawn(each.tuned):
            yield f"  # {method}: nothing that was drawn did better than its published values"
            continue
        values = yaml.safe_dump(
            drawn(each.tuned), default_flow_style=True, sort_keys=False, width=float("inf")
        )
        yield f"  {method}: {values.strip()}"
    for method in sorted({arm.method for arm in again.arms} - found.keys()):
        yield f"  # {method}: no setting of its search came to its end"


def _before(section: Section) -> Mapping[str, float]:
    found = next((arm.before for arm in section.arms if arm.before), {})
    return {name: value.mean for name, value in found.items()}


def _compared(each: Chosen) -> str:
    published = each.published.scores if each.published else {}
    parts = []
    for name in _SHOWN:
        if name in each.tuned.scores:
            beside = f" ({published[name].mean:.2f})" if name in published else " (not run)"
            parts.append(f"{METRICS[name].heading} {each.tuned.scores[name].mean:.2f}{beside}")
    return ", ".join(parts)


def _scores(values: Mapping[str, float]) -> str:
    shown = [name for name in _SHOWN if name in values]
    return ", ".join(f"{METRICS[name].heading} {values[name]:.2f}" for name in shown)
