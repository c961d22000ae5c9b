"""Counts of a protocol: which follow from which, and which keys a trial is named by."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.counts import counts_within, num_drawn, with_counts
from orchestrator.settings.models import Protocol


def serial(**changes: Any) -> dict[str, Any]:
    counts = {"num_questions": 125, "answers_per_question": 8}
    return with_counts(Protocol(kind="serial", **{**counts, **changes}))


def test_serial_counts_follow_from_questions_and_answers() -> None:
    found = serial()
    # ARM, Table 1: T = 125, P = 8, N = 1000, one edit at a time
    assert (found["num_edits"], found["edit_batch_size"], found["num_batches"]) == (1000, 1, 1000)
    assert num_drawn(found) == 125
    # rounds of 125 in batches of 10: 13 each, as none reaches into the next round
    assert serial(edit_batch_size=10)["num_batches"] == 104
    assert found["answers"].startswith("generated")


def test_serial_cut_keeps_the_answers_and_the_rounds() -> None:
    found = serial(edit_batch_size=50)
    assert counts_within(found, 30) == {
        "num_questions": 30,
        "num_edits": 240,  # 30 x 8
        "edit_batch_size": 30,
        "num_batches": 8,
    }


def test_group_sizes_give_the_number_of_edits() -> None:
    found = with_counts(Protocol(kind="batch", group_sizes=[20, 10, 0]))
    assert (found["num_edits"], found["edit_batch_size"]) == (30, 30)
    assert found["group_sizes"] == [20, 10, 0]


def test_keys_that_a_protocol_does_not_use_are_not_part_of_it() -> None:
    # these names decide the fingerprints of all trials that were run before the keys existed
    assert set(with_counts(Protocol(kind="lifelong"))) == {
        *("kind", "num_edits", "edit_batch_size", "num_batches", "order"),
        *("target_ends_with_eos", "generate"),
    }
    mixed = Protocol(
        kind="lifelong",
        num_questions=3,
        answers_per_question=2,
        update_order="bursts",
        curve=True,
    )
    assert with_counts(mixed)["curve"] is True
    for key in ("num_questions", "answers_per_question", "update_order"):
        assert key not in with_counts(mixed)  # the arms beside it are serial
    assert set(serial()) == {
        *("kind", "num_edits", "edit_batch_size", "num_batches", "order"),
        *("num_questions", "answers_per_question", "answers"),
        *("target_ends_with_eos", "generate"),
    }
    assert serial(update_order="bursts") == {**serial(), "update_order": "bursts"}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"num_questions": None}, ["protocol.num_questions is missing"]),
        ({"answers_per_question": None}, ["protocol.answers_per_question is missing"]),
        ({"answers_per_question": 1}, ["answers_per_question=1", "at least 2", "kind=lifelong"]),
        ({"edit_batch_size": 126}, ["edit_batch_size=126", "1 to protocol.num_questions=125"]),
        ({"num_batches": 5}, ["num_batches=5", "1000"]),
        ({"order": "kmeans_filled"}, ["order=kmeans_filled", "given or random"]),
        (
            {"order": "random", "update_order": "random"},
            ["protocol.order=random", "update_order=random shuffles all updates already"],
        ),
        ({"group_sizes": [1]}, ["protocol.group_sizes", "kind=serial"]),
    ],
)
def test_serial_counts_that_do_not_fit_are_refused(
    changes: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        serial(**changes)
    for part in parts:
        assert part in str(caught.value)


def test_group_sizes_without_any_edit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"group_sizes=\[0, 0\]: no edit is left"):
        with_counts(Protocol(group_sizes=[0, 0]))
