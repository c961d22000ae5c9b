"""An experiment's description: its question, then its tables as far as they fit."""

from __future__ import annotations

from orchestrator.tracking.description import measure_of, note_of

TABLE = """## one: Table 1

- measure: exact, after the last edit

| Layer   | Rel.        |
|:--------|:------------|
| 9       | 0.50 / 0.60 |
| 15      | 0.75 / 0.70 |

- before editing: reliability 0.00
"""


def test_note_then_the_question_stands_above_the_tables_without_their_blanks() -> None:
    note = note_of("Which layer?", [TABLE, TABLE.replace("one", "two")], "#/runs/1")
    assert note.startswith("Which layer?\n\n<!--")
    assert "[Report and figures](#/runs/1)" in note
    assert "| Layer | Rel. |\n|---|---|\n| 9 | 0.50 / 0.60 |\n| 15 | 0.75 / 0.70 |" in note
    assert note.count("## ") == 2
    assert note.endswith("- before editing: reliability 0.00\n")


def test_note_written_again_then_only_what_is_below_the_mark_changes() -> None:
    first = note_of("Which layer?\n\nMy own remark.", [TABLE])
    again = note_of(first, [TABLE.replace("0.75", "0.80")])
    assert again == first.replace("0.75", "0.80")


def test_note_too_long_then_rows_from_the_last_on_are_left_out_and_it_says_so() -> None:
    rows = "".join(f"| {number} | 0.5 |\n" for number in range(1000))
    long = TABLE.replace("| 9 ", rows + "| 9 ")
    note = note_of("Which layer?", [long, TABLE])
    assert len(note) <= 5000
    assert "| 300 | 0.5 |\n" in note
    assert note.endswith(
        "| 0.5 |\n\nNot all of it fits here: `analysis/table.py` prints the rest.\n"
    )


def test_no_room_for_a_row_then_there_is_no_table() -> None:
    note = note_of("Which layer?", [TABLE.replace("exact", "exact" * 1000)])
    assert "|" not in note
    assert "Not all of it fits here" in note


def test_measure_is_the_first_tables() -> None:
    assert measure_of(["", TABLE]) == "exact"
    assert measure_of(["no table\n"]) == ""
