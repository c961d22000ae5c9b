"""The outcome of `ablation=as_printed`: what each printed equation costs its method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.aggregate import Arm, Estimate, Section, paired_difference
from analysis.layouts.layout import NOT_RUN, SCORES, Body, Layout, ours
from analysis.metrics import headings
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
    working = {arm.method: arm for arm in section.arms if arm.name == arm.method}
    scores = SCORES | {_DIFFERENCE: "Difference"} | _ROUTES
    rows = (
        Row((arm.method, arm.name), _entries(arm, working))
        for arm in sorted(section.arms, key=_place)
    )
    return Body(("Method", "Arm"), scores, tuple(rows), notes=_NOTES)


def _entries(arm: Arm, working: Mapping[str, Arm]) -> tuple[Entry, ...]:
    cells = [ours(arm, name) for name in SCORES]
    routes = ours(arm, *_ROUTES)
    return tuple(map(Entry, (*cells, _difference(arm, working.get(arm.method)), routes)))


def _difference(arm: Arm, working: Arm | None) -> Estimate | str:
    """The average of `arm` less that of the method as it works here, or why there is none."""
    if working is None:
        return f"{arm.method} {NOT_RUN}"
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
