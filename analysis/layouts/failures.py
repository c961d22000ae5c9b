"""The layout of the papers' failure cases: how wrong answers divide, and some of them as they are.

The papers print cases that they chose. Ours are all wrong answers of a method, by their form (see
`reading.wrong_answers`), and below the table the first ones of its most frequent forms.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pandas as pd

from analysis.aggregate import Arm, Estimate, Section, estimate
from analysis.intervals import intervals_over_subjects
from analysis.layouts.labels import named
from analysis.layouts.layout import Body, Layout
from analysis.published.paper_numbers import PaperRow, read
from analysis.reading.wrong_answers import FORMS, Kind, read_answers
from analysis.render.table import Entry, Row

NUM_EXAMPLES = 3  # of each arm
_MOST_SIGNS = 80  # of a text in an example
_PROMPTS = {"reliability": "edit", "generality": "rephrase"}
_FORMS = {
    "empty": "Empty",
    "old": "Old answer",
    "unchanged": "Unchanged",
    "begins_right": "Begins right",
    "ends_right": "Ends right",
    "wholly_wrong": "Wholly wrong",
}
_SCORES = _FORMS | {"is_alone": "Alone", "is_elsewhere": "Routed elsewhere"}
_UNKNOWN = {"is_alone": "no rephrases", "is_elsewhere": "no routes"}
_MEASURES: Mapping[Kind, str] = {
    "pieces": "whole answers, their pieces teacher forced (exact), after the last edit",
    "text": "whole answers, generated freely (generated), after the last edit",
}
_NO_RECORDS, _NOT_TOLD = "no per-record results", "not recorded"
_NOTES = (
    "shares of the wrong answers of that row: of each seed that has some, then their mean, so that "
    "each seed counts alike however many it has wrong; intervals are of that mean",
    "the forms, Empty to Wholly wrong, add up to 1: an answer has the first that fits",
    "Old answer: turns to the true one before the edit, or to an earlier one of a serial stream; "
    "Unchanged: another, the backbone's before the edit; Begins right: the first word is; Ends "
    "right: the last word is, and not the first",
    "Alone: an edit wrong though all its rephrases are right, a rephrase wrong though its edit is "
    "right; Routed elsewhere: not to what learned the edit",
)
_READING: Mapping[Kind, str] = {
    "pieces": "answers are read piece by piece, each the likeliest behind the asked ones before "
    "it: what follows the first wrong one is no part of a free answer, and Ends right may be due "
    "to the beginning that was fed (protocol.generate=true reads free answers)",
    "text": "answers are read as they were generated, up to their first stop",
}


def failures(
    table: str, question: str, groups: str, varying: Sequence[str] = ()
) -> Mapping[str, Layout]:
    """The layout of one paper's failure cases, by the table's id.

    Args:
        table: Id of the published table, whose file holds the printed cases.
        question: What the table tells.
        groups: Which of our columns the paper's groups are.
        varying: As for `Layout`.
    """

    def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
        """Two rows per arm: its edits and their rephrases."""
        arms = named(sorted(section.arms, key=lambda arm: (arm.ablation, arm.name)))
        kind = _kind(section.measure, arms)
        found = [_Answers(arm, _frames(arm, kind)) for arm in arms]
        return Body(
            labels=("Method", "Prompt", "Wrong"),
            scores=_SCORES,
            rows=tuple(row for answers in found for row in answers.rows()),
            notes=(*_NOTES, _READING[kind], _printed(table, groups)),
            footer=tuple(line for answers in found for line in answers.lines()),
            context={"measure": _MEASURES[kind]},
        )

    return {table: Layout(question, arrange, has_paper=False, varying=tuple(varying))}


@dataclass(frozen=True)
class _Answers:
    """The answers of one arm, a frame of `read_answers` per seed; None: they are not there."""

    arm: Arm
    by_seed: Sequence[pd.DataFrame] | None

    def rows(self) -> list[Row]:
        """Its line of the edits, then that of the rephrases if there are any."""
        if self.by_seed is None:
            entries = tuple(Entry(self.arm.state or _NO_RECORDS) for _ in _SCORES)
            return [Row((self.arm.name, "all", "unknown"), entries)]
        rows = []
        for score, label in _PROMPTS.items():
            frames = [frame[frame["score"] == score] for frame in self.by_seed]
            total = sum(map(len, frames))
            wrong = [frame[frame["is_wrong"]] for frame in frames]
            if total:
                counts = f"{sum(map(len, wrong))} of {total}"
                rows.append(Row((self.arm.name, label, counts), _entries(wrong)))
        return rows

    def lines(self) -> list[str]:
        """Examples: one of each form in turn, the most frequent form first."""
        if self.by_seed is None:
            return []
        every = pd.concat(self.by_seed)
        wrong = every[every["is_wrong"]]
        told = wrong[wrong["form"].notna()]
        counts = Counter(told["form"])
        forms = sorted(counts, key=lambda form: (-counts[form], FORMS.index(form)))
        by_form = [told[told["form"] == form].to_dict("records") for form in forms]
        in_turn = [each for turn in zip_longest(*by_form) for each in turn if each is not None]
        lines = [f"{self.arm.name}, {_example(each)}" for each in in_turn[:NUM_EXAMPLES]]
        if len(told) < len(wrong):
            lines.append(
                f"{self.arm.name}: its per-record results do not tell {len(wrong) - len(told)} "
                "wrong answers (an earlier version wrote them); --fresh runs it anew"
            )
        return lines


def _kind(measure: str, arms: Sequence[Arm]) -> Kind:
    """Generated texts where every arm that ended has them, unless `measure` asks otherwise."""
    if measure == "generated":
        return "text"
    ended = [arm for arm in arms if not arm.state]
    if measure == "exact" or not ended:
        return "pieces"
    return "text" if all(_frames(arm, "text") for arm in ended) else "pieces"


def _frames(arm: Arm, kind: Kind) -> list[pd.DataFrame] | None:
    """The answers of each seed; None if those of one are not there."""
    if arm.state:
        return None
    found = [read_answers(address, arm.context["dataset"], kind) for address in arm.records]
    present = [frame for frame in found if frame is not None]
    return present if present and len(present) == len(found) else None


def _entries(wrong: Sequence[pd.DataFrame]) -> tuple[Entry, ...]:
    """The cells of one row, of the wrong answers of each seed."""
    flags = [_flags(frame) for frame in wrong]
    by_seed = [frame.melt("subject", var_name="score", value_name="share") for frame in flags]
    resampled = intervals_over_subjects([frame.dropna() for frame in by_seed], "share")
    cells: list[Estimate | str] = []
    for name in _SCORES:
        shares = [frame[name].dropna().mean() for frame in flags if frame[name].notna().any()]
        if shares:
            cells.append(estimate(shares, resampled.get(name)))
        else:
            missing = _UNKNOWN.get(name, _NOT_TOLD)
            cells.append(missing if any(map(len, wrong)) else "none wrong")
    return tuple(map(Entry, cells))


def _flags(wrong: pd.DataFrame) -> pd.DataFrame:
    """A column of 1.0 and 0.0 for each of `_SCORES`, NaN where it is not known."""
    is_told = wrong["form"].notna()
    flags = {name: (wrong["form"] == name).astype(float).where(is_told) for name in _FORMS}
    flags |= {name: wrong[name].astype(float) for name in _UNKNOWN}
    return pd.DataFrame({"subject": wrong["subject"], **flags})


def _printed(table: str, groups: str) -> str:
    """A line about the cases that the paper prints."""
    marks = Counter(row["outcome"].replace("_", " ") for row in read(table, ("outcome",)))
    counts = ", ".join(f"{count} {mark}" for mark, count in marks.most_common())
    return f"paper: {sum(marks.values())} chosen cases, no counts ({counts}); {groups}"


def _example(answer: Mapping[Any, Any]) -> str:
    """One wrong answer: its form, the prompt, what was asked and what was given."""
    old = f" (old: {_quoted(answer['old'])})" if answer["form"] == "old" else ""
    return (
        f"{_FORMS[answer['form']].lower()}, {_PROMPTS[answer['score']]}: "
        f"{_quoted(answer['prompt'])} asked {_quoted(answer['asked'])}, "
        f"gave {_quoted(answer['given'])}{old}"
    )


def _quoted(text: str) -> str:
    return f'"{textwrap.shorten(text, _MOST_SIGNS, placeholder=" ...")}"'
