"""The lines below a table that say what the backbone knew before it was edited."""

from __future__ import annotations

import pandas as pd

from analysis.aggregate import sections
from analysis.known import known_lines
from tests.unit.analysis.test_aggregate import trial


def measuring(arm: str, seed: int, **numbers: float) -> pd.DataFrame:
    row = trial(arm, seed)
    row["metrics"][0].update(numbers)
    return row


def lines_of(*trials: pd.DataFrame) -> list[str]:
    (found,) = sections(pd.concat(trials, ignore_index=True))
    return known_lines(found)


def test_lines_when_nobody_measured_then_none() -> None:
    assert lines_of(trial("a", 0), trial("b", 0)) == []


def test_lines_then_the_mean_over_arms_and_seeds() -> None:
    shares = {("a", 0): 0.5, ("a", 1): 0.3, ("b", 0): 0.5, ("b", 1): 0.3}
    found = lines_of(*(measuring(*key, known_share=share) for key, share in shares.items()))
    assert found == ["known before editing: 40% of the edits' true answers"]


def test_lines_when_known_facts_alone_were_drawn_then_of_how_many() -> None:
    found = lines_of(measuring("a", 0, known_share=1.0, known_facts=61, facts_asked=161))
    assert found == [
        "known before editing: 100% of the edits' true answers, drawn from the 61 that it knows "
        "of 161 (dataset.known_only)"
    ]


def test_lines_when_next_to_nothing_was_known_then_a_warning() -> None:
    said, warned = lines_of(measuring("a", 0, known_share=0.048))
    assert said == "known before editing: 5% of the edits' true answers"
    assert warned.startswith("warning: below 10% an edit changes guesses")
    assert len(lines_of(measuring("a", 0, known_share=0.1))) == 1
