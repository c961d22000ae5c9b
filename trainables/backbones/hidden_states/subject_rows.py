"""Token rows in which the vector of an edit is looked for: its prompt, bare and in contexts.

Source: the vector step of ROME (Meng et al., arXiv:2202.05262); see `subject_vectors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.interfaces import Backbone, EditBatch, PromptBatch
from trainables.prompts import Row, collate, pad_id, subject_last_token, tokenise

KlPosition = Literal["last", "subject"]
_MOST_ROWS = 128  # at a time; a core is as busy with fewer


@dataclass(frozen=True)
class SubjectRows:
    """R token rows: the N bare prompts, the prompts in each context, then the rows of the KL term.

    Attributes:
        tokens: Right-padded; scored at target tokens, in KL rows at their end.
        owner: Edit of each row, (R,).
        columns: Column of each subject's last token, (R,).
        starts: The same on the host.
        num_edits: N.
        num_prompts: Rows before those of the KL term.
        absent: Which edits' subjects do not occur in the prompt; its last token stands in.
    """

    tokens: PromptBatch
    owner: Tensor
    columns: Tensor
    starts: Tensor
    num_edits: int
    num_prompts: int
    absent: tuple[bool, ...]

    @property
    def num_absent(self) -> int:
        """How many subjects are absent."""
        return sum(self.absent)

    def prompts(self) -> PromptBatch:
        """The rows without those of the KL term."""
        return self.tokens.rows(torch.arange(self.num_prompts))

    def at_subjects(self, states: Tensor, first: int = 0) -> Tensor:
        """Some rows (R, T, D), from `first` on -> states at the subjects' last tokens, (R, D)."""
        rows = torch.arange(len(states), device=states.device)
        return states[rows, self.columns[first : first + len(states)]]


def subject_rows(
    backbone: Backbone,
    batch: EditBatch,
    contexts: Sequence[str],
    *,
    with_kl: bool,
    kl_position: KlPosition = "last",
) -> SubjectRows:
    """Token rows of `batch` as they are, behind each of `contexts`, and of "{subject} is a".

    An edit without any subject has no KL row. Where the KL term is read at the subject, its row
    ends there: no token reads what follows it.
    """
    tokenizer = backbone.tokenizer
    rows: list[Row] = []
    columns: list[int] = []
    absent: list[bool] = []
    for context in ("", *contexts):
        for index, edit in enumerate(batch.edits):
            row, prompt = _row_of(batch.tokens.on_host, index), edit.prompt
            if context:
                prompt = f"{context} {edit.prompt}"
                end = row.ids[-1] == tokenizer.eos_token_id
                row = tokenise(tokenizer, prompt, edit.target_new, end=end)
            column = subject_last_token(tokenizer, prompt, edit.subject)
            if not context:
                absent.append(column is None)
            last = row.prompt_length - 1
            rows.append(row)
            columns.append(last if column is None else min(column, last))
    num_prompts = len(rows)
    owner = list(range(len(batch))) * (1 + len(contexts))
    for index, edit in enumerate(batch.edits if with_kl else ()):
        prompt = f"{edit.subject} is a"
        column = subject_last_token(tokenizer, prompt, edit.subject)
        if column is not None:
            row = tokenise(tokenizer, prompt)
            read = column + 1 if kl_position == "subject" else len(row.ids)
            rows.append(Row(row.ids[:read], read))
            columns.append(column)
            owner.append(index)
    device = backbone.device
    tokens = collate(rows, pad_id=pad_id(tokenizer))
    kl_rows = torch.arange(num_prompts, len(rows))
    tokens.scored[kl_rows, tokens.prompt_ends[kl_rows]] = True
    starts = torch.tensor(columns)
    return SubjectRows(
        tokens.to(device),
        torch.tensor(owner, device=device),
        starts.to(device, non_blocking=True),
        starts,
        len(batch),
        num_prompts,
        tuple(absent),
    )


def _row_of(tokens: PromptBatch, index: int) -> Row:
    ids = tokens.input_ids[index][tokens.attention_mask[index].bool()]
    return Row(tuple(ids.tolist()), int(tokens.prompt_lengths[index]))


def edits_at_once(backbone: Backbone, num_contexts: int, *, with_kl: bool) -> int:
    """Most edits whose rows run all at once, at least 1: with more of them memory alone grows."""
    return max(1, backbone.micro_batch.at_most(_MOST_ROWS) // (1 + num_contexts + with_kl))
