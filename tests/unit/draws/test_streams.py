"""Parts, draws and batches."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.draws.streams import batches, drawn_records, split, to_edit
from trainables.errors import ConfigError
from trainables.interfaces import Edit, EditRecord, Question


def record(number: int, *, prompt: str | None = None, subject: str | None = None) -> EditRecord:
    return EditRecord(f"r-{number}", prompt or f"prompt {number}", "target", subject)


RECORDS = [record(number, subject=f"subject {number // 2}") for number in range(40)]


@given(st.floats(0, 1))
def test_split_parts_are_disjoint_by_subject_and_complete(share: float) -> None:
    tune, report = split(RECORDS, "tune", share), split(RECORDS, "report", share)
    assert not {r.subject for r in tune} & {r.subject for r in report}
    assert sorted(r.record_id for r in tune + report) == sorted(r.record_id for r in RECORDS)


def test_split_all_holds_every_record_in_its_order() -> None:
    assert split(RECORDS, "all") == tuple(RECORDS)


def test_split_share_is_met_over_many_subjects() -> None:
    many = [record(number, subject=str(number)) for number in range(2000)]
    # binomial with n = 2000, p = .3: standard deviation sqrt(.3 * .7 / 2000) = .0102; four of them
    assert len(split(many, "tune")) / 2000 == pytest.approx(0.3, abs=0.041)


def test_split_follows_the_subject_alone_whatever_its_letter_case() -> None:
    pair = [record(1, subject="Lake Vane"), record(2, subject="LAKE VANE")]
    assert len(split(pair, "tune")) in (0, 2)
    # the rule itself: first 6 bytes of SHA-256 of the lower-case subject, as a share of 2**48
    share = int(hashlib.sha256(b"lake vane").hexdigest()[:12], 16) / 2**48
    assert len(split(pair, "tune", share)) == 0
    assert len(split(pair, "tune", share + 1e-9)) == 2


def test_split_without_subject_goes_by_prompt() -> None:
    alone = record(1, prompt="lake vane")
    named = record(2, subject="lake vane")
    assert [bool(split([r], "tune", 0.5)) for r in (alone, named)] in ([True] * 2, [False] * 2)


@pytest.mark.parametrize(("part", "share"), [("test", 0.3), ("tune", 1.5), ("tune", float("nan"))])
def test_split_bad_setting_is_refused(part: str, share: float) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.(part|tune_share) is"):
        split(RECORDS, part, share)  # type: ignore[arg-type]


@given(st.integers(1, 40), st.integers(0, 2**40))
def test_draw_has_no_repeats_and_a_smaller_draw_begins_a_larger_one(size: int, seed: int) -> None:
    drawn = drawn_records(RECORDS, size, seed)
    assert len({r.record_id for r in drawn}) == size
    assert drawn_records(RECORDS, 40, seed)[:size] == drawn


def test_draw_does_not_depend_on_the_order_of_the_file() -> None:
    assert drawn_records(RECORDS[::-1], 10, seed=3) == drawn_records(RECORDS, 10, seed=3)


def test_draw_other_seed_gives_other_records() -> None:
    first, second = (set(r.record_id for r in drawn_records(RECORDS, 10, seed)) for seed in (0, 1))
    assert first != second


def test_draw_same_prompt_is_taken_once_and_either_record_can_win() -> None:
    twins = [record(1, prompt="same"), record(2, prompt="same"), record(3)]
    winners = set()
    for seed in range(20):
        drawn = drawn_records(twins, 2, seed)
        assert {r.prompt for r in drawn} == {"same", "prompt 3"}
        winners |= {r.record_id for r in drawn if r.prompt == "same"}
    assert winners == {"r-1", "r-2"}  # one alone in all 20 draws: 2 * 2**-20


def test_draw_too_many_names_both_numbers() -> None:
    twins = [record(1, prompt="same"), record(2, prompt="same"), record(3)]
    with pytest.raises(ConfigError, match=r"protocol\.num_edits is 3;.* 2 different prompts"):
        drawn_records(twins, 3, seed=0)
    with pytest.raises(ConfigError, match=r"protocol\.num_edits is 0"):
        drawn_records(twins, 0, seed=0)


def test_batches_last_one_holds_the_rest() -> None:
    assert batches(range(5), 2) == ((0, 1), (2, 3), (4,))
    assert batches(range(4), 2) == ((0, 1), (2, 3))
    with pytest.raises(ConfigError, match=r"protocol\.edit_batch_size is 0"):
        batches(range(4), 0)


def test_to_edit_hides_everything_that_is_scored() -> None:
    full = EditRecord(
        "r", "p", "t", "s", ("rephrase",), (Question("l", "a", "locality_far"),), true_answer="old"
    )
    assert to_edit(full, ["other"]) == Edit("p", "t", "s", ("other",), "old")
    with pytest.raises(ValueError, match="r: 'l' is scored"):
        to_edit(full, ["other", "l"])
