"""The lines below a table that say what its backbone knew of the data before it was edited."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.aggregate import Arm, Section

LEAST_KNOWN = 0.1  # share of the edits' facts below which an edit changes guesses


def known_lines(section: Section) -> list[str]:
    """What part of the edits' true answers the backbone gave; nothing where nobody measured it.

    Arms of one backbone edit the same facts, so that theirs are one number; where a table compares
    backbones, each has its own.
    """
    by_backbone: dict[str, list[Arm]] = {}
    for arm in section.arms:
        if "known_share" in arm.scores:
            by_backbone.setdefault(arm.context.get("backbone", ""), []).append(arm)
    lines = []
    for backbone, arms in by_backbone.items():
        of = f" ({backbone})" if len(by_backbone) > 1 else ""
        share = _mean(arms, "known_share")
        lines.append(
            f"known before editing{of}: {share:.0%} of the edits' true answers{_drawn_from(arms)}"
        )
        if share < LEAST_KNOWN:
            lines.append(
                f"warning{of}: below {LEAST_KNOWN:.0%} an edit changes guesses and locality "
                "compares guesses; dataset.known_only=true edits what the backbone knows"
            )
    return lines


def _drawn_from(arms: Sequence[Arm]) -> str:
    """How many facts there were to draw from, where only known ones were."""
    drawn = [arm for arm in arms if "facts_asked" in arm.scores]
    if not drawn:
        return ""
    known, asked = _mean(drawn, "known_facts"), _mean(drawn, "facts_asked")
    return f", drawn from the {known:.0f} that it knows of {asked:.0f} (dataset.known_only)"


def _mean(arms: Sequence[Arm], name: str) -> float:
    return sum(arm.scores[name].mean for arm in arms) / len(arms)
