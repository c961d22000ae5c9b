"""A memory of edits by their texts: which of them a prompt asks about, if any.

Each edit has a key, and a prompt a query, made by the same encoder; the edit of the nearest key is
the one that a prompt may be about. Of several edits of one prompt the latest counts: a question
that is answered anew has one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.errors import BackboneError, ConfigError
from trainables.interfaces import Backbone, Edit, PromptBatch, State
from trainables.prompts import marks_in_front, pad_id, put_in_front, tokenise


@dataclass(frozen=True)
class Nearest:
    """For each of B prompts the edit whose key is nearest.

    Attributes:
        index: Number of the edit, (B,); -1 where there is none.
        distance: Squared Euclidean distance of the two, (B,) float32; infinite where there is none.
    """

    index: Tensor
    distance: Tensor

    @property
    def cosine(self) -> Tensor:
        """Cosine of query and key where both have length 1, (B,)."""
        return 1.0 - self.distance / 2.0

    def within(self, is_near: Tensor) -> Tensor:
        """`index` where `is_near` (B,), else -1."""
        return torch.where(is_near & (self.index >= 0), self.index, -1)


class EditTexts:
    """The edits so far, in the order of their making, with their keys."""

    def __init__(self, size: int, device: torch.device) -> None:
        """No edit yet; keys have `size` numbers and lie on `device`."""
        self.edits: list[tuple[str, str]] = []  # prompt and target
        self.keys = torch.empty(0, size, device=device)  # (N, D)
        self._counts = torch.empty(0, dtype=torch.bool, device=device)  # (N,)

    def __len__(self) -> int:
        return len(self.edits)

    def add(self, edits: Sequence[Edit], keys: Tensor) -> int:
        """Remember edits with their keys (B, D); how many earlier ones they take the place of."""
        before = len(set(self.latest()))
        self.edits += [(edit.prompt, edit.target_new) for edit in edits]
        self.keys = torch.cat([self.keys, keys.to(self.keys)])
        counting = set(self.latest())
        is_latest = [number in counting for number in range(len(self.edits))]
        self._counts = torch.tensor(is_latest, device=self.keys.device)
        return before + len(edits) - len(counting)

    def latest(self) -> list[int]:
        """For each edit the number of the latest one of its prompt, which counts."""
        numbers = {prompt: number for number, (prompt, _) in enumerate(self.edits)}
        return [numbers[prompt] for prompt, _ in self.edits]

    @torch.no_grad()
    def nearest(self, queries: Tensor) -> Nearest:
        """The edit nearest to each query (B, D)."""
        if not self.edits:
            index = torch.full((len(queries),), -1, device=queries.device)
            return Nearest(index, torch.full_like(index, torch.inf, dtype=torch.float32))
        gaps = squared_distances(queries, self.keys)
        found = gaps.masked_fill(~self._counts, torch.inf).min(1)
        return Nearest(found.indices, found.values)

    def state(self) -> State:
        """Texts and keys."""
        return State({"keys": self.keys}, {"edits": [list(edit) for edit in self.edits]})

    def load(self, state: State) -> None:
        """Continue from `state`."""
        edits: Any = state.values["edits"]
        self.edits, self.keys = [], self.keys[:0]
        self.add([Edit(prompt, target) for prompt, target in edits], state.tensors["keys"])

    @property
    def num_bytes(self) -> int:
        """Of keys and texts."""
        texts = sum(len(text.encode()) for edit in self.edits for text in edit)
        return self.keys.nbytes + texts


def squared_distances(queries: Tensor, keys: Tensor) -> Tensor:
    """Squared Euclidean distances (B, N) of queries (B, D) and keys (N, D), in float32."""
    queries, keys = queries.float(), keys.float()
    lengths = (queries**2).sum(1)[:, None] + (keys**2).sum(1)
    return (lengths - 2.0 * queries @ keys.T).clamp_min(0.0)


class TextsInFront:
    """Puts the texts of edits before the prompts that are about them; each is tokenised once."""

    def __init__(self, backbone: Backbone, template: str) -> None:
        """The text is `template` with prompt and target where it says {prompt} and {target}."""
        tokenizer = backbone.tokenizer
        self._tokenizer, self._template = tokenizer, template
        self._max_positions = backbone.max_positions
        self._marks, self._pad = marks_in_front(tokenizer), pad_id(tokenizer)
        self._ids: dict[tuple[str, str], tuple[int, ...]] = {}

    def ids(self, prompt: str, target: str) -> tuple[int, ...]:
        """Tokens of an edit's text, with what the tokenizer puts in front of one."""
        edit = (prompt, target)
        if edit not in self._ids:
            text = self._template.replace("{prompt}", prompt).replace("{target}", target.strip())
            self._ids[edit] = tokenise(self._tokenizer, text).ids
        return self._ids[edit]

    def put(self, prompts: PromptBatch, edits: Sequence[tuple[str, str] | None]) -> PromptBatch:
        """`prompts` with an edit's text before each row that has one; see `put_in_front`.

        Raises:
            BackboneError: If a row with its text is longer than the backbone has positions.
        """
        texts = [() if edit is None else self.ids(*edit) for edit in edits]
        whole = put_in_front(prompts, texts, marks=self._marks, pad_id=self._pad)
        width, limit = whole.input_ids.shape[1], self._max_positions
        if limit is not None and width > limit:
            raise BackboneError(
                f"a row of {width} tokens, with an edit's text in front, is longer than the "
                f"{limit} positions of the backbone"
            )
        return whole


def checked_template(template: str) -> str:
    """`template`, if it has a place for prompt and target.

    Raises:
        ConfigError: If it has not.
    """
    for place in ("{prompt}", "{target}"):
        if place not in template:
            raise ConfigError(f"method.template is {template!r}; it must hold {place}")
    return template
