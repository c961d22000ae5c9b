"""Which prompts an edit is about and which not: examples made of training records.

Near an edit are its own prompt and rephrases. Far from it are unrelated questions, and the prompts
and rephrases of other edits: in a memory those must find their own edit or, where that is not
there, none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.assemblies.edit_texts import squared_distances
from trainables.interfaces import TrainingRecord
from trainables.moe.thresholds import best_threshold

_OTHER_EDIT = "other_edit"  # kind of the far prompts that are another edit's


@dataclass(frozen=True)
class ScopeExamples:
    """Texts of training records, each said once.

    Attributes:
        edits: (prompt, target) of each record.
        rephrases: Other wordings, and the record that each belongs to.
        unrelated: Kind and prompt of questions that no edit is about.
    """

    edits: tuple[tuple[str, str], ...]
    rephrases: tuple[tuple[int, str], ...]
    unrelated: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, training: Sequence[TrainingRecord], most: int) -> ScopeExamples:
        """The examples of the first `most` records with a prompt that no earlier one has."""
        first = {record.edit.prompt: record for record in reversed(training)}
        records = [r for r in training if first[r.edit.prompt] is r][:most]
        asked = {record.edit.prompt for record in records}
        asked.update(text for record in records for text in record.rephrases)
        unrelated = {
            (question.kind, question.prompt): None
            for record in records
            for question in record.unrelated
            if question.prompt not in asked  # that is another edit's: it counts as such
        }
        return cls(
            tuple((record.edit.prompt, record.edit.target_new) for record in records),
            tuple((n, text) for n, record in enumerate(records) for text in record.rephrases),
            tuple(unrelated),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all texts."""
        shown = json.dumps([self.edits, self.rephrases, self.unrelated])
        return hashlib.sha256(shown.encode()).hexdigest()


def nearness_threshold(examples: ScopeExamples, embed: Callable[[Sequence[str]], Tensor]) -> float:
    """Least cosine at which a prompt is about the edit that it is nearest to.

    Near are prompts to themselves and rephrases to their own edit, as trials ask them; far are
    unrelated questions to the nearest edit, and each edit's prompt to the nearest of the others.
    Where prompts are not told apart by `embed`, prompts alone pass that are an edit's own.

    Args:
        examples: At least one edit.
        embed: Maps N texts to (N, D), of length 1.
    """
    keys = embed([prompt for prompt, _ in examples.edits])
    near = [torch.ones(len(keys))]
    if examples.rephrases:
        owners = torch.tensor([owner for owner, _ in examples.rephrases])
        said = embed([text for _, text in examples.rephrases])
        near.append((said * keys[owners.to(keys.device)]).sum(1).clamp_max(1.0))
    far: dict[str, list[Tensor]] = {}
    if examples.unrelated:
        kinds = [kind for kind, _ in examples.unrelated]
        nearest = _nearest_cosines(embed([text for _, text in examples.unrelated]), keys)
        for kind, value in zip(kinds, nearest, strict=True):
            far.setdefault(kind, []).append(value)
    if len(keys) > 1:
        far[_OTHER_EDIT] = list(_nearest_cosines(keys, keys, leaves_out_own=True))
    return best_threshold(near, [torch.stack(values) for values in far.values()])


def _nearest_cosines(queries: Tensor, keys: Tensor, *, leaves_out_own: bool = False) -> Tensor:
    """Cosine of each query with the nearest key, (B,), of vectors of length 1."""
    gaps = squared_distances(queries, keys)
    if leaves_out_own:
        gaps.fill_diagonal_(torch.inf)
    return 1.0 - gaps.min(1).values / 2.0
