"""Counted fall-backs, from rows to the lines below a table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from analysis.aggregate import Section, sections
from analysis.counts import _KINDS, count_lines, num_edits
from tests.unit.analysis.test_aggregate import trial

ROOT = Path(__file__).parents[3]


def section_of(*trials: pd.DataFrame) -> Section:
    (found,) = sections(pd.concat(trials, ignore_index=True))
    return found


def counting(arm: str, seed: int, counts: dict[str, float], **tags: str) -> pd.DataFrame:
    row = trial(arm, seed, **tags)
    row["metrics"][0].update({f"count.{name}": value for name, value in counts.items()})
    return row


def test_lines_then_edits_are_summed_over_seeds_and_named_by_arm() -> None:
    two_batches = json.dumps({"kind": "batch", "num_edits": 4, "num_batches": 2})
    found = section_of(
        counting("a", 0, {"subject_absent": 1, "entity_from_sentence": 0}, protocol=two_batches),
        counting("a", 1, {"subject_absent": 2, "entity_from_sentence": 0}, protocol=two_batches),
        counting("b", 0, {"subject_absent": 0}, protocol=two_batches),
    )
    # 4 edits, 2 batches, 2 seeds; what is nowhere above zero has no line
    (line,) = count_lines(found.arms)
    assert line.startswith("subject absent from the prompt")
    assert line.endswith(": 3 of 16 edits (a)")


def test_lines_when_arms_agree_then_said_once_and_data_are_not_summed() -> None:
    found = section_of(
        *(
            counting(arm, seed, {"excluded": 5, "experts_not_added": 1})
            for arm in ("a", "b")
            for seed in (0, 1)
        )
    )
    assert count_lines(found.arms) == [
        "records of the data set left out: 5",
        "experts not added, for want of edits: 2 in each arm",
    ]


def test_lines_when_a_name_is_unknown_then_it_is_printed_as_it_is() -> None:
    found = section_of(counting("a", 0, {"moon_phase": 3}), counting("b", 0, {"moon_phase": 4}))
    assert count_lines(found.arms) == ["moon_phase: 3 (a), 4 (b)"]


def test_lines_when_many_arms_differ_then_six_are_named() -> None:
    found = section_of(*(counting(f"a{n}", 0, {"moon_phase": n + 1}) for n in range(9)))
    (line,) = count_lines(found.arms)
    assert line.endswith("6 (a5), and in 3 further arms")


def test_lines_when_a_trial_failed_then_what_the_others_counted_stays() -> None:
    failed = trial("a", 1, values="", status="failed", stop_reason="failed")
    found = section_of(counting("a", 0, {"scale_from_edits": 1}), failed)
    assert count_lines(found.arms) == ["batches that had to give the scale themselves: 1"]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ({"kind": "batch", "num_edits": 30, "num_batches": 3}, 90),
        ({"kind": "batch", "num_edits": 30, "num_batches": None}, 30),
        ({"kind": "lifelong", "num_edits": 100, "num_batches": 5}, 100),
        ({"kind": "lifelong"}, None),
    ],
)
def test_num_edits_then_those_of_one_trial(
    protocol: dict[str, object], expected: int | None
) -> None:
    assert num_edits(protocol) == expected


def test_every_count_of_the_code_has_words() -> None:
    """Names as they stand in the sources, where counts are made."""
    made = re.compile(
        r'count\([\w.]*counts, "(\w+)"|counts\["(\w+)"\]|counts=\{"(\w+)"|"count\.(\w+)"'
    )
    names = {
        name
        for path in (ROOT / "trainables").rglob("*.py")
        for match in made.findall(path.read_text())
        for name in match
        if name
    }
    assert len(names) > 10
    assert names <= set(_KINDS)
