"""Text to token rows: the only place that finds the span of a target or of a subject.

Spans come from the unpadded joint tokenisation of each row, never from counting mask columns, so
they do not depend on the padding side or on the neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.interfaces import Edit, EditBatch, PromptBatch, State

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class Row:
    """Token ids of one prompt and its target, and where the target begins."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def target(self) -> tuple[int, ...]:
        """The target's token ids."""
        return self.ids[self.prompt_length :]


def tokenise(tokenizer: Any, prompt: str, target: str = "", *, end: bool = False) -> Row:
    """Row of `prompt` joined to `target` by one space.

    A token that straddles the boundary counts as target: only tokens wholly inside the prompt are
    prompt tokens. With `end`, the end token closes the target.
    """
    if not target:
        ids = tuple(tokenizer(prompt)["input_ids"])
        return Row(ids, len(ids))
    text = f"{prompt} {target.strip()}"
    alone = tuple(tokenizer(prompt)["input_ids"])
    joint = tuple(tokenizer(text)["input_ids"])
    length = len(alone)
    if joint[:length] != alone:
        # The tokenizer merged across the boundary; the offsets say which tokens lie inside.
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        length = sum(1 for _, stop in offsets if stop <= len(prompt))
    if end:
        joint = (*joint, int(tokenizer.eos_token_id))
    return Row(joint, length)


def collate(
    rows: Sequence[Row],
    *,
    pad_id: int,
    padding_side: PaddingSide = "right",
    scores_last: bool = False,
    device: torch.device | str = "cpu",
) -> PromptBatch:
    """Rows padded to one width; scored where the next token is a target token.

    Args:
        rows: At least one row.
        pad_id: Token id written on padding; masked, so its value does not matter.
        padding_side: Side on which short rows are filled.
        scores_last: Score the last real token instead, for prompts without a target.
        device: Where the tensors go.
    """
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    scored = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        start = 0 if padding_side == "right" else width - len(row.ids)
        stop = start + len(row.ids)
        ids[index, start:stop] = torch.tensor(row.ids)
        mask[index, start:stop] = 1
        if scores_last:
            scored[index, stop - 1] = True
        else:
            scored[index, start + row.prompt_length - 1 : stop - 1] = True
    lengths = torch.tensor([row.prompt_length for row in rows])
    return PromptBatch(ids, mask, lengths, scored).to(torch.device(device))


def labels_of(prompts: PromptBatch) -> Tensor:
    """The tokens that the scored positions should predict, (M,), in row-major order."""
    following = prompts.input_ids.roll(-1, dims=1)
    return following[prompts.scored]


def row_index(prompts: PromptBatch) -> Tensor:
    """For each scored position its row, (M,)."""
    return prompts.scored.nonzero()[:, 0]


def edit_batch(
    tokenizer: Any,
    edits: Sequence[Edit],
    *,
    end: bool,
    device: torch.device | str = "cpu",
    padding_side: PaddingSide = "right",
) -> EditBatch:
    """Edits with their tokens; `end` closes every target with the end token."""
    rows = [tokenise(tokenizer, edit.prompt, edit.target_new, end=end) for edit in edits]
    tokens = collate(rows, pad_id=pad_id(tokenizer), padding_side=padding_side, device=device)
    return EditBatch(tuple(edits), tokens, labels_of(tokens))


def pad_id(tokenizer: Any) -> int:
    """Id used on padding; any id will do, because padding is masked everywhere."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)


def subject_last_token(tokenizer: Any, prompt: str, subject: str | None) -> int | None:
    """Index of the last token of `subject` inside `prompt`; None when it does not occur."""
    begin = prompt.rfind(subject) if subject else -1
    if begin < 0 or not subject:
        return None
    stop = begin + len(subject)
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    inside = [i for i, (first, last) in enumerate(offsets) if first < stop and last > begin]
    return inside[-1] if inside else None


def by_length(rows: Sequence[Row], batch_size: int) -> Iterator[list[int]]:
    """Indices of `rows` in batches of similar length, longest first.

    The longest batch comes first so that a batch that does not fit fails at once.
    """
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].ids))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def batch_state(batch: EditBatch) -> State:
    """An edit batch as tensors and JSON, so that a method saved inside a batch knows it."""
    tokens = batch.tokens
    return State(
        tensors={
            "input_ids": tokens.input_ids.clone(),
            "attention_mask": tokens.attention_mask.clone(),
            "prompt_lengths": tokens.prompt_lengths.clone(),
            "scored": tokens.scored.clone(),
            "labels": batch.labels.clone(),
        },
        values={"edits": [asdict(edit) for edit in batch.edits]},
    )


def batch_from(state: State, device: torch.device | str = "cpu") -> EditBatch:
    """The edit batch that `batch_state` stored."""
    names = ("input_ids", "attention_mask", "prompt_lengths", "scored")
    tokens = PromptBatch(*(state.tensors[name] for name in names)).to(torch.device(device))
    stored: Any = state.values["edits"]
    edits = tuple(
        Edit(**{**edit, "training_locality": tuple(edit["training_locality"])}) for edit in stored
    )
    return EditBatch(edits, tokens, state.tensors["labels"].to(tokens.input_ids.device))
