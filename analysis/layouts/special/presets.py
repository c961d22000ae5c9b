"""The outcome of `ablation=presets`: each method with published values and with chosen ones."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.aggregate import Arm, Section
from analysis.layouts.labels import distinct
from analysis.layouts.layout import Body, Layout, ours
from analysis.metrics import MAIN, METRICS, digits, headings
from analysis.published.paper_numbers import PaperRow
from analysis.render.table import Entry, Row


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per arm: by method, published values first, then the best average first."""
    measured = {name for arm in section.arms for name in arm.scores}
    further = [
        each.name
        for each in METRICS.values()
        if each.per == "prompts" and each.name in measured and each.name not in MAIN
    ]
    scores = headings((*MAIN, *further))
    arms = sorted(section.arms, key=_place)
    values = distinct(arms, list(map(values_text, arms)), [arm.method for arm in arms])
    rows = (
        Row((arm.method, text), tuple(Entry(ours(arm, name)) for name in scores))
        for arm, text in zip(arms, values, strict=True)
    )
    return Body(("Method", "Values"), scores, tuple(rows), digits=digits(scores))


def drawn(arm: Arm) -> dict[str, object]:
    """The settings that a search chose for an arm's method; none where it has published ones."""
    own = {key: value for key, value in arm.swept.items() if key.startswith("method.")}
    return {key.removeprefix("method."): value for key, value in own.items()}


def values_text(arm: Arm) -> str:
    """`edit_lr 0.0031, edit_layer 21`; `published` without any."""
    return ", ".join(f"{key} {value}" for key, value in drawn(arm).items()) or "published"


def _place(arm: Arm) -> tuple[str, bool, bool, float]:
    average = arm.scores.get("average")
    return arm.method, bool(drawn(arm)), average is None, -average.mean if average else 0.0


LAYOUT = Layout(
    question="each method with published values and with those chosen for a backbone",
    arrange=arrange,
    has_paper=False,
)
