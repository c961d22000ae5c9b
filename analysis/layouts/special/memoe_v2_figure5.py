"""MEMoE v2 Figure 5 (Appendix D.4): mean GECE of the edits that each expert answers at the end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.aggregate import Section
from analysis.layouts.labels import named
from analysis.layouts.layout import Body, Layout
from analysis.published.paper_numbers import PaperRow
from analysis.render.table import Entry, Row

_GECE, _UNCERTAINTY = "mean_gece", "mean_uncertainty"
_SCORES = {_GECE: "Mean GECE", _UNCERTAINTY: "Mean uncertainty"}
_NUMBER = re.compile(r"number\.(mean_gece|mean_uncertainty)_expert_(\d+)")


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per arm and expert, in the order of the experts."""
    rows = []
    for arm in named(section.arms):
        found = [match for name in arm.scores if (match := _NUMBER.fullmatch(name))]
        for expert in sorted({int(match[2]) for match in found}):
            entries = (
                Entry(arm.scores.get(f"number.{name}_expert_{expert}", "no edit in every seed"))
                for name in _SCORES
            )
            rows.append(Row((arm.name, str(expert + 1)), tuple(entries)))
    return Body(
        labels=("Arm", "Expert"),
        scores=_SCORES,
        rows=tuple(rows),
        notes=(
            "GECE is high for rare knowledge (Eq. 9); uncertainty: 1 less the mean probability; an "
            "expert that answers no edit in some seed is left out",
            "paper (no numbers): the first expert's is far below the others', which rise",
        ),
        digits=dict.fromkeys(_SCORES, 3),
    )


LAYOUT = Layout(
    question="MEMoE v2 Figure 5: mean GECE of the edits that each expert answers",
    arrange=arrange,
    has_paper=False,
    varying=("order", "edit_batch_size", "num_batches"),
)
