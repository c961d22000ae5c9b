import pytest
import torch

from tests.conftest import tiny_tokenizer
from trainables.interfaces import Edit
from trainables.prompts import (
    Row,
    batch_from,
    batch_state,
    by_length,
    collate,
    edit_batch,
    labels_of,
    marks_in_front,
    put_in_front,
    row_index,
    subject_last_token,
    tokenise,
)

TOKENIZER = tiny_tokenizer()


def test_tokenise_when_target_is_joined_then_prompt_and_target_stay_apart() -> None:
    row = tokenise(TOKENIZER, "The capital of Fooland is", "Bar City", end=True)
    assert TOKENIZER.decode(row.ids[1 : row.prompt_length]) == "The capital of Fooland is"
    assert TOKENIZER.decode(row.target) == " Bar City</s>"
    assert row.ids[0] == TOKENIZER.bos_token_id  # the begin token is never among the targets
    assert row.target[0] != TOKENIZER.bos_token_id


@pytest.mark.parametrize("side", ["right", "left"])
def test_collate_scores_the_positions_that_predict_a_target_token(
    side: str,
) -> None:
    # rows: prompt 1 2 target 3 -> position of 2 predicts 3;
    #       prompt 1 2 3 target 4 5 6 -> positions of 3, 4 and 5 predict 4, 5 and 6
    rows = [Row((1, 2, 3), 2), Row((1, 2, 3, 4, 5, 6), 3)]
    batch = collate(rows, pad_id=0, padding_side=side)
    assert labels_of(batch).tolist() == [3, 4, 5, 6]
    assert row_index(batch).tolist() == [0, 1, 1, 1]
    shift = 0 if side == "right" else 3
    assert batch.scored.nonzero().tolist() == [[0, 1 + shift], [1, 2], [1, 3], [1, 4]]
    assert batch.prompt_ends.tolist() == [1 + shift, 2]
    assert batch.position_ids[0, batch.attention_mask[0].bool()].tolist() == [0, 1, 2]
    assert batch.prompt_mask.sum(1).tolist() == [2, 3]


def test_collate_when_there_is_no_target_then_scores_the_last_token() -> None:
    batch = collate([Row((1, 2), 2), Row((1, 2, 3), 3)], pad_id=0, scores_last=True)
    assert batch.scored.nonzero().tolist() == [[0, 1], [1, 2]]


def test_subject_last_token_points_at_the_last_token_of_the_subject() -> None:
    prompt = "Where was Ada Quell born?"
    index = subject_last_token(TOKENIZER, prompt, "Ada Quell")
    ids = TOKENIZER(prompt)["input_ids"]
    assert index is not None
    assert TOKENIZER.decode(ids[1 : index + 1]) == "Where was Ada Quell"


@pytest.mark.parametrize("subject", [None, "Nobody"])
def test_subject_last_token_when_absent_then_none(subject: str | None) -> None:
    assert subject_last_token(TOKENIZER, "Where was Ada Quell born?", subject) is None


def test_by_length_gives_every_row_once_longest_first() -> None:
    rows = [Row(tuple(range(length)), 1) for length in (3, 7, 5, 7, 2)]
    assert list(by_length(rows, 2)) == [[1, 3], [2, 0], [4]]


def test_batch_when_stored_and_read_then_is_the_same() -> None:
    edits = [Edit("Where was Ada Quell born?", "Vesper", "Ada Quell", ("Who?", "When?"))]
    batch = edit_batch(TOKENIZER, edits, end=True)
    again = batch_from(batch_state(batch))
    assert again.edits == batch.edits
    assert torch.equal(again.labels, batch.labels)
    for name in ("input_ids", "attention_mask", "prompt_lengths", "scored"):
        assert torch.equal(getattr(again.tokens, name), getattr(batch.tokens, name))


@pytest.mark.parametrize("side", ["right", "left"])
def test_put_in_front_keeps_what_is_scored_and_one_begin_token(side: str) -> None:
    # rows: begin 5 6 target 7 8; begin 9 target 10; begin 11 12 13 target 14
    rows = [Row((1, 5, 6, 7, 8), 3), Row((1, 9, 10), 2), Row((1, 11, 12, 13, 14), 4)]
    batch = collate(rows, pad_id=0, padding_side=side)
    found = put_in_front(batch, [(1, 20, 21), (), (1, 22)], marks=(1,), pad_id=0)
    ids = [row.tolist() for row in found.real_ids]
    assert ids == [[1, 20, 21, 5, 6, 7, 8], [1, 9, 10], [1, 22, 11, 12, 13, 14]]
    assert found.prompt_lengths.tolist() == [5, 2, 5]
    assert labels_of(found).tolist() == labels_of(batch).tolist() == [7, 8, 10, 14]
    assert row_index(found).tolist() == row_index(batch).tolist()
    last = collate([Row((1, 5, 6), 3)], pad_id=0, padding_side=side, scores_last=True)
    grown = put_in_front(last, [(1, 20)], marks=(1,), pad_id=0)
    assert grown.scored.tolist() == [[False, False, False, True]]
    assert put_in_front(batch, [(), (), ()], marks=(1,), pad_id=0) is batch


def test_marks_in_front_are_those_that_every_text_begins_with() -> None:
    assert marks_in_front(TOKENIZER) == (TOKENIZER.bos_token_id,)
