"""Failure cases: the class of every wrong answer, shares by method, and examples below."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.reading.wrong_answers import FORMS, form_of, read_answers
from analysis.render.documents import render
from analysis.render.table import Table, entry_text
from analysis.reports.table_report import Options, assemble
from tests.end_to_end.commands import copy_database
from tests.unit.analysis_store import BATCH, Writer

FLAGS: dict[str, dict[str, Any]] = {
    "empty": {"answer": ""},
    "old": {"old": "Rome"},
    "unchanged": {"is_unchanged": True},
    "begins_right": {"begins_right": True},
    "ends_right": {"ends_right": True},
    "wholly_wrong": {},
}
LOST: dict[str, Any] = {"status": "failed", "stop_reason": "error", "error": "out of memory"}
GOOD = (0.5, 0.5, 1.0)


def given(*forms: str) -> dict[str, Any]:
    """An answer of which all of these are true."""
    told: dict[str, Any] = {"answer": "Oslo Bay", "old": None}
    told |= dict.fromkeys(("is_unchanged", "begins_right", "ends_right"), False)
    for form in forms:
        told |= FLAGS[form]
    return told


def line(record: str, score: str, form: str = "", **more: Any) -> dict[str, Any]:
    """One line of a per-record file; without a `form` the answer is right."""
    told = {"asked": "Bar City", "pieces": given(form), "text": None} if form else None
    return {
        "record_id": record,
        "subject": f"s{record}",
        "score": score,
        "prompt": f"{score} of {record}?",
        "exact": float(not form),
        "token": float(not form),
        "when": "final",
        **({"wrong": told} if told else {}),
        **more,
    }


def edit(record: str, form: str = "", **more: Any) -> dict[str, Any]:
    return line(record, "reliability", form, **more)


def rephrase(record: str, form: str = "", **more: Any) -> dict[str, Any]:
    return line(record, "generality", form, **more)


def far(record: str) -> dict[str, Any]:
    return line(record, "locality_far", exact=0.0)


@pytest.fixture
def write(tmp_path: Path, empty_database: Path) -> Writer:
    """Into a store whose tables are there: making them takes seconds."""
    copy_database(empty_database, tmp_path / "store")
    return Writer(tmp_path / "store")


def trial(write: Writer, arm: str, seed: int, records: Any, **tags: Any) -> None:
    own = {"paper": "lemoe_table7", "method": arm, "protocol": BATCH} | tags
    write.trial("failing", arm, seed, None if "status" in own else GOOD, records, **own)


def printed(store: Path, measure: str | None = None) -> Table:
    (table,) = assemble("lemoe_table7", Options((store,), measure))
    return table


def cells(table: Table, *labels: str) -> dict[str, str]:
    """The texts of the row whose first labels these are, by the keys of the columns."""
    (row,) = [row for row in table.rows if row.labels[: len(labels)] == labels]
    return dict(zip(table.scores, map(entry_text, row.entries), strict=True)) | {
        "wrong": row.labels[2]
    }


@pytest.mark.parametrize("first", range(len(FORMS)))
def test_form_when_several_fit_then_the_first_of_the_order(first: int) -> None:
    assert form_of(given(*FORMS[first:])) == FORMS[first]
    assert form_of(given(FORMS[first])) == FORMS[first]


def test_answers_tell_alone_and_elsewhere_of_wrong_ones(tmp_path: Path) -> None:
    lines = [
        edit("a", "old", experts=[1, 1, 0], trained_experts=[1, 2, 2]),  # 1, learned by 2
        rephrase("a", experts=[0, 0]),
        edit("b", experts=[0], trained_experts=[0]),
        rephrase("b", "unchanged", experts=[0, 0, 3]),  # stays with 0
        edit("c", "empty"),  # routed nowhere, no rephrase
        far("c"),
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in reversed(lines)))
    found = read_answers(str(path), "facts", "pieces")
    assert found is not None
    shown = found[["record_id", "score", "form", "is_alone", "is_elsewhere"]].astype(object)
    assert shown.where(shown.notna(), None).to_numpy().tolist() == [
        ["a", "reliability", "old", True, True],
        ["a", "generality", None, None, None],
        ["b", "reliability", None, None, None],
        ["b", "generality", "unchanged", True, False],
        ["c", "reliability", "empty", None, None],
    ]
    assert read_answers(str(path), "facts", "text") is None


def test_table_when_three_seeds_then_mean_and_interval_of_their_shares(write: Writer) -> None:
    for seed in range(3):
        # 1, 2, 3 of 4 wrong edits still give the old answer, the others begin right
        forms = ["old"] * (seed + 1) + ["begins_right"] * (3 - seed)
        records = [edit(str(n), form) for n, form in enumerate(forms)]
        trial(write, "lemoe", seed, [*records, edit("right"), far("right")])
    found = cells(printed(write.store), "lemoe", "edit")
    assert found["wrong"] == "12 of 15"
    # shares 1/4, 2/4, 3/4: t(.975; 2) = 4.303, times .25 / sqrt(3)
    assert found["old"] == found["begins_right"] == "0.50 ± 0.62 (3)"
    assert found["empty"] == "0.00 ± 0.00 (3)"
    assert found["is_alone"] == "no rephrases"
    assert found["is_elsewhere"] == "no routes"


def test_table_when_one_seed_then_edits_and_rephrases_apart_with_a_bootstrap(write: Writer) -> None:
    records = [edit("a", "old"), rephrase("a", "old"), edit("b"), rephrase("b", "wholly_wrong")]
    trial(write, "grace", 0, [*records, edit("c"), rephrase("c")])
    table = printed(write.store)
    edits, rephrases = cells(table, "grace", "edit"), cells(table, "grace", "rephrase")
    assert (edits["wrong"], rephrases["wrong"]) == ("1 of 3", "2 of 3")
    assert edits["old"] == "1.00 (1)"  # of one subject: nothing to resample
    # of two subjects, each has one of the two forms: a fourth of the resamples at either end
    assert rephrases["old"] == rephrases["wholly_wrong"] == "0.50 [0.00, 1.00] (1)"
    assert rephrases["is_alone"] == "0.50 [0.00, 1.00] (1)"  # b's edit is right


def test_table_when_a_seed_has_no_wrong_answer_then_the_shares_of_the_others(write: Writer) -> None:
    trial(write, "lemoe", 0, [edit("a", "old"), edit("b", "old")])
    trial(write, "lemoe", 1, [edit("a"), edit("b")])
    for seed in range(2):
        trial(write, "grace", seed, [edit("a")])
    table = printed(write.store)
    assert cells(table, "lemoe", "edit")["wrong"] == "2 of 4"
    assert cells(table, "lemoe", "edit")["old"] == "1.00 [1.00, 1.00] (1)"
    assert cells(table, "grace", "edit")["old"] == "none wrong"


def test_table_when_seeds_have_unequal_numbers_wrong_then_the_interval_is_of_the_printed_mean(
    write: Writer,
) -> None:
    # Seed 0: one wrong edit, old. Seed 1: twelve, none of them old: shares 1 and 0, mean 1/2;
    # of all thirteen it would be 1/13, whose resamples seldom pass 3/13.
    trial(write, "lemoe", 0, [edit("a", "old"), edit("right")])
    trial(write, "lemoe", 1, [edit(f"b{n}", "begins_right") for n in range(12)])
    found = cells(printed(write.store), "lemoe", "edit")
    assert found["wrong"] == "13 of 14"
    # A resample that holds `a` k times has the mean k / (k + (13 - k) / 12), k being at most 3.
    assert found["old"] == "0.50 [0.00, 0.78] (2)"
    assert found["begins_right"] == "0.50 [0.22, 1.00] (2)"


def test_examples_are_of_each_form_in_turn_whatever_the_order_of_the_file(write: Writer) -> None:
    forms = ["unchanged", "old", "old", "old", "unchanged"]
    records = [edit(str(n), form) for n, form in enumerate(forms)]
    for seed, lines in enumerate((records, records[::-1])):
        trial(write, f"seed {seed}", seed, lines)
    lines = [line for line in printed(write.store).footer if " asked " in line]
    expected = [
        'old answer, edit: "reliability of 1?" asked "Bar City", gave "Oslo Bay" (old: "Rome")',
        'unchanged, edit: "reliability of 0?" asked "Bar City", gave "Oslo Bay"',
        'old answer, edit: "reliability of 2?" asked "Bar City", gave "Oslo Bay" (old: "Rome")',
    ]
    assert lines == [f"{arm}, {text}" for arm in ("seed 0", "seed 1") for text in expected]


def texts(record: str, pieces: str, text: str) -> dict[str, Any]:
    """An edit whose generated answer is wrong in another way than its pieces."""
    told = {"asked": "Bar City", "pieces": given(pieces), "text": given(text)}
    return edit(record, pieces) | {"generated": 0.0, "wrong": told}


def test_table_when_texts_were_generated_then_read_unless_exact_is_asked_for(write: Writer) -> None:
    trial(write, "lemoe", 0, [texts("a", "ends_right", "wholly_wrong")])
    by_text, by_piece = printed(write.store), printed(write.store, "exact")
    assert by_text.context["measure"].startswith("whole answers, generated freely (generated)")
    assert by_piece.context["measure"].startswith("whole answers, their pieces teacher forced")
    assert not any("the paper's measure" in line for line in by_piece.notes)  # it prints no score
    assert cells(by_text, "lemoe", "edit")["wholly_wrong"] == "1.00 (1)"
    assert cells(by_piece, "lemoe", "edit")["ends_right"] == "1.00 (1)"
    # beside an arm without texts both are read alike
    trial(write, "grace", 0, [edit("a", "old")])
    both = printed(write.store)
    assert cells(both, "lemoe", "edit")["ends_right"] == "1.00 (1)"
    asked_for = printed(write.store, "generated")
    assert cells(asked_for, "grace", "all")["old"] == "no per-record results"
    assert cells(asked_for, "lemoe", "edit")["wholly_wrong"] == "1.00 (1)"


def test_table_when_an_earlier_version_wrote_the_records_then_says_what_is_missing(
    write: Writer,
) -> None:
    old = [edit("a", "old"), rephrase("a"), edit("b"), rephrase("b")]
    trial(write, "lemoe", 0, [{k: v for k, v in each.items() if k != "wrong"} for each in old])
    table = printed(write.store)
    found = cells(table, "lemoe", "edit")
    assert (found["wrong"], found["is_alone"]) == ("1 of 2", "1.00 (1)")
    assert {found[form] for form in FORMS} == {"not recorded"}
    (line,) = [line for line in table.footer if line.startswith("lemoe")]
    assert line == (
        "lemoe: its per-record results do not tell 1 wrong answers (an earlier version wrote "
        "them); --fresh runs it anew"
    )


def test_table_when_there_is_no_file_or_a_trial_failed_then_the_cells_say_so(write: Writer) -> None:
    trial(write, "lemoe", 0, None)
    trial(write, "grace", 0, None, **LOST)
    table = printed(write.store)
    assert set(cells(table, "lemoe", "all").values()) == {"no per-record results", "unknown"}
    assert set(cells(table, "grace", "all").values()) == {"failed 1/1", "unknown"}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("lemoe_table7", "16 chosen cases, no counts (7 complete error, 5 partial error, 4 exact"),
        ("arm_table12", "10 chosen cases, no counts (5 complete error, 4 partial error, 1 exact"),
        # its two marks of an error are one sign in the text
        ("memoe_v2_table7", "16 chosen cases, no counts (12 error kind not distinguishable, 4"),
    ],
)
def test_each_paper_has_its_table_with_its_printed_marks(
    write: Writer, name: str, counts: str
) -> None:
    trial(write, "lemoe", 0, [edit("a", "old")], paper=name)
    tables = assemble(name, Options((write.store,)))
    assert f"- paper: {counts}" in render(tables, "markdown")
    (row,) = csv.DictReader(io.StringIO(render(tables, "csv")))
    assert (row["Wrong"], row["old"], row["unchanged"]) == ("1 of 1", "1.0", "0.0")
