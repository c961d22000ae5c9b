"""Rows of several losses through the frozen layers above an edited one, as one batch.

A row does not depend on those beside it, so that a larger batch changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from trainables.backbones.forward.split import PerToken, Split
from trainables.interfaces import PromptBatch
from trainables.passing import UnderWay


@dataclass(frozen=True)
class Rows:
    """Rows on their way through the frozen layers; satisfies `passing.Passage`.

    Attributes:
        split: Its layers that hold nothing of a batch are the frozen ones.
        function: See `Split.per_token`.
        prompts: Whole rows.
        held: See `Split.per_token`.
        hidden: What enters the first layer of `split`, (B, T, D).
    """

    split: Split
    function: PerToken
    prompts: PromptBatch
    held: tuple[Tensor, ...]
    hidden: Tensor

    def alone(self) -> Tensor:
        """`function(logits, *held)` at the scored positions, (M, ...)."""
        return self.split.per_token(self.function, self.prompts, *self.held, hidden=self.hidden)

    def passed(self, logits: Tensor) -> Tensor:
        """The same, of logits (M, V) that are known."""
        return self.function(logits, *self.held)


class JointPass:
    """Lets rows of several losses pass the frozen layers together.

    All must come of backbones that share the tensors of these layers.
    """

    def __init__(self) -> None:
        """Nothing has passed yet."""
        self._prompts: tuple[PromptBatch, ...] = ()
        self._joined: PromptBatch | None = None

    def losses(self, under_way: Sequence[UnderWay]) -> list[Tensor]:
        """The scalar loss of each."""
        found = [each.passage for each in under_way]
        rows = [passage for passage in found if isinstance(passage, Rows)]
        passed = iter(self.passed(rows))
        return [
            each.loss(next(passed)) if isinstance(passage, Rows) else each.alone()
            for each, passage in zip(under_way, found, strict=True)
        ]

    def passed(self, rows: Sequence[Rows]) -> list[Tensor]:
        """What becomes of each of several rows, as of `Rows.alone`."""
        if len(rows) < 2:
            return [each.alone() for each in rows]
        joined = self._joined_prompts(tuple(each.prompts for each in rows))
        width = joined.input_ids.shape[1]
        entering = [each.split.entering_above(each.prompts, each.hidden) for each in rows]
        states = torch.cat([_widened(each, width) for each in entering])
        logits = rows[0].split.above.per_token(_unchanged, joined, hidden=states)
        counts = [sum(each.prompts.scored_counts) for each in rows]
        parts = zip(rows, logits.split(counts), strict=True)
        found = [each.passed(own) for each, own in parts]
        if not bool(torch.stack([each.detach().isfinite().all() for each in found]).all()):
            # Of rows that share one, packed, an overflow reaches the others: whose is it?
            return [each.alone() for each in rows]
        return found

    def _joined_prompts(self, prompts: tuple[PromptBatch, ...]) -> PromptBatch:
        """One batch of all rows; a training loop comes with the same batches in every step."""
        is_same = len(prompts) == len(self._prompts) and all(
            new is old for new, old in zip(prompts, self._prompts, strict=True)
        )
        if self._joined is None or not is_same:
            self._prompts, self._joined = prompts, joined(prompts)
        return self._joined


def joined(prompts: Sequence[PromptBatch]) -> PromptBatch:
    """The rows of several batches, one after the other, padded on the right to one width."""
    hosts = [each.on_host for each in prompts]
    width = max(each.input_ids.shape[1] for each in hosts)

    def together(name: str) -> Tensor:
        tensors = [getattr(each, name) for each in hosts]
        return torch.cat([pad(each, (0, width - each.shape[1])) for each in tensors])

    return PromptBatch(
        together("input_ids"),
        together("attention_mask"),
        torch.cat([each.prompt_lengths for each in hosts]),
        together("scored"),
    ).to(prompts[0].input_ids.device)


def _widened(states: Tensor, width: int) -> Tensor:
    """States (B, T, D) -> (B, width, D)."""
    return states if states.shape[1] == width else pad(states, (0, 0, 0, width - states.shape[1]))


def _unchanged(logits: Tensor) -> Tensor:
    return logits
