"""Text to token rows: the only place that finds the span of a target or of a subject.

Spans come from the unpadded tokens of each row, never from counting mask columns, so they do not
depend on the padding side or on the neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.errors import DataError
from trainables.interfaces import Edit, EditBatch, PromptBatch, State

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class Row:
    """Token ids of one prompt and its target, and where the target begins.

    `is_retokenised`: the tokens of prompt and target as one text do not begin with the prompt's
    own; the target's tokens were put behind those instead.
    """

    ids: tuple[int, ...]
    prompt_length: int
    is_retokenised: bool = False

    @property
    def target(self) -> tuple[int, ...]:
        """The target's token ids."""
        return self.ids[self.prompt_length :]


def tokenise(tokenizer: Any, prompt: str, target: str = "", *, end: bool = False) -> Row:
    """Row of `prompt` joined to `target` by one space.

    The target's tokens are those that a model must generate behind the prompt's own tokens. What
    the tokenizer puts behind a text, such as an end token, is in neither; what it puts in front is.
    With `end`, the end token closes the target.

    Raises:
        DataError: If the prompt or the target comes to no token at all.
    """
    alone = _own_ids(tokenizer, prompt)
    if not target:
        return Row(alone, len(alone))
    answer = target.strip()
    joint = _own_ids(tokenizer, f"{prompt} {answer}") if answer else alone
    is_retokenised = joint[: len(alone)] != alone
    if is_retokenised:
        joint = (*alone, *_continuation(tokenizer, alone, joint, answer))
    if not alone or len(joint) == len(alone):
        missing = "target" if alone else "prompt"
        raise DataError(f"the {missing} of {prompt!r} with target {target!r} comes to no token")
    if end:
        joint = (*joint, int(tokenizer.eos_token_id))
    return Row(joint, len(alone), is_retokenised)


def has_blank_first(tokenizer: Any, row: Row) -> bool:
    """Whether a blank alone is the target's first token, as of "1998" where digits stand singly."""
    first = row.target[:1]
    return len(row.target) > 1 and not tokenizer.decode(first).strip()


def _own_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Tokens of `text` without those that the tokenizer puts behind it."""
    encoded = tokenizer(text, return_special_tokens_mask=True)
    ids, is_added = encoded["input_ids"], encoded["special_tokens_mask"]
    stop = len(ids)
    while stop > 1 and is_added[stop - 1]:
        stop -= 1
    return tuple(ids[:stop])


def _continuation(
    tokenizer: Any, prompt: tuple[int, ...], joint: tuple[int, ...], target: str
) -> tuple[int, ...]:
    """Tokens of the target alone that, behind those of the prompt, spell what `joint` spells.

    A tokenizer that writes a blank in front of every text must not be given another one.
    """
    wanted = _text(tokenizer, joint)
    found = [
        tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in (f" {target}", target)
    ]
    fitting = (ids for ids in found if _text(tokenizer, (*prompt, *ids)) == wanted)
    return next(fitting, found[0])


def _text(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def collate(
    rows: Sequence[Row],
    *,
    pad_id: int,
    padding_side: PaddingSide = "right",
    scores_last: bool = False,
    scores_beyond: bool = False,
    device: torch.device | str = "cpu",
) -> PromptBatch:
    """Rows padded to one width; scored where the next token is a target token.

    Args:
        rows: At least one row.
        pad_id: Token id written on padding; masked, so its value does not matter.
        padding_side: Side on which short rows are filled.
        scores_last: Score the last real token instead, for prompts without a target.
        scores_beyond: Score the last real token too: the target has one more token than the row.
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
            scored[index, start + row.prompt_length - 1 : stop - (not scores_beyond)] = True
    lengths = torch.tensor([row.prompt_length for row in rows])
    return PromptBatch(ids, mask, lengths, scored).to(torch.device(device))


def marks_in_front(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that the tokenizer puts in front of every text, such as a begin token."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    is_added = encoded["special_tokens_mask"]
    count = is_added.index(0) if 0 in is_added else len(is_added)
    return tuple(encoded["input_ids"][:count])


def put_in_front(
    prompts: PromptBatch, texts: Sequence[tuple[int, ...]], *, marks: tuple[int, ...], pad_id: int
) -> PromptBatch:
    """`prompts` with a text before each row; the scored positions keep their order.

    Args:
        prompts: B rows; they end up padded on the right.
        texts: Tokens for each row, with `marks` in front; none: the row stays as it is.
        marks: What the tokenizer puts in front: taken from a row that follows a text.
        pad_id: As in `collate`.
    """
    if not any(texts):
        return prompts
    host, rows = prompts.on_host, list[tuple[tuple[int, ...], Tensor, int]]()
    lengths = host.prompt_lengths.tolist()
    for row, text in enumerate(texts):
        is_real = host.attention_mask[row].bool()
        ids, scored = tuple(host.input_ids[row][is_real].tolist()), host.scored[row][is_real]
        cut = len(marks) if text and ids[: len(marks)] == marks else 0
        shown = torch.cat([scored.new_zeros(len(text)), scored[cut:]])
        rows.append(((*text, *ids[cut:]), shown, lengths[row] - cut + len(text)))
    width = max(len(ids) for ids, *_ in rows)
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask, scored = torch.zeros_like(input_ids), torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (ids, shown, _) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
        scored[row, : len(ids)] = shown
    found = torch.tensor([length for *_, length in rows])
    return PromptBatch(input_ids, mask, found, scored).to(prompts.input_ids.device)


def labels_of(prompts: PromptBatch) -> Tensor:
    """The tokens that the scored positions should predict, (M,), in row-major order."""
    following = prompts.input_ids.roll(-1, dims=1)
    return following[prompts.scored_at]


def row_index(prompts: PromptBatch) -> Tensor:
    """For each scored position its row, (M,)."""
    return prompts.scored_at[0]


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


def prompt_batch(
    tokenizer: Any, prompts: Sequence[str], device: torch.device | str = "cpu"
) -> PromptBatch:
    """Prompts without targets, nowhere scored; at least one.

    Raises:
        DataError: If a prompt comes to no token.
    """
    rows = [tokenise(tokenizer, prompt) for prompt in prompts]
    return collate(rows, pad_id=pad_id(tokenizer), device=device)


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
            "input_ids": tokens.input_ids,
            "attention_mask": tokens.attention_mask,
            "prompt_lengths": tokens.prompt_lengths,
            "scored": tokens.scored,
            "labels": batch.labels,
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
