"""Remembers earlier edits and the experts that hold them, for the memory loss.

Source: ARM (Serial Lifelong Editing via Mixture of Knowledge Experts), Eq. 6 and Appendix B.2: for
each edit one earlier edit of another expert is drawn; at most 50 are stored, and once the memory is
full a drawn one is removed.

Choices where the paper is silent: a prompt is stored once, with the expert that learned it last,
and an edit is never compared with itself: an older owner of the same question would be told to hold
on to its answer. A new edit that finds the memory full takes the place of the oldest.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from trainables.interfaces import Json


class EditMemory:
    """At most `size` prompts with their experts, oldest first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._owners: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, prompt: str, owner: int) -> None:
        """Store an edit that `owner` has learned."""
        self._owners.pop(prompt, None)
        self._owners[prompt] = owner
        while len(self._owners) > self._size:
            self._owners.pop(next(iter(self._owners)))

    def recall(
        self, expert: int, present: Collection[str], generator: torch.Generator
    ) -> tuple[str, int] | None:
        """A prompt that another expert than `expert` holds, and that expert; None without any.

        Args:
            expert: The one in training.
            present: Prompts that are being edited now.
            generator: Draws evenly.
        """
        others = [p for p, j in self._owners.items() if j != expert and p not in present]
        if not others:
            return None
        prompt = others[int(torch.randint(len(others), (1,), generator=generator))]
        owner = self._owners[prompt]
        if len(self._owners) >= self._size:
            del self._owners[prompt]
        return prompt, owner

    def to_json(self) -> list[Json]:
        """The memory as plain values."""
        return [[prompt, owner] for prompt, owner in self._owners.items()]

    def load(self, values: Any) -> None:
        """Take what `to_json` wrote."""
        self._owners = {str(prompt): int(owner) for prompt, owner in values}
