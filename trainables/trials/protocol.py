"""How a trial's edits are applied and scored, and what was answered before the first of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EditProtocol:
    """How the edits are applied and scored.

    Attributes:
        is_rolled_back: True for single and batch editing.
        target_ends_with_eos: The end token closes every target while editing.
        generates: Also score free greedy generation at the final checkpoint.
        has_curve: Also score the reliability of all edits so far after every batch.
        has_passages: Targets are running text, whose perplexity is measured too.
    """

    is_rolled_back: bool
    target_ends_with_eos: bool
    generates: bool = False
    has_curve: bool = False
    has_passages: bool = False


@dataclass(frozen=True)
class Before:
    """What the pristine backbone answers to every probe, by probe index."""

    answers: dict[int, tuple[int, ...]]
    generated: dict[int, tuple[int, ...]] | None = None  # tokens, without the end
    perplexities: dict[int, float] | None = None
