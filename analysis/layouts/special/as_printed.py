"""The outcome of `ablation=as_printed`: what each printed equation costs its method."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.aggregate import Arm, Estimate, Section
from analysis.layouts.labels import named
from analysis.layouts.layout import NOT_RUN, SCORES, Body, Layout, ours
from analysis.metrics import headings
from analysis.published.pairing import paired_difference
from analysis.published.paper_numbers import PaperRow
from analysis.render.table import Entry, Row

_ROUTES = headings(["own_expert_rate"])
_DIFFERENCE = "average_difference"
_NOTES = (
    "an arm of a method's name is the method as it works here; each other one changes what its "
    "name says to the printed form, `printed` all of it",
    "difference: the average less that of the working method, within seeds, which edit the same",
)


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per arm: by method, the working one first, the printed one last."""
    scores = SCORES | {_DIFFERENCE: "Difference"} | _ROUTES
    arms = sorted(section.arms, key=_place)
    rows = (
        Row((arm.method, shown.name), _entries(arm, arms))
        for arm, shown in zip(arms, named(arms), strict=True)
    )
    return Body(("Method", "Arm"), scores, tuple(rows), notes=_NOTES)


def _entries(arm: Arm, arms: Sequence[Arm]) -> tuple[Entry, ...]:
    cells = [ours(arm, name) for name in SCORES]
    routes = ours(arm, *_ROUTES)
    return tuple(map(Entry, (*cells, _difference(arm, arms), routes)))


def _difference(arm: Arm, arms: Sequence[Arm]) -> Estimate | str:
    """The average of `arm` less that of the method as it works here, or why there is none."""
    same = [each for each in arms if each.name == each.method == arm.method]
    working = next((each for each in same if each.protocol == arm.protocol), None)
    if working is None:
        return f"{arm.method} {NOT_RUN}" + (" in this protocol" if same else "")
    if arm is working:
        return "-"
    if state := arm.state or working.state:
        return state
    if any("average" not in each.scores for each in (arm, working)):
        return "not measured"
    return paired_difference([(arm, working)], "average", "average") or "no seed in common"


def _place(arm: Arm) -> tuple[str, bool, bool, str]:
    return arm.method, arm.name != arm.method, arm.name.endswith("_printed"), arm.name


LAYOUT = Layout(
    question="each of the papers' methods as printed, equation by equation",
    arrange=arrange,
    has_paper=False,
    varying=("order",),  # LEMoE puts similar edits side by side
)
