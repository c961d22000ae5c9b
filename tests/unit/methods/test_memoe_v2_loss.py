import pytest
import torch

from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit, EditBatch
from trainables.methods.memoe_v2.loss import ConstrainedRows, constrained_rows
from trainables.prompts import edit_batch, labels_of, row_index, tokenise

FAR = "Who wrote The Long Tide?"
EDITS = (
    Edit("The capital of Fooland is", "Vesper", training_locality=("Never asked", FAR)),
    Edit("Ada Quell works for", "Oslo Bay", training_locality=("Never asked", FAR)),
    Edit("The capital of Barland is", "Lumen"),
)


def batch_of(backbone: Backbone, padding_side: str = "right") -> EditBatch:
    return edit_batch(backbone.tokenizer, EDITS, end=True, padding_side=padding_side)  # type: ignore[arg-type]


def read(held: ConstrainedRows, flags: torch.Tensor) -> list[tuple[int, int]]:
    """The row and the token that each flagged position predicts."""
    rows = held.owner[row_index(held.tokens)][flags]
    tokens = labels_of(held.tokens)[flags]
    return list(zip(rows.tolist(), tokens.tolist(), strict=True))


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("positions", [None, "prompt", "answer"])
def test_constrained_rows_find_answers_and_what_is_held(
    llama: Backbone, padding_side: str, positions: str | None
) -> None:
    batch = batch_of(llama, padding_side)
    held = constrained_rows(batch, positions, llama.tokenizer)  # type: ignore[arg-type]
    rows = [tokenise(llama.tokenizer, e.prompt, e.target_new, end=True) for e in EDITS]
    answers = [(i, token) for i, row in enumerate(rows) for token in row.target]
    prompts = [(i, t) for i, row in enumerate(rows) for t in row.ids[1 : row.prompt_length]]
    assert read(held, held.is_answer) == answers
    expected = {None: [], "prompt": prompts, "answer": answers}[positions]
    assert read(held, held.is_held) == expected


def test_constrained_rows_when_unrelated_prompts_are_held_then_each_edit_brings_its_own(
    llama: Backbone,
) -> None:
    held = constrained_rows(batch_of(llama), "locality", llama.tokenizer)
    assert held.owner.tolist() == [0, 1, 2, 0, 1]
    assert held.num_without == 1
    first, second = (tokenise(llama.tokenizer, text) for text in ("Never asked", FAR))
    found = [(row, ids[mask.bool()].tolist()) for row, ids, mask in _rows(held)[3:]]
    assert found == [(0, list(first.ids)), (1, list(second.ids))]
    # every position of theirs, the last one too
    assert int(held.is_held.sum()) == len(first.ids) + len(second.ids)
    own = constrained_rows(batch_of(llama), None, llama.tokenizer)
    assert read(held, held.is_answer) == read(own, own.is_answer)


def test_constrained_rows_when_no_edit_has_an_unrelated_prompt_then_the_key_is_named(
    llama: Backbone,
) -> None:
    batch = edit_batch(llama.tokenizer, EDITS[2:], end=True)
    with pytest.raises(ConfigError, match=r"method\.balance_positions is 'locality'"):
        constrained_rows(batch, "locality", llama.tokenizer)


def _rows(held: ConstrainedRows) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    tokens = held.tokens
    return list(zip(held.owner.tolist(), tokens.input_ids, tokens.attention_mask, strict=True))
