"""Reads what a trial answered to its edits and their rephrases, and classes what was wrong.

A wrong answer is of one form, the first of `FORMS` that fits:

1. `empty`: nothing was said.
2. `old`: the true answer before the edit, or an earlier one of a serial stream, still stands.
3. `unchanged`: the backbone says what it said before the edit, and that is no such answer.
4. `begins_right`: another answer, whose first word is right.
5. `ends_right`: whose last word is right.
6. `wholly_wrong`: neither is.

An edit that did nothing comes before one that did something else, since an old answer may share a
word with the new one. Forms 4 and 5 are what ARM marks in its Table 12 as "errors in part of the
answer"; 6, with what else has no right word, as "complete output errors". MEMoE v2 and LEMoE mark
"errors in part of the tokens" in their Tables 7. They count tokens; the forms go by words, since a
tokenizer cuts words as it likes: two wrong answers may share a token and no word, and the same
answers would change their forms with the backbone.

Two things that may be so of any form are told beside it, each of itself, because they say where an
edit failed and not what was answered: a rephrase whose edit is right, or an edit whose rephrases
are all right (the papers' groups of generalization failures and of the reverse), and a prompt that
was routed elsewhere than to what learned its edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import pandas as pd

from analysis.reading.routes import majority_expert
from analysis.reading.runs import read_records

Kind: TypeAlias = Literal["pieces", "text"]  # teacher forced, or generated freely
FORMS = ("empty", "old", "unchanged", "begins_right", "ends_right", "wholly_wrong")
_MEASURES: Mapping[Kind, str] = {"pieces": "exact", "text": "generated"}


def form_of(given: Mapping[str, Any]) -> str:
    """The form of one wrong answer, as its line of the per-record file tells it."""
    if not given["answer"]:
        return "empty"
    if given["old"] is not None:
        return "old"
    if given["is_unchanged"]:
        return "unchanged"
    if given["begins_right"]:
        return "begins_right"
    return "ends_right" if given["ends_right"] else "wholly_wrong"


def read_answers(address: str, dataset: str, kind: Kind) -> pd.DataFrame | None:
    """The answers to the edits and rephrases of one trial at its end, right and wrong ones.

    Args:
        address: Where its per-record results are, as `runs.read_records` takes it.
        dataset: Of the trial.
        kind: Which answers are read.

    Returns:
        None where there is no such file, or not all of these answers are in it. Otherwise one row
        per prompt, in an order that does not depend on how prompts were batched: `record_id`,
        `subject`, `score` (reliability of an edit, generality of a rephrase), `prompt`, `is_wrong`;
        of wrong answers, missing where it is not known: `form`, `asked`, `given`, and `old` (the
        answer that stands still, of the form `old`); `is_alone` (missing for an edit without a
        rephrase), `is_elsewhere` (missing where the method routes nothing).
    """
    records, measure = read_records(address, dataset), _MEASURES[kind]
    if records is None or not {measure, "prompt"} <= set(records.columns):
        return None
    lines = records[records["score"].isin(["reliability", "generality"])]
    if lines.empty or lines[measure].isna().any():
        return None
    lines = lines.assign(is_wrong=lines[measure] != 1.0)
    ordered = lines.sort_values(
        ["record_id", "score", "prompt"], ascending=[True, False, True], kind="stable"
    )
    of_record = [_of_record(group, kind) for _, group in ordered.groupby("record_id", sort=False)]
    return pd.DataFrame([row for rows in of_record for row in rows])


def _of_record(lines: pd.DataFrame, kind: Kind) -> list[dict[str, Any]]:
    """The rows of one record: its edit, then its rephrases."""
    rows = lines.to_dict("records")
    wrong = {
        score: [row["is_wrong"] for row in rows if row["score"] == score]
        for score in ("reliability", "generality")
    }
    own = next((row.get("trained_experts") for row in rows if row["score"] == "reliability"), None)
    return [
        {name: row[name] for name in ("record_id", "subject", "score", "prompt", "is_wrong")}
        | _told(row, kind)
        | {
            "is_alone": _is_alone(row["score"], wrong) if row["is_wrong"] else None,
            "is_elsewhere": _is_elsewhere(row, own) if row["is_wrong"] else None,
        }
        for row in rows
    ]


def _told(row: Mapping[Any, Any], kind: Kind) -> dict[str, str | None]:
    """Form and texts of a wrong answer; None where an earlier version did not record them."""
    told = row.get("wrong")
    if not row["is_wrong"] or not isinstance(told, dict) or told[kind] is None:
        return dict.fromkeys(("form", "asked", "given", "old"))
    given = told[kind]
    texts = {"asked": told["asked"], "given": given["answer"], "old": given["old"]}
    return {"form": form_of(given), **texts}


def _is_alone(score: str, wrong: Mapping[str, list[bool]]) -> bool | None:
    others = wrong["generality" if score == "reliability" else "reliability"]
    return not any(others) if others else None


def _is_elsewhere(row: Mapping[Any, Any], own: Any) -> bool | None:
    now = row.get("experts")
    if not isinstance(own, list) or not isinstance(now, list) or not own or not now:
        return None
    return majority_expert(now) != majority_expert(own)
